"""What a learner is to fill in is taken out of a cell, and nothing else changes."""

import pytest

from nbkit.course.answer_cells import remove_choices
from nbkit.lab.cell_text import CellError


@pytest.mark.parametrize(
    ("source", "left"),
    [
        ('lesson.predict("c", guess=0.4, confidence=75)', 'lesson.predict("c")'),
        ('lesson.predict(claim="c", confidence=75, guess=1)', 'lesson.predict(claim="c")'),
        ('lesson.predict(\n    "c",\n    guess=0.4,\n    confidence=75,\n)', 'lesson.predict("c")'),
        ('lesson.answer("bug", "b")', 'lesson.answer("bug", ...)'),
        ('lesson.answer("bug", choice="b")', 'lesson.answer("bug", choice=...)'),
        ('lesson.answer("bug", "b", answer=MINE)', 'lesson.answer("bug", ..., answer=MINE)'),
        ('lesson.answer("bug", letter)', 'lesson.answer("bug", ...)'),
        ('lesson.answer("bug", ...)', None),
        ('lesson.answer("bug", "?")', 'lesson.answer("bug", ...)'),
        ('lesson.predict("c")', None),
        ("model.predict(x, y)", None),
        ('if x:\n    mine.answer("α", "b")  # ω', 'if x:\n    mine.answer("α", ...)  # ω'),
        ('x = "αβγ"; l.answer("q", "a"); l.answer("r", "b")',
         'x = "αβγ"; l.answer("q", ...); l.answer("r", ...)'),
        ('%matplotlib inline\n!ls\nlesson.answer("q", "a")',
         '%matplotlib inline\n!ls\nlesson.answer("q", ...)'),
        ("%%bash\ncurl x.answer(1", None),
        ("this is no Python (", None),
    ],
)  # fmt: skip
def test_only_choices_go(source, left):
    assert remove_choices(source) == (source if left is None else left)


@pytest.mark.parametrize("source", ['lesson.answer("q", "a"', '\n\nx.predict("c", guess=)'])
def test_a_cell_that_cannot_be_read_is_said(source):
    with pytest.raises(CellError, match="expected Python"):
        remove_choices(source)


def test_a_cell_whose_lines_ipython_shifts_is_said():
    """IPython takes the indentation of a whole cell away; then places in the text are unknown."""
    with pytest.raises(CellError, match="Take the magics out of this cell"):
        remove_choices('    %time\n    lesson.answer("q", "a")')
