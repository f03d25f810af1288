"""The code stays readable: bounds on what figures.py counts, and a check that it counts at all."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pytest
from figures import PACKAGE, count_figures

PLANTED = '''
"""A docstring is no code."""
def run(x):  # one comment
    return [y for y in x]


class Thing:
    """Neither is this."""

    def give_back(self):
        return 1
'''


@pytest.fixture(scope="module")
def figures():
    return count_figures(sorted(PACKAGE.rglob("*.py")))


def test_most_function_names_have_a_verb_and_an_object(figures):
    assert figures.one_word_percent <= 40


def test_one_name_means_one_thing(figures):
    assert len(figures.doubles) <= 10, sorted(figures.doubles)


def test_the_code_says_why(figures):
    assert figures.comments_per_100 >= 8


def test_a_loop_stands_where_a_comprehension_would_be_dense(figures):
    assert figures.comprehensions_per_1000 <= 20


def test_functions_and_files_are_short(figures):
    assert figures.long_functions == [] and figures.long_files == []


def test_what_is_counted(tmp_path):
    (tmp_path / "a.py").write_text(PLANTED)
    (tmp_path / "b.py").write_text("def run():\n" + "    x = 1\n" * 41 + "\n" * 300)
    found = count_figures(sorted(tmp_path.iterdir()))
    assert found.names == ["run", "give_back", "run"] and found.one_word == ["run", "run"]
    assert set(found.doubles) == {"run"}
    assert (found.comments, found.comprehensions) == (1, 1)
    assert found.code_lines == 5 + 42
    assert len(found.long_functions) == 1 and len(found.long_files) == 1
