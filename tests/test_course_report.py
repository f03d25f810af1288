"""The table and the page say what the records say, and nothing on the page comes from elsewhere."""

import math
import re
from html.parser import HTMLParser

import pytest

from nbkit.course.record import Record
from nbkit.course.report import effect, failure, page, summary, table, write_page
from nbkit.lab.claims import without_lesson

VERDICT = {
    "kind": "verdict",
    "claim": "near-best",
    "sentence": "Training at 0 < lr is <best>.",
    "verdict": "SUPPORTED",
    "reason": "the interval lies below",
    "metric": "loss / loss",
    "margin": 1.25,
    "bound": "below 1.25",
    "p_value": 0.001,
    "effect": 1.04123,
    "interval": [0.98, 1.1234],
    "n": 8,
}


def record(lesson, **values):
    facts = {"parameters": {}, "nbkit": "0.1", "notebook_sha256": "ab", "started": "2026-01-01"}
    machine = {"processor": "a chip", "cores": 2, "system": "L", "torch": "2.13", "python": "3.11"}
    return Record(**{"lesson": lesson, "machine": machine, "seconds": 12.34, **facts, **values})


@pytest.fixture
def records():
    skipped = {**VERDICT, "claim": "needs-gpu", "verdict": "SKIPPED", "reason": "needs CUDA"}
    return [
        record("01_a", status="ok", cells=[{"cell": 1}], verdicts=[VERDICT, skipped]),
        record("02_b", reason="ValueError: 1 < 2\nand more", cell=4, parameters={"lr": 0.1}),
        record("03_c", status="ok", seconds=123.4),
    ]


def test_the_table_has_a_row_for_each_claim(records):
    assert table(records).splitlines() == [
        "lesson  seconds  claim      verdict",
        "01_a       12.3  near-best  SUPPORTED",
        "                 needs-gpu  SKIPPED",
        "02_b       12.3             FAILED",
        "03_c      123.4",
        "02_b failed in cell 4: ValueError: 1 < 2",
    ]


def test_a_run_of_nothing_is_a_table_too():
    assert table([]).split() == ["lesson", "seconds", "claim", "verdict"]
    assert summary([]) == "0 of 0 lessons ran"
    assert "<h1>0 of 0 lessons ran</h1>" in page([])


def test_the_summary_counts(records):
    assert summary(records) == "2 of 3 lessons ran; claims: 1 supported, 1 skipped"


def test_a_failure_without_a_cell_names_none():
    assert failure(record("01_a", reason="stopped by Ctrl-C")) == "failed: stopped by Ctrl-C"


@pytest.mark.parametrize(
    "value, interval, words",
    [
        (1.04123, [0.98, 1.1234], "1.04 [0.98, 1.12]"),
        (1.0, [None, 2.0], "1 [–, 2]"),
        (None, None, "–"),
        (0.5, None, "0.5"),
        ("nan", None, "nan"),
        (math.inf, None, "inf"),
    ],
)
def test_an_effect_is_shown_with_its_interval(value, interval, words):
    assert effect({"effect": value, "interval": interval}) == words


class Tags(HTMLParser):
    """Collects tags, their links and the text, and holds that every tag is closed."""

    void = ("meta", "br", "!doctype")

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.words, self.seen = [], [], [], set()
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        self.links += [value for name, value in attributes if name in ("href", "src")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_says_what_the_records_say(records, tmp_path):
    write_page(records, tmp_path / "index.html")
    tags = Tags((tmp_path / "index.html").read_text())
    text = " ".join(tags.words)
    for words in (
        "Training at 0 < lr is <best>.",
        "near-best: the interval lies below. Measured: loss / loss; claimed: below 1.25",
        "1.04 [0.98, 1.12]",
        "needs CUDA",
        "cell 4: ValueError: 1 < 2\nand more",
        "with lr = 0.1",
        "a chip, 2 cores, L, torch 2.13, Python 3.11",
    ):
        assert words in text
    assert re.findall("SUPPORTED|SKIPPED|RAN|FAILED", text) == [
        *("RAN", "SUPPORTED", "SKIPPED"), "FAILED", "RAN",
    ]  # fmt: skip


def test_the_page_needs_no_network_and_links_to_what_there_is(records):
    tags = Tags(page([*records, record("odd name", reason="no kernel")]))
    assert tags.links == [
        *("01_a.html", "01_a.ipynb", "01_a.json"), "02_b.json", "03_c.json", "odd%20name.json",
    ]  # fmt: skip
    assert not {"script", "link", "img", "iframe"} & tags.seen
    assert "url(" not in page(records)
    assert "@import" not in page(records)


def test_the_page_is_made_for_phones_the_dark_and_paper(records):
    text = page(records)
    assert 'name="viewport"' in text
    for media in ("(prefers-color-scheme: dark)", "(max-width: 40rem)", "print"):
        assert f"@media {media}" in text


def test_claims_that_stand_alone_may_not_stand_together():
    """Of two at p = 0.03 the smaller counts double: 0.06 is above 5 %."""
    close = [{**VERDICT, "p_value": 0.03}, {**VERDICT, "claim": "other", "p_value": 0.02}]
    words = "INCONCLUSIVE where all claims of this page count together"
    assert page([record("01_a", verdicts=close)]).count(words) == 0  # 0.04, and then 0.04
    close[1]["p_value"] = 0.03
    assert page([record("01_a", verdicts=close)]).count(words) == 2
    split = [record("01_a", verdicts=close[:1]), record("02_b", verdicts=close[1:])]
    assert page(split).count(words) == 2  # it is the page that counts, not the lesson
    assert page(split[:1]).count(words) == 0


def test_claims_without_a_lesson_are_counted_and_named():
    missing = without_lesson()
    text = page([])
    assert f"{len(missing)} claims:" in text and "NO LESSON YET" in text
    assert text.count("<li>") == len(missing) > 0
    assert "Pruning half of the weights keeps the test accuracy." in text
