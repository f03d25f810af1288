"""A cell run out of order is answered with a sentence; other errors keep their traceback."""

import pytest
from IPython.core.interactiveshell import InteractiveShell

from nbkit.lab.missing_names import explain_missing_names, show_missing_name


@pytest.fixture
def shell():
    shell = InteractiveShell()
    shell.set_custom_exc((NameError,), show_missing_name)
    return shell


def test_a_cell_without_its_name_fails_with_a_sentence(shell, capsys):
    result = shell.run_cell("verdict = measured + 1")
    said = capsys.readouterr().out
    assert isinstance(result.error_in_exec, NameError)
    assert "`measured` does not exist yet" in said and "Run All Above" in said
    assert "Traceback" not in said


def test_so_does_a_function_of_a_cell(shell, capsys):
    shell.run_cell("def fit():\n    return seeds\nfit()")
    assert "`seeds` does not exist yet" in capsys.readouterr().out


def test_a_name_that_a_module_lacks_keeps_its_traceback(shell, capsys, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text("def fit():\n    return absent\n")
    monkeypatch.syspath_prepend(tmp_path)
    shell.run_cell("import broken\nbroken.fit()")
    said = capsys.readouterr().out
    assert "Traceback" in said and "absent" in said and "does not exist yet" not in said


def test_other_errors_are_not_touched(shell, capsys):
    shell.run_cell("1 / 0")
    assert "ZeroDivisionError" in capsys.readouterr().out


def test_outside_of_a_notebook_nothing_happens():
    explain_missing_names()


def test_opening_a_lesson_is_enough(capsys):
    """In a kernel's shell, as a notebook opens it."""
    shell = InteractiveShell.instance()
    try:
        shell.run_cell("from nbkit.lab import Lesson\nlesson = Lesson('start_here')\nnot_yet")
        assert "`not_yet` does not exist yet" in capsys.readouterr().out
    finally:
        InteractiveShell.clear_instance()
