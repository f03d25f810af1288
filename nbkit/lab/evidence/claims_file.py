"""Read a file of claims, and answer a mistake in it with file, claim and what was expected."""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

IDENTIFIER = re.compile(r"\w[\w.-]*", re.ASCII)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def _is_list_of_text(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


# Of each field: whether it may be left out, whether a value fits, and what fits, in words.
FIELDS: dict[str, tuple[bool, Callable[[object], bool], str]] = {
    "lesson": (True, _is_text, "a text"),
    "sentence": (False, _is_text, "a text"),
    "source": (False, _is_text, "a text"),
    "metric": (False, _is_text, "a text"),
    "measure": (False, _is_text, "a text"),
    "side": (True, _is_text, "a text"),
    "margin": (True, _is_number, "a finite number"),
    "n": (False, lambda value: type(value) is int, "a whole number"),
    "over": (True, _is_text, "a text"),
    "spread": (True, _is_number, "a finite number"),
    "needs": (True, _is_list_of_text, 'a list of texts, as in ["cuda"]'),
    "deterministic": (True, lambda value: isinstance(value, bool), "true or false"),
    "supported": (True, _is_text, "a text"),
    "refuted": (True, _is_text, "a text"),
    "inconclusive": (True, _is_text, "a text"),
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
    except ValueError as error:  # of TOML, or of UTF-8
        raise ValueError(f"{path.name} must be written in TOML and UTF-8: {error}.") from error

    for identifier, entry in entries.items():
        problem = _find_problem(identifier, entry)
        if problem is not None:
            raise ValueError(f"{path.name}, [{identifier}]: {problem}")
    return entries


def _find_problem(identifier: str, entry: object) -> str | None:
    """Find what is wrong with one entry, in a sentence; None if nothing is."""
    if not isinstance(entry, dict):
        return f"expected a claim, [{identifier}] with its fields below it, got {entry!r}."
    if not IDENTIFIER.fullmatch(identifier):
        return "the id of a claim must be made of letters, digits, `-`, `_` and `.`."
    if "kind" in entry:
        return f"the field kind is called measure and side now: {_replace_kind(entry['kind'])}."
    missing = [
        name for name, (optional, _, _) in FIELDS.items() if not optional and name not in entry
    ]
    unknown = sorted(set(entry) - set(FIELDS))
    if unknown or missing:
        near = [_suggest(name) for name in unknown]
        return f"wrong or missing: {', '.join([*near, *missing])}."
    for name, value in entry.items():
        _, fits, expected = FIELDS[name]
        if not fits(value):
            return f"{name} must be {expected}, got {value!r}."
    return None


def _suggest(name: str) -> str:
    near = difflib.get_close_matches(name, FIELDS, n=1)
    return f"{name} (did you mean {near[0]}?)" if near else name


def _replace_kind(kind: object) -> str:
    """Say what to write in place of a field `kind`, which claims had before."""
    if kind == "exact":
        return 'write measure = "equality"'
    if kind == "equivalent":
        return 'write measure = "difference" and side = "within"'
    measure, _, side = str(kind).rpartition("_")
    if side in ("below", "above"):
        return f'write measure = "{measure}" and side = "{side}"'
    return 'write, for instance, measure = "ratio" and side = "below"'
