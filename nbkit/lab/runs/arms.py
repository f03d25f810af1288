"""Read what the arms say about their runs, and check it before anything is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nbkit.base.numbers import read_real
from nbkit.lab.runs.option import REQUIRED, Rule
from nbkit.lab.runs.options import OPTIONS, find_optimizers

OPTIMIZER = "sgd"  # of an arm that names none


def read_arms(arms: Mapping[str, Mapping[str, Any]], seeds: int, steps: int) -> list[Rule]:
    """Read the rule of each run: arm after arm, and within an arm seed after seed.

    Raises:
        ValueError: if an arm leaves out lr, has an unknown name, or a value that cannot be used.
    """
    if not arms:
        raise ValueError('arms must hold at least one, such as {"plain": {"lr": 0.1}}, got none.')
    rules = []
    for name, values in arms.items():
        _check_arm_names(name, values)
        for own in _split_seeds(name, values, seeds):
            # Each seed has its rule, as a list may give it other values than its neighbours.
            rule = make_rule(**own)
            _check_rule(name, rule, steps)
            rules.append(rule)
    return rules


def make_rule(**values: Any) -> Rule:
    """Make a rule from the values of one run; every other name gets its default."""
    optimizer = values.get("optimizer", OPTIMIZER)
    # The optimizer's defaults come after the general ones, and the arm's own values last.
    own_defaults = find_optimizers()[optimizer].fill_defaults(optimizer)
    return Rule({"optimizer": OPTIMIZER, **list_defaults(), **own_defaults, **values})


def list_defaults() -> dict[str, Any]:
    """List every name of every option with its default."""
    defaults: dict[str, Any] = {}
    for option in OPTIONS:
        defaults.update(option.defaults)
    return defaults


def _check_arm_names(name: str, values: Mapping[str, Any]) -> None:
    """Refuse an arm with a missing or unknown name, or with one that its optimizer has not."""
    required: list[str] = []
    known = ["optimizer"]
    for option, default in list_defaults().items():
        (required if default is REQUIRED else known).append(option)
    if not set(required) <= set(values) <= {*required, *known}:
        raise ValueError(
            f"arm {name!r} must have {', '.join(required)} and may have {', '.join(known)}, got "
            f"{', '.join(values) or 'nothing'}."
        )
    # The optimizer decides which other names mean anything, so it is checked before them.
    optimizers = find_optimizers()
    optimizer = values.get("optimizer", OPTIMIZER)
    if optimizer not in optimizers:
        raise ValueError(
            f"arm {name!r}: optimizer must be one of {', '.join(optimizers)}, got {optimizer!r}."
        )
    # Only the arm's own optimizer would read these names: with another they would do nothing.
    readers: dict[str, list[str]] = {}  # for each of these names, the optimizers that read it
    for each, owner in optimizers.items():
        for option in owner.list_names():
            readers.setdefault(option, []).append(each)
    for option, known_to in readers.items():
        if option in values and optimizer not in known_to:
            raise ValueError(
                f"arm {name!r}: {option} is for {', '.join(known_to)}, and this arm trains with "
                f"{optimizer}: leave {option} out, or name another optimizer."
            )


def _split_seeds(name: str, values: Mapping[str, Any], seeds: int) -> list[dict[str, Any]]:
    """Split an arm's values into those of each seed; a list of numbers holds one for each."""
    own: list[dict[str, Any]] = [{} for _ in range(seeds)]
    numbers = _list_numbers()
    for option, given in values.items():
        # An optimizer keeps its numbers in its state: numpy's and torch's become Python's.
        value = given.item() if getattr(given, "shape", None) == () else given
        is_list = option in numbers and isinstance(value, Sequence)
        if is_list and len(value) != seeds:
            raise ValueError(f"arm {name!r} must have one {option}, or {seeds}, got {len(value)}.")
        for seed in range(seeds):
            own[seed][option] = value[seed] if is_list else value
    return own


def _list_numbers() -> list[str]:
    """List the names whose value must be a number."""
    names: list[str] = []
    for option in OPTIONS:
        names += option.numbers
    return names


def _check_rule(name: str, rule: Rule, steps: int) -> None:
    """Refuse values that are not numbers, or that the check of an option refuses."""
    defaults = list_defaults()
    for option in _list_numbers():
        value = rule[option]
        # None means "not set" where it is the default, as for gain.
        is_left_out = value is None and defaults[option] is None
        if read_real(value) is None and not is_left_out:
            raise ValueError(f"arm {name!r}: {option} must be a number, got {value!r}.")
    # From here on the values are numbers, so an option's check may compare them.
    for each in OPTIONS:
        problem = each.find_problem(rule, steps)
        if problem is not None:
            raise ValueError(f"arm {name!r}: {problem}.")
