"""What the tests of live labs share: each begins without the widgets of the one before."""

import pytest
from ipywidgets import Widget


@pytest.fixture(autouse=True)
def no_widgets_left():
    """ipywidgets keeps every widget until it is closed, and counts of them would see the others."""
    yield
    Widget.close_all()
