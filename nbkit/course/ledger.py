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

    A claim that this run skipped, as on a busy machine, keeps the verdict of the earlier record, if
    that was judged at the same parameters by the same measure and bound. Such a verdict says in
    `recorded` when its run started, and has the machine that it was measured on.

    Raises:
        ValueError: if the lesson failed: later runs cannot be compared with half a run.
        OSError: if the folder cannot be written.
    """
    if not record.ok:
        raise ValueError(f"{record.lesson} failed, so it is not recorded.")
    path = _find_path(record, ledger)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A damaged file is replaced: nothing in it can be kept.
    earlier = Record.find(path)
    verdicts = record.verdicts
    if earlier is not None and earlier.parameters == record.parameters:
        verdicts = _keep_judged(earlier, record)
    # Times and workers differ from run to run: without them, a diff shows the verdicts alone.
    kept = replace(record, name=record.lesson, verdicts=verdicts, cells=[], flips=[])
    replace(kept, worker={}, attempts=[]).save(path)
    return path


def list_kept(record: Record, ledger: Path) -> list[str]:
    """List the verdicts that `keep_record` has kept, because this run skipped their claims.

    Raises:
        OSError: if the ledger's file cannot be read.
        ValueError: if it is not a record.
    """
    lines = []
    for verdict in Record.load(_find_path(record, ledger)).verdicts:
        tasks = [
            {**there, "claim": f"{verdict['claim']} on {there['task']}"}
            for there in verdict.get("elsewhere") or ()
        ]
        for kept in [verdict, *tasks]:
            # Only a verdict of an earlier run has the start of that run.
            if kept.get("recorded"):
                date = str(kept["recorded"])[:10]
                lines.append(f"{kept['claim']} was skipped, and keeps {kept['verdict']} of {date}")
    return lines


def _keep_judged(earlier: Record, record: Record) -> list[dict[str, Any]]:
    """Return a run's verdicts, with the earlier one for each claim that it skipped."""
    before = number_verdicts(earlier.verdicts)
    verdicts = []
    for key, now in number_verdicts(record.verdicts).items():
        then = before.get(key)
        if then is not None and _asks_the_same(then, now):
            now = _keep_judged_tasks(then, now, earlier.started)
            if _was_skipped(then, now):
                now = {**then, "recorded": then.get("recorded") or earlier.started}
        verdicts.append(now)
    return verdicts


def _keep_judged_tasks(
    then: Mapping[str, Any], now: Mapping[str, Any], started: str
) -> dict[str, Any]:
    """Return a verdict with the earlier one for each further task that this run skipped."""
    before = {there["task"]: there for there in then.get("elsewhere") or ()}
    tasks = []
    for there in now.get("elsewhere") or ():
        old = before.get(there["task"])
        if old is not None and _was_skipped(old, there):
            there = {**old, "recorded": old.get("recorded") or started}
        tasks.append(there)
    # A verdict without further tasks stays as it was shown.
    return {**now, "elsewhere": tasks} if tasks else dict(now)


def _asks_the_same(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether two verdicts are about the same quantity and bound."""
    # The claim may have been changed under its id since the earlier run.
    return all(then.get(name) == now.get(name) for name in ("metric", "bound", "over"))


def _was_skipped(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    return now["verdict"] == "SKIPPED" and then["verdict"] in JUDGED


def find_flips(record: Record, ledger: Path) -> list[dict[str, Any]]:
    """Find the claims whose verdict differs from the one recorded for this class of machine.

    Returns:
        for each of them the `claim`; `now` and `before`, the two verdicts with their intervals;
        `recorded`, the start of the earlier run; and `task`, the further task that it was measured
        on, or None.

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
        for task, before, after in [(None, then, now), *_pair_tasks(then, now)]:
            if _has_flipped(before, after):
                # A verdict that was kept through a skipped run is older than its record.
                start = before.get("recorded") or recorded.started
                flip = {"claim": now["claim"], "now": after, "before": before, "recorded": start}
                flips.append({**flip, "task": task} if task else flip)
    return flips


def _pair_tasks(
    then: Mapping[str, Any], now: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any], Mapping[str, Any]]]:
    """Yield the verdicts then and now on each further task that both runs have measured."""
    before = {there["task"]: there for there in then.get("elsewhere") or ()}
    for there in now.get("elsewhere") or ():
        if there["task"] in before:
            yield there["task"], before[there["task"]], there


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
