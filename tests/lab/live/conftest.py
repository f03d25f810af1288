"""Begin each test of the live labs without the widgets of the test before."""

import pytest
from ipywidgets import Widget


@pytest.fixture(autouse=True)
def no_widgets_left():
    """Close all widgets: ipywidgets keeps each until then, and counts of them would be wrong."""
    yield
    Widget.close_all()
