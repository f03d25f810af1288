"""A result prints as a table, shows in a notebook, and turns into JSON."""

import json
import math
from dataclasses import dataclass

import pytest
import torch

from nbkit.base.report import Report, convert_to_json, ensure_axes


@dataclass
class Norms(Report):
    norms: dict
    worst: float = math.nan

    def table(self):
        return "two layers", ["layer", "norm"], [[name, norm] for name, norm in self.norms.items()]


def test_table_as_text_is_aligned():
    assert str(Norms({"a<b": 1.23456, "c": torch.tensor(2.0)})).splitlines() == [
        "two layers",
        "layer  norm",
        "a<b    1.23",
        "c      2",
    ]


def test_table_as_html_is_escaped():
    shown = Norms({"a<b": 1.0})._repr_html_()
    assert "<td>a&lt;b</td><td>1</td>" in shown


def test_to_dict_survives_strict_json():
    report = Norms({"a": torch.tensor([1.0, math.inf])})
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False)) == {
        "norms": {"a": [1.0, None]},
        "worst": None,
    }


class Counted(Norms):
    def to_dict(self):
        return {"count": len(self.norms)}


def test_a_nested_result_as_json():
    assert convert_to_json([Norms({"a": 1}), torch.float32]) == [
        {"norms": {"a": 1}, "worst": None},
        "torch.float32",
    ]
    assert convert_to_json({"inside": Counted({"a": 1})}) == {"inside": {"count": 1}}


def test_a_report_without_a_table_says_so():
    with pytest.raises(NotImplementedError):
        str(Report())


def test_axes_are_those_that_were_given_or_those_of_a_new_figure(ax):
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    assert ensure_axes(ax) is ax and pyplot.get_fignums() == before
    new = ensure_axes(None)
    try:
        assert new.figure.axes == [new] and pyplot.gca() is new
        assert len(pyplot.get_fignums()) == len(before) + 1
    finally:
        pyplot.close(new.figure)
