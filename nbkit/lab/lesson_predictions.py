"""The predictions of one lesson: committed before the measurement, scored and kept after it."""

from __future__ import annotations

from collections.abc import Mapping

from nbkit.lab.evidence.claims import Claim
from nbkit.lab.evidence.diary import Diary, measure_calibration
from nbkit.lab.evidence.predictions import Prediction
from nbkit.lab.evidence.verdicts import Verdict
from nbkit.lab.notebook import display_object, display_with_numbers, is_watched


class LessonPredictions:
    """Hold the predictions that a reader makes in one lesson.

    Args:
        verdicts: of the lesson by claim, filled by it as it measures.
    """

    def __init__(self, verdicts: Mapping[str, Verdict]) -> None:
        self._verdicts = verdicts
        self.made: dict[str, Prediction] = {}
        # The diary reads and writes its file only when a person watches.
        self.diary = Diary()

    def commit(self, claim: Claim, guess: float, confidence: int) -> None:
        """Take down a prediction, and keep it in the diary if a person made it.

        Raises:
            ValueError: if the claim is already measured, or guess or confidence is not a number in
                range; nothing has been committed.
        """
        if claim.id in self._verdicts:
            raise ValueError(
                f"{claim.id} has been measured: a prediction comes first. Restart to try."
            )
        self.made[claim.id] = Prediction(claim, guess, confidence)
        print(f"committed: {claim.metric}: {guess:g}, {confidence} % sure of the side")
        if is_watched():
            self._keep(self.made[claim.id])

    def reveal(self) -> None:
        """Show each prediction beside its result, with its score."""
        # The numbers are in the metadata of the same output, for the report.
        for claim, prediction in self.made.items():
            if claim not in self._verdicts:
                raise ValueError(f"{claim} was predicted, but has not been measured yet.")
            score = prediction.score_against(self._verdicts[claim])
            display_with_numbers(str(score), {"kind": "prediction", **score.to_dict()})
            if is_watched():
                self.diary.keep_score(score)

    def show_calibration(self) -> None:
        """Show how often the reader was right in all lessons so far, beside how sure they were."""
        if not is_watched():
            print("Your own predictions appear here, once you have made some in JupyterLab.")
            return
        kept = list(self.diary.read_predictions().values())
        if all(prediction.right is None for prediction in kept):
            print(f"No prediction has been scored yet: {self.diary.path} has {len(kept)}.")
            return
        display_object(measure_calibration(kept))

    def _keep(self, prediction: Prediction) -> None:
        try:
            if not self.diary.keep_prediction(prediction):
                print(f"{self.diary.path} has an earlier prediction of it; that one counts.")
        except OSError as error:
            # A lesson runs in a read-only folder, too: only the diary is missing then.
            print(f"{self.diary.path}: it is not kept ({error.strerror}).")
