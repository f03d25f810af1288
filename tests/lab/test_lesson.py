"""The handle of a lesson: the guard, the prediction, the exercise and the verdicts."""

import math
from dataclasses import replace

import pytest
import torch
from nbconvert.filters import markdown2html_mistune
from three_claims import THREE_CLAIMS

from nbkit.lab import lesson as module
from nbkit.lab.attempts import Attempts
from nbkit.lab.evidence.intervals import Interval
from nbkit.lab.exercise import load_exercise
from nbkit.lab.knobs import KnobError, between, choice, log
from nbkit.lab.lesson import Lesson

NEAR, TRACE, CYCLE = "lr-finder-near-best", "lr-finder-leaves-no-trace", "lr-finder-onecycle"
RANGES = {"max_lr": log(0.1, 100), "steps": between(1, 500)}


@pytest.fixture
def notebook():
    """The variables of a notebook after its opening cell and its parameters cell."""
    variables = {"In": [], "torch": object(), "mlp": len, "classes": 10, "_i": "import torch"}
    variables["lesson"] = Lesson("lr_finder", variables, claims=THREE_CLAIMS)
    variables |= {"max_lr": 10.0, "steps": 100}
    variables["__annotations__"] = {"max_lr": float, "steps": int}
    return variables


@pytest.fixture
def shown(monkeypatch):
    """What has been displayed since: (text, numbers in the metadata) of each output."""
    outputs = []

    def display(data, raw=False, metadata=None):
        text = data["text/plain"] if raw else data.data
        outputs.append((text, (metadata or {}).get("nbkit")))

    monkeypatch.setattr("IPython.display.display", display)
    return outputs


def test_opening_prints_one_stable_line(capsys):
    Lesson("lr_finder", {}, claims=THREE_CLAIMS)
    assert capsys.readouterr().out == f"nbkit {module.nbkit.__version__}, lesson lr_finder\n"


def test_the_guard_passes_the_defaults(notebook, capsys):
    values = notebook["lesson"].knobs(**RANGES)
    assert values == {"max_lr": 10.0, "steps": 100}
    assert "parameters checked: max_lr, steps\n" in capsys.readouterr().out


def test_the_guard_reads_text_by_the_declared_type(notebook):
    notebook["max_lr"] = "1"
    notebook["lesson"].knobs(**RANGES)
    assert notebook["max_lr"] == 1.0 and type(notebook["max_lr"]) is float


@pytest.mark.parametrize(
    ("injected", "message"),
    [
        ({"max_lrr": 1}, "unknown parameter 'max_lrr'. Did you mean 'max_lr'?"),
        ({"_max_lr": 1}, "unknown parameter '_max_lr'. Did you mean 'max_lr'?"),
        ({"__lr": [1]}, "unknown parameter '__lr'."),
        ({"mlp": 3}, "unknown parameter 'mlp'. Known: max_lr, steps."),
        ({"classes": 12}, "unknown parameter 'classes'."),
        ({"torch": None}, "unknown parameter 'torch'."),
        ({"max_lr": "banana"}, "max_lr must be a float from 0.1 to 100, got 'banana'."),
        ({"max_lr": -1}, "max_lr must be a float from 0.1 to 100, got -1."),
        ({"steps": 2.5}, "steps must be an int from 1 to 500, got 2.5."),
    ],
)
def test_the_guard_refuses_what_was_injected_and_changes_nothing(notebook, injected, message):
    notebook["steps"] = "7"
    notebook |= injected
    with pytest.raises(KnobError) as error:
        notebook["lesson"].knobs(**RANGES)
    assert str(error.value).startswith(message)
    assert notebook["steps"] in ("7", 2.5)


def test_what_ipython_and_a_notebook_s_helpers_bind_is_no_parameter(notebook):
    """IPython's own after a cell or two, what an inspector of variables leaves, a second import."""
    notebook |= {"_": 3, "__": "", "___": "", "_3": 3, "_i": "lesson = 1", "_ii": "", "_i12": "x"}
    notebook |= {"_iii": "", "_oh": {3: 3}, "_dh": ["/"], "_ih": [""], "_exit_code": 0}
    notebook |= {"_jupyterlab_variableinspector_deep": lambda: None, "__vsc_ipynb_file__": "a"}
    notebook |= {"helper": lambda: None, "mlp": max, "In": notebook["In"]}
    notebook["lesson"].knobs(**RANGES)


def test_a_guard_run_again_does_not_blame_later_variables(notebook):
    notebook["lesson"].knobs(**RANGES)
    notebook["model"] = object()
    notebook["lesson"].knobs(**RANGES)


def test_the_guard_wants_every_knob_declared(notebook):
    with pytest.raises(KnobError, match="must declare `momentum: type = default`"):
        notebook["lesson"].knobs(**RANGES, momentum=between(0, 1))


@pytest.mark.parametrize("range_", [10.0, log, (0.1, 10)])
def test_the_guard_wants_a_range_for_each(notebook, range_):
    with pytest.raises(KnobError, match=r"max_lr must be given a range, max_lr=log\(0.1, 10\) or"):
        notebook["lesson"].knobs(max_lr=range_, steps=between(1, 500))


def test_a_type_that_no_slider_has_is_refused(notebook):
    notebook["__annotations__"]["max_lr"] = list
    with pytest.raises(KnobError, match="type must be among bool, int, float, str"):
        notebook["lesson"].knobs(**RANGES)


def test_a_verdict_is_one_line_with_its_numbers_in_the_metadata(notebook, shown):
    notebook["lesson"].verdict(NEAR, Interval(1.1, 1.0, 1.2, 8))
    ((text, numbers),) = shown
    assert text == "lr-finder-near-best  SUPPORTED"
    assert (numbers["kind"], numbers["effect"], numbers["interval"]) == ("verdict", 1.1, [1.0, 1.2])


def test_prediction_reveal_and_takeaways_follow_the_verdicts(notebook, shown):
    lesson = notebook["lesson"]
    lesson.predict(CYCLE, guess=0.5, confidence=80)
    with pytest.raises(ValueError, match="has not been measured yet"):
        lesson.reveal()
    lesson.verdict(CYCLE, Interval(1.5, 1.2, math.inf, 8))
    lesson.reveal()
    text, numbers = shown[-1]
    assert "side wrong at 80 % confidence" in text and numbers["kind"] == "score"
    with pytest.raises(ValueError, match=f"not measured yet: {NEAR}, {TRACE}"):
        lesson.takeaways()
    lesson.verdict(NEAR, Interval(1.1, 1.0, 1.2, 8))
    lesson.verdict(TRACE, [True] * 8)
    lesson.takeaways()
    text, _ = shown[-1]
    assert lesson.claims[CYCLE].refuted in text and lesson.claims[NEAR].supported in text


def test_a_prediction_after_the_measurement_is_refused(notebook):
    lesson = notebook["lesson"]
    lesson.verdict(CYCLE, Interval(0.5, 0.4, 0.6, 8))
    with pytest.raises(ValueError, match="a prediction comes first"):
        lesson.predict(CYCLE, guess=0.5, confidence=80)


def test_an_unknown_claim_is_named(notebook):
    with pytest.raises(ValueError, match=f"no claim 'x' in this lesson, only {NEAR}"):
        notebook["lesson"].predict("x", guess=1, confidence=60)


def test_the_claims_are_stated_before_they_are_measured(notebook, shown):
    notebook["lesson"].state_claims()
    ((text, _),) = shown
    assert "| below 1.25 | 8 seeds |" in text and "| exact | 8 seeds |" in text
    assert "| over at least |" in text


def test_the_table_of_claims_has_a_column_for_what_a_claim_says_of_its_tasks(notebook, shown):
    lesson = notebook["lesson"]
    lesson.state_claims()
    assert "held against" not in shown[-1][0] and "task" not in shown[-1][0].splitlines()[0]
    told = {"task": "digits, 100 steps", "baseline": "the best of 11 lrs"}
    lesson.claims[NEAR] = replace(lesson.claims[NEAR], **told, general=True, n_elsewhere=4)
    lesson.state_claims()
    head, _, first, *_ = shown[-1][0].splitlines()
    assert "| over at least | task | held against |" in head
    wanted = "digits, 100 steps, and on a second task over at least 4 seeds | the best of 11 lrs |"
    assert wanted in first
    assert {row.count(" | ") for row in shown[-1][0].splitlines()} == {6}


def test_a_claim_measured_elsewhere_says_so_in_its_line_and_its_takeaway(notebook, shown):
    lesson = notebook["lesson"]
    lesson.claims = {NEAR: replace(lesson.claims[NEAR], task="digits, 100 steps", general=True)}
    home, away = Interval(1.1, 1.0, 1.2, 8), Interval(1.15, 1.1, 1.2, 8)
    with pytest.raises(ValueError, match="is a general claim: measure it on a second task"):
        lesson.verdict(NEAR, home)
    assert not lesson.verdicts
    verdict = lesson.verdict(NEAR, home, elsewhere={"signals": away})
    assert verdict.elsewhere[0][0] == "signals"
    text, numbers = shown[-1]
    assert text == "lr-finder-near-best  SUPPORTED  (2 of 2 tasks)"
    assert [there["task"] for there in numbers["elsewhere"]] == ["signals"]
    lesson.takeaways()
    assert shown[-1][0].endswith("It held on 2 of 2 tasks: digits, signals.")


@pytest.mark.parametrize("given", [{"guess": 0.5}, {"confidence": 80}])
def test_a_typed_prediction_needs_both_numbers(notebook, given):
    with pytest.raises(ValueError, match="needs both numbers, got guess = .* and confidence = "):
        notebook["lesson"].predict(CYCLE, **given)


def test_a_run_without_a_reader_says_so_and_records_nothing(notebook, monkeypatch, shown, capsys):
    monkeypatch.setenv("NBKIT_LIVE", "0")
    lesson = notebook["lesson"]
    lesson.predict(CYCLE)
    assert capsys.readouterr().out.endswith("no prediction: this run has no reader\n")
    lesson.verdict(CYCLE, Interval(0.5, 0.4, 0.6, 8))
    lesson.reveal()
    assert capsys.readouterr().out == "you did not predict\n"
    assert not lesson.predictions.made and len(shown) == 1


def test_a_prediction_belongs_to_the_settings_that_it_was_made_for(notebook, shown):
    lesson = notebook["lesson"]
    lesson.knobs(**RANGES)
    lesson.predict(CYCLE, guess=0.5, confidence=80)
    assert shown[-1][1]["settings"] == {"max_lr": 10.0, "steps": 100}
    notebook["max_lr"] = 1.0
    lesson.knobs(**RANGES)
    lesson.verdict(CYCLE, Interval(0.5, 0.4, 0.6, 8))
    assert shown[-1][1]["settings"] == {"max_lr": 1.0, "steps": 100}
    lesson.reveal()
    text, numbers = shown[-1]
    assert text == f"{CYCLE}: made for max_lr = 10.0, measured at 1.0: not scored"
    assert (numbers["right"], numbers["brier"]) == (None, None)


def test_the_profile_is_no_setting(notebook, shown):
    notebook |= {"profile": "smoke"}
    notebook["__annotations__"]["profile"] = str
    notebook["lesson"].knobs(**RANGES, profile=choice("smoke", "lesson"))
    notebook["lesson"].predict(CYCLE, guess=0.5, confidence=80)
    assert "profile" not in shown[-1][1]["settings"]


def test_cards_stand_in_the_order_of_the_claims(notebook, monkeypatch):
    lesson = notebook["lesson"]
    with pytest.raises(ValueError, match="no claim has been measured yet"):
        lesson.cards()
    outputs = []
    lesson.verdict(CYCLE, Interval(0.5, 0.4, 0.6, 8))
    lesson.verdict(NEAR, Interval(1.1, 1.0, 1.2, 8))
    monkeypatch.setattr("IPython.display.display", lambda data, **_: outputs.append(data))
    lesson.cards()
    ((output,),) = [outputs]
    assert output["text/plain"] == f"{NEAR}  SUPPORTED\n{CYCLE}  SUPPORTED"


def test_what_a_claim_says_stays_text(tmp_path, shown):
    """In the page that nbconvert makes, a script in a claim would be alive."""
    odd = "<script>alert(1)</script> [a](javascript:alert(1)) | `code_` $x$\\n<img src=x onerror=y>"
    fields = "\n".join(f'{name} = "{odd}"' for name in ("sentence", "source", "metric", "refuted"))
    about = 'lesson = "x"\nmeasure = "ratio"\nside = "below"\nmargin = 1.0\nn = 8\n'
    (tmp_path / "own.toml").write_text(f"[c]\n{about}{fields}\n")
    lesson = Lesson("x", {}, claims=tmp_path / "own.toml")
    lesson.state_claims()
    lesson.verdict("c", Interval(1.5, 1.2, 1.9, 8))
    lesson.takeaways()
    for text, _ in (shown[0], shown[-1]):
        page = markdown2html_mistune(text)
        assert "<script" not in page and "<img" not in page and "<a " not in page
        assert "&lt;script&gt;alert(1)" in page and "<code>code_</code>" in page
    assert len(shown[0][0].splitlines()) == 3  # head, line, one row


def test_an_exercise_gives_back_the_learners_function_when_it_passes(notebook, capsys):
    def mine(train_step, optimizer, lrs):
        losses = []
        for lr in lrs:
            for group in optimizer.param_groups:
                group["lr"] = lr
            losses.append(train_step())
            if not math.isfinite(losses[-1]):
                return losses
        return losses

    assert notebook["lesson"].exercise("range_test")(mine) is mine
    assert "range_test: all 4 checks pass" in capsys.readouterr().out


def test_an_exercise_goes_on_with_the_reference_until_then(notebook, capsys):
    got = notebook["lesson"].exercise("range_test")(lambda step, optimizer, lrs: [])
    assert got is load_exercise("lr_finder", "range_test").reference
    said = capsys.readouterr().out
    assert "not yet. for lrs = [0.01, 0.1, 1.0] expected" in said
    assert said.endswith("The cells below use the reference's range_test.\n")


def right(low, high, margin):
    """What the exercise of the first lesson asks for."""
    if high < margin:
        return "SUPPORTED"
    return "REFUTED" if low > margin else "INCONCLUSIVE"


def graded(attempt, meddle=lambda lesson: None):
    """The points for an attempt, after a cell of the student's has meddled with the lesson."""
    lesson = Lesson("start_here", {})
    lesson.exercise("read_verdict")(attempt)
    meddle(lesson)
    return lesson.points("read_verdict")


def test_a_point_is_for_a_function_that_passes():
    assert (graded(right), graded(lambda *_: "REFUTED")) == (1, 0)
    assert Lesson("start_here", {}).points("read_verdict") == 0


def wrong(low, high, margin):
    return "REFUTED"


class Generous(Attempts):
    """Attempts that give a point for everything."""

    def count_points(self, exercise):
        return 1


class Lax:
    """An exercise that anything passes."""

    name, checks, reference = "read_verdict", [], staticmethod(right)

    def check(self, attempt):
        return None

    find_failure = check


@pytest.mark.parametrize(
    "meddle",
    [
        lambda lesson: setattr(lesson, "_failures", {"read_verdict": None}),
        lambda lesson: setattr(lesson, "_attempts", {"read_verdict": None}),
        lambda lesson: lesson._attempts.handed_in.update(read_verdict=(Lax(), wrong)),
        lambda lesson: lesson._attempts.handed_in.clear(),
        lambda lesson: lesson._attempts.solved.add("read_verdict"),
        lambda lesson: setattr(lesson, "_attempts", Generous("start_here")),
        lambda lesson: setattr(lesson, "name", "own"),
        lambda lesson: lesson.exercise("read_verdict")(lambda *_: exit()),
    ],
)
def test_a_variable_earns_no_point(meddle):
    assert graded(lambda *_: "REFUTED", meddle) == 0


def test_an_attempt_that_ends_the_kernel_no_longer_counts_as_the_earlier_one():
    def leave(*_):
        raise SystemExit

    assert graded(right, lambda lesson: lesson.exercise("read_verdict")(leave)) == 0

    def stop(*_):
        raise KeyboardInterrupt

    def interrupted(lesson):
        with pytest.raises(KeyboardInterrupt):
            lesson.exercise("read_verdict")(stop)

    assert graded(right, interrupted) == 0


def test_the_reference_is_nobody_s_attempt(capsys):
    lesson = Lesson("start_here", {})
    replaced = lesson.exercise("read_verdict")(lambda *_: "REFUTED")
    lesson.exercise("read_verdict")(replaced)  # the cell run again with what it gave back
    assert lesson.points("read_verdict") == 0
    assert "not yet. this is the reference" in capsys.readouterr().out


def test_a_cell_can_say_whose_function_it_uses():
    lesson = Lesson("start_here", {})
    assert lesson.whose("read_verdict") == "the reference's read_verdict"
    lesson.exercise("read_verdict")(right)
    assert lesson.whose("read_verdict") == "your read_verdict"
    lesson.exercise("read_verdict")(wrong)  # a later attempt counts, as for the point
    assert lesson.whose("read_verdict") == "the reference's read_verdict"
    with pytest.raises(ValueError, match="no exercise 'read_verdicts', only read_verdict"):
        lesson.whose("read_verdicts")


def test_an_interrupted_check_leaves_the_reference_in_use():
    def stop(*_):
        raise KeyboardInterrupt

    lesson = Lesson("start_here", {})
    lesson.exercise("read_verdict")(right)
    with pytest.raises(KeyboardInterrupt):
        lesson.exercise("read_verdict")(stop)
    assert lesson.whose("read_verdict") == "the reference's read_verdict"


def test_the_source_of_a_helper_is_shown_as_a_block_of_code(notebook, shown):
    notebook["lesson"].source(right)
    ((text, _),) = shown
    assert text.startswith("```python\ndef right(low, high, margin):\n")
    assert text.endswith('else "INCONCLUSIVE"\n```')


def test_a_fence_in_the_source_does_not_end_the_block(notebook, shown):
    def fenced():
        """Return what Markdown calls code: ```x```."""

    notebook["lesson"].source(fenced)
    ((text, _),) = shown
    assert text.startswith("````python\ndef fenced") and text.endswith('```."""\n````')


@pytest.mark.parametrize("helper", [len, 3, "right"])
def test_what_has_no_source_is_named(notebook, helper):
    with pytest.raises(TypeError, match="expected a function or a class that is written in Py"):
        notebook["lesson"].source(helper)


def test_grading_prints_nothing_and_moves_no_random_state(capsys):
    def loud(low, high, margin):
        print("here", torch.rand(1))
        return right(low, high, margin)

    lesson = Lesson("start_here", {})
    lesson.exercise("read_verdict")(loud)
    capsys.readouterr()
    state = torch.get_rng_state()
    assert lesson.points("read_verdict") == 1
    assert capsys.readouterr().out == "" and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("name", ["weight_decay", "own", "own_..clipping", "x_"])
def test_a_lesson_without_exercises_of_nbkit_s_says_what_to_hand_over(tmp_path, name):
    text = 'sentence = "s."\nsource = "s"\nmetric = "m"\nmeasure = "equality"\nn = 8\n'
    (tmp_path / "own.toml").write_text(f'[c]\nlesson = "{name}"\n{text}')
    lesson = Lesson(name, {}, claims=tmp_path / "own.toml")
    with pytest.raises(ValueError, match=r"no exercises of lesson .* hand over the exerc"):
        lesson.exercise("double")
    assert lesson.points("double") == 0


def test_the_live_lab_wants_the_guard_first():
    with pytest.raises(KnobError, match=r"no knobs yet: call `lesson.knobs"):
        Lesson("lr_finder", {}, claims=THREE_CLAIMS).explore(lambda fig: None)


def test_progress_hands_the_items_on_and_leaves_an_empty_line(notebook, monkeypatch):
    lines = []

    class Line:
        def update(self, text):
            lines.append(text.data)

    monkeypatch.setattr("IPython.display.display", lambda text, display_id: Line())
    monkeypatch.setenv("NBKIT_LIVE", "1")
    lesson = notebook["lesson"]
    assert list(lesson.progress(range(4), total=4, label="grid")) == [0, 1, 2, 3]
    assert lines == ["grid: 25 %", "grid: 50 %", "grid: 75 %", "grid: 100 %", ""]


def test_nobody_watching_sees_no_progress(notebook, monkeypatch, shown):
    monkeypatch.setenv("NBKIT_LIVE", "0")
    assert list(notebook["lesson"].progress(range(2), total=2, label="grid")) == [0, 1]
    assert shown == []
