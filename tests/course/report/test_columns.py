"""A column of the claims' table is one entry: it shows on the page, in Markdown and in JSON."""

import json

import pytest
from test_course_report import VERDICT, record

from nbkit.course.report import columns
from nbkit.course.report.columns import Column, ColumnKind, describe_claim, list_texts
from nbkit.course.report.write import write_report

UNMEASURED = {**VERDICT, "verdict": "SKIPPED", "effect": None, "interval": None, "n": 0}


def count_letters(verdict):
    return len(verdict["claim"])


def describe_letters(verdict):
    return f"{count_letters(verdict)} letters"


@pytest.fixture(params=[ColumnKind.NUMBER, ColumnKind.NOTE, ColumnKind.CLAIM, ColumnKind.MARK])
def entry(request, monkeypatch):
    """A throw-away entry, once at each place."""
    column = Column(
        name="letters",
        heading="length of the id",
        text=describe_letters,
        value=count_letters,
        kind=request.param,
        label="id: ",
    )
    monkeypatch.setattr(columns, "COLUMNS", [*columns.COLUMNS, column])
    return column


@pytest.fixture
def folders(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        record("01_a", status="ok", verdicts=[VERDICT]).save(tmp_path / name / "01_a.json")
    return [tmp_path / "one", tmp_path / "two"]


@pytest.mark.parametrize("runs", [1, 2])
def test_a_further_entry_is_in_every_file(entry, folders, tmp_path, runs):
    write_report(folders[:runs], tmp_path / "out")
    page, text = ((tmp_path / "out" / name).read_text() for name in ("index.html", "report.md"))
    # In Markdown, what is the same in all runs stands once, with the claim.
    once = entry.kind is ColumnKind.CLAIM
    assert page.count("9 letters") == text.count("9 letters") == (1 if once else runs)
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    verdicts = data["lessons"][0]["findings"][0]["verdicts"]
    assert [verdict["letters"] for verdict in verdicts] == [len("near-best")] * runs


def test_only_the_table_of_one_run_has_headings_for_numbers(entry, folders, tmp_path):
    write_report(folders[:1], tmp_path / "out")
    page = (tmp_path / "out" / "index.html").read_text()
    is_number = entry.kind is ColumnKind.NUMBER
    assert (">length of the id</th>" in page) == is_number
    assert ('data-name="letters">9 letters</td>' in page) == is_number
    assert ("id: 9 letters" in page) != is_number  # the heading takes the place of the label


def test_without_it_no_file_has_it(folders, tmp_path):
    write_report(folders, tmp_path / "out")
    for path in (tmp_path / "out").iterdir():
        assert "letters" not in path.read_text()


def test_a_verdict_without_an_effect_has_no_numbers():
    assert list_texts(UNMEASURED, ColumnKind.NUMBER) == []
    assert list_texts(VERDICT, ColumnKind.NUMBER) == ["1.04 [0.98, 1.12]", "n = 8 seeds"]
    assert list_texts({**VERDICT, "n": None, "over": None}, ColumnKind.NUMBER)[1] == "n = –"
    assert list_texts({**VERDICT, "over": None}, ColumnKind.NUMBER)[1] == "n = 8"


TASKS = [
    {"task": "signals", "verdict": "REFUTED", "effect": 1.5, "interval": [1.3, 1.7], "n": 6},
    {"task": "<b>tiles", "verdict": "SKIPPED", "effect": None, "reason": "needs cuda"},
]


@pytest.fixture
def travelled(tmp_path):
    """The folder of a run with a claim that was measured on three tasks."""
    more = {"elsewhere": TASKS, "task": "digits, 100 steps", "baseline": "the best of 11 lrs"}
    record("01_a", status="ok", verdicts=[{**VERDICT, **more}]).save(tmp_path / "01_a.json")
    return tmp_path


def test_the_tasks_of_a_claim_are_in_every_file(travelled, tmp_path):
    write_report([travelled], tmp_path / "out")
    page, text = ((tmp_path / "out" / name).read_text() for name in ("index.html", "report.md"))
    assert ">tasks</th>" in page and 'data-name="tasks">1 of 3</td>' in page
    assert "tasks: 1 of 3" in text
    for told in (
        "On signals: REFUTED, 1.5 [1.3, 1.7], n = 6. On ",
        "Task: digits, 100 steps",
        "Held against: the best of 11 lrs",
    ):
        assert told in page and told in text.replace("\\", "")
    assert "On &lt;b&gt;tiles: SKIPPED, needs cuda" in page
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    (verdict,) = data["lessons"][0]["findings"][0]["verdicts"]
    assert (verdict["tasks"], verdict["elsewhere"]) == ("1 of 3", TASKS)


def test_a_single_task_is_not_counted_and_neither_is_a_skipped_claim():
    numbers = list_texts({**VERDICT, "elsewhere": []}, ColumnKind.NUMBER)
    assert numbers == ["1.04 [0.98, 1.12]", "n = 8 seeds"]
    away = [{"task": "signals", "verdict": "SUPPORTED"}]
    held = list_texts({**VERDICT, "elsewhere": away}, ColumnKind.NUMBER)
    assert held[-1] == "tasks: 2 of 2"
    told = list_texts({**VERDICT, "verdict": "SKIPPED", "elsewhere": away}, ColumnKind.NUMBER)
    assert told == ["1.04 [0.98, 1.12]", "n = 8 seeds"]


def test_a_verdict_kept_in_the_ledger_says_when_it_was_measured():
    notes = list_texts({**VERDICT, "recorded": "2026-01-02T03:04:05+00:00"}, ColumnKind.NOTE)
    assert "From the run of 2026-01-02" in notes


def test_a_claim_is_described_by_the_first_run_that_does():
    old = {**VERDICT, "metric": None}
    assert describe_claim([None, old, VERDICT]) == "Measured: loss / loss; claimed: below 1.25"
    assert describe_claim([None, old]) == ""
