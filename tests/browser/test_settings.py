"""The settings that ship with nbkit, in JupyterLab: what a learner does not have to answer."""

import labserver
import pytest

pytestmark = pytest.mark.browser
NEWS = "Would you like to get notified about official Jupyter news?"


@pytest.mark.parametrize(("settings", "asked"), [({}, [NEWS]), (labserver.SHIPPED, [])])
def test_no_question_about_news_stands_before_the_lesson(
    browser, tmp_path, monkeypatch, settings, asked
):
    monkeypatch.setattr(labserver, "SETTINGS", {})  # the tests' own would answer it
    with labserver.lab(tmp_path, settings) as server:
        page = browser.new_page()
        page.goto(f"{server.url}/lab?reset&token={server.token}", timeout=labserver.PATIENCE)
        page.wait_for_selector(".jp-Launcher", timeout=labserver.PATIENCE)
        toast = page.locator(".Toastify__toast")
        if asked:
            toast.first.wait_for(timeout=labserver.PATIENCE)
        else:  # with the bare settings it comes within two seconds of the launcher
            page.wait_for_timeout(6000)
        assert [text.splitlines()[0] for text in toast.all_inner_texts()] == asked
        page.close()
