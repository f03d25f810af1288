"""The form of a prediction: nothing is an answer until the mark has been moved and committed."""

import pytest
from three_claims import THREE_CLAIMS

from nbkit.lab import lesson_predictions
from nbkit.lab.evidence.claims import Claim
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.lesson import Lesson
from nbkit.lab.live.prediction_form import PredictionForm

NEAR, TRACE, CYCLE = "lr-finder-near-best", "lr-finder-leaves-no-trace", "lr-finder-onecycle"
ABOUT = {"id": "c", "lesson": "x", "sentence": "It <b>helps</b>.", "source": "w", "metric": "a / b"}


def make_form(commit=lambda guess, confidence: "committed", **more):
    fields = {"measure": "ratio", "side": "below", "n": 8, "margin": 1.0, "axis": (0.25, 4)}
    return PredictionForm(Claim(**{**ABOUT, **fields, **more}), commit)


def send(form, index, confidence=70):
    """Press the button, as the page does."""
    form._handle_custom_msg({"kind": "commit", "index": index, "confidence": confidence}, [])


def test_there_is_no_answer_at_first():
    form = make_form()
    assert form.index == -1 and not form.locked
    assert form.status == "Nothing is recorded until you press Commit."
    send(form, -1)
    assert form.status == "There is no answer yet: drag the mark first."


@pytest.mark.parametrize(
    ("more", "margins", "holds"),
    [
        ({}, [0.5], [0.0, 0.5]),
        ({"side": "above"}, [0.5], [0.5, 1.0]),
        (
            {"measure": "difference", "side": "within", "margin": 0.1, "axis": (-0.2, 0.2)},
            [0.25, 0.75],
            [0.25, 0.75],
        ),
    ],
)
def test_the_page_is_told_where_the_claim_holds(more, margins, holds):
    axis = make_form(**more).axis
    assert axis["margins"] == pytest.approx(margins) and axis["holds"] == pytest.approx(holds)
    assert axis["sentence"] == "It <b>helps</b>."  # text to the page, which makes no HTML of it


def test_the_button_hands_over_the_value_under_the_mark():
    taken = []
    form = make_form(lambda *answer: taken.append(answer) or "committed: thank you")
    send(form, 100, 80)
    assert taken == [(1.0, 80)] and form.status == "committed: thank you"


def test_a_refusal_and_a_fault_are_shown():
    def refuse(guess, confidence):
        raise ValueError("not now")

    form = make_form(refuse)
    send(form, 5)
    assert form.status == "not now"

    def fail(guess, confidence):
        raise RuntimeError("broken")

    form = make_form(fail)
    with pytest.raises(RuntimeError):
        form._take_message(form, {"kind": "commit", "index": 5, "confidence": 70}, [])
    assert form.status == "RuntimeError: broken"


def test_a_locked_form_takes_nothing():
    taken = []
    form = make_form(lambda *answer: taken.append(answer) or "committed")
    form.lock("This has been measured.")
    send(form, 5)
    assert (taken, form.status) == ([], "This has been measured.")


def test_a_page_without_a_kernel_says_what_is_missing():
    bundle = make_form()._repr_mimebundle_()
    data = bundle[0] if isinstance(bundle, tuple) else bundle
    assert data["text/plain"] == "A prediction: run the notebook to drag the mark."


@pytest.fixture
def lesson(monkeypatch, tmp_path):
    """A lesson in front of a reader, and the objects that it has displayed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NBKIT_LIVE", "1")
    monkeypatch.setattr("IPython.display.display", lambda *_, **__: None)
    shown = []
    monkeypatch.setattr(lesson_predictions, "display_object", shown.append)
    opened = Lesson("lr_finder", {}, claims=THREE_CLAIMS)
    opened.shown = shown
    return opened


def test_a_reader_commits_by_the_button_only(lesson, tmp_path, monkeypatch):
    lesson.predict(CYCLE)
    monkeypatch.setenv("NBKIT_LIVE", "0")  # a click's request does not name a cell
    (form,) = lesson.shown
    form.index = 20  # the mark has been dragged
    assert not lesson.predictions.made and not (tmp_path / "my_predictions.jsonl").exists()
    send(form, 20, 65)
    made = lesson.predictions.made[CYCLE]
    assert (made.guess, made.confidence) == (form.axis["values"][20], 65)
    assert form.status.endswith("65 % sure of the side. It is kept in my_predictions.jsonl.")
    send(form, 30, 65)
    assert "that one counts there, and nothing replaces it" in form.status
    assert len((tmp_path / "my_predictions.jsonl").read_text().splitlines()) == 1


def test_the_measurement_locks_the_form(lesson):
    lesson.predict(CYCLE)
    lesson.predict(NEAR)
    send(lesson.shown[0], 20, 65)
    for claim in (CYCLE, NEAR):
        lesson.verdict(claim, Interval(0.5, 0.4, 0.6, 8))
    assert [form.locked for form in lesson.shown] == [True, True]
    assert "This has been measured. You committed: " in lesson.shown[0].status
    assert lesson.shown[1].status == "This has been measured. You did not predict."
    with pytest.raises(ValueError, match="a prediction comes first"):
        lesson.predict(CYCLE)


def test_a_cell_that_runs_again_closes_its_earlier_form(lesson):
    lesson.predict(CYCLE)
    lesson.predict(CYCLE)
    first, second = lesson.shown
    assert first.comm is None and second.comm is not None


def test_an_equality_has_nothing_to_drag(lesson):
    with pytest.raises(ValueError, match="is exact: there is no size to predict"):
        lesson.predict(TRACE)
    assert lesson.shown == []
