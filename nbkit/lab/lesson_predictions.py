"""The predictions of one lesson: committed before the measurement, scored and kept after it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from nbkit.lab.evidence.claims import Claim
from nbkit.lab.evidence.diary import Diary, measure_calibration
from nbkit.lab.evidence.predictions import Prediction, check_predictable
from nbkit.lab.evidence.verdicts import Verdict
from nbkit.lab.knobs import Value
from nbkit.lab.notebook import display_object, display_with_numbers, is_watched

if TYPE_CHECKING:
    from nbkit.lab.live.prediction_form import PredictionForm

Settings = Mapping[str, Value]


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
        # The forms on the page, by their claim.
        self._forms: dict[str, PredictionForm] = {}

    def ask(self, claim: Claim, settings: Settings) -> None:
        """Show a form to a reader; a run without one records nothing.

        Raises:
            ValueError: if the claim has no size to predict, or is already measured.
        """
        self._check(claim)
        if not is_watched():
            print("no prediction: this run has no reader")
            return
        # Widgets are loaded only where somebody can use them.
        from nbkit.lab.live.prediction_form import PredictionForm

        def take_answer(guess: float, confidence: int) -> str:
            # A reader pressed the button; the request of a click does not say so, as a cell's does.
            return self.commit(claim, guess, confidence, settings, keep=True)

        form = PredictionForm(claim, take_answer)
        # The cell was run again: its earlier form is no longer on the page.
        earlier = self._forms.pop(claim.id, None)
        if earlier is not None:
            earlier.close()
        self._forms[claim.id] = form
        display_object(form)

    def show_commit(self, claim: Claim, guess: float, confidence: int, settings: Settings) -> None:
        """Commit to a prediction that was typed, and show so."""
        text = self.commit(claim, guess, confidence, settings, keep=is_watched())
        numbers = {"kind": "prediction", **self.made[claim.id].to_dict()}
        display_with_numbers(text, numbers)

    def commit(
        self, claim: Claim, guess: float, confidence: int, settings: Settings, *, keep: bool
    ) -> str:
        """Take down a prediction.

        Args:
            keep: whether a person made it, so that it is written into the diary.
        Returns:
            a line that says so.
        Raises:
            ValueError: if the claim is already measured, or guess or confidence is not a number in
                range; nothing has been committed.
        """
        self._check(claim)
        prediction = Prediction(claim, guess, confidence, dict(settings))
        self.made[claim.id] = prediction
        text = f"committed: {claim.metric}: {prediction}"
        return f"{text}. {self._keep(prediction)}" if keep else text

    def close(self, claim: Claim) -> None:
        """Accept no more predictions of a claim, which has been measured."""
        form = self._forms.pop(claim.id, None)
        if form is not None:
            made = self.made.get(claim.id)
            said = f"You committed: {made}." if made else "You did not predict."
            form.lock(f"This has been measured. {said}")

    def find_scored(self, claim: str) -> Prediction | None:
        """Find the prediction of a claim, if it was made for the settings of the measurement."""
        made, verdict = self.made.get(claim), self._verdicts.get(claim)
        if made is None or verdict is None or made.settings != verdict.settings:
            return None
        return made

    def reveal(self) -> None:
        """Show each prediction beside its result, with its score.

        Raises:
            ValueError: if a claim was predicted and has not been measured.
        """
        if not self.made:
            print("you did not predict")
        for claim, prediction in self.made.items():
            if claim not in self._verdicts:
                raise ValueError(f"{claim} was predicted, but has not been measured yet.")
            score = prediction.score_against(self._verdicts[claim])
            # The numbers are in the metadata of the same output, for the report. On the page they
            # are shown to a reader only: they differ from one machine to the next.
            text = score.describe_numbers() if is_watched() else str(score)
            display_with_numbers(text, {"kind": "score", **score.to_dict()})
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

    def _check(self, claim: Claim) -> None:
        check_predictable(claim)
        if claim.id in self._verdicts:
            raise ValueError(
                f"{claim.id} has been measured: a prediction comes first. Restart to try."
            )

    def _keep(self, prediction: Prediction) -> str:
        """Write a prediction into the diary, and say in a sentence whether that was done."""
        path, claim = self.diary.path, prediction.claim.id
        try:
            if self.diary.keep_prediction(prediction):
                return f"It is kept in {path}."
            first = self.diary.read_predictions()[claim]
        except OSError as error:
            # A lesson runs in a read-only folder, too: only the diary is missing then.
            return f"{path}: it is not kept ({error.strerror})."
        return (
            f"{path} has an earlier prediction of it ({first.guess:g}, {first.confidence} %); "
            f"that one counts there, and nothing replaces it."
        )
