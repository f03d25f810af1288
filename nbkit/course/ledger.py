"""Keep the ledger: recorded verdicts, with which every later run is compared.

It has a file for each class of hardware and lesson, `data/ledger/<hardware>/<lesson>.json`.
It is the record of a run, with everything that is needed to repeat it. A number that moves is
noise; a verdict that flips is a regression.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from nbkit.course.record import Record
from nbkit.lab import shipped

JUDGED = ("SUPPORTED", "REFUTED", "INCONCLUSIVE")
# The verdict on a claim that the ledger has judged, and that a run to the end has not.
MISSING = "NO LONGER JUDGED"


def ledger_dir() -> Path:
    """Return the ledger's folder, in a checkout's data/ or in the package's copy of it."""
    return shipped.data_dir() / "ledger"


def keep_record(record: Record, ledger: Path) -> Path:
    """Write a run's record into the ledger, replacing the earlier one; return the file.

    Raises:
        ValueError: if the lesson failed: later runs cannot be compared with half a run.
        OSError: if the folder cannot be written.
    """
    if not record.ok:
        raise ValueError(f"{record.lesson} failed, so it is not recorded.")
    path = _find_path(record, ledger)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Times and workers differ from run to run: without them, a diff shows the verdicts alone.
    replace(record, name=record.lesson, cells=[], flips=[], worker={}, attempts=[]).save(path)
    return path


def find_flips(record: Record, ledger: Path) -> list[dict[str, Any]]:
    """Find the claims whose verdict differs from the one recorded for this class of machine.

    Returns:
        for each of them the `claim`; `now` and `before`, the two verdicts with their intervals; and
        `recorded`, the start of the earlier run.

    Only runs with the same parameters are compared, because other parameters ask another question.
    A claim that was skipped, then or now, has not flipped. A claim that a run to the end no longer
    judges has flipped: its verdict is MISSING. A claim that a lesson judges several times is
    compared verdict by verdict, in their order.

    Raises:
        ValueError: if the file in the ledger is not a record.
    """
    path = _find_path(record, ledger)
    if not path.exists():
        return []
    try:
        recorded = Record.load(path)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a record: take it back from git, or --record.") from error
    if recorded.parameters != record.parameters:
        return []

    flips = []
    for then, now in _pair_verdicts(recorded, record):
        if _has_flipped(then, now):
            flips.append(
                {"claim": now["claim"], "now": now, "before": then, "recorded": recorded.started}
            )
    return flips


def _pair_verdicts(
    recorded: Record, record: Record
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield each verdict in the ledger with the verdict of the run on the same claim."""
    before, after = number_verdicts(recorded.verdicts), number_verdicts(record.verdicts)
    for key, now in after.items():
        if key in before:  # a new claim has nothing to differ from
            yield before[key], now
    if record.ok:  # a lesson that failed has not come to all of its claims
        for key, then in before.items():
            if key not in after:
                yield then, _make_missing_verdict(then)


def number_verdicts(verdicts: Sequence[dict[str, Any]]) -> dict[tuple[str, int], dict[str, Any]]:
    """Key verdicts by (claim, occurrence), so that repeated claims do not overwrite each other."""
    seen: Counter[str] = Counter()
    found = {}
    for verdict in verdicts:
        claim = str(verdict["claim"])
        found[claim, seen[claim]] = verdict
        seen[claim] += 1
    return found


def _make_missing_verdict(then: Mapping[str, Any]) -> dict[str, Any]:
    reason = "the lesson ran to its end without a verdict on it"
    return {"claim": then["claim"], "verdict": MISSING, "reason": reason}


def _has_flipped(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    # Only verdicts that rest on a measurement can flip; a skipped claim has none.
    was, is_now = then["verdict"], now["verdict"]
    return was != is_now and was in JUDGED and is_now in (*JUDGED, MISSING)


def _find_path(record: Record, ledger: Path) -> Path:
    """Return the ledger's file for the lesson and the hardware of a record."""
    hardware: str | None = record.machine.get("hardware")
    if not hardware:
        raise ValueError(f"{record.lesson}: its record names no hardware. Run the lesson again.")
    return ledger / hardware / f"{record.lesson}.json"
