"""The ledger: verdicts that were recorded on purpose, and that every later run must answer to.

One file for each class of hardware and lesson, `data/ledger/<hardware>/<lesson>.json`: the record
of a run, with all that it takes to repeat it. A number that moves is noise; a verdict that flips is
a regression.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from nbkit.course.record import Record
from nbkit.lab import data

JUDGED = ("SUPPORTED", "REFUTED", "INCONCLUSIVE")


def ledger_dir() -> Path:
    """The folder of the ledger: beside the claims, in a checkout's data/ or the package's copy."""
    return data.file("claims.toml").parent / "ledger"


def keep(record: Record, ledger: Path) -> Path:
    """Write a run's record into the ledger, in place of what stood there; returns the file.

    Raises:
        ValueError: if the lesson failed: half a run is nothing to be measured against.
        OSError: if the folder cannot be written.
    """
    if not record.ok:
        raise ValueError(f"{record.lesson} failed, so it is not recorded.")
    path = _path(record, ledger)
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(record, cells=[], flips=[], worker={}, attempts=[]).save(path)
    return path


def find_flips(record: Record, ledger: Path) -> list[dict[str, Any]]:
    """The claims whose verdict is another than the one recorded on such a machine.

    Returns:
        for each of them the `claim`, `now` and `before`, the two verdicts with their intervals, and
        when that was `recorded`.

    Compared are runs with the same parameters only: with others, another verdict is another answer
    to another question. A claim that was not judged, then or now, has not flipped.
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

    before = {verdict["claim"]: verdict for verdict in recorded.verdicts}
    return [
        {"claim": now["claim"], "now": now, "before": then, "recorded": recorded.started}
        for now in record.verdicts
        if (then := before.get(now["claim"])) and _flipped(then, now)
    ]


def _flipped(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    verdicts = (then["verdict"], now["verdict"])
    return verdicts[0] != verdicts[1] and all(verdict in JUDGED for verdict in verdicts)


def _path(record: Record, ledger: Path) -> Path:
    return ledger / record.machine["hardware"] / f"{record.lesson}.json"
