"""Who is at the other end: somebody with a mouse, or a headless run?"""

from __future__ import annotations

import os
from typing import Any


def is_live() -> bool:
    """Is somebody at a front end who can move a slider? Ask it in a cell.

    A front end (JupyterLab, Notebook, VS Code) sends each cell together with the id that the cell
    has on the page. papermill, nbclient, nbconvert and nbval send none. The id belongs to the
    request, so a papermill that is started from a notebook's cell is told apart as well; a variable
    of the environment would be inherited. Voila shows sliders too, but runs the cells by nbclient:
    it says who it is in the environment. `NBKIT_LIVE=1` or `0` overrides all of this.

    Raises:
        ValueError: if NBKIT_LIVE is anything else.
    """
    told = os.environ.get("NBKIT_LIVE", "")
    if told not in ("", "0", "1"):
        raise ValueError(f"NBKIT_LIVE must be 0 or 1, got {told!r}.")
    shell = _shell()
    if told or not hasattr(shell, "kernel"):
        return told == "1"
    request = shell.kernel.get_parent("shell") or {}
    at_voila = os.environ.get("SERVER_SOFTWARE", "").startswith("voila/")
    return "cellId" in request.get("metadata", {}) or in_vs_code() or at_voila


def in_vs_code() -> bool:
    """Is this VS Code, which lays out a page of its own kind?"""
    return "__vsc_ipynb_file__" in getattr(_shell(), "user_ns", {})


def _shell() -> Any:
    from IPython import get_ipython

    return get_ipython()
