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


def test_a_claim_is_described_by_the_first_run_that_does():
    old = {**VERDICT, "metric": None}
    assert describe_claim([None, old, VERDICT]) == "Measured: loss / loss; claimed: below 1.25"
    assert describe_claim([None, old]) == ""
