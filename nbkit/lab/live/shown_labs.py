"""Keep track of the live labs on the page: one that is shown again replaces the earlier one.

A widget lives until it is closed, with all that it shows. Without this, each run of a live lab's
cell would leave the lab of the run before behind.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbkit.lab.live.explorer import Explorer

# For each cell (or fit, if the front end names no cell): the request that showed labs, and these.
_shown: dict[Hashable, tuple[object, list[Explorer]]] = {}


def replace_shown(lab: Explorer) -> None:
    """Note that a lab is shown here, and close those of an earlier run of the same cell.

    Labs that one run of a cell shows beside each other all stay, and so does one that another cell
    shows too.
    """
    place, request = _find_place(lab)
    earlier_request, earlier = _shown.get(place, (None, []))
    # The same request is the same run of the cell: this lab joins the others.
    if request is not None and request == earlier_request:
        if lab not in earlier:
            earlier.append(lab)
        return
    # First the new entry, since a lab of the earlier run may be in it again.
    _shown[place] = request, [lab]
    alive = []
    for _, labs in _shown.values():
        alive += labs
    for old in earlier:
        if old not in alive:
            old.close()


def forget_shown(lab: Explorer) -> None:
    """Keep no reference to a lab that has been closed."""
    # A copy of the items, since the loop deletes entries.
    for place, (request, labs) in list(_shown.items()):
        rest = [shown for shown in labs if shown is not lab]
        if rest:
            _shown[place] = request, rest
        else:
            del _shown[place]


def _find_place(lab: Explorer) -> tuple[Hashable, object]:
    """Find the running cell, by the id that the front end gives it, and its request.

    VS Code sends no id. Then the place is the lab's fit function: when the cell runs again, it
    defines one with equal code.
    """
    parent = _read_request()
    request = parent.get("header", {}).get("msg_id")
    cell = parent.get("metadata", {}).get("cellId")
    if cell is not None:
        return ("cell", cell), request
    # A callable object has no code; then only the same object is the same place.
    code = getattr(lab.fit, "__code__", None)
    return ("fit", getattr(lab.fit, "__qualname__", ""), code or id(lab.fit)), request


def _read_request() -> dict[str, Any]:
    """Read the message with which the front end asked for the running cell; {} without a kernel."""
    from IPython import get_ipython

    shell = get_ipython()
    kernel = getattr(shell, "kernel", None)
    return (kernel.get_parent("shell") or {}) if kernel is not None else {}
