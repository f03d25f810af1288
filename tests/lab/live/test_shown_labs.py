"""A live lab that is shown again replaces the earlier one and leaves no widgets behind."""

import gc
import types
import weakref

import pytest
from ipywidgets.widgets.widget import _instances

from nbkit.lab.knobs import Knob, KnobError, between, log
from nbkit.lab.live import shown_labs
from nbkit.lab.live.explorer import Explorer, explore, show

KNOBS = {"lr": log(0.001, 1).with_name("lr", float), "steps": between(1, 9).with_name("steps", int)}
START = {"lr": 0.1, "steps": 2}
FIT = """
def {name}(fig, *, lr, steps):
    fig.add_subplot().plot([0, lr])
    yield
    if lr > 0.5:
        raise ArithmeticError("diverged")
    return str(lr)
"""


def new_fit(name="fit"):
    """Define the function again, as a cell does each time it runs."""
    names = {}
    exec(FIT.format(name=name), names)
    return names[name]


@pytest.fixture
def page(monkeypatch):
    """Return a function that runs a cell of a page, named by its id or by None."""
    monkeypatch.setattr("IPython.display.display", lambda thing, **_: shown.append(thing))
    monkeypatch.setattr("nbkit.lab.live.explorer.is_live", lambda: True)
    monkeypatch.setattr(shown_labs, "_shown", {})
    shown, request = [], {}
    monkeypatch.setattr(shown_labs, "_read_request", lambda: request)

    def run(cell, *fits, start=START):
        number = int(request.get("header", {}).get("msg_id", 0)) + 1
        request.update(header={"msg_id": str(number)}, metadata={"cellId": cell} if cell else {})
        for fit in fits:
            ui = explore(fit, KNOBS, start, figsize=(1.0, 1.0), dpi=40)
            ui._ipython_display_()

    yield run
    for _, labs in list(shown_labs._shown.values()):
        for lab in list(labs):
            lab.close()


def alive():
    """Count the widgets that a page can still reach, and the labs that are open."""
    gc.collect()
    labs = [thing for thing in gc.get_objects() if type(thing) is Explorer]
    return len(_instances), sum(lab.screen.comm is not None for lab in labs)


@pytest.mark.parametrize("cell", ["a", None])
def test_a_cell_that_runs_again_replaces_its_lab(page, cell):
    page(cell, new_fit())
    before = alive()
    for _ in range(5):
        page(cell, new_fit())
    assert alive() == before and before[1] == 1


def test_a_fit_that_was_edited_is_still_of_the_same_cell(page):
    page("a", new_fit())
    before = alive()
    page("a", new_fit("other"))
    assert alive() == before


@pytest.mark.parametrize("cell", ["a", None])
def test_labs_of_one_run_of_a_cell_stay_beside_each_other(page, cell):
    fit = new_fit()
    page(cell, fit, fit)
    two = alive()
    assert two[1] == 2
    page(cell, fit, fit)
    assert alive() == two


@pytest.mark.parametrize(("one", "other"), [("a", "b"), (None, None)])
def test_labs_of_two_cells_stay(page, one, other):
    page(one, new_fit("first"))
    page(other, new_fit("second"))
    assert alive()[1] == 2


def test_a_lab_that_was_replaced_is_no_longer_held(page):
    fit = new_fit()
    page("a", fit)
    (first,) = [weakref.ref(lab) for _, labs in shown_labs._shown.values() for lab in labs]
    page("a", new_fit())
    gc.collect()
    assert first() is None


def test_a_lab_that_another_cell_shows_too_stays(page):
    ui = explore(new_fit(), KNOBS, START, figsize=(1.0, 1.0), dpi=40)
    for cell in ("a", "b"):
        page(cell)
        ui._ipython_display_()
    page("a", new_fit())
    assert ui.screen.comm is not None
    page("b", new_fit())
    assert ui.screen.comm is None


def test_the_same_lab_shown_again_stays_open(page):
    ui = explore(new_fit(), KNOBS, START, figsize=(1.0, 1.0), dpi=40)
    for _ in range(2):
        page("a")
        ui._ipython_display_()
    assert ui.screen.comm is not None and ui.run(lr=0.2) == "0.2"


def test_a_first_run_that_fails_leaves_no_widgets(page):
    before = alive()
    for _ in range(3):
        with pytest.raises(ArithmeticError):
            page("a", new_fit(), start={"lr": 1.0, "steps": 2})
    assert alive()[0] == before[0]


def test_a_knob_without_a_slider_leaves_no_widgets():
    before = alive()[0]
    with pytest.raises(KnobError, match="steps has neither a range nor options"):
        explore(new_fit(), KNOBS | {"steps": Knob("steps", int)}, START)
    assert alive()[0] == before


def test_a_closed_lab_gives_its_picture_back():
    ui = explore(new_fit(), KNOBS, START, figsize=(1.0, 1.0), dpi=40)
    assert ui.png and ui.picture.figure.axes
    ui.close()
    assert ui.png == b"" and not ui.picture.figure.axes
    assert all(widget.comm is None for widget in (ui.screen, ui.screen.layout, ui.screen.image))
    ui.close()  # again: nothing left to do


def test_without_a_kernel_there_is_no_request(monkeypatch):
    monkeypatch.setattr("IPython.get_ipython", lambda: None)
    assert shown_labs._read_request() == {}
    kernel = types.SimpleNamespace(get_parent=lambda channel: None)
    monkeypatch.setattr("IPython.get_ipython", lambda: types.SimpleNamespace(kernel=kernel))
    assert shown_labs._read_request() == {}


def test_show_replaces_too(page, monkeypatch):
    monkeypatch.setattr(
        "IPython.display.display",
        lambda thing, **_: thing._ipython_display_() if isinstance(thing, Explorer) else None,
    )
    for _ in range(3):
        page("a")
        show(new_fit(), KNOBS, START, figsize=(1.0, 1.0))
    assert alive()[1] == 1
