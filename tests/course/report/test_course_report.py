"""The table and the page say what the records say, and nothing on the page comes from elsewhere."""

import math
import re
from html.parser import HTMLParser

import pytest
from course_pages import page

from nbkit.course.record import Record
from nbkit.course.report.summary import describe_failure
from nbkit.course.report.words import format_duration, format_effect, format_memory
from nbkit.course.report.write import format_table, summarize_records, write_report, write_reports
from nbkit.lab.curriculum import word_of
from nbkit.lab.evidence.register import without_lesson

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
    "over": "seeds",
}
MACHINE = {
    "hardware": "cpu",
    "processor": "a chip",
    "cores": 2,
    "threads": 1,
    "system": "L",
    "torch": "2.13",
    "python": "3.11",
}


def record(lesson, **values):
    facts = {"parameters": {}, "nbkit": "0.1", "notebook_sha256": "ab", "started": "2026-01-01"}
    return Record(
        **{
            "lesson": word_of(lesson),
            "name": lesson,
            "machine": MACHINE,
            "seconds": 12.34,
            **facts,
            **values,
        }
    )


@pytest.fixture
def records():
    skipped = {**VERDICT, "claim": "needs-gpu", "verdict": "SKIPPED", "reason": "needs CUDA"}
    skipped |= {"effect": None, "interval": None, "p_value": None, "n": 0}
    cells = [{"cell": 1, "seconds": 0.25}, {"cell": 2, "seconds": 9.5}, {"cell": 3}]
    return [
        record("01_a", status="ok", cells=cells, verdicts=[VERDICT, skipped]),
        record("02_b", reason="ValueError: 1 < 2\nand more", cell=4, parameters={"lr": 0.1}),
        record("03_c", status="ok", seconds=123.4),
    ]


def test_the_table_has_a_row_for_each_claim(records):
    assert format_table(records).splitlines() == [
        "lesson  seconds  claim      verdict",
        "01_a       12.3  near-best  SUPPORTED",
        "                 needs-gpu  SKIPPED (needs CUDA)",
        "02_b       12.3             FAILED",
        "03_c      123.4",
        "02_b failed in cell 4: ValueError: 1 < 2",
    ]


def test_a_run_of_nothing_is_a_table_too():
    assert format_table([]).split() == ["lesson", "seconds", "claim", "verdict"]
    assert summarize_records([]) == "0 of 0 lessons ran"
    assert "<h1>0 of 0 lessons ran</h1>" in page([])


def test_the_summary_counts(records):
    assert summarize_records(records) == "2 of 3 lessons ran; claims: 1 supported, 1 skipped"
    assert summarize_records(records[:1]) == "1 of 1 lesson ran; claims: 1 supported, 1 skipped"


@pytest.mark.parametrize(
    "values, words",
    [
        ({"reason": "stopped by Ctrl-C"}, "failed: stopped by Ctrl-C"),
        ({}, "failed: no reason was recorded"),
        (
            {"status": "running", "cell": 3},
            "unfinished in cell 3: its record was never closed; "
            "the run was killed, or is still at it",
        ),
        ({"status": "waiting"}, "not begun: the run has not come to it"),
    ],
)
def test_a_lesson_without_an_end_says_what_happened(values, words):
    broken = record("01_a", **values)
    assert describe_failure(broken) == words
    assert f"01_a {words}" in format_table([broken])
    assert words.partition(" in ")[0].partition(":")[0].upper() in page([broken])
    assert words.partition(": ")[2] in page([broken])


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
    assert format_effect({"effect": value, "interval": interval}) == words


def test_times_and_memory_are_short():
    assert [format_duration(s) for s in (0, 7.46, 99.96, 125, 3725)] == [
        *("0.0 s", "7.5 s", "1 min 40 s", "2 min 5 s", "1 h 2 min"),
    ]
    assert [format_memory(mib) for mib in (None, 812.4, 2048)] == [
        *("memory not measured", "812 MiB", "2.0 GiB"),
    ]


class Tags(HTMLParser):
    """Collects tags, their links and the text, and holds that every tag is closed."""

    void = ("meta", "br", "img", "!doctype")

    def __init__(self, text):
        super().__init__()
        self.open, self.links, self.sources, self.alts = [], [], [], []
        self.words, self.seen, self.ids = [], set(), []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.seen.add(tag)
        given = dict(attributes)
        self.links += [given["href"]] if "href" in given else []
        self.sources += [given["src"]] if "src" in given else []
        self.ids += [given["id"]] if "id" in given else []
        if tag == "img":
            self.alts.append(given["alt"])
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_says_what_the_records_say(records, tmp_path):
    write_reports(records, tmp_path)
    tags = Tags((tmp_path / "index.html").read_text())
    text = " ".join(tags.words)
    for words in (
        "Training at 0 < lr is <best>.",
        "near-best: the interval lies below. Measured: loss / loss; claimed: below 1.25",
        "1.04 [0.98, 1.12]",
        "8 seeds",
        "1 claim: needs CUDA",
        "cell 4: ValueError: 1 < 2\nand more",
        "with lr = 0.1",
        "a chip, 2 cores, L, torch 2.13, Python 3.11",
        "cpu (a chip), 1 thread, torch 2.13",
        "2 of 3 lessons ran, 2 min 28 s in all, memory not measured",
        "slowest cells: [2]\u00a09.5 s, [1]\u00a00.2 s",
        "1 test on this page; counted together (Holm, 5\u00a0%), each verdict stands.",
    ):
        assert words in text
    lessons = text[text.index("cell 4: ValueError") - 1 :] + text[text.index("Skipped, and why") :]
    assert re.findall("SUPPORTED|SKIPPED|RAN|FAILED", lessons)[-5:] == [
        *("RAN", "SUPPORTED", "SKIPPED"), "FAILED", "RAN",
    ]  # fmt: skip


def test_the_page_needs_no_network_and_links_to_what_there_is(records, tmp_path):
    odd = record("odd name", reason="no kernel")
    for name in ("01_a.html", "01_a.ipynb", "01_a.json", "02_b.json", "odd name.json"):
        (tmp_path / name).write_text('{"cells": []}')
    text = page([*records, odd], tmp_path)
    tags = Tags(text)
    inside = [link for link in tags.links if link.startswith("#")]
    assert set(tags.ids) == {link[1:] for link in inside}
    assert [link for link in tags.links if link not in inside] == [
        *("01_a.html", "01_a.ipynb", "01_a.json"), "02_b.json", "odd%20name.json",
    ]  # fmt: skip
    assert not {"script", "link", "iframe", "object", "form"} & tags.seen
    assert not re.search(r"url\(|@import|https?:|//", text)
    assert "default-src &#x27;none&#x27;; img-src data:" in text  # the browser refuses the rest


def test_the_page_is_made_for_phones_the_dark_and_paper(records):
    text = page(records)
    assert 'name="viewport"' in text
    for media in ("screen and (prefers-color-scheme: dark)", "screen and (max-width", "print"):
        assert f"@media {media}" in text


def test_everything_is_escaped():
    nasty = '<b title="x">&\'</b>'
    verdict = {**VERDICT, **dict.fromkeys(("claim", "sentence", "reason", "metric"), nasty)}
    verdict |= {"bound": nasty, "over": nasty, "effect": nasty}
    flip = {"claim": nasty, "now": verdict, "before": verdict, "recorded": nasty}
    values = {"parameters": {nasty: nasty}, "reason": nasty, "started": nasty}
    machine = {key: nasty for key in MACHINE if key != "threads"}
    text = page([record(nasty, verdicts=[verdict], flips=[flip], machine=machine, **values)])
    assert "<b title" not in text and 'title="x"' not in text
    assert Tags(text).words.count(nasty) > 3


def test_claims_that_stand_alone_may_not_stand_together():
    """Of two at p = 0.03 the smaller counts double: 0.06 is above 5 %."""
    close = [{**VERDICT, "p_value": 0.03}, {**VERDICT, "claim": "other", "p_value": 0.02}]
    words = "INCONCLUSIVE where all claims of this page count together"
    assert page([record("01_a", verdicts=close)]).count(words) == 0  # 0.04, and then 0.04
    close[1]["p_value"] = 0.03
    assert page([record("01_a", verdicts=close)]).count(words) == 2
    split = [record("01_a", verdicts=close[:1]), record("02_b", verdicts=close[1:])]
    assert page(split).count(words) == 2  # it is the page that counts, not the lesson
    assert "no longer decided are near-best, other" in page(split)
    assert page(split[:1]).count(words) == 0


def test_claims_without_a_lesson_are_counted_and_named():
    missing = without_lesson()
    text = page([])
    assert f"{len(missing)} claims:" in text and "NO LESSON YET" in text
    assert text.count("<li>") == len(missing) > 0
    assert "Pruning half of the weights keeps the test accuracy." in text


def test_a_record_that_makes_no_sense_is_named_and_the_page_is_written(records):
    odd = record("04_d", status="ok", verdicts=[{"claim": "without a verdict"}])
    text = page([*records, odd])
    assert "04_d: not a whole record: one of its verdicts has not all of claim, verdict" in text
    assert "2 of 3 lessons ran" in text


def test_times_are_bars_on_one_scale(records):
    widths = re.findall(r'class="bar" style="width: (\d+)%"', page(records))
    assert widths == ["10", "10", "100"]


def test_a_folder_of_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="give at least one folder"):
        write_report([], tmp_path / "out")
    with pytest.raises(ValueError, match="nowhere is not a folder: give one that `nbkit run`"):
        write_report([tmp_path / "nowhere"], tmp_path / "out")
    with pytest.raises(ValueError, match=r"has no records, <lesson>.json"):
        write_report([tmp_path], tmp_path / "out")
    assert not (tmp_path / "out").exists()
