"""Runs in folders: side by side, what is damaged, what was skipped; as page, Markdown and JSON."""

import base64
import io
import json
import os

import pytest
from PIL import Image
from test_course_report import MACHINE, VERDICT, Tags, record

from nbkit.course.report.markdown import escape_text
from nbkit.course.report.pictures import choose_pictures, collect_pictures, make_thumbnail
from nbkit.course.report.read import StoredRecord, read_record
from nbkit.course.report.write import format_table, write_report, write_reports
from nbkit.lab.evidence.register import all_claims

GPU = {**MACHINE, "hardware": "nvidia-h200", "gpu": "NVIDIA H200"}
REFUTED = {**VERDICT, "verdict": "REFUTED", "effect": 1.6, "interval": [1.4, 1.8]}
SKIPPED = {**VERDICT, "claim": "fast", "verdict": "SKIPPED", "reason": "needs cuda"}
FEW = {**VERDICT, "claim": "few", "verdict": "SKIPPED", "reason": "3 of the 8 seeds it needs"}


def png(width=1200, height=300, color="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), color).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def noise(size):
    buffer = io.BytesIO()
    Image.frombytes("L", (size, size), os.urandom(size * size)).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def shown(picture, **metadata):
    return {"data": {"image/png": picture}, "metadata": metadata}


def verdict_output(claim="near-best"):
    numbers = {"kind": "verdict", "claim": claim, "verdict": "SUPPORTED"}
    return {"data": {"text/plain": claim}, "metadata": {"nbkit": numbers}}


def notebook(*cells):
    told = [{"cell_type": "code", "outputs": list(outputs)} for outputs in cells]
    return json.dumps({"cells": [{"cell_type": "markdown"}, *told]})


def save(folder, *records, **texts):
    folder.mkdir(parents=True, exist_ok=True)
    for one in records:
        one.save(folder / f"{one.name}.json")
    for name, text in texts.items():
        (folder / f"{name}.ipynb").write_text(text)
        (folder / f"{name}.html").write_text("a page")
    return folder


@pytest.fixture
def two(tmp_path):
    """The same lesson on two machines: one claim they do not agree on, one only the GPU judges."""
    judged = {**VERDICT, "claim": "fast", "n": 30, "over": "timings"}
    here = record("01_a", status="ok", verdicts=[VERDICT, SKIPPED, FEW], seconds=10.0)
    flip = {"claim": "near-best", "now": REFUTED, "before": VERDICT, "recorded": "2026-01-02T03"}
    there = record("01_a", status="ok", verdicts=[REFUTED, judged], machine=GPU, flips=[flip])
    lesson = notebook([shown(png())], [verdict_output(), shown(png(color="blue"))])
    return [
        save(tmp_path / "runs" / "cpu", here, **{"01_a": lesson}),
        save(tmp_path / "runs" / "gpu run", there, record("02_b", status="ok", machine=GPU)),
    ]


def test_two_machines_stand_side_by_side(two, tmp_path):
    told = write_report(two, tmp_path / "out")
    assert [run.name for run in told.runs] == ["a chip", "NVIDIA H200"]
    assert told.title == "2 runs side by side: they agree on 0 claims, disagree on 1"
    first, fast, few = told.lessons[0].findings
    assert first.disagree and not fast.disagree and not few.disagree  # skipped is not judged
    assert [v and v["verdict"] for v in fast.verdicts] == ["SKIPPED", "SUPPORTED"]
    assert few.verdicts[1] is None
    assert told.lessons[1].sides[0] is None
    assert told.tests == 3  # one here, two there: all that is judged on the page

    text = (tmp_path / "out" / "index.html").read_text()
    words = " ".join(Tags(text).words)
    for phrase in (
        "The runs disagree: 1",
        "SUPPORTED  on a chip,  REFUTED  on NVIDIA H200",
        "Flipped against the ledger: 1",
        "on NVIDIA H200: FLIPPED near-best: REFUTED, 1.6 [1.4, 1.8], n = 8; recorded 2026-01-02",
        "1.04 [0.98, 1.12], n = 8 seeds",
        "NOT JUDGED",
        "NOT RUN",
    ):
        assert phrase in words
    assert text.count("class=differs") == 1
    assert text.count('data-name="NVIDIA H200"') == 5  # two lessons, three claims


def test_links_lead_from_the_report_to_each_run(two, tmp_path):
    write_report(two, tmp_path / "out")
    page, text = ((tmp_path / "out" / name).read_text() for name in ("index.html", "report.md"))
    links = [link for link in Tags(page).links if not link.startswith("#")]
    assert links and all((tmp_path / "out" / link.replace("%20", " ")).exists() for link in links)
    assert "../runs/cpu/01_a.html" in links and "../runs/gpu%20run/02_b.json" in links
    assert "](../runs/cpu/01_a.html)" in text and "](../runs/gpu%20run/02_b.json)" in text


def test_markdown_and_json_say_the_same(two, tmp_path):
    write_report(two, tmp_path / "out")
    text = (tmp_path / "out" / "report.md").read_text()
    for phrase in (
        "| claim | a chip | NVIDIA H200 |",
        "- **1 claim: needs cuda**: fast (a chip)",
        "**SUPPORTED** on a chip, **REFUTED** on NVIDIA",
        "**They disagree.** Training at 0 \\< lr is \\<best\\>.",
        "**REFUTED**<br>1.6 \\[1.4, 1.8\\]<br>n = 8 seeds",
        "- NVIDIA H200, FLIPPED near-best",
        "| 01\\_a | a chip | 10.0 s |  | memory not measured |",
        "3 tests on this page",
    ):
        assert phrase in text
    data = json.loads((tmp_path / "out" / "report.json").read_text())
    assert data["kind"] == "nbkit report"
    finding = data["lessons"][0]["findings"][0]
    assert finding["disagree"] is True
    assert [v["verdict"] for v in finding["verdicts"]] == ["SUPPORTED", "REFUTED"]
    assert finding["verdicts"][0]["p_holm"] == pytest.approx(0.003)
    assert data["lessons"][0]["sides"][1]["machine"]["gpu"] == "NVIDIA H200"
    assert [skip["reason"] for skip in data["skips"]] == ["needs cuda", "too few seeds"]


def test_runs_that_agree_say_so_and_alike_machines_have_names(two, tmp_path):
    told = write_report([two[0], two[0]], tmp_path / "out")
    assert told.title == "2 runs side by side: they agree on 1 claim"
    assert [run.name for run in told.runs] == ["a chip · cpu · 1", "a chip · cpu · 2"]
    other = save(tmp_path / "other", record("01_a", status="ok"))
    told = write_report([two[0], other], tmp_path / "out")
    assert [run.name for run in told.runs] == ["a chip · cpu", "a chip · other"]
    assert told.title == "2 runs side by side: no claim was judged in more than one"


def test_a_claim_that_no_longer_stands_is_named_with_its_run(two, tmp_path):
    weak = {**VERDICT, "p_value": 0.04}
    folders = []
    for name in ("one", "two"):
        point = record("01_a", status="ok", verdicts=[weak])
        folders.append(save(tmp_path / name, record("02_b", status="ok", verdicts=[weak])))
        point.save(folders[-1] / "01_a--lr=1.json")
    told = write_report(folders, tmp_path / "out")
    assert told.weakened == [
        f"near-best (a chip · {run}{point})"
        for run in ("one", "two")
        for point in (", 01_a--lr=1", "")
    ]
    alone = write_report(folders[:1], tmp_path / "out")
    assert alone.weakened == ["near-best (01_a--lr=1)", "near-best"]
    assert "near-best (01\\_a--lr=1), near-best." in (tmp_path / "out" / "report.md").read_text()


def test_what_else_differs_between_runs_is_said(two, tmp_path):
    other = record("01_a", status="ok", parameters={"lr": 1}, notebook_sha256="cd")
    told = write_report([two[0], save(tmp_path / "other", other)], tmp_path / "out")
    assert told.lessons[0].differs == ["parameters", "version of the lesson"]
    words = "Not the same in all runs: parameters, version of the lesson."
    assert words in (tmp_path / "out" / "index.html").read_text()
    assert words in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"lesson": "05', "not JSON"),
        ("[1]", "a JSON object was expected"),
        ("{}", "without lesson, parameters"),
        (lambda told: told | {"verdicts": [{"claim": "c"}]}, "verdicts has not all of claim, verd"),
        (lambda told: told | {"verdicts": "none"}, "verdicts is 'none'"),
        (lambda told: told | {"seconds": None}, "seconds is None"),
        (lambda told: told | {"verdicts": [VERDICT | {"p_value": 7.0}]}, "p-values lie between"),
        (lambda told: told | {"flips": [{"claim": "c"}]}, "flips has not all of"),
    ],
)
def test_a_damaged_record_is_named_and_the_others_are_reported(tmp_path, text, problem):
    folder = save(tmp_path / "run", record("01_a", status="ok", verdicts=[VERDICT]))
    if callable(text):
        text = json.dumps(text(json.loads((folder / "01_a.json").read_text())))
    (folder / "05_e.json").write_text(text)
    told = write_report([folder], folder)
    assert [lesson.title for lesson in told.lessons] == ["01_a"]
    (damaged,) = told.damaged
    assert damaged.file.endswith("05_e.json") and problem in damaged.problem
    for name in ("index.html", "report.md", "report.json"):
        assert "05" in (folder / name).read_text()
    assert write_report([folder], folder) == told  # its own report.json is no record


def test_a_notebook_that_nobody_recorded_is_named(tmp_path):
    folder = save(tmp_path / "run", record("02_b", status="ok"), **{"01_a": notebook()})
    told = write_report([folder], folder)
    assert told.damaged[0].problem == "an executed notebook without a record"
    assert told.title == "1 of 1 lesson ran"


@pytest.mark.parametrize(
    ("name", "problem"),
    [("package.json", "not a record: without lesson"), ("01_a.ipynb", "without a record")],
)
def test_a_folder_without_a_record_is_no_run_and_its_page_stays(tmp_path, name, problem):
    (tmp_path / name).write_text("{}")
    (tmp_path / "index.html").write_text("somebody's")
    with pytest.raises(ValueError, match=rf"has no records(?s:.*){name}: .*{problem}"):
        write_report([tmp_path], tmp_path)
    assert (tmp_path / "index.html").read_text() == "somebody's"


@pytest.mark.parametrize("name", ["index.html", "report.md", "report.json"])
def test_nobodys_page_is_written_over(two, tmp_path, name):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / name).write_text("{}")
    with pytest.raises(ValueError, match=f"{name} is not nbkit's and would be lost"):
        write_report(two, tmp_path / "site")
    assert [path.name for path in (tmp_path / "site").iterdir()] == [name]
    write_report(two, tmp_path / "out")
    write_report(two[:1], tmp_path / "out")  # its own gives way
    assert "a chip" in (tmp_path / "out" / "index.html").read_text()


def test_a_record_of_a_later_version_is_read(tmp_path):
    save(tmp_path, record("01_a", status="ok"))
    path = tmp_path / "01_a.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"new": 1, "peak_bytes": 3 * 2**30}))
    assert read_record(path).memory_mib == 3072
    assert write_report([tmp_path], tmp_path).runs[0].memory_mib == 3072
    words = " ".join(Tags((tmp_path / "index.html").read_text()).words)
    assert "12.3 s in all, 3.0 GiB of memory at most" in words and "12.3 s, 3.0 GiB" in words


def test_the_points_of_a_grid_have_the_names_of_their_files(tmp_path):
    save(tmp_path, record("01_a", status="ok"))
    (tmp_path / "01_a.json").rename(tmp_path / "01_a@lr=0.1.json")
    save(tmp_path, record("01_a", status="ok", parameters={"lr": 1}))
    told = write_report([tmp_path], tmp_path)
    assert [lesson.title for lesson in told.lessons] == ["01_a", "01_a@lr=0.1"]

    point = record("01_a", status="ok", seconds=99.0)
    point.name = "01_a@lr=0.1"  # where a record knows the name of its files
    told = write_reports([point], tmp_path)
    assert [lesson.title for lesson in told.lessons] == ["01_a", point.name]
    assert told.lessons[1].sides[0].seconds == 99.0  # what is at hand counts
    assert format_table([point]).splitlines()[1].startswith("01_a@lr=0.1 ")


def test_a_claim_that_is_judged_twice_is_shown_twice(tmp_path):
    told = write_reports([record("01_a", status="ok", verdicts=[VERDICT, REFUTED])], tmp_path)
    (lesson,) = told.lessons
    assert [f.verdicts[0]["verdict"] for f in lesson.findings] == ["SUPPORTED", "REFUTED"]


def test_what_a_lesson_that_failed_has_not_judged_is_counted(tmp_path):
    claims = [claim for claim in all_claims().values() if claim.lesson == "lr_finder"]
    first = {**VERDICT, "claim": claims[0].id}
    told = write_reports([record("01_lr_finder", verdicts=[first, FEW, FEW])], tmp_path)
    ended, few = sorted(told.skips, key=lambda skip: skip.reason)
    assert ended.reason == "the lesson did not come to its end"
    assert [skip["claim"] for skip in ended.claims] == [claim.id for claim in claims[1:]]
    assert (few.reason, len(few.claims)) == ("too few seeds", 2)
    text = (tmp_path / "index.html").read_text()
    assert f"Skipped, and why: {len(claims) + 1}" in text
    assert "few (3 of the 8 seeds it needs)" in text


def test_pictures_are_those_before_and_with_the_verdicts():
    cells = json.loads(
        notebook(
            [shown("early")],
            [shown("first"), shown(["fig", "ure"])],
            [shown("stops", nbkit={"kind": "stops"})],
            [],
            [verdict_output(), verdict_output("other"), shown("bars"), shown("own", **ALT)],
            [shown("after")],
            [shown("cards", nbkit={"kind": "cards"}, **ALT)],
        )
    )["cells"]
    assert choose_pictures(cells) == [
        ("figure", ""),
        ("bars", "Intervals and margins: near-best SUPPORTED, other SUPPORTED."),
        ("own", "in words"),
        ("cards", "in words"),
    ]
    assert choose_pictures(cells[:4]) == []  # without a verdict there is nothing to show


ALT = {"image/png": {"alt": "in words"}}


def test_a_picture_is_made_small():
    buffer = io.BytesIO()
    Image.new("RGBA", (1440, 100), (0, 0, 0, 0)).save(buffer, "PNG")
    small = make_thumbnail(base64.b64encode(buffer.getvalue()).decode(), alt="x", width=720)
    assert (small.width, small.height, small.alt) == (720, 50, "x")
    kind, _, data = small.source.partition(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert kind == "data:image/png;base64" and image.size == (720, 50)
    assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert make_thumbnail(png(10, 10), alt="").width == 10


def test_the_page_shows_pictures_with_words_and_a_link(two, tmp_path):
    write_report(two, tmp_path / "out")
    tags = Tags((tmp_path / "out" / "index.html").read_text())
    assert tags.alts == ["What 01_a measured.", "Intervals and margins: near-best SUPPORTED."]
    assert all(source.startswith("data:image/png;base64,") for source in tags.sources)
    assert tags.links.count("../runs/cpu/01_a.html") == 3  # in words and on each picture


def test_the_page_stays_small_and_says_what_it_left_out(tmp_path):
    big, names = noise(520), ["01_a", "02_b", "03_c", "04_d"]
    lesson = notebook([shown(big)], [verdict_output(), shown(big)])
    save(tmp_path, **dict.fromkeys(names, lesson))
    write_reports([record(name, status="ok") for name in names], tmp_path)
    text = (tmp_path / "index.html").read_text()
    count = text.count("<img")
    assert 1 <= count < 8 and len(text) < 1_500_000
    assert f"{8 - count} pictures had no room on this page." in text


def test_each_lesson_has_a_picture_before_one_has_two(tmp_path):
    lesson = notebook([shown(png())], [verdict_output(), shown(png())])
    save(tmp_path, **{"01_a": lesson, "02_b": lesson})
    run = [StoredRecord(name, record(name), tmp_path) for name in ("01_a", "02_b")]
    one = len(collect_pictures([run])[0][0, "01_a"][0].source)
    kept, damaged, left_out = collect_pictures([run], room=2 * one)
    assert [len(several) for several in kept.values()] == [1, 1]
    assert (damaged, left_out) == ([], 2)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not a notebook"),
        ("[]", "not a notebook"),
        ('{"cells": [7]}', "not a notebook"),
        (notebook([verdict_output(), shown("bm9uZQ==")]), "a picture cannot be read"),
        (notebook([verdict_output(), shown("§§§")]), "a picture cannot be read"),
    ],
)
def test_a_damaged_notebook_is_named(tmp_path, text, problem):
    save(tmp_path, record("01_a", status="ok"), **{"01_a": text})
    (damaged,) = write_report([tmp_path], tmp_path).damaged
    assert damaged.file.endswith("01_a.ipynb") and problem in damaged.problem


def test_markdown_has_no_markup_of_others():
    assert escape_text("a|b\n<i> *c* [d](e) `f` _g_ \\") == (
        "a\\|b \\<i\\> \\*c\\* \\[d\\](e) \\`f\\` \\_g\\_ \\\\"
    )
