"""Check the parameters that a notebook runs with, before anything is trained."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nbkit.lab.executed_cells import DeclaredNames, find_declared_names, read_history
from nbkit.lab.knob_ranges import RANGES
from nbkit.lab.knobs import Knob, KnobError, Value, check_names, read_type

# papermill writes parameters of these types into a cell.
PARAMETER_TYPES = (bool, int, float, str, list, tuple, dict, type(None))
# IPython itself binds these from cell to cell: `_`, `_i3`, `__annotations__`, a shell's exit code.
IPYTHON_NAMES = re.compile(r"_{1,3}|_i{1,3}|_i?\d+|_(ih|oh|dh|exit_code)|__\w+__")


class Guard:
    """Compare a notebook's variables with the knobs that its guard cell names.

    Args:
        namespace: the notebook's variables, as they are when the lesson is opened.
    """

    def __init__(self, namespace: dict[str, Any]) -> None:
        self.namespace = namespace
        self._has_passed = False
        # papermill injects its cell after the opening: what is bound from here on may be injected.
        self._before = self._find_parameter_values()
        self._opened_at = len(read_history(namespace))

    def check(self, ranges: Mapping[str, Knob]) -> tuple[dict[str, Knob], dict[str, Value]]:
        """Return the knobs and their values; the notebook's variables are not changed.

        Raises:
            KnobError: for a name that no knob has, or a value of another type or out of range.
        """
        cells = read_history(self.namespace)[self._opened_at :]
        declared = find_declared_names(cells, ranges)
        check_names(dict.fromkeys(sorted(self._find_given_names(declared))), ranges)
        knobs: dict[str, Knob] = {}
        for name, knob in ranges.items():
            # A variable that an earlier version of the parameters cell has left declares nothing.
            if declared and name not in declared.current:
                raise _make_undeclared_error(name)
            knobs[name] = self._declare_knob(name, knob)
        values: dict[str, Value] = {}
        for name, knob in knobs.items():
            values[name] = knob.read_value(self.namespace[name])
        self._has_passed = True
        return knobs, values

    def _declare_knob(self, name: str, knob: object) -> Knob:
        """Join the range of the guard with the type of the parameters cell."""
        if not isinstance(knob, Knob):
            raise KnobError(
                f"{name} must be given a range, {name}=log(0.1, 10) or another of "
                f"{', '.join(RANGES)}, got {knob!r}."
            )
        types = self._read_types()
        if name not in self.namespace or name not in types:
            raise _make_undeclared_error(name)
        return knob.with_name(name, read_type(types[name]))

    def _read_types(self) -> dict[str, object]:
        types: dict[str, object] = self.namespace.get("__annotations__", {})
        return types

    def _find_given_names(self, declared: DeclaredNames | None) -> set[str]:
        """Find the names that the notebook gives as parameters."""
        # The text of the cells says what they declare, also when they run again.
        given = set(declared.current) if declared else set()
        if self._has_passed:
            return given
        # At first also what was injected without a cell. When the guard runs again, variables of
        # later cells would look like that.
        new = self._find_new_names()
        return given | (new - declared.stale if declared else new | set(self._read_types()))

    def _find_parameter_values(self) -> dict[str, object]:
        """Find the variables of the notebook that papermill could have written into a cell.

        A helper that the notebook defines, or that JupyterLab's extensions leave in a kernel, is
        not a parameter.
        """
        found = {}
        for name, value in self.namespace.items():
            if type(value) in PARAMETER_TYPES:
                found[name] = value
        return found

    def _find_new_names(self) -> set[str]:
        """Find the possible parameters that were bound, or bound again, since the opening."""
        names = set()
        for name, value in self._find_parameter_values().items():
            # Compared by identity: to bind a name again to an equal value is an injection, too.
            is_old = name in self._before and self._before[name] is value
            if not is_old and not IPYTHON_NAMES.fullmatch(name):
                names.add(name)
        return names


def _make_undeclared_error(name: str) -> KnobError:
    return KnobError(f"the parameters cell must declare `{name}: type = default`.")
