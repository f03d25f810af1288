"""Many claims at once: of twenty that are false, one passes at 5 %, unless that is allowed for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nbkit.base.numbers import read_real
from nbkit.lab.evidence.claims import INCONCLUSIVE, SKIPPED


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for being several, each in its place.

        max over j ≤ i of min(1, (m - j + 1) · p_j)  with p_1 ≤ p_2 ≤ ... ≤ p_m

    Where the adjusted value is at most alpha, reject: any false rejection at all then happens at
    most alpha of the time, however the tests depend on each other.

    Raises:
        ValueError: if a p-value is not between 0 and 1.

    Source: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.

    >>> holm([0.04, 0.01, 0.03])
    [0.06, 0.03, 0.06]
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values lie between 0 and 1, got {list(p_values)}.")

    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def adjust_verdicts(
    verdicts: Sequence[Mapping[str, object]], *, alpha: float = 0.05
) -> list[dict[str, object]]:
    """The verdicts of one report, each beside what is left of it when all are looked at together.

    Args:
        verdicts: as `Verdict.to_dict` gives them.
        alpha: how often the report may hold a wrong SUPPORTED or REFUTED at all.
    Returns:
        copies with "p_holm" and "verdict_holm": what no longer stands is INCONCLUSIVE.

    Exact and skipped claims are no tests: they are not counted and keep their verdict. One without
    a p-value is counted, and cannot stand. Source: Holm 1979, through `holm`.
    """
    tested = [v for v in verdicts if v["verdict"] != SKIPPED and v.get("margin") is not None]
    p_values = [1.0 if (p := read_real(v.get("p_value"))) is None else p for v in tested]
    adjusted = dict(zip(map(id, tested), holm(p_values), strict=True))

    told = []
    for verdict in verdicts:
        p = adjusted.get(id(verdict))
        left = verdict["verdict"] if p is None or p <= alpha else INCONCLUSIVE
        told.append({**verdict, "p_holm": p, "verdict_holm": left})
    return told
