"""Test is_live(), and what a kernel stores with and without a front end."""

import base64
import os
from types import SimpleNamespace

import nbformat
import pytest
from nbclient import NotebookClient

from nbkit.lab.live import is_live as frontend
from nbkit.lab.live.is_live import is_live


@pytest.mark.parametrize(
    "environment, metadata, variables, answer",
    [
        ({}, {}, {}, False),
        ({"JPY_SESSION_NAME": "lesson.ipynb"}, {}, {}, False),
        ({}, {"cellId": "a1"}, {}, True),
        ({}, {}, {"__vsc_ipynb_file__": "lesson.ipynb"}, True),
        ({"SERVER_SOFTWARE": "voila/0.5.13"}, {}, {}, True),
        ({"NBKIT_LIVE": "1"}, {}, {}, True),
        ({"NBKIT_LIVE": "0"}, {"cellId": "a1"}, {}, False),
    ],
)
def test_live_asks_the_running_cell(monkeypatch, environment, metadata, variables, answer):
    for name in ("JPY_SESSION_NAME", "SERVER_SOFTWARE", "NBKIT_LIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    kernel = SimpleNamespace(get_parent=lambda channel: {"metadata": metadata})
    shell = SimpleNamespace(kernel=kernel, user_ns=variables)
    monkeypatch.setattr(frontend, "find_shell", lambda: shell)
    assert is_live() is answer


def test_live_is_false_outside_of_a_notebook(monkeypatch):
    monkeypatch.delenv("NBKIT_LIVE", raising=False)
    assert not is_live()


def test_live_reads_nothing_but_0_and_1(monkeypatch):
    monkeypatch.setenv("NBKIT_LIVE", "yes")
    with pytest.raises(ValueError, match="NBKIT_LIVE must be 0 or 1, got 'yes'"):
        is_live()


FIT = """
from nbkit.lab.live.explorer import explore, is_live, show
from nbkit.lab.knobs import log

def fit(fig, *, lr):
    fig.add_subplot().plot([0, lr])
    yield
    if lr > 0.5:
        raise ArithmeticError("diverged")
    return f"lr {lr}"

knobs = {"lr": log(0.01, 1, stops=[0.01, 0.1]).with_name("lr", float)}
"""


@pytest.fixture(scope="module")
def executed():
    """Return what a kernel without a front end stores, even if it was started from JupyterLab."""
    cells = [
        FIT,
        "show(fit, knobs, {'lr': 0.1})",
        "show(fit, {'lr': log(0.01, 1, stops=[0.1, 1]).with_name('lr', float)}, {'lr': 0.1})",
        "import os; os.environ['NBKIT_LIVE'] = '1'\nui = explore(fit, knobs, {'lr': 0.1})\nui",
        "ui.controls['lr'].value = 0.05; import asyncio; await asyncio.sleep(0); await ui._task",
    ]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    client = NotebookClient(notebook, timeout=60, allow_errors=True, kernel_name="python3")
    environment = {**os.environ, "JPY_SESSION_NAME": "lesson.ipynb"}
    environment.pop("NBKIT_LIVE", None)
    client.execute(env=environment)
    return [cell.outputs for cell in client.nb.cells]


def test_headless_the_stops_are_stored_as_one_picture_and_no_widget(executed):
    assert executed[0] == []
    (output,) = executed[1]
    assert set(output.data) == {"image/png", "text/plain"}
    assert base64.b64decode(output.data["image/png"]).startswith(b"\x89PNG")
    assert output.data["text/plain"].startswith("Stops: lr 0.01, 0.1.")
    assert [stop["result"] for stop in output.metadata["nbkit"]["stops"]] == ["lr 0.01", "lr 0.1"]


def test_headless_a_raise_within_fit_fails_the_cell(executed):
    (output,) = executed[2]
    assert (output.output_type, output.ename, output.evalue) == (
        "error", "ArithmeticError", "diverged",
    )  # fmt: skip


def test_live_an_ordinary_picture_is_stored_beside_the_sliders_and_kept_current(executed):
    box, copy = executed[3]
    assert "application/vnd.jupyter.widget-view+json" in box.data
    assert box.data["text/plain"] == "Sliders: run the notebook to move them."
    assert copy.data["text/plain"] == copy.metadata["image/png"]["alt"] == "lr = 0.05: lr 0.05"
    assert executed[4] == []
