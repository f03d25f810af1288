"""Which live labs are on the page: one that is shown anew takes the earlier one's place.

A widget lives until it is closed, with all that it shows. Without this, each run of a live lab's
cell would leave the lab of the run before behind.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbkit.lab.live.explorer import Explorer

# By cell, or by fit where the front end names no cell: the request that showed them, and the labs.
_shown: dict[Hashable, tuple[object, list[Explorer]]] = {}


def replace_shown(lab: Explorer) -> None:
    """Note that a lab is shown here, and close those of an earlier run of the same cell.

    Labs that one run of a cell shows beside each other all stay, and so does one that another cell
    shows too.
    """
    place, request = _find_place(lab)
    earlier_request, earlier = _shown.get(place, (None, []))
    if request is not None and request == earlier_request:
        if lab not in earlier:
            earlier.append(lab)
        return
    _shown[place] = request, [lab]
    alive = [shown for _, labs in _shown.values() for shown in labs]
    for old in earlier:
        if old not in alive:
            old.close()


def forget_shown(lab: Explorer) -> None:
    """Keep no reference to a lab that has been closed."""
    for place, (request, labs) in list(_shown.items()):
        rest = [shown for shown in labs if shown is not lab]
        if rest:
            _shown[place] = request, rest
        else:
            del _shown[place]


def _find_place(lab: Explorer) -> tuple[Hashable, object]:
    """The cell that is running, as the front end names it, and its request.

    Where it names none, as VS Code, the lab's fit function: run again, the cell defines one that is
    equal in its code.
    """
    parent = _read_request()
    request = parent.get("header", {}).get("msg_id")
    cell = parent.get("metadata", {}).get("cellId")
    if cell is not None:
        return ("cell", cell), request
    code = getattr(lab.fit, "__code__", None)
    return ("fit", getattr(lab.fit, "__qualname__", ""), code or id(lab.fit)), request


def _read_request() -> dict[str, Any]:
    from IPython import get_ipython

    kernel = getattr(get_ipython(), "kernel", None)
    return (kernel.get_parent("shell") or {}) if kernel is not None else {}
