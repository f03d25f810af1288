import base64
import io

import pytest
from PIL import Image

from nbkit.lab.knobs import KnobError, between, choice, flag, log
from nbkit.lab.live.headless_stops import run_stops

KNOBS = {
    "lr": log(0.01, 1, stops=[0.01, 0.1, 1]).with_name("lr", float),
    "steps": between(1, 9, stops=[2, 5]).with_name("steps", int),
    "nesterov": flag().with_name("nesterov", bool),
    "profile": choice("smoke", "lesson").with_name("profile", str),
}
START = {"lr": 0.1, "steps": 2, "nesterov": False, "profile": "smoke"}
SMALL = {"figsize": (1, 1), "dpi": 40}


@pytest.fixture
def fit():
    def fit(fig, *, lr, steps):
        fit.seen.append((lr, steps))
        fig.add_subplot().plot([0, lr])
        yield
        print("trained")
        return f"lr {lr} for {steps} steps"

    fit.seen = []
    return fit


def test_every_stop_of_every_knob_that_fit_names_is_run_once_with_the_others_at_their_start(fit):
    stops = run_stops(fit, KNOBS, START, **SMALL)
    assert [(stop.knob, stop.value) for stop in stops.stops] == [
        ("lr", 0.01), ("lr", 0.1), ("lr", 1.0), ("steps", 2), ("steps", 5),
    ]  # fmt: skip
    assert fit.seen == [(0.01, 2), (0.1, 2), (1.0, 2), (0.1, 5)]


def test_the_visible_text_names_the_stops_and_the_metadata_has_what_fit_gave(fit):
    data, metadata = run_stops(fit, KNOBS, START, **SMALL)._repr_mimebundle_()
    caption = "Stops: lr 0.01, 0.1, 1; steps 2, 5. Run the notebook in JupyterLab to move sliders."
    assert data["text/plain"] == metadata["image/png"]["alt"] == caption
    assert metadata["nbkit"]["kind"] == "stops"
    assert metadata["nbkit"]["stops"][4] == {
        "knob": "steps", "value": 5, "result": "lr 0.1 for 5 steps", "printed": "trained\n",
    }  # fmt: skip


def test_the_picture_has_a_row_for_each_knob_and_a_column_for_each_stop(fit):
    data, _ = run_stops(fit, KNOBS, START, **SMALL)._repr_mimebundle_()
    png = base64.b64decode(data["image/png"])
    assert Image.open(io.BytesIO(png)).size == (3 * 40, 2 * (40 + 42))


def test_what_fit_raises_is_raised_with_the_stop(fit):
    def broken(fig, *, lr, steps):
        yield from fit(fig, lr=lr, steps=steps)
        if steps == 5:
            raise ArithmeticError("diverged")
        return ""

    with pytest.raises(ArithmeticError, match="diverged") as caught:
        run_stops(broken, KNOBS, START, **SMALL)
    assert "steps = 5" in caught.value.__notes__[0]


def test_a_start_that_is_out_of_range_stops_before_any_training(fit):
    with pytest.raises(KnobError, match="lr must be a float from 0.01 to 1, got 5"):
        run_stops(fit, KNOBS, {**START, "lr": 5}, **SMALL)
    assert fit.seen == []


def test_knobs_without_stops_are_refused(fit):
    knobs = {
        "lr": log(0.01, 1).with_name("lr", float),
        "steps": between(1, 9).with_name("steps", int),
    }
    with pytest.raises(ValueError, match=r"none of fit's knobs \(lr, steps\) declares stops"):
        run_stops(fit, knobs, START, **SMALL)


def test_a_fit_that_takes_seeds_gets_all_of_them_at_each_stop():
    def fit(fig, *, lr, seeds):
        seen.append((lr, seeds))
        fig.add_subplot().plot([0, lr], gid="median")
        yield
        return "done"

    seen = []
    stops = run_stops(fit, KNOBS, START, seeds=8, **SMALL)
    assert seen == [(lr, range(8)) for lr in (0.01, 0.1, 1.0)]
    assert [(stop.knob, stop.value) for stop in stops.stops] == [
        ("lr", 0.01), ("lr", 0.1), ("lr", 1.0),
    ]  # fmt: skip
    with pytest.raises(TypeError, match="fit takes `seeds`"):
        run_stops(fit, KNOBS, START, **SMALL)


def test_a_stop_has_no_ghost_of_another_one():
    """Each stop's picture is the one that it has alone."""

    def fit(fig, *, lr):
        fig.add_subplot().plot([0, lr], gid="median")
        yield
        return "done"

    together = {stop.value: stop.png for stop in run_stops(fit, KNOBS, START, **SMALL).stops}
    alone = {"lr": log(0.01, 1, stops=[1]).with_name("lr", float)}
    assert run_stops(fit, alone, START, **SMALL).stops[0].png == together[1.0]
