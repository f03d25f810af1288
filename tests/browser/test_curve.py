"""A curve is drawn with the mouse and by keyboard, in JupyterLab, and reaches the fit."""

import nbformat
import pytest
from labserver import Notebook, lab
from nbformat.v4 import new_code_cell, new_notebook

pytestmark = pytest.mark.browser

CELL = """
from nbkit.lab import curve, explore

def fit(fig, *, shape):
    fig.subplots().plot([0, 1])
    yield
    return f"drawn: {shape}"

knobs = {"shape": curve().with_name("shape", str)}
ui = explore(fit, knobs, {"shape": "constant"}, figsize=(6, 3))
ui
"""
# Without it, JupyterLab asks which kernel it should start.
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


@pytest.fixture
def notebook(browser, tmp_path):
    made = new_notebook(cells=[new_code_cell(CELL)], metadata={"kernelspec": KERNEL})
    nbformat.write(made, tmp_path / "curve.ipynb")
    with lab(tmp_path) as server:
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        notebook = Notebook(page, server, "curve.ipynb")
        notebook.run_all()
        notebook.box().locator(".nbkit-curve svg").wait_for()
        yield notebook
        assert notebook.errors() == []
        page.close()


def wait_for_curve(notebook, test):
    """Until the fit has been run with a curve that passes a test in JavaScript; its heights."""
    notebook.page.wait_for_function(
        """([box, test]) => {
            const [, text] = box.querySelector('[role=status]').innerText.split('drawn: ');
            const heights = (text || '').split(' (')[0].split(' ').map(Number);
            return new Function('h', 'return ' + test)(heights);
        }""",
        arg=[notebook.box().element_handle(), test],
    )
    text = notebook.status().partition("drawn: ")[2].partition(" (")[0]
    return [float(word) for word in text.split()]


def test_a_curve_is_drawn_by_mouse_and_by_keyboard(notebook, screenshots):
    box = notebook.box()
    svg, mouse = box.locator(".nbkit-curve svg"), notebook.page.mouse
    area = svg.bounding_box()

    def at(x, y):
        return (area["x"] + x / 640 * area["width"], area["y"] + y / 166 * area["height"])

    # From the middle of the upper edge to the lower right corner.
    mouse.move(*at(336, 12))
    mouse.down()
    mouse.move(*at(628, 132))
    mouse.up()
    heights = wait_for_curve(notebook, "h.length === 21 && h[20] === 0")
    assert heights[:11] == [1.0] * 11
    assert heights[10:] == pytest.approx([1 - k / 10 for k in range(11)], abs=0.02)
    notebook.page.screenshot(path=screenshots / "curve.png")

    # The mouse has chosen the last point; with Shift, all later points follow.
    svg.focus()
    for key in ("ArrowLeft", "ArrowLeft", "Shift+PageUp"):
        svg.press(key)
    heights = wait_for_curve(notebook, "h[20] > 0.4")
    assert heights[18:] == pytest.approx([0.45] * 3, abs=0.02)
    svg.press("ArrowDown")
    heights = wait_for_curve(notebook, "h[18] < 0.42")
    assert heights[19] == pytest.approx(0.45, abs=0.02)

    box.get_by_role("button", name="linear", exact=True).click()
    notebook.page.wait_for_function(
        "box => box.querySelector('[role=status]').innerText.startsWith('drawn: linear')",
        arg=box.element_handle(),
    )
    pressed = box.locator(".nbkit-curve button[aria-pressed=true]")
    assert pressed.all_inner_texts() == ["linear"]
