"""The live lab as a learner meets it: sliders moved by keyboard and mouse, in JupyterLab."""

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path

import pytest
from labserver import Notebook, lab

pytestmark = pytest.mark.browser

KERNELS = "@jupyterlab/apputils-extension:kernels-settings"
DIGEST = "import hashlib; print(hashlib.sha256(ui.png).hexdigest())"


@pytest.fixture(scope="module")
def server(browser, tmp_path_factory):
    root = tmp_path_factory.mktemp("notebooks")
    shutil.copy(Path(__file__).with_name("sliders.ipynb"), root)
    with lab(root) as server:
        yield server


@pytest.fixture(scope="module")
def opened(browser, server):
    notebook = Notebook(
        browser.new_page(viewport={"width": 1100, "height": 1400}), server, "sliders.ipynb"
    )
    notebook.run_all()
    notebook.slider("lr").wait_for()
    return notebook


@pytest.fixture
def notebook(opened):
    """The sliders where they start, and no error before the test nor after."""
    opened.execute("_ = ui.run(**start)")
    yield opened
    assert opened.errors() == []


def digest(png):
    return hashlib.sha256(png).hexdigest()


def assert_right_picture(notebook):
    """What the page shows is what a run of the sliders' values gives, byte for byte."""
    shown = digest(notebook.picture())
    assert notebook.execute(DIGEST) == shown
    assert notebook.execute("_ = ui.run(); " + DIGEST) == shown


def test_every_control_has_a_name_and_says_its_value(notebook):
    box = notebook.box()
    for role, name in [
        ("slider", "lr"),
        ("slider", "steps"),
        ("combobox", "optimizer"),
        ("checkbox", "fails"),
    ]:
        assert box.get_by_role(role, name=name, exact=True).count() == 1
    assert box.get_by_role("slider").count() == 2
    assert notebook.slider("lr").get_attribute("aria-valuetext") == "0.1"
    alt = re.compile("^lr = 0.1, steps = 100, optimizer = SGD, fails = False: final loss 0")
    assert box.get_by_role("img", name=alt).count() == 1


def test_this_is_a_front_end(notebook):
    assert notebook.page.get_by_text("live: True", exact=True).is_visible()


def test_a_slider_moved_by_keyboard_changes_the_picture(notebook, screenshots):
    before = notebook.picture()
    notebook.slider("lr").press("ArrowRight")
    notebook.wait_for_new_picture(before)
    notebook.wait_for_run()
    assert notebook.slider("lr").get_attribute("aria-valuetext") == "0.11"
    assert notebook.execute("print(ui.values['lr'])") == "0.11"
    assert_right_picture(notebook)
    notebook.box().scroll_into_view_if_needed()
    notebook.page.screenshot(path=screenshots / "sliders.png")


def test_the_other_controls_change_it_too(notebook):
    before = notebook.picture()
    notebook.box().get_by_role("combobox").select_option("Adam")
    notebook.wait_for_new_picture(before)
    notebook.wait_for_run()
    assert "Adam on MainThread" in notebook.box().inner_text()
    notebook.box().get_by_role("textbox", name="steps").fill("200")
    notebook.page.keyboard.press("Enter")
    notebook.wait_for_run()
    assert notebook.execute("print(ui.values['steps'], ui.values['optimizer'])") == "200 Adam"
    assert_right_picture(notebook)


@pytest.mark.parametrize("typed", ["0.25", "0.5", "1"])
def test_a_typed_value_stays_as_it_is(notebook, typed):
    box = notebook.box().get_by_role("textbox", name="lr")
    box.fill(typed)
    notebook.page.keyboard.press("Enter")
    notebook.wait_for_run()
    assert box.input_value() == typed
    assert float(notebook.execute("print(ui.values['lr'])")) == float(typed)
    assert_right_picture(notebook)


@pytest.mark.parametrize("typed", ["abc", "-1", "5", ""])
def test_what_cannot_be_used_is_refused_in_words_and_changes_nothing(notebook, typed):
    box = notebook.box().get_by_role("textbox", name="lr")
    box.fill(typed)
    notebook.page.keyboard.press("Enter")
    told = f'lr must be a number from 0.001 to 1, got "{typed}": it stays 0.1.'
    notebook.box().get_by_text(told, exact=True).wait_for()
    assert notebook.execute("print(ui.values['lr'])") == "0.1"
    notebook.slider("lr").press("ArrowRight")  # a good value takes the message away
    notebook.wait_for_run()
    assert notebook.box().get_by_text(told, exact=True).count() == 0


def test_an_int_takes_no_fraction(notebook):
    box = notebook.box().get_by_role("textbox", name="steps")
    box.fill("2.5")
    notebook.page.keyboard.press("Enter")
    notebook.box().get_by_text("steps must be a whole number from 10 to 50000").wait_for()
    assert notebook.execute("print(ui.values['steps'])") == "100"
    box.fill("100")
    notebook.page.keyboard.press("Enter")  # takes the message away


def test_arrows_move_the_slider_and_not_the_notebook(notebook):
    slider = notebook.slider("lr")
    for key in ("ArrowUp", "ArrowUp", "ArrowDown"):
        slider.press(key)
    notebook.wait_for_run()
    assert slider.get_attribute("aria-valuetext") == "0.11"
    assert slider.evaluate("node => document.activeElement === node")


def test_a_storm_of_a_hundred_keys_ends_with_the_right_picture(notebook):
    notebook.slider("lr").focus()
    for key in ["ArrowLeft"] * 40 + ["ArrowRight"] * 60:
        notebook.page.keyboard.press(key)
    notebook.wait_for_run()
    shown = notebook.slider("lr").get_attribute("aria-valuetext")
    assert shown == "1"
    assert notebook.execute("print(ui.values['lr'])") == "1.0"
    assert_right_picture(notebook)


def test_a_drag_ends_with_the_right_picture(notebook):
    handle = notebook.slider("lr")
    handle.scroll_into_view_if_needed()
    place = handle.bounding_box()
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    mouse = notebook.page.mouse
    mouse.move(x, y)
    mouse.down()
    mouse.move(x - 100, y, steps=100)
    mouse.up()
    notebook.wait_for_run()
    assert float(handle.get_attribute("aria-valuetext")) < 0.05
    assert_right_picture(notebook)


def test_an_exception_is_shown_under_the_picture_until_the_next_good_run(opened, screenshots):
    opened.execute("_ = ui.run(**start)")
    checkbox = opened.box().get_by_role("checkbox", name="fails")
    checkbox.check()
    alert = opened.box().get_by_role("alert")
    alert.wait_for()
    assert "RuntimeError: as you asked" in alert.inner_text()
    assert 'raise RuntimeError("as you asked")' in alert.inner_text()
    picture = opened.box().get_by_role("img").bounding_box()
    assert alert.bounding_box()["y"] >= picture["y"] + picture["height"] - 1
    opened.page.screenshot(path=screenshots / "sliders_error.png")
    checkbox.uncheck()
    alert.wait_for(state="detached")
    assert opened.errors() == []


def test_the_stop_button_stops_a_long_training(notebook):
    notebook.slider("steps").press("End")
    notebook.box().get_by_text("training").wait_for()
    notebook.page.locator("[data-command='notebook:interrupt-kernel']").first.click()
    notebook.box().get_by_text("stopped").wait_for()
    assert notebook.execute("print(ui.values['steps'], ui.finished > 0)") == "50000 True"


def test_the_picture_is_stored_as_an_ordinary_output_that_hides_while_the_sliders_live(
    notebook, server
):
    copy = notebook.page.locator(".jp-OutputArea-child:has(.jp-RenderedImage)").first
    assert not copy.is_visible()
    before = notebook.picture()
    notebook.slider("lr").press("ArrowRight")
    notebook.wait_for_new_picture(before)
    notebook.wait_for_run()
    notebook.page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
    stored = json.loads((server.root / "sliders.ipynb").read_text())
    box, copy = stored["cells"][0]["outputs"]
    assert box["data"]["text/plain"] == ["Sliders: run the notebook to move them."]
    assert copy["data"]["text/plain"][0].startswith("lr = 0.11, steps = 100")
    assert base64.b64decode(copy["data"]["image/png"]) == notebook.picture()


def test_jupyterlabs_own_default_trains_on_the_main_thread_as_well(browser, server):
    """It delivers a slider's messages in another thread."""
    server.configure({KERNELS: {"commsOverSubshells": "perCommTarget"}})
    notebook = Notebook(browser.new_page(), server, "sliders.ipynb")
    notebook.run_all()
    slider = notebook.slider("lr")
    slider.wait_for()
    for _ in range(20):
        slider.press("ArrowRight")
    notebook.wait_for_run()
    assert "SGD on MainThread" in notebook.box().inner_text()
    assert slider.get_attribute("aria-valuetext") == "1"
    assert_right_picture(notebook)
    assert notebook.errors() == []
