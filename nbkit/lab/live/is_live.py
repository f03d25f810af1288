"""Find out whether a cell runs in front of a person with a mouse, or headless."""

from __future__ import annotations

import os
from typing import Any


def is_live() -> bool:
    """Return whether the running cell has a front end in which somebody can move a slider.

    A front end (JupyterLab, Notebook, VS Code) sends each cell together with the id that the cell
    has on the page. papermill, nbclient, nbconvert and nbval send none. The id belongs to the
    request, so a papermill that is started from a notebook's cell counts as headless; it would
    inherit an environment variable. Voila shows sliders too, but runs the cells by nbclient; it
    names itself in the environment. `NBKIT_LIVE=1` or `0` overrides all of this.

    Raises:
        ValueError: if NBKIT_LIVE is anything else.
    """
    override = os.environ.get("NBKIT_LIVE", "")
    if override not in ("", "0", "1"):
        raise ValueError(f"NBKIT_LIVE must be 0 or 1, got {override!r}. Unset it, or set 0 or 1.")
    shell = find_shell()
    if override or not hasattr(shell, "kernel"):
        # Without a kernel, in plain Python or in IPython, only the override makes it live.
        return override == "1"
    request = shell.kernel.get_parent("shell") or {}
    at_voila = os.environ.get("SERVER_SOFTWARE", "").startswith("voila/")
    return "cellId" in request.get("metadata", {}) or in_vs_code() or at_voila


def in_vs_code() -> bool:
    """Return whether the front end is VS Code, whose page has a layout different from Jupyter's."""
    # VS Code sets this variable in every notebook that it opens.
    return "__vsc_ipynb_file__" in getattr(find_shell(), "user_ns", {})


def find_shell() -> Any:
    """Find IPython's shell; None outside of IPython."""
    from IPython import get_ipython

    return get_ipython()
