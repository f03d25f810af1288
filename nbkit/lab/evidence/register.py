"""Read the claims of one lesson, or of the whole course."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nbkit.lab import shipped
from nbkit.lab.curriculum import read_course, word_of
from nbkit.lab.evidence.claims import Claim
from nbkit.lab.evidence.claims_file import read_entries

# A report shows this in place of a verdict for a claim that no lesson measures.
NO_LESSON = "NO LESSON YET"


def all_claims() -> dict[str, Claim]:
    """Read the claims of the whole course, by id, in the order of the lessons.

    The claims of a folder in `nbkit/lessons` count even before it is a lesson of the course.

    Raises:
        ValueError: if an entry has a wrong or missing field, or two files have a claim of one id.
    """
    words = [entry.word for entry in read_course()]
    for path in _find_claims_files():
        if path.parent.name not in words:
            words.append(path.parent.name)
    claims: dict[str, Claim] = {}
    for word in words:
        for identifier, claim in load_claims(word).items():
            # A verdict in a record or in the ledger names its claim by the id alone.
            if identifier in claims:
                raise ValueError(
                    f"the id of a claim must be unique: {identifier!r} stands in the claims of "
                    f"{claims[identifier].lesson} and of {word}. Rename one."
                )
            claims[identifier] = claim
    return claims


def _find_claims_files() -> list[Path]:
    return sorted(shipped.LESSONS.glob("*/claims.toml"))


def load_claims(lesson: str, path: Path | None = None) -> dict[str, Claim]:
    """Read the claims of one lesson, by id, in the order of the file.

    Args:
        lesson: the lesson's word, `lr_finder`.
        path: the file; default `nbkit/lessons/<lesson>/claims.toml`. In a file that several lessons
            share, each entry has a field `lesson`.
    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is not TOML, an entry has a wrong or missing field, or the lesson has no
            claim.
    """
    if path is None:
        path = _find_claims_file(lesson)
    # The owners of other entries are kept for the message only.
    claims, others = {}, set()
    for identifier, entry in read_entries(path).items():
        owner = entry.pop("lesson", lesson)
        if owner != lesson:
            others.add(owner)
            continue
        try:
            claims[identifier] = _make_claim(identifier, lesson, entry)
        except ValueError as error:
            raise ValueError(f"{path.name}, {error}") from None
    if not claims:
        known = ", ".join(map(repr, sorted(others))) or "none"
        raise ValueError(
            f"{path.name} has no claim of lesson {lesson!r}. It has claims of: {known}."
        )
    return claims


def _find_claims_file(lesson: str) -> Path:
    """Find the file of a lesson that ships with nbkit."""
    path = shipped.LESSONS / lesson / "claims.toml"
    if not path.is_file():
        known = ", ".join(sorted(each.parent.name for each in _find_claims_files()))
        raise ValueError(
            f"nbkit has no claims of lesson {lesson!r}, only of {known}. For a lesson of your "
            f"own, name its file: Lesson({lesson!r}, claims='{lesson}.toml')."
        )
    return path


def _make_claim(identifier: str, lesson: str, entry: dict[str, Any]) -> Claim:
    """Make a claim of an entry whose fields have the right names and types."""
    # TOML has no None and no tuples: an equality leaves out its side, and needs are a list.
    for name in ("needs", "axis"):
        if name in entry:
            entry[name] = tuple(entry[name])
    return Claim(id=identifier, lesson=lesson, side=entry.pop("side", None), **entry)


def without_lesson() -> dict[str, Claim]:
    """Read the claims that no lesson measures yet; a report counts them as NO LESSON YET."""
    # A claim counts as measured when its lesson has a notebook.
    measured = {word_of(path.stem) for path in shipped.lessons_dir().glob("*.ipynb")}
    return {name: claim for name, claim in all_claims().items() if claim.lesson not in measured}
