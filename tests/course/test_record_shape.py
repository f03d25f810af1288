"""Whatever stands in a record's file, the report and the ledger name it and go on."""

import copy
import json

import pytest
from test_course_report import MACHINE, VERDICT, record

from nbkit.course.ledger import find_flips
from nbkit.course.record import Record
from nbkit.course.report.write import format_table, write_report

WORDS = ["", " ", "<b>x</b>", "\ud800"]
ODD = [None, True, 5, -1, 10**400, float("nan"), *WORDS, [], [1], {}, {"a": 1}]


def whole():
    """A record with every part that a report reads."""
    there = {"task": "signals", "verdict": "REFUTED", "effect": 1.5, "interval": [1.3, 1.7], "n": 6}
    verdict = {**VERDICT, "task": "digits", "baseline": "none", "elsewhere": [there]}
    flip = {"claim": "near-best", "now": there, "before": there, "recorded": "2026-01-02"}
    flip["task"] = "signals"
    made = {"claim": "near-best", "guess": 0.5, "confidence": 80, "settings": {"lr": 0.1}}
    cells = [{"cell": 1, "status": "completed", "seconds": 2.5}]
    one = record("01_a", status="ok", verdicts=[verdict], flips=[flip], cells=cells)
    one.predictions = [made]
    told = vars(one) | {"machine": dict(MACHINE), "peak_bytes": 2**30}
    return json.loads(json.dumps(told))  # no part of it is another part too


def places(value, path=()):
    """The place of each value in a nested one."""
    yield path
    keys = list(value) if isinstance(value, dict) else []
    keys += range(len(value)) if isinstance(value, list) else []
    for key in keys:
        yield from places(value[key], (*path, key))


def changed(told, path, change):
    told = copy.deepcopy(told)
    if not path:
        return change
    inside = told
    for key in path[:-1]:
        inside = inside[key]
    if change is KeyError:
        del inside[path[-1]]
    else:
        inside[path[-1]] = change
    return told


@pytest.mark.parametrize("change", [KeyError, *ODD], ids=lambda c: repr(c)[:9])
def test_no_change_of_a_record_ends_the_report(tmp_path, change):
    sound = tmp_path / "sound"
    sound.mkdir()
    record("02_b", status="ok", verdicts=[VERDICT]).save(sound / "02_b.json")
    for number, path in enumerate(places(whole())):
        if path or change is not KeyError:
            text = json.dumps(changed(whole(), path, change))
            (sound / f"odd{number}.json").write_text(text)
    told = write_report([sound], tmp_path / "out")
    ours = [lesson.title for lesson in told.lessons if lesson.title == "02_b"]
    assert ours == ["02_b"]
    assert "<b>x</b>" not in (tmp_path / "out" / "report.md").read_text()
    assert "<b>x</b>" not in (tmp_path / "out" / "index.html").read_text()
    found = [one for path in sorted(sound.glob("*.json")) if (one := Record.find(path))]
    assert format_table(found)


@pytest.mark.parametrize(
    "path, change, problem",
    [
        (("reason",), 5, "reason is 5"),
        (("status",), "", "status is ''"),
        (("verdicts", 0, "verdict"), "", "one of its verdicts: verdict is ''"),
        (("verdicts", 0, "claim"), [1], "one of its verdicts: claim is [1]"),
        (("verdicts", 0, "interval"), 5, "one of its verdicts: interval is 5"),
        (
            ("verdicts", 0, "elsewhere", 0, "interval"),
            5,
            "one of its verdicts: one of its elsewhere: interval is 5",
        ),
        (
            ("verdicts", 0, "elsewhere"),
            [{"verdict": "REFUTED"}],
            "one of its verdicts: one of its elsewhere has not all of task, verdict",
        ),
        (("predictions", 0, "guess"), "x", "one of its predictions: guess is 'x'"),
        (("cells", 0, "cell"), "x", "one of its cells: cell is 'x'"),
        (("flips", 0, "now", "verdict"), "", "one of its flips: verdict is ''"),
        (("machine", "hardware"), 3, "machine is "),
    ],
)
def test_a_reader_names_the_field(tmp_path, path, change, problem):
    file = tmp_path / "01_a.json"
    file.write_text(json.dumps(changed(whole(), path, change)))
    with pytest.raises(ValueError) as caught:
        Record.load(file)
    assert f"not a whole record: {problem}" in str(caught.value)
    assert Record.find(file) is None


def test_json_that_is_nested_too_deep_is_no_record(tmp_path):
    (tmp_path / "01_a.json").write_text("[" * 100_000)
    assert Record.find(tmp_path / "01_a.json") is None


def test_a_ledger_whose_verdict_has_no_claim_is_named(tmp_path):
    (tmp_path / "cpu").mkdir()
    told = whole() | {"verdicts": [{"verdict": "SUPPORTED"}], "flips": []}
    (tmp_path / "cpu" / "a.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match="is not a record: take it back from git"):
        find_flips(Record(**whole()), tmp_path)
    nowhere = Record(**(whole() | {"machine": {"processor": "a chip"}}))
    with pytest.raises(ValueError, match="a: its record names no hardware"):
        find_flips(nowhere, tmp_path)
