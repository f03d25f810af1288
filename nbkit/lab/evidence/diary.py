"""The learner's predictions, in a file of their own beside the lessons: theirs to read and delete.

One line of JSON for each prediction when it is committed, one more when it is scored; nothing is
ever rewritten. Only the first prediction of a claim is kept: the next ones know the answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nbkit.base.report import Report
from nbkit.lab.evidence.predictions import Prediction, Score

FILE = Path("my_predictions.jsonl")  # in the folder where the notebook runs
# Said confidences are grouped: with ten predictions a finer scale would hold one or two each.
GROUPS = ((50, 65), (66, 80), (81, 99))


@dataclass(frozen=True)
class KeptPrediction:
    """One prediction; `right`, `inside` and `brier` are None until it has been scored."""

    claim: str
    lesson: str
    guess: float
    confidence: int
    right: bool | None = None
    inside: bool | None = None
    brier: float | None = None


class Diary:
    """The predictions in a file, which need not be there yet.

    Raises:
        ValueError: when it is read and a line is not one that was written here.
    """

    def __init__(self, path: Path = FILE) -> None:
        self.path = path

    def commit(self, prediction: Prediction) -> bool:
        """Write a prediction down, unless its claim has one: whether it was written."""
        claim = prediction.claim
        if claim.id in self.entries():
            return False
        self._append(
            claim=claim.id,
            lesson=claim.lesson,
            guess=prediction.guess,
            confidence=prediction.confidence,
        )
        return True

    def score(self, score: Score) -> bool:
        """Write down how a prediction did: whether it was the one that counts, and now is scored.

        Not where the measurement decided nothing, nor where another prediction came first.
        """
        mine, first = score.prediction, self.entries().get(score.verdict.claim.id)
        if first is None or first.right is not None or score.right is None:
            return False
        if (first.guess, first.confidence) != (mine.guess, mine.confidence):
            return False
        self._append(claim=first.claim, right=score.right, inside=score.inside, brier=score.brier)
        return True

    def entries(self) -> dict[str, KeptPrediction]:
        """Every prediction by its claim, in the order in which they were made."""
        found: dict[str, KeptPrediction] = {}
        text = self.path.read_bytes().decode(errors="replace") if self.path.exists() else ""
        lines = text.splitlines()
        for number, line in enumerate(lines, start=1):
            try:
                told = json.loads(line)
                told.pop("when")
                before = vars(found[told["claim"]]) if "right" in told else {}
                entry = KeptPrediction(**{**before, **told})
                is_number = isinstance(entry.guess, int | float)
                if not (is_number and entry.confidence in range(50, 100)):
                    raise ValueError("no prediction")
                found[entry.claim] = entry
            except (ValueError, KeyError, TypeError, AttributeError):
                raise ValueError(
                    f"{self.path}, line {number} is not a prediction: {line[:60]!r}. "
                    f"Take the line out, or delete the file to begin anew."
                ) from None
        return found

    def _append(self, **told: object) -> None:
        told["when"] = datetime.now(UTC).isoformat(timespec="seconds")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(told) + "\n")


@dataclass(frozen=True)
class Calibration(Report):
    """How often the learner was right, beside how sure they were.

    `groups` holds, for each range of confidence: low, high, mean confidence, right, of how many.
    """

    groups: list[tuple[int, int, float, int, int]]
    brier: float
    scored: int

    def table(self) -> tuple[str, Sequence[str], Sequence[Sequence[object]]]:
        """One row a range of confidence."""
        from nbkit.lab.evidence.proportions import proportion

        rows = [
            (f"{low} to {high} %", f"{mean:.0f} %", f"{right} of {n}", proportion(right, n))
            for low, high, mean, right, n in self.groups
        ]
        summary = (
            f"{self.scored} predictions scored; mean Brier score {self.brier:.2f} "
            f"(0 is best, 0.25 is a coin)"
        )
        return summary, ("you said", "on average", "you were right", "share, 95 % interval"), rows


def calibrate(entries: Sequence[KeptPrediction]) -> Calibration:
    """Group the scored predictions by how sure the learner was.

    Raises:
        ValueError: if none has been scored.
    """
    scored = [entry for entry in entries if entry.right is not None and entry.brier is not None]
    if not scored:
        raise ValueError("no prediction has been scored yet.")
    groups = []
    for low, high in GROUPS:
        inside = [entry for entry in scored if low <= entry.confidence <= high]
        if inside:
            mean = sum(entry.confidence for entry in inside) / len(inside)
            groups.append((low, high, mean, sum(bool(e.right) for e in inside), len(inside)))
    brier = sum(entry.brier or 0.0 for entry in scored) / len(scored)
    return Calibration(groups, brier, len(scored))
