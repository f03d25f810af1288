"""Check the content of a record's file before a report relies on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from nbkit.lab.evidence.multiple_tests import adjust_verdicts

STATUSES = ("waiting", "running", "ok", "failed")
LARGEST = 1e300  # a number that still prints; JSON may hold integers that no float can


def find_problem(content: Mapping[str, Any]) -> str | None:
    """Find the first field whose value a report could not show; None if there is none.

    Missing fields, and fields that this version does not know, are ignored.
    """
    if problem := _find_odd_field(content, FIELDS):
        return problem
    lists: dict[str, Callable[[Any], str | None]] = {
        "verdicts": find_verdict_problem,
        "predictions": find_prediction_problem,
        "flips": _find_flip_problem,
        "cells": lambda cell: _find_item_problem(cell, "cells", ("cell",), CELL),
    }
    for name, find in lists.items():
        for item in content.get(name, ()):
            if problem := find(item):
                return problem
    # A p-value outside 0 to 1 shows only when all of them are corrected together.
    try:
        adjust_verdicts(content.get("verdicts", ()))
    except ValueError as error:
        return str(error)
    return None


def find_verdict_problem(verdict: object) -> str | None:
    """Describe the first fault of a verdict; None if it has none."""
    problem = _find_item_problem(verdict, "verdicts", ("claim", "verdict"), VERDICT)
    if problem:
        return problem
    assert isinstance(verdict, Mapping)
    # The verdicts on further tasks are shown with their effect and interval, too.
    for there in verdict.get("elsewhere") or ():
        if problem := _find_item_problem(there, "elsewhere", ("task", "verdict"), ELSEWHERE):
            return f"one of its verdicts: {problem}"
    return None


def find_prediction_problem(prediction: object) -> str | None:
    """Describe the first fault of a prediction; None if it has none."""
    wanted = ("claim", "guess", "confidence")
    return _find_item_problem(prediction, "predictions", wanted, PREDICTION)


def _find_flip_problem(flip: object) -> str | None:
    wanted = ("claim", "now", "before", "recorded")
    if problem := _find_item_problem(flip, "flips", wanted, FLIP):
        return problem
    assert isinstance(flip, Mapping)
    # Both verdicts are shown with their effect and interval.
    for side in ("now", "before"):
        if not isinstance(flip[side], Mapping) or "verdict" not in flip[side]:
            return "one of its flips has no two verdicts"
        if problem := _find_odd_field(flip[side], VERDICT):
            return f"one of its flips: {problem}"
    return None


def _find_item_problem(
    item: object, name: str, wanted: tuple[str, ...], kinds: Mapping[str, Callable[[Any], bool]]
) -> str | None:
    """Describe the first fault of one item of the list `name`; None if it has none."""
    if not isinstance(item, Mapping) or not set(wanted) <= set(item):
        return f"one of its {name} has not all of {', '.join(wanted)}"
    problem = _find_odd_field(item, kinds)
    return f"one of its {name}: {problem}" if problem else None


def _find_odd_field(
    content: Mapping[str, Any], kinds: Mapping[str, Callable[[Any], bool]]
) -> str | None:
    """Describe the first field whose value is not of the kind that `kinds` requires."""
    for name, fits in kinds.items():
        if name in content and not fits(content[name]):
            shown = repr(content[name])  # cut off, because a damaged field may hold anything
            return f"{name} is {shown if len(shown) <= 60 else shown[:57] + '...'}"
    return None


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_word(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST


def _is_number(value: object) -> bool:
    """Return whether a number can be printed; NaN and infinity can."""
    if isinstance(value, float):
        return True
    return _is_integer(value)


def _is_seconds(value: object) -> bool:
    return isinstance(value, int | float) and _is_number(value) and 0 <= value < LARGEST


def _is_interval(value: object) -> bool:
    """Return whether a value is an interval: two ends, None for an open end, or an empty list."""
    if not isinstance(value, list | tuple) or len(value) not in (0, 2):
        return False
    return all(end is None or _is_number(end) for end in value)


def _is_mapping(value: object) -> bool:
    return isinstance(value, dict)


def _is_json_list(value: object) -> bool:
    return isinstance(value, list)


def _or_none(fits: Callable[[object], bool]) -> Callable[[object], bool]:
    """Return the same check, which None passes too."""
    return lambda value: value is None or fits(value)


def _is_machine(value: object) -> bool:
    """Return whether a value describes a machine; its hardware names a folder in the ledger."""
    return isinstance(value, dict) and _is_word(value.get("hardware", "unknown"))


FIELDS: dict[str, Callable[[Any], bool]] = {
    "lesson": _is_word,
    "status": lambda value: value in STATUSES,
    "started": _is_text,
    "parameters": _is_mapping,
    "machine": _is_machine,
    "seconds": _is_seconds,
    "cells": _is_json_list,
    "verdicts": _is_json_list,
    "predictions": _is_json_list,
    "flips": _is_json_list,
    "nbkit": _is_text,
    "notebook_sha256": _is_text,
    "reason": _or_none(_is_text),
    "cell": _or_none(_is_integer),
    "name": _is_text,
    "code_sha256": _is_text,
    "cell_count": _or_none(_is_integer),
    "worker": _is_mapping,
    "attempts": _is_json_list,
    "peak_bytes": _or_none(_is_seconds),
}
CELL: dict[str, Callable[[Any], bool]] = {
    "cell": _is_integer,
    "seconds": _or_none(_is_seconds),
}
FLIP: dict[str, Callable[[Any], bool]] = {
    "claim": _is_word,
    "recorded": _is_text,
    "task": _or_none(_is_text),
}
PREDICTION: dict[str, Callable[[Any], bool]] = {
    "claim": _is_word,
    "guess": _is_number,
    "confidence": _is_integer,
    "settings": _or_none(_is_mapping),
}
VERDICT: dict[str, Callable[[Any], bool]] = {
    "claim": _is_word,
    "verdict": _is_word,
    "task": _or_none(_is_text),
    "baseline": _or_none(_is_text),
    "recorded": _or_none(_is_text),
    "settings": _or_none(_is_mapping),
    "elsewhere": _or_none(_is_json_list),
    "sentence": _or_none(_is_text),
    "reason": _or_none(_is_text),
    "metric": _or_none(_is_text),
    "bound": _or_none(_is_text),
    "over": _or_none(_is_text),
    # Some writers spell out "nan"; it is shown as it is.
    "effect": lambda value: value is None or isinstance(value, str) or _is_number(value),
    "interval": _or_none(_is_interval),
    "n": _or_none(_is_integer),
    "margin": _or_none(_is_number),
    "p_value": _or_none(lambda value: _is_number(value) and not math.isnan(value)),  # type: ignore[arg-type]
}
ELSEWHERE = {**VERDICT, "task": _is_word}
