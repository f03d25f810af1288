"""Give every result a table in print and in a notebook, and its fields as JSON.

The result of a technique is a dataclass that inherits `Report` and defines its table.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Sequence
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Word(StrEnum):
    """The base of codes, such as verdicts: each code is a plain word, and prints as one.

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
        """Return a line of summary, the names of the columns, and the rows."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, object]:
        """Return every field as plain JSON, where a number that is not finite is None."""
        return _convert_fields(self)

    def __str__(self) -> str:
        summary, columns, rows = self.table()
        if not rows:
            return summary
        cells = [list(columns)]
        for row in rows:
            cells.append([_format_cell(cell) for cell in row])
        # A column is as wide as its longest cell.
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = [summary]
        for words in cells:
            padded = map(str.ljust, words, widths)
            lines.append("  ".join(padded).rstrip())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        summary, columns, rows = self.table()
        paragraph = f"<p>{html.escape(summary)}</p>"
        if not rows:
            return paragraph
        head = _format_html_row("th", columns)
        body = ""
        for row in rows:
            body += _format_html_row("td", row)
        return f"{paragraph}<table><thead>{head}</thead><tbody>{body}</tbody></table>"


def _format_html_row(tag: str, cells: Sequence[object]) -> str:
    row = ""
    for cell in cells:
        row += f"<{tag}>{html.escape(_format_cell(cell))}</{tag}>"
    return f"<tr>{row}</tr>"


def ensure_axes(ax: Axes | None) -> Axes:
    """Return the axes to draw on: those that were given, or those of a new figure of pyplot."""
    if ax is not None:
        return ax
    from matplotlib import pyplot  # here, so that a user who draws nothing does not load it

    return pyplot.subplots()[1]


def convert_to_json(value: object) -> object:
    """Convert a value to what JSON can hold; NaN and infinity, which it cannot, become None.

    >>> convert_to_json({"norm": torch.tensor(2.0), "names": ("a", "b"), "worst": math.inf})
    {'norm': 2.0, 'names': ['a', 'b'], 'worst': None}
    """
    # A tensor is a number or nested lists, which may hold NaN.
    if isinstance(value, torch.Tensor):
        return convert_to_json(value.tolist())
    if isinstance(value, Report):
        return value.to_dict()
    if isinstance(value, Enum):
        return convert_to_json(value.value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return _convert_fields(value)
    if isinstance(value, dict):
        converted = {}
        for key, item in value.items():
            converted[str(convert_to_json(key))] = convert_to_json(item)  # JSON's keys are strings
        return converted
    if isinstance(value, (list, tuple, set, frozenset)):
        return [convert_to_json(item) for item in value]
    # numpy need not be installed, so its types are recognised by their methods.
    if hasattr(value, "dtype") and hasattr(value, "tolist"):  # numpy's numbers and arrays
        return convert_to_json(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


def _convert_fields(result: Any) -> dict[str, object]:
    """Convert the fields of a dataclass, by name."""
    converted = {}
    for field in dataclasses.fields(result):
        converted[field.name] = convert_to_json(getattr(result, field.name))
    return converted


def _format_cell(cell: object) -> str:
    """Format a number with three digits, for a table, and anything else as it prints."""
    if isinstance(cell, torch.Tensor):
        cell = cell.item()
    return f"{cell:.3g}" if isinstance(cell, float) else str(cell)
