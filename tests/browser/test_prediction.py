"""A prediction as a reader makes it: drag the mark, commit, measure, see it on the card."""

import json

import nbformat
import pytest
from labserver import Notebook, lab
from nbformat.v4 import new_code_cell, new_notebook

pytestmark = pytest.mark.browser

CLAIMS = """\
[helps]
sentence = "It <b>helps</b>."
source = "nobody"
metric = "loss, with it / without"
measure = "ratio"
side = "below"
margin = 1
n = 8
axis = [0.25, 4]
"""
ASK = 'from nbkit.lab import Interval, Lesson\nlesson = Lesson("own", claims="own.toml")\n'
ASK += 'lesson.predict("helps")'
MEASURE = 'lesson.verdict("helps", Interval(0.5, 0.4, 0.6, 8))\nlesson.reveal()\nlesson.cards()'


@pytest.fixture(scope="module")
def server(browser, tmp_path_factory):
    root = tmp_path_factory.mktemp("predictions")
    (root / "own.toml").write_text(CLAIMS)
    nb = new_notebook(cells=[new_code_cell(ASK)])
    nb.metadata["kernelspec"] = {"name": "python3", "display_name": "Python", "language": "python"}
    nbformat.write(nb, root / "own.ipynb")
    with lab(root) as server:
        yield server


def add_cell(notebook, code):
    """Put a cell below the others, and run it."""
    add = """async code => {
        const run = name => jupyterapp.commands.execute('notebook:' + name);
        await run('insert-cell-below');
        const notebook = jupyterapp.shell.currentWidget.content;
        notebook.activeCell.model.sharedModel.setSource(code);
        await run('run-cell');
    }"""
    notebook.page.evaluate(add, code)


def drag(notebook, mark, to):
    """Drag the mark with the mouse to a place between 0 (low end) and 1 of the axis."""
    mark.scroll_into_view_if_needed()
    start = mark.locator("path").first.bounding_box()
    axis = notebook.page.locator(".nbkit-prediction svg").bounding_box()
    scale = axis["width"] / 640
    mouse = notebook.page.mouse
    mouse.move(start["x"] + start["width"] / 2, start["y"] + start["height"] / 2)
    mouse.down()
    mouse.move(axis["x"] + scale * (16 + to * 608), axis["y"] + scale * 62, steps=10)
    mouse.up()


def test_a_mark_is_dragged_committed_and_seen_on_the_card(browser, server, screenshots):
    page = browser.new_page(viewport={"width": 1000, "height": 1100})
    notebook = Notebook(page, server, "own.ipynb")
    notebook.run_all()
    form = page.locator(".nbkit-prediction")
    slider = form.get_by_role("slider", name="you expect: loss, with it / without")
    slider.wait_for()
    commit, status = form.get_by_role("button", name="Commit"), form.get_by_role("status")
    diary = server.root / "my_predictions.jsonl"

    # At first there is no answer, and nothing to commit.
    assert slider.get_attribute("aria-valuetext") == "no answer yet"
    assert commit.is_disabled() and form.locator("b").count() == 0
    drag(notebook, form.locator(".nbkit-mark"), 0.25)
    assert slider.get_attribute("aria-valuetext") == "0.5"  # half-way from 0.25 to 1
    slider.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "0.507"  # 0.25 * 16 ** (51 / 200)
    sure = form.get_by_role("slider", name="How sure are you of the side of the margin?")
    for _ in range(20):
        sure.press("ArrowRight")
    assert sure.get_attribute("aria-valuetext") == "70 %" and not diary.exists()
    page.screenshot(path=screenshots / "prediction.png")

    commit.click()
    status.get_by_text("committed: loss, with it / without: 0.507, 70 % sure").wait_for()
    (line,) = diary.read_text().splitlines()
    assert (json.loads(line)["guess"], json.loads(line)["confidence"]) == (0.507, 70)

    add_cell(notebook, MEASURE)
    page.get_by_text("you said 0.507, 70 % sure of the side; measured 0.5").wait_for()
    card = page.locator(".jp-RenderedImage img")  # JupyterLab leaves out the text of a picture
    card.wait_for()
    status.get_by_text("This has been measured. You committed: 0.507").wait_for()
    assert commit.is_disabled()
    made = "print([p.guess for p in [lesson.predictions.find_scored('helps')]])"
    assert notebook.execute(made) == "[0.507]"
    card.scroll_into_view_if_needed()
    page.screenshot(path=screenshots / "cards.png")
    assert notebook.errors() == []
