"""What travels to another process keeps the name of its file."""

import linecache
import pickle
import types
from collections import ChainMap

import pytest

from nbkit.base.pickling import pickle_value

cloudpickle = pytest.importorskip("cloudpickle")
CELL = "def outer():\n    return [inner() for inner in (lambda: 1 / 0,)]\n"


@pytest.fixture(params=["this cloudpickle", "one that drops the name"])
def outer(request, monkeypatch):
    usual = cloudpickle.Pickler.dispatch_table

    def reduce_nameless(code):
        return usual[types.CodeType](code.replace(co_filename="<dynamic-code>"))

    if request.param != "this cloudpickle":  # as 3.1.3 does
        table = ChainMap({types.CodeType: reduce_nameless}, usual)
        monkeypatch.setattr(cloudpickle.Pickler, "dispatch_table", table)
    monkeypatch.setitem(linecache.cache, "<cell 3>", (len(CELL), None, CELL.splitlines(True), ""))
    scope = {"__name__": "__main__"}
    exec(compile(CELL, "<cell 3>", "exec"), scope)
    return scope["outer"]


def test_a_function_of_a_cell_keeps_its_file(outer):
    data = pickle_value(outer, "outer")
    assert b"<cell 3>" in data  # so the launcher knows whose lines to send
    with pytest.raises(ZeroDivisionError) as caught:
        pickle.loads(data)()
    assert [str(entry.path) for entry in caught.traceback][1:] == ["<cell 3>"] * 3
