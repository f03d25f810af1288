"""Keep the learner's predictions in a file beside the lessons, which they may read and delete.

The file gets one line of JSON for each prediction when it is made, and one more when it is scored;
no line is ever rewritten. Only the first prediction of a claim counts, because later ones are made
with the answer known.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from nbkit.base.report import Report
from nbkit.lab.evidence.predictions import Prediction, Score
from nbkit.lab.knobs import Value

FILE = Path("my_predictions.jsonl")  # in the folder where the notebook runs
# Confidences are grouped: with ten predictions a finer scale would hold one or two each.
CONFIDENCE_RANGES = ((50, 65), (66, 80), (81, 99))


@dataclass(frozen=True)
class KeptPrediction:
    """One prediction; `right`, `inside` and `brier` are None until it has been scored.

    `settings` are the knobs that it was made for; None in a line of an earlier version.
    """

    claim: str
    lesson: str
    guess: float
    confidence: int
    right: bool | None = None
    inside: bool | None = None
    brier: float | None = None
    settings: dict[str, Value] | None = None


class Diary:
    """The predictions in a file; the file is made by the first one.

    Raises:
        ValueError: when the file is read and a line was not written by this class.
    """

    def __init__(self, path: Path = FILE) -> None:
        self.path = path

    def keep_prediction(self, prediction: Prediction) -> bool:
        """Write a prediction down unless its claim has one; return whether it was written."""
        # The file is read each time: another notebook may have written to it meanwhile.
        claim = prediction.claim
        if claim.id in self.read_predictions():
            return False
        self._append_line(
            claim=claim.id,
            lesson=claim.lesson,
            guess=prediction.guess,
            confidence=prediction.confidence,
            settings=dict(prediction.settings),
        )
        return True

    def keep_score(self, score: Score) -> bool:
        """Write down the score of a prediction; return whether it was written.

        It is not written if the measurement decided nothing or was made at other settings, if the
        prediction has a score, or if an earlier prediction of the claim counts.
        """
        mine, first = score.prediction, self.read_predictions().get(score.verdict.claim.id)
        if first is None or first.right is not None or score.right is None:
            return False
        # The same numbers are the same prediction, also in a kernel that was started again.
        if (first.guess, first.confidence) != (mine.guess, mine.confidence):
            return False
        if first.settings is not None and first.settings != mine.settings:
            return False
        self._append_line(
            claim=first.claim, right=score.right, inside=score.inside, brier=score.brier
        )
        return True

    def read_predictions(self) -> dict[str, KeptPrediction]:
        """Read every prediction by its claim, in the order in which they were made."""
        found: dict[str, KeptPrediction] = {}
        # Bytes that are not UTF-8 are replaced: their line then is reported by its number.
        text = self.path.read_bytes().decode(errors="replace") if self.path.exists() else ""
        for number, line in enumerate(text.splitlines(), start=1):
            try:
                kept = _read_line(line, found)
            except (ValueError, KeyError, TypeError, AttributeError):
                # JSON of another shape raises one of these, depending on where it differs.
                raise ValueError(
                    f"{self.path}, line {number} is not a prediction: {line[:60]!r}. "
                    f"Take the line out, or delete the file to begin anew."
                ) from None
            found[kept.claim] = kept
        return found

    def _append_line(self, **fields: object) -> None:
        # The time is for the learner who reads the file; no program uses it.
        fields["when"] = datetime.now(UTC).isoformat(timespec="seconds")
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(fields) + "\n")


def _read_line(line: str, found: dict[str, KeptPrediction]) -> KeptPrediction:
    """Read a prediction, or a score that completes one of the predictions found so far."""
    fields = json.loads(line)
    fields.pop("when")
    # A score repeats the claim only: the rest is in the line of its prediction.
    before = vars(found[fields["claim"]]) if "right" in fields else {}
    kept = KeptPrediction(**{**before, **fields})
    is_number = isinstance(kept.guess, int | float)
    # The settings are compared and printed, so they have to be names with values.
    has_settings = isinstance(kept.settings, dict | None)
    if not (is_number and has_settings and kept.confidence in range(50, 100)):
        raise ValueError("the guess or the confidence is out of range")
    return kept


class ConfidenceGroup(NamedTuple):
    """The scored predictions in one range of confidence, from `low` to `high` percent.

    `mean` is their mean confidence in percent; `right` of the `total` predictions were right.
    """

    low: int
    high: int
    mean: float
    right: int
    total: int


@dataclass(frozen=True)
class Calibration(Report):
    """How often the learner was right, beside how sure they were.

    `brier` is the mean Brier score of the `scored` predictions.
    """

    groups: list[ConfidenceGroup]
    brier: float
    scored: int

    def table(self) -> tuple[str, Sequence[str], Sequence[Sequence[object]]]:
        """List one row for each range of confidence."""
        # scipy loads slowly, and most lessons end without a calibration.
        from nbkit.lab.evidence.proportions import proportion

        rows = []
        for group in self.groups:
            said, average = f"{group.low} to {group.high} %", f"{group.mean:.0f} %"
            right = f"{group.right} of {group.total}"
            rows.append((said, average, right, proportion(group.right, group.total)))
        summary = (
            f"{self.scored} predictions scored; mean Brier score {self.brier:.2f} "
            f"(0 is best, 0.25 is a coin)"
        )
        return summary, ("you said", "on average", "you were right", "share, 95 % interval"), rows


def measure_calibration(predictions: Sequence[KeptPrediction]) -> Calibration:
    """Group the scored predictions by the learner's confidence.

    Raises:
        ValueError: if none has been scored.
    """
    scored = [kept for kept in predictions if kept.right is not None and kept.brier is not None]
    if not scored:
        raise ValueError("no prediction has been scored yet.")
    groups = []
    for low, high in CONFIDENCE_RANGES:
        members = [kept for kept in scored if low <= kept.confidence <= high]
        # An empty range has no mean, and no row.
        if members:
            mean = sum(kept.confidence for kept in members) / len(members)
            right = sum(bool(kept.right) for kept in members)
            groups.append(ConfidenceGroup(low, high, mean, right, len(members)))
    brier = sum(kept.brier or 0.0 for kept in scored) / len(scored)
    return Calibration(groups, brier, len(scored))
