"""Read a file of claims; report a mistake in it with the file, the claim and what was expected."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

IDENTIFIER = re.compile(r"\w[\w.-]*", re.ASCII)


@dataclass(frozen=True)
class FieldRule:
    """The rule for one field: a test of its value, the test in words, and whether it is needed."""

    fits: Callable[[object], bool]
    expected: str
    is_optional: bool = False


def _is_nonempty_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_toml_number(value: object) -> bool:
    # Compared by type: true and false are ints to isinstance.
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]  # a number


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_pair_of_numbers(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_toml_number, value))


def _is_whole_number(value: object) -> bool:
    return type(value) is int


# An empty sentence would be shown as an empty row, so a text must have words.
TEXT = FieldRule(_is_nonempty_text, "a text")
OPTIONAL_TEXT = FieldRule(_is_nonempty_text, "a text", is_optional=True)
OPTIONAL_NUMBER = FieldRule(_is_toml_number, "a finite number", is_optional=True)
WHOLE_NUMBER = FieldRule(_is_whole_number, "a whole number")
OPTIONAL_FLAG = FieldRule(lambda value: isinstance(value, bool), "true or false", is_optional=True)
FIELDS: dict[str, FieldRule] = {
    "lesson": OPTIONAL_TEXT,
    "sentence": TEXT,
    "source": TEXT,
    "metric": TEXT,
    "measure": TEXT,
    "side": OPTIONAL_TEXT,
    "margin": OPTIONAL_NUMBER,
    "n": WHOLE_NUMBER,
    "over": OPTIONAL_TEXT,
    "spread": OPTIONAL_NUMBER,
    "drift": OPTIONAL_NUMBER,
    "needs": FieldRule(_is_list_of_text, 'a list of texts, as in ["cuda"]', is_optional=True),
    "deterministic": OPTIONAL_FLAG,
    "task": OPTIONAL_TEXT,
    "baseline": OPTIONAL_TEXT,
    "axis": FieldRule(_is_pair_of_numbers, "[low, high], two finite numbers", is_optional=True),
    "n_elsewhere": replace(WHOLE_NUMBER, is_optional=True),
    "general": OPTIONAL_FLAG,
    "better": OPTIONAL_TEXT,
    "supported": OPTIONAL_TEXT,
    "refuted": OPTIONAL_TEXT,
    "inconclusive": OPTIONAL_TEXT,
}


def read_entries(path: Path) -> dict[str, dict[str, Any]]:
    """Read the entries of a claims file, by the claims' ids; each field has its right type.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not TOML, or an entry has an unknown, missing or mistyped field; the
            message names the file and the claim.
    """
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"there is no file of claims {path} in {Path.cwd()}. A relative path counts from the "
            f"notebook's folder: give papermill `--cwd` with that folder."
        ) from None
    except OSError as error:
        raise ValueError(f"{path} must be a file of claims: {error.strerror}.") from error
    except ValueError as error:
        # Errors of TOML and of UTF-8 are both ValueErrors.
        raise ValueError(f"{path.name} must be written in TOML and UTF-8: {error}.") from error

    # TOML has parsed the whole file: what is wrong now belongs to one entry.
    for identifier, entry in entries.items():
        problem = _find_entry_problem(identifier, entry)
        if problem is not None:
            raise ValueError(f"{path.name}, [{identifier}]: {problem}")
    return entries


def _find_entry_problem(identifier: str, entry: object) -> str | None:
    """Find what is wrong with one entry, in a sentence; None if nothing is."""
    if not isinstance(entry, dict):
        return f"expected a claim, [{identifier}] with its fields below it, got {entry!r}."
    if not IDENTIFIER.fullmatch(identifier):
        return "the id of a claim must be made of letters, digits, `-`, `_` and `.`."
    # A field of earlier versions gets its translation, not only a refusal.
    if "kind" in entry:
        advice = _advise_on_kind(entry["kind"])
        return f"the field kind is called measure and side now: {advice}."
    wrong = [_suggest_field(name) for name in sorted(set(entry) - set(FIELDS))]
    for name, rule in FIELDS.items():
        if not rule.is_optional and name not in entry:
            wrong.append(name)
    if wrong:
        return f"wrong or missing: {', '.join(wrong)}."
    # Values are looked at last: a misspelt name is the more likely mistake.
    for name, value in entry.items():
        if not FIELDS[name].fits(value):
            return f"{name} must be {FIELDS[name].expected}, got {value!r}."
    return None


def _suggest_field(name: str) -> str:
    # The nearest name turns most misspellings into a fix.
    near = difflib.get_close_matches(name, FIELDS, n=1)
    return f"{name} (did you mean {near[0]}?)" if near else name


def _advise_on_kind(kind: object) -> str:
    """Say what to write in place of a field `kind`, which claims had in earlier versions."""
    if kind == "exact":
        return 'write measure = "equality"'
    if kind == "equivalent":
        return 'write measure = "difference" and side = "within"'
    measure, _, side = str(kind).rpartition("_")
    if side in ("below", "above"):
        return f'write measure = "{measure}" and side = "{side}"'
    return 'write, for instance, measure = "ratio" and side = "below"'
