"""The ledger: what is recorded on purpose, and which later run has flipped a verdict of it."""

from dataclasses import replace

import pytest
from course_notebooks import write
from course_pages import page

from nbkit.course import cli, ledger
from nbkit.course.ledger import find_flips, keep_record, ledger_dir, list_kept
from nbkit.course.record import Record
from nbkit.course.report.write import format_table, summarize_records
from nbkit.course.run import course_run

CLAIM = """\
from IPython.display import display
numbers = {"kind": "verdict", "claim": "c", "verdict": "%s", "effect": %s, "n": 8}
display({"text/plain": "c"}, raw=True, metadata={"nbkit": numbers})"""


def verdict(word, effect, claim="c"):
    interval = [effect - 0.1, effect + 0.1]
    return {"claim": claim, "verdict": word, "effect": effect, "interval": interval, "n": 8}


def record(*verdicts, hardware="cpu", status="ok", **parameters):
    return Record(
        lesson="01_a",
        parameters=parameters,
        nbkit="0.1",
        notebook_sha256="ab",
        started="2026-01-02T03:04:05+00:00",
        machine={"hardware": hardware, "processor": "a chip"},
        status=status,
        cells=[{"cell": 1}],
        verdicts=list(verdicts),
    )


def test_the_ledger_stands_beside_the_data():
    assert (ledger_dir().parent / "digits.npz").exists()


def test_a_kept_record_says_what_it_takes_to_repeat_it(tmp_path):
    path = keep_record(record(verdict("SUPPORTED", 1.0), lr=0.1), tmp_path)
    assert path == tmp_path / "cpu" / "01_a.json"
    kept = Record.load(path)
    assert kept.parameters == {"lr": 0.1} and kept.machine["processor"] == "a chip"
    assert (kept.notebook_sha256, kept.nbkit) == ("ab", "0.1")
    assert kept.verdicts == [verdict("SUPPORTED", 1.0)] and kept.cells == []


def test_a_failed_lesson_is_not_kept_and_what_was_there_stays(tmp_path):
    path = keep_record(record(verdict("SUPPORTED", 1.0)), tmp_path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="01_a failed, so it is not recorded"):
        keep_record(record(status="failed"), tmp_path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("then", "now", "flipped"),
    [
        ("SUPPORTED", "REFUTED", True),
        ("SUPPORTED", "INCONCLUSIVE", True),
        ("INCONCLUSIVE", "SUPPORTED", True),
        ("SUPPORTED", "SUPPORTED", False),  # though the number has moved
        ("SUPPORTED", "SKIPPED", False),
        ("SKIPPED", "REFUTED", False),
    ],
)
def test_what_counts_as_flipped(tmp_path, then, now, flipped):
    keep_record(record(verdict(then, 1.0), verdict("SUPPORTED", 1.0, claim="other")), tmp_path)
    flips = find_flips(record(verdict(now, 1.3), verdict("SUPPORTED", 1.2, "other")), tmp_path)
    assert [flip["claim"] for flip in flips] == ["c"] * flipped
    if flipped:
        assert flips[0]["before"] == verdict(then, 1.0) and flips[0]["now"] == verdict(now, 1.3)


def claims_and_words(flips):
    return [(f["claim"], f["before"]["verdict"], f["now"]["verdict"]) for f in flips]


def test_a_claim_judged_twice_is_compared_verdict_by_verdict(tmp_path):
    twice = [verdict("SUPPORTED", 1.0), verdict("REFUTED", 2.0)]
    keep_record(record(*twice), tmp_path)
    assert find_flips(record(*twice), tmp_path) == []
    flips = find_flips(record(twice[0], verdict("INCONCLUSIVE", 1.5)), tmp_path)
    assert claims_and_words(flips) == [("c", "REFUTED", "INCONCLUSIVE")]
    flips = find_flips(record(twice[0]), tmp_path)
    assert claims_and_words(flips) == [("c", "REFUTED", "NO LONGER JUDGED")]


def test_a_claim_that_a_whole_run_no_longer_judges_is_a_flip(tmp_path):
    kept = [
        verdict("REFUTED", 1.0),
        verdict("SKIPPED", 1.0, "skipped"),
        verdict("SUPPORTED", 1, "o"),
    ]
    keep_record(record(*kept), tmp_path)
    flips = find_flips(record(kept[2]), tmp_path)
    assert claims_and_words(flips) == [("c", "REFUTED", "NO LONGER JUDGED")]
    assert flips[0]["now"]["reason"] == "the lesson ran to its end without a verdict on it"
    assert not find_flips(record(kept[2], status="failed"), tmp_path)  # it did not come to it
    assert not find_flips(record(kept[2], lr=0.1), tmp_path)


def test_only_the_same_question_on_the_same_hardware_is_compared(tmp_path):
    keep_record(record(verdict("SUPPORTED", 1.0), lr=0.1), tmp_path)
    refuted = verdict("REFUTED", 1.5)
    assert find_flips(record(refuted, lr=0.1), tmp_path)
    assert not find_flips(record(refuted, lr=0.2), tmp_path)
    assert not find_flips(record(refuted, lr=0.1, hardware="nvidia-h200"), tmp_path)
    beside = verdict("SUPPORTED", 1.0), verdict("REFUTED", 1.5, claim="new")
    assert not find_flips(record(*beside, lr=0.1), tmp_path)


def skipped(claim="c", **more):
    reason = "the machine was busy: other programs took 40 % of a core"
    return {**verdict("SKIPPED", 1.0, claim), "reason": reason, **more}


def test_a_judged_verdict_is_kept_where_a_busy_run_has_skipped_its_claim(tmp_path):
    keep_record(record(verdict("SUPPORTED", 1.0), verdict("REFUTED", 2.0, "o")), tmp_path)
    later = record(skipped(), verdict("SUPPORTED", 0.5, "o"))
    later.started = "2026-02-02T03:04:05+00:00"
    kept = Record.load(keep_record(later, tmp_path)).verdicts
    judged = {**verdict("SUPPORTED", 1.0), "recorded": "2026-01-02T03:04:05+00:00"}
    assert kept == [judged, verdict("SUPPORTED", 0.5, "o")]
    assert list_kept(later, tmp_path) == ["c was skipped, and keeps SUPPORTED of 2026-01-02"]
    # A second busy run keeps the date of the measurement, and a flip names it.
    later.started = "2026-03-03T03:04:05+00:00"
    keep_record(later, tmp_path)
    (flip,) = find_flips(record(verdict("REFUTED", 1.5)), tmp_path)[:1]
    assert flip["recorded"] == "2026-01-02T03:04:05+00:00"
    keep_record(record(verdict("REFUTED", 1.5)), tmp_path)  # a quiet run replaces it again
    assert list_kept(record(), tmp_path) == []


@pytest.mark.parametrize("change", [{"metric": "b"}, {"bound": "below 2"}, {"over": "timings"}])
def test_a_claim_that_asks_something_else_now_keeps_nothing(tmp_path, change):
    keep_record(record({**verdict("SUPPORTED", 1.0), "metric": "a", "over": "seeds"}), tmp_path)
    now = skipped(**{"metric": "a", "over": "seeds", **change})
    assert Record.load(keep_record(record(now), tmp_path)).verdicts == [now]


def test_nothing_is_kept_of_other_parameters_of_a_skipped_claim_or_of_a_damaged_file(tmp_path):
    path = keep_record(record(verdict("SUPPORTED", 1.0), lr=0.1), tmp_path)
    keep_record(record(skipped(), lr=0.2), tmp_path)
    assert Record.load(path).verdicts == [skipped()]
    keep_record(record(skipped(n=3), lr=0.2), tmp_path)
    assert Record.load(path).verdicts == [skipped(n=3)]
    path.write_text("{")
    keep_record(record(skipped(), lr=0.2), tmp_path)
    assert Record.load(path).verdicts == [skipped()]


def on_tasks(word, *tasks):
    """A verdict at home, and on further tasks."""
    return {**verdict(word, 1.0), "elsewhere": [there(task, told) for task, told in tasks]}


def there(task, word):
    told = verdict(word, 1.0)
    del told["claim"]
    return {"task": task, **told}


def test_a_further_task_flips_and_is_kept_by_itself(tmp_path):
    keep_record(record(on_tasks("SUPPORTED", ("a", "SUPPORTED"), ("b", "REFUTED"))), tmp_path)
    run = record(on_tasks("SUPPORTED", ("a", "REFUTED"), ("b", "SKIPPED"), ("new", "REFUTED")))
    run.flips = find_flips(run, tmp_path)
    assert [(flip["claim"], flip["task"]) for flip in run.flips] == [("c", "a")]
    assert "FLIPPED c on a: REFUTED, 1 [0.9, 1.1]" in format_table([run])
    kept = Record.load(keep_record(run, tmp_path)).verdicts[0]["elsewhere"]
    assert [(one["task"], one["verdict"]) for one in kept] == [
        ("a", "REFUTED"),
        ("b", "REFUTED"),
        ("new", "REFUTED"),
    ]
    assert list_kept(run, tmp_path) == ["c on b was skipped, and keeps REFUTED of 2026-01-02"]


@pytest.mark.parametrize("text", ["{", "{}", "[1]"])
def test_a_damaged_ledger_is_named(tmp_path, text):
    path = keep_record(record(), tmp_path)
    path.write_text(text)
    with pytest.raises(ValueError, match=r"cpu/01_a.json is not a record"):
        find_flips(record(), tmp_path)


def test_a_flip_is_told_with_both_intervals(tmp_path):
    keep_record(record(verdict("SUPPORTED", 1.0)), tmp_path)
    run = record(verdict("REFUTED", 1.5))
    run.flips = find_flips(run, tmp_path)
    told = "FLIPPED c: REFUTED, 1.5 [1.4, 1.6], n = 8; recorded 2026-01-02: SUPPORTED, 1 [0.9, 1.1]"
    assert told in format_table([run]) and told in page([run])
    assert summarize_records([run]).endswith("; claims: 1 refuted; 1 flipped")


def test_a_missing_verdict_is_told_with_its_reason(tmp_path):
    keep_record(record(verdict("SUPPORTED", 1.0)), tmp_path)
    run = record()
    run.flips = find_flips(run, tmp_path)
    why = "NO LONGER JUDGED, the lesson ran to its end without a verdict on it"
    told = f"FLIPPED c: {why}; recorded 2026-01-02: SUPPORTED, 1 [0.9, 1.1], n = 8"
    assert told in format_table([run]) and told in page([run])


def test_a_run_is_recorded_on_purpose_only_and_a_flip_exits_with_3(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    kept = tmp_path / "kept" / ledger_file()
    monkeypatch.setattr(course_run, "ledger_dir", lambda: tmp_path / "kept")
    lesson = write(tmp_path / "01_a.ipynb", CLAIM % ("SUPPORTED", 1.0))
    words = ["run", str(lesson), "--out", "out"]

    assert cli.main(words) == 0 and not kept.exists()
    assert cli.main([*words, "--record"]) == 0 and kept.exists()
    write(lesson, CLAIM % ("SUPPORTED", 1.1))
    assert cli.main(words) == 0
    write(lesson, CLAIM % ("REFUTED", 1.5))
    assert cli.main(words) == 3
    assert "FLIPPED c: REFUTED, 1.5" in capsys.readouterr().out
    write(lesson, "1 + 1")
    assert cli.main(words) == 3
    assert "FLIPPED c: NO LONGER JUDGED" in capsys.readouterr().out
    write(lesson, CLAIM % ("REFUTED", 1.5))
    assert cli.main([*words, "--record"]) == 0  # the new verdict is taken for the right one
    assert cli.main(words) == 0
    write(lesson, CLAIM % ("SKIPPED", 1.5))
    capsys.readouterr()
    assert cli.main([*words, "--record"]) == 0
    assert "ledger: c was skipped, and keeps REFUTED of 20" in capsys.readouterr().out
    (judged,) = Record.load(kept).verdicts
    assert judged["verdict"] == "REFUTED"


def ledger_file():
    from nbkit.lab.machine import name_hardware

    one = replace(record(hardware=name_hardware()), lesson="a")
    return ledger._find_path(one, ledger_dir()).relative_to(ledger_dir())
