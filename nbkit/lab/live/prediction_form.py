"""The form in which a reader predicts: an axis of the effect, a mark to drag, a confidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import traitlets

from nbkit.lab.effect_axis import EffectAxis, make_axis
from nbkit.lab.evidence.claims import Claim

_WITHOUT_WIDGETS = "A prediction: run the notebook to drag the mark."  # on a page without a kernel


class PredictionForm(anywidget.AnyWidget):  # type: ignore[misc,unused-ignore] # it has no types
    """Show the axis of a claim with a mark to drag, and hand over what is committed.

    Args:
        claim: it has a margin.
        commit: called with the guess and the confidence when the button is pressed; returns the
            line that is then shown. A ValueError of it is shown, too.

    Nothing is an answer until the mark has been moved: `index` is -1.
    """

    _esm = Path(__file__).with_name("prediction_form.js")

    axis = traitlets.Dict().tag(sync=True)  # all that is drawn once
    index = traitlets.Int(-1).tag(sync=True)  # of the mark's value; -1: no answer yet
    status = traitlets.Unicode("Nothing is recorded until you press Commit.").tag(sync=True)
    locked = traitlets.Bool(False).tag(sync=True)

    def __init__(self, claim: Claim, commit: Callable[[float, int], str]) -> None:
        super().__init__(axis=_describe_axis(claim, make_axis(claim)))
        self._commit = commit
        self.on_msg(self._take_message)

    def lock(self, status: str) -> None:
        """Accept no more predictions, and say why."""
        self.locked, self.status = True, status

    def _take_message(self, _widget: object, content: Mapping[str, Any], _buffers: object) -> None:
        if content.get("kind") != "commit" or self.locked:
            return
        # The message carries the mark with it: a later move may already be on its way.
        index, confidence = int(content["index"]), int(content["confidence"])
        values = self.axis["values"]
        if not 0 <= index < len(values):
            self.status = "There is no answer yet: drag the mark first."
            return
        try:
            self.status = self._commit(values[index], confidence)
        except ValueError as error:
            self.status = str(error)
        except Exception as error:
            # A front end hides what a callback raises, so the form shows it as well.
            self.status = f"{type(error).__name__}: {error}"
            raise

    def _repr_mimebundle_(self, **options: Any) -> Any:
        bundle = super()._repr_mimebundle_(**options)
        # anywidget returns the data alone, or with its metadata.
        data = bundle[0] if isinstance(bundle, tuple) else bundle
        if data:
            data["text/plain"] = _WITHOUT_WIDGETS
        return bundle


def _describe_axis(claim: Claim, axis: EffectAxis) -> dict[str, Any]:
    """Describe for the page what is drawn; places count from 0 (low end) to 1 (high end)."""
    assert claim.margin is not None
    values = axis.list_values()
    margins = [-claim.margin, claim.margin] if claim.side == "within" else [claim.margin]
    places = [axis.find_place(margin) for margin in margins]
    # The claim holds from the low end, to the high end, or between two margins.
    holds = {"below": [0.0, places[-1]], "above": [places[0], 1.0]}.get(str(claim.side), places)
    return {
        "sentence": claim.sentence,
        "metric": claim.metric,
        "bound": claim.describe_bound(),
        "values": values,
        "labels": [f"{value:g}" for value in values],
        "margins": places,
        "holds": holds,
        "ticks": [[axis.find_place(tick), f"{tick:g}"] for tick in axis.list_ticks()],
    }
