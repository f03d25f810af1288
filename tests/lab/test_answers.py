"""A question with choices: a wrong letter gets its hint, the right one its reason."""

import pytest

from nbkit.lab import answers as module
from nbkit.lab.answers import Answer
from nbkit.lab.lesson import Lesson

BUG = Answer(
    choices="abc",
    right="c",
    why="c counts one step too many.",
    hints={"a": "look again at its first value."},
)


@pytest.fixture
def ask(monkeypatch, capsys):
    """Answer the question "smoothing" of lesson 0; what the cell prints."""
    monkeypatch.setattr(module, "load_answers", lambda lesson: {"smoothing": BUG})
    lesson = Lesson("start_here", {})
    capsys.readouterr()

    def answer(*choice, question="smoothing"):
        lesson.answer(question, *choice)
        return capsys.readouterr().out

    return answer


def test_the_right_letter_gets_the_reason(ask):
    assert ask("c") == "right: c counts one step too many.\n"


def test_a_wrong_letter_gets_its_hint(ask):
    assert ask("a") == "not a: look again at its first value.\n"
    assert ask("b") == "not b: look again.\n"  # it has no hint of its own


@pytest.mark.parametrize("nothing", [..., "?"])
def test_before_the_reader_chooses_it_says_how_to(ask, nothing):
    assert ask(nothing) == 'not answered yet: lesson.answer("smoothing", "a"), "b" or "c"\n'


@pytest.mark.parametrize("wrong", ["d", "ab", "", "C", None, 1])
def test_what_is_no_choice_is_refused(ask, wrong):
    with pytest.raises(ValueError, match=r'expected "a", "b" or "c" for \'smoothing\', got '):
        ask(wrong)


def test_an_unknown_question_is_named_with_those_there_are(ask):
    with pytest.raises(ValueError, match=r"no question 'bug', only: smoothing\. A lesson of your"):
        ask("a", question="bug")
    with pytest.raises(ValueError, match=r"no question 'bug', only: smoothing"):
        ask(..., question="bug")  # nothing is asked, and that is not silent


def test_a_lesson_of_one_s_own_hands_its_answer_over(tmp_path, capsys):
    fields = 'sentence = "s."\nsource = "s"\nmetric = "m"\nmeasure = "equality"\nn = 8\n'
    (tmp_path / "own.toml").write_text(f'[c]\nlesson = "own"\n{fields}')
    lesson = Lesson("own", {}, claims=tmp_path / "own.toml")
    lesson.answer("which", "c", answer=BUG)
    assert capsys.readouterr().out.endswith("right: c counts one step too many.\n")
    with pytest.raises(ValueError, match="has no question 'which', only: none"):
        lesson.answer("which", "c")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"choices": "a"}, "two or more different letters, got 'a'"),
        ({"choices": "aab"}, "two or more different letters, got 'aab'"),
        ({"right": "d"}, "the right choice to be one of 'abc', got 'd'"),
        ({"right": "ab"}, "the right choice to be one of 'abc', got 'ab'"),
        ({"hints": {"c": "x"}}, "hints for wrong choices only, got one for 'c'"),
        ({"hints": {"d": "x"}}, "hints for wrong choices only, got one for 'd'"),
        ({"hints": {"a": " "}}, "words for why and for each hint, got ' '"),
        ({"why": ""}, "words for why and for each hint, got ''"),
    ],
)
def test_an_answer_that_makes_no_sense_is_refused(fields, message):
    good = {"choices": "abc", "right": "c", "why": "because.", "hints": {"a": "look."}}
    with pytest.raises(ValueError, match=message):
        Answer(**good | fields)
