"""Browser tests: skipped in plain sight where there is no Chromium, a failure where CI has to."""

import importlib.util
import os
from pathlib import Path

import pytest
from labserver import chromium, find_chromium

RUNS = Path(__file__).parents[2] / "runs" / "browser"


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium for one module; its playwright ends with it, so that asyncio is free."""
    missing = [] if find_chromium() else ["Chromium (Debian: apt-get install chromium)"]
    if importlib.util.find_spec("playwright") is None:
        missing.append("playwright (pip install 'nbkit[test]')")
    if missing:
        required = os.environ.get("CI") == "true" or os.environ.get("NBKIT_REQUIRE_BROWSER") == "1"
        (pytest.fail if required else pytest.skip)(f"a browser test needs {' and '.join(missing)}")
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser):
    """A fresh page, as wide as a laptop's."""
    context = browser.new_context(viewport={"width": 1100, "height": 1000})
    yield context.new_page()
    context.close()


@pytest.fixture(scope="session")
def screenshots():
    """The folder where a test keeps what it saw: runs/browser."""
    RUNS.mkdir(parents=True, exist_ok=True)
    return RUNS
