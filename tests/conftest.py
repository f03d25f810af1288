"""What every test shares: one compute thread, and GPU tests that are skipped in plain sight."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Two cores and several workers: more threads only get in each other's way."""
    torch.set_num_threads(1)


@pytest.fixture
def ax():
    """Axes on a figure of their own, which pyplot knows nothing of."""
    from matplotlib.figure import Figure

    return Figure().add_subplot()


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
