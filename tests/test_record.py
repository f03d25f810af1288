"""A record is JSON for any program, and its file is whole or not there."""

import json
import math
import os

import pytest

from nbkit.base.whole_file import write_whole
from nbkit.course.record import Record, list_nonfinite

VERDICT = {"claim": "c", "verdict": "SUPPORTED", "n": 8}


def record(**values):
    facts = {"lesson": "01_a", "parameters": {}, "nbkit": "0.1", "notebook_sha256": "ab"}
    return Record(**{**facts, "started": "2026-01-01", "machine": {}, **values})


def test_a_record_is_failed_until_it_is_closed_well():
    assert not record().ok
    closed = record()
    closed.close()
    assert closed.ok
    closed.close("KeyError: 'x'", 3)
    assert (closed.status, closed.reason, closed.cell) == ("failed", "KeyError: 'x'", 3)


def test_a_record_comes_back_from_its_file(tmp_path):
    kept = record(seconds=1.5, verdicts=[VERDICT], cells=[{"cell": 1}])
    kept.save(tmp_path / "01_a.json")
    assert Record.load(tmp_path / "01_a.json") == kept


def test_no_number_that_json_lacks_is_written(tmp_path):
    kept = record(verdicts=[{"effect": math.nan, "interval": [-math.inf, (1.0, math.inf)]}])
    kept.save(tmp_path / "01_a.json")
    text = (tmp_path / "01_a.json").read_text()
    read = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert read["verdicts"] == [{"effect": None, "interval": [None, [1.0, None]]}]


def test_where_a_number_is_not_finite():
    value = {"a": [1.0, {"b": math.nan}], "c": (math.inf,), "d": "nan", "e": 10**400}
    assert list_nonfinite(value, "nb") == ["nb.a[1].b", "nb.c[0]"]


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "kept.json"
    write_whole(path, "old")

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        write_whole(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["kept.json"]


def test_a_new_file_takes_the_place_of_the_old_one_at_once(tmp_path):
    path = tmp_path / "kept.json"
    write_whole(path, "old")
    with path.open() as reader:
        write_whole(path, "new")
        assert reader.read() == "old"  # whoever was reading goes on with the whole old one
    assert path.read_text() == "new"
