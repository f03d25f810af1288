"""Allow for many claims at once: of twenty false ones, one passes a test at 5 % by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nbkit.base.numbers import read_real
from nbkit.lab.evidence.claims import INCONCLUSIVE, SKIPPED


def adjust_p_values(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for their number by Holm's method; each stays in its place.

        max over j ≤ i of min(1, (m - j + 1) · p_j)  with p_1 ≤ p_2 ≤ ... ≤ p_m

    Where the adjusted value is at most alpha, reject: the probability of any false rejection is
    then at most alpha, however the tests depend on each other.

    Raises:
        ValueError: if a p-value is not between 0 and 1.

    Source: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.

    >>> adjust_p_values([0.04, 0.01, 0.03])
    [0.06, 0.03, 0.06]
    """
    if not all(0 <= p <= 1 for p in p_values):
        raise ValueError(f"p-values lie between 0 and 1, got {list(p_values)}.")

    ascending = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(ascending):
        # The rank counts from 0: m - rank is the formula's m - j + 1.
        scaled = min(1.0, (len(p_values) - rank) * p_values[place])
        largest = max(largest, scaled)
        adjusted[place] = largest
    return adjusted


def adjust_verdicts(
    verdicts: Sequence[Mapping[str, object]], *, alpha: float = 0.05
) -> list[dict[str, object]]:
    """Add to each verdict of a report the verdict that remains when all are tested together.

    Args:
        verdicts: dicts as `Verdict.to_dict` returns them.
        alpha: bound on the probability that the report holds any wrong SUPPORTED or REFUTED.
    Returns:
        copies with "p_holm" and "verdict_holm": a verdict that no longer stands is INCONCLUSIVE.

    Exact and skipped claims are not tests: they are not counted and keep their verdict. A verdict
    without a p-value is counted, and cannot stand. Source: Holm 1979, by `adjust_p_values`.
    """
    tested, p_values = [], []
    for place, verdict in enumerate(verdicts):
        if verdict["verdict"] == SKIPPED or verdict.get("margin") is None:
            continue
        p = read_real(verdict.get("p_value"))
        tested.append(place)
        # Without a p-value nothing says how strong the evidence is: count it as none.
        p_values.append(1.0 if p is None else p)
    adjusted = dict(zip(tested, adjust_p_values(p_values), strict=True))

    results = []
    for place, verdict in enumerate(verdicts):
        p_holm = adjusted.get(place)
        stands = p_holm is None or p_holm <= alpha
        remaining = verdict["verdict"] if stands else INCONCLUSIVE
        results.append({**verdict, "p_holm": p_holm, "verdict_holm": remaining})
    return results
