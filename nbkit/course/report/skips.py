"""Group the claims that were not judged by the reason."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from nbkit.course.report.data import SkipGroup
from nbkit.course.report.read import StoredRecord
from nbkit.lab.evidence.claims import SKIPPED
from nbkit.lab.evidence.register import all_claims


def group_skips(names: Sequence[str], runs: Sequence[Sequence[StoredRecord]]) -> list[SkipGroup]:
    """Group every claim that was not judged by its reason, the most frequent reason first.

    Args:
        names: the name of each run.
        runs: the records of each run.
    """
    groups: dict[str, SkipGroup] = {}
    for name, run in zip(names, runs, strict=True):
        for stored in run:
            for claim, reason in _find_skips(stored):
                general = _generalize_reason(reason)
                group = groups.setdefault(general, SkipGroup(general, []))
                group.claims.append(
                    {"run": name, "lesson": stored.name, "claim": claim, "reason": reason}
                )
    return sorted(groups.values(), key=lambda group: -len(group.claims))


def _find_skips(stored: StoredRecord) -> Iterator[tuple[str, str]]:
    """Yield each claim of a lesson that was not judged, with the reason."""
    record = stored.record
    for verdict in record.verdicts:
        if verdict["verdict"] == SKIPPED:
            yield str(verdict["claim"]), str(verdict.get("reason") or "no reason was recorded")
    if record.ok:
        return
    # A lesson that failed has no verdict for the claims that come after the failure.
    judged = {verdict["claim"] for verdict in record.verdicts}
    for claim in all_claims().values():
        if claim.lesson == record.lesson and claim.id not in judged:
            yield claim.id, "the lesson did not come to its end"


def _generalize_reason(reason: str) -> str:
    """Drop the numbers from a reason, so that `3 of the 8 seeds it needs` is `too few seeds`."""
    if reason.startswith("the machine was busy"):
        return "the machine was busy"
    few = re.fullmatch(r"\d+ of the \d+ (.+) it needs", reason)
    return f"too few {few[1]}" if few else reason
