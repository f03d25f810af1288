"""The ledger: verdicts that were recorded on purpose, and that every later run must answer to.

It has a file for each class of hardware and lesson, `data/ledger/<hardware>/<lesson>.json`.
It is the record of a run, with everything that is needed to repeat it. A number that moves is
noise; a verdict that flips is a regression.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nbkit.course.record import Record
from nbkit.lab import shipped

JUDGED = ("SUPPORTED", "REFUTED", "INCONCLUSIVE")
MISSING = "NO LONGER JUDGED"  # of a claim that the ledger has judged and a whole run has not


def ledger_dir() -> Path:
    """The folder of the ledger: beside the claims, in a checkout's data/ or the package's copy."""
    return shipped.data_dir() / "ledger"


def keep_record(record: Record, ledger: Path) -> Path:
    """Write a run's record into the ledger, in place of what stood there; returns the file.

    Raises:
        ValueError: if the lesson failed: half a run is nothing to be measured against.
        OSError: if the folder cannot be written.
    """
    if not record.ok:
        raise ValueError(f"{record.lesson} failed, so it is not recorded.")
    path = _path(record, ledger)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(record, name=record.lesson, cells=[], flips=[], worker={}, attempts=[]).save(path)
    return path


def find_flips(record: Record, ledger: Path) -> list[dict[str, Any]]:
    """The claims whose verdict is another than the one recorded on such a machine, or is missing.

    Returns:
        for each of them the `claim`, `now` and `before`, the two verdicts with their intervals, and
        when that was `recorded`.

    Compared are runs with the same parameters only: with others, another verdict is another answer
    to another question. A claim that was skipped, then or now, has not flipped. One that a run to
    the end no longer mentions has: its verdict is MISSING, and its reason says so. A claim that a
    lesson judges several times is compared verdict by verdict, in their order.

    Raises:
        ValueError: if what stands in the ledger is not a record.
    """
    path = _path(record, ledger)
    if not path.exists():
        return []
    try:
        recorded = Record.load(path)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a record: take it back from git, or --record.") from error
    if recorded.parameters != record.parameters:
        return []

    before, after = number_verdicts(recorded.verdicts), number_verdicts(record.verdicts)
    pairs = [(then, now) for key, now in after.items() if (then := before.get(key))]
    if record.ok:
        pairs += [(then, _missing(then)) for key, then in before.items() if key not in after]
    return [
        {"claim": now["claim"], "now": now, "before": then, "recorded": recorded.started}
        for then, now in pairs
        if _flipped(then, now)
    ]


def number_verdicts(verdicts: Sequence[dict[str, Any]]) -> dict[tuple[str, int], dict[str, Any]]:
    """Each verdict under its claim and the how-maniest of that claim it is: none hides another."""
    seen: Counter[str] = Counter()
    found = {}
    for verdict in verdicts:
        claim = str(verdict["claim"])
        found[claim, seen[claim]] = verdict
        seen[claim] += 1
    return found


def _missing(then: Mapping[str, Any]) -> dict[str, Any]:
    reason = "the lesson ran to its end without a verdict on it"
    return {"claim": then["claim"], "verdict": MISSING, "reason": reason}


def _flipped(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    was, is_now = then["verdict"], now["verdict"]
    return was != is_now and was in JUDGED and is_now in (*JUDGED, MISSING)


def _path(record: Record, ledger: Path) -> Path:
    hardware = record.machine.get("hardware")
    if not hardware:
        raise ValueError(f"{record.lesson}: its record names no hardware. Run the lesson again.")
    return ledger / hardware / f"{record.lesson}.json"
