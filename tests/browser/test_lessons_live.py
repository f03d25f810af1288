"""Every lesson in JupyterLab: all cells run, each slider moves, the picture follows."""

import json

import pytest
from labserver import Notebook, lab

from nbkit.lab.shipped import lessons_dir

pytestmark = pytest.mark.browser
FULL, SMOKE = (json.dumps(f'profile: str = "{name}"')[1:-1] for name in ("lesson", "smoke"))
LESSONS = sorted(path.name for path in lessons_dir().glob("*.ipynb"))


@pytest.fixture(scope="module")
def server(browser, tmp_path_factory):
    root = tmp_path_factory.mktemp("lessons")
    for name in LESSONS:
        text = (lessons_dir() / name).read_text()
        assert FULL in text
        (root / name).write_text(text.replace(FULL, SMOKE))
    with lab(root) as server:
        yield server


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_runs_and_its_sliders_retrain(browser, server, screenshots, name):
    page = browser.new_page(viewport={"width": 1100, "height": 1400})
    notebook = Notebook(page, server, name)
    notebook.run_all()
    box = notebook.box()
    box.get_by_role("slider").first.wait_for()
    names = [slider.get_attribute("aria-label") for slider in box.get_by_role("slider").all()]
    lists, checks = (box.locator(tag).all() for tag in ("select", "input[type=checkbox]"))
    assert names and len(names) + len(lists) + len(checks) >= 2
    moves = [lambda name=name: press(notebook.slider(name)) for name in names]
    moves += [lambda one=one: choose_next(one) for one in lists] + [one.click for one in checks]
    for move in moves:  # every widget once, and each of them changes the picture
        before = notebook.picture()
        move()
        notebook.wait_for_new_picture(before)
        notebook.wait_for_run()

    # A storm: the newest value wins, and its picture is the one that stays.
    first = notebook.slider(names[0])
    for _ in range(30):
        first.press("ArrowRight")
    notebook.wait_for_run()
    values = box.get_by_role("img").get_attribute("alt").partition(":")[0].split(", ")
    assert f"{names[0]} = {shown(first.get_attribute('aria-valuetext'))}" in values

    box.scroll_into_view_if_needed()
    page.screenshot(path=screenshots / f"{name.removesuffix('.ipynb')}.png")
    # JupyterLab lets the browser ask for `attachment:curve.png` before it puts the picture there.
    assert [error for error in notebook.errors() if "ERR_UNKNOWN_URL_SCHEME" not in error] == []
    page.close()


def press(slider):
    """One step to the right; to the left where it stands at its end."""
    at_end = slider.evaluate("node => Number(node.value) >= Number(node.max)")
    slider.press("ArrowLeft" if at_end else "ArrowRight")


def choose_next(select):
    """The option after the chosen one, or the first."""
    options = select.locator("option").all_inner_texts()
    chosen = select.evaluate("node => node.selectedIndex")
    select.select_option(index=(chosen + 1) % len(options))


def shown(text):
    """A slider's value as the caption writes it."""
    return f"{float(text):.3g}"
