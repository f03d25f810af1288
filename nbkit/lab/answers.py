"""Ask a question with a few choices, and say whether the reader's choice is right."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import EllipsisType

from nbkit.lab.exercise import has_exercises

UNANSWERED = (..., "?")  # what stands in a copy for learners in place of a letter


@dataclass(frozen=True)
class Answer:
    """The answer to one question of a lesson, such as its bug hunt.

    Args:
        choices: the letter of each choice, `"abc"`.
        right: the letter of the right one.
        why: what makes it right; shown to a reader who has found it.
        hints: for a wrong letter, where to look again: `{"a": "look again at its first step."}`.
    Raises:
        ValueError: if there are fewer than two choices, a choice stands twice, the right one or a
            hint's is not among them, or a text is empty.
    """

    choices: str
    right: str
    why: str
    hints: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.choices) < 2 or len(set(self.choices)) < len(self.choices):
            raise ValueError(f"expected two or more different letters, got {self.choices!r}.")
        if len(self.right) != 1 or self.right not in self.choices:
            raise ValueError(
                f"expected the right choice to be one of {self.choices!r}, got {self.right!r}."
            )
        for letter in self.hints:
            if letter not in self.choices or letter == self.right:
                raise ValueError(f"expected hints for wrong choices only, got one for {letter!r}.")
        # An empty hint would print as `not a: `.
        for text in (self.why, *self.hints.values()):
            if not text.strip():
                raise ValueError(f"expected words for why and for each hint, got {text!r}.")

    def judge_choice(self, question: str, given: str | EllipsisType) -> str:
        """Return what to tell a reader who has chosen `given`.

        Args:
            question: the question's name, as the cell writes it.
            given: a letter, or `...` or "?" for none yet.
        Raises:
            ValueError: if it is neither a choice nor a sign for none.
        """
        first, *others = [f'"{letter}"' for letter in self.choices]
        if given in UNANSWERED:
            return f'not answered yet: lesson.answer("{question}", {first}), {_join_words(others)}'
        # `"ab"` is in "abc", too: a choice is one letter.
        if not isinstance(given, str) or len(given) != 1 or given not in self.choices:
            raise ValueError(
                f"expected {_join_words([first, *others])} for {question!r}, got {given!r}."
            )
        if given == self.right:
            return f"right: {self.why}"
        return f"not {given}: {self.hints.get(given, 'look again.')}"


def _join_words(words: list[str]) -> str:
    """Join words as in a sentence: `"a", "b" or "c"`."""
    if len(words) == 1:
        return words[0]
    return f"{', '.join(words[:-1])} or {words[-1]}"


def load_answers(lesson: str) -> dict[str, Answer]:
    """Load what `nbkit/lessons/<lesson>/exercise.py` declares as ANSWERS; empty if nothing."""
    if not has_exercises(lesson):
        return {}
    module = importlib.import_module(f"nbkit.lessons.{lesson}.exercise")
    answers: dict[str, Answer] = getattr(module, "ANSWERS", {})
    return answers


def load_answer(lesson: str, question: str) -> Answer:
    """Load the answer to one question of a lesson.

    Raises:
        ValueError: if the lesson has no question of that name; the message lists those it has.
    """
    answers = load_answers(lesson)
    if question not in answers:
        known = ", ".join(answers) or "none"
        raise ValueError(
            f"lesson {lesson!r} has no question {question!r}, only: {known}. A lesson of your own "
            f"hands over its `nbkit.lab.Answer`: lesson.answer({question!r}, ..., answer=Answer("
            f"...))."
        )
    return answers[question]
