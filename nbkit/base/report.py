"""What every result object can do: print as a table, show in a notebook, turn into JSON.

A technique's result is a dataclass that inherits `Report` and says what its table holds.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Sequence
from enum import Enum, StrEnum
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Word(StrEnum):
    """The base of codes, such as verdicts: each one is a plain word, and shows itself as one.

    >>> class Light(Word):
    ...     RED = "red"
    >>> Light.RED, Light.RED == "red", str(Light.RED)
    ('red', True, 'red')
    """

    def __repr__(self) -> str:
        return repr(self.value)


class Report:
    """A result as a table: a subclass is a dataclass and gives `table()`."""

    def table(self) -> tuple[str, Sequence[str], Sequence[Sequence[object]]]:
        """A line of summary, the names of the columns, and the rows."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, object]:
        """Every field as plain JSON: tensors become numbers or lists, a non-finite number None."""
        return {
            field.name: convert_to_json(getattr(self, field.name))
            for field in dataclasses.fields(self)  # type: ignore[arg-type]
        }

    def __str__(self) -> str:
        summary, columns, rows = self.table()
        cells = [list(columns), *[[_text(cell) for cell in row] for row in rows]]
        widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
        lines = [
            "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
            for row in cells
        ]
        return "\n".join([summary, *lines] if rows else [summary])

    def _repr_html_(self) -> str:
        summary, columns, rows = self.table()
        head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(_text(cell))}</td>" for cell in row) + "</tr>"
            for row in rows
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return f"<p>{html.escape(summary)}</p>" + (table if rows else "")


def ensure_axes(ax: Axes | None) -> Axes:
    """Return the axes to draw on: those that were given, or those of a new figure of pyplot."""
    if ax is not None:
        return ax
    from matplotlib import pyplot  # here, so that a user who draws nothing does not load it

    return pyplot.subplots()[1]


def convert_to_json(value: object) -> object:
    """The value as JSON knows it; NaN and infinity, which it does not know, become None.

    >>> convert_to_json({"norm": torch.tensor(2.0), "names": ("a", "b"), "worst": math.inf})
    {'norm': 2.0, 'names': ['a', 'b'], 'worst': None}
    """
    if isinstance(value, torch.Tensor):
        return convert_to_json(value.tolist())
    if isinstance(value, Report):
        return value.to_dict()
    if isinstance(value, Enum):
        return convert_to_json(value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: convert_to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(convert_to_json(key)): convert_to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [convert_to_json(item) for item in value]
    if hasattr(value, "dtype") and hasattr(value, "tolist"):  # numpy's numbers and arrays
        return convert_to_json(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def _text(cell: object) -> str:
    """A number short enough for a table, anything else as it prints."""
    if isinstance(cell, torch.Tensor):
        cell = cell.item()
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)
