"""Lessons that have the second anatomy keep it, and each rule can fail.

A lesson that is reworked is added to REWORKED; older lessons are held by tests/notebooks alone.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parent))

import anatomy
import pytest
from anatomy import RULES, count_acts
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nbkit.course.lessons import read_notebook
from nbkit.lab.answers import load_answers
from nbkit.lab.curriculum import read_course
from nbkit.lab.evidence.register import load_claims
from nbkit.lab.shipped import LESSONS, lessons_dir

REWORKED: set[str] = {
    "amp",
    "batchnorm",
    "clipping",
    "accumulation",
    "ddp",
    "embeddings",
    "initialization",
    "lr_finder",
    "start_here",
    "weight_norm",
}
ENTRIES = {entry.word: entry for entry in read_course()}


def read_lesson(word):
    """What the rules look at: the notebook, its claims, and the text of its modules."""
    files = [*(LESSONS / word).glob("*.py"), LESSONS / word / "claims.toml"]
    return {
        "nb": read_notebook(lessons_dir() / f"{ENTRIES[word].stem}.ipynb"),
        "claims": load_claims(word),
        "modules": [file.read_text() for file in files],
    }


def test_reworked_lessons_are_in_the_course():
    assert REWORKED - set(ENTRIES) == set()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_each_reworked_lesson_has_the_anatomy(rule):
    faults = {word: rule(**read_lesson(word)) for word in sorted(REWORKED)}
    assert {word: found for word, found in faults.items() if found} == {}


def test_each_reworked_lesson_asks_a_question_and_has_a_hint_for_each_wrong_letter():
    for word in sorted(REWORKED):
        answers = load_answers(word)
        assert answers, f"{word} has no ANSWERS in its exercise.py"
        for answer in answers.values():
            assert set(answer.hints) == set(answer.choices) - {answer.right}, word


def test_the_right_letters_of_the_lessons_differ():
    answers = [answer for word in sorted(REWORKED) for answer in load_answers(word).values()]
    assert anatomy.check_letters(answers) == []


FOLDED = {"jupyter": {"source_hidden": True}}


def make_lesson(**changed):
    """A made-up lesson without a fault; `changed` replaces the source of a cell, None drops it."""
    sources = {
        "title": "# 1 · A title " + "word " * 300,
        "open": "from nbkit.lab import Lesson\n\nlesson = Lesson('x')",
        "parameters": "lr: float = 0.25  # step size",
        "guard": "lesson.knobs(lr=log(0.1, 1))",
        "lab": "lesson.explore(fit)",
        "text": "word " * 150 + "<details>" + "word " * 300 + "</details>\n| a | row |",
        "predict": "lesson.predict('c')",
        "build": "@lesson.exercise('f')\ndef f(x):\n    return x",
        "measure": "chosen = tuned(make, data, arms, lrs, seeds)",
        "cards": "lesson.cards()",
        "why": "1  # your turn: 2",
        "bug": "lesson.answer('bug', 'b')",
    } | changed
    cells = []
    for name, source in sources.items():
        if source is None:
            continue
        make = new_markdown_cell if name in ("title", "text") else new_code_cell
        cells.append(make(source, id=name, metadata=FOLDED if name in ("open", "guard") else {}))
    return new_notebook(cells=cells)


def make_claim(name="c", **fields):
    plain = {"task": "t", "baseline": "b", "axis": (0.5, 2.0), "measure": "ratio", "over": "seeds"}
    return SimpleNamespace(**{"id": name, "deterministic": False} | plain | fields)


def find_faults(rule, nb, claims=None, modules=()):
    claims = [make_claim()] if claims is None else claims
    return rule(nb=nb, claims={claim.id: claim for claim in claims}, modules=modules)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_a_lesson_as_it_should_be_has_no_fault(rule):
    assert find_faults(rule, make_lesson()) == []


@pytest.mark.parametrize(
    ("rule", "changed", "fault"),
    [
        ("size", {str(n): "1" for n in range(17)}, ["29 cells"]),
        ("size", {"why": "1\n" * 13}, ["why: 13 lines"]),
        ("opening", {"open": "import a\nimport b\nimport c\nlesson = Lesson('x')"}, ["open: 4 l"]),
        ("opening", {"open": "import a"}, ["open does not open the lesson"]),
        ("opening", {"guard": None}, ["0 guards"]),
        ("opening", {"why": "lesson.knobs(lr=log(0.1, 1))"}, ["2 guards", "why is not folded"]),
        ("play_first", {"lab": "1"}, ["no live lab in the first 5 cells"]),
        ("play_first", {"lab": "# lesson.explore(fit)"}, ["no live lab in the first 5 cells"]),
        ("play_first", {"parameters": "x: int = 1\n" * 15}, ["15 lines before the lab"]),
        ("play_first", {"lab": "x = 1\n" * 14 + "lesson.explore(fit)"}, ["15 lines before the"]),
        ("acts", {"predict": "1", "lab": "1", "why": "1"}, ["2 acts in 10 code cells"]),
        ("cards", {"cards": "1"}, ["0 calls of lesson.cards()"]),
        ("cards", {"why": "lesson.cards()"}, ["2 calls of lesson.cards()"]),
        ("text", {"text": "word " * 151}, ["text: 151 words"]),
        ("tuning", {"measure": "untuned(make)"}, ["no call of tuned() for c"]),
    ],
)  # fmt: skip
def test_a_rule_finds_its_fault(rule, changed, fault):
    found = find_faults(getattr(anatomy, f"check_{rule}"), make_lesson(**changed))
    assert [text[: len(start)] for text, start in zip(found, fault, strict=True)] == fault


def test_an_unfolded_opening_is_found():
    nb = make_lesson()
    nb.cells[1].metadata = {"jupyter": {"source_hidden": False}}
    assert find_faults(anatomy.check_opening, nb) == ["open is not folded"]


@pytest.mark.parametrize(
    ("source", "acts"),
    [
        ("lesson.predict('c')", 1),
        ("lesson.explore(fit)\nlesson.explore(fit)", 1),  # cells are counted, not calls
        ("%matplotlib inline\nlesson.answer('bug', ...)", 1),
        ("lr = 0.3  # your turn: another lr", 1),
        ("# lesson.predict('c')", 0),
        ("text = \"lesson.predict('c')\"", 0),
        ("model.predict(x)", 0),
        ("lesson.verdict('c', ratio)", 0),
        ("text = '# your turn'", 0),
        ("x = 1  # it was your turn before", 0),
    ],
)
def test_what_counts_as_an_act(source, acts):
    assert count_acts(new_notebook(cells=[new_code_cell(source), new_code_cell("1")])) == acts


def test_faults_of_claims_are_found():
    claims = [make_claim(name) for name in "abcd"]
    claims[0].task, claims[1].axis = None, None
    found = find_faults(anatomy.check_claims, make_lesson(), claims)
    assert found == ["4 claims", "a has no task", "b has no axis"]
    exact = make_claim(measure="equality", axis=None)
    assert find_faults(anatomy.check_claims, make_lesson(), [exact]) == []


def test_what_is_timed_or_counted_needs_no_tuning():
    nb = make_lesson(measure="1")
    for fields in ({"over": "timings"}, {"measure": "equality"}, {"deterministic": True}):
        assert find_faults(anatomy.check_tuning, nb, [make_claim(**fields)]) == []
    assert find_faults(anatomy.check_tuning, nb, modules=["return tuned(make, data)"]) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("lr 0.25: learned, nbkit 0.1.0, 8 of 8", []),
        ("a ratio of -0.2500", []),
        ("margin 1.5 of the claims file", []),
        ("a ratio of 0.731", ["why prints 0.731"]),
        ("loss 7e-13", ["why prints 7e-13"]),
    ],
)
def test_a_float_that_stands_nowhere_in_the_lesson_was_measured(text, found):
    nb = make_lesson()
    (cell,) = [cell for cell in nb.cells if cell.id == "why"]
    kinds = {
        "stream": new_output("stream", text=text),
        "plain": new_output("display_data", data={"text/plain": text}),
        "markdown": new_output("display_data", data={"text/markdown": text}),
    }
    for output in kinds.values():
        cell.outputs = [output]
        assert find_faults(anatomy.check_floats, nb, modules=["margin = 1.5"]) == found
    cell.metadata["tags"] = ["nbval-ignore-output"]
    assert find_faults(anatomy.check_floats, nb, modules=["margin = 1.5"]) == []


def test_one_letter_for_all_is_found():
    right = [SimpleNamespace(right=letter) for letter in "bbc"]
    assert anatomy.check_letters(right) == [] and anatomy.check_letters(right[:1]) == []
    assert anatomy.check_letters(right[:2]) == ["the right answer is b in all 2 lessons"]
