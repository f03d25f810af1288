"""The README stays true: what it names is there (its examples run in test_docstrings)."""

import json
import re
import shlex
import shutil
import tomllib
from pathlib import Path

import nbformat
import pytest
from course_notebooks import write

from nbkit.course.arguments import build_parser
from nbkit.course.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.M))))
def test_each_make_target_is_there(target):
    assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)


@pytest.mark.parametrize("target", ["run", "test"])
def test_the_first_screen_shows_what_it_prints(target):
    first = README.partition("\n## ")[0]
    assert re.search(rf"^`make {target}` prints[^\n]*\n\n```\n.+?\n```$", first, re.M | re.S)


def test_the_tree_names_files_that_exist():
    (tree,) = re.findall(r"```\n(nbkit/ .*?)```", README, re.DOTALL)
    folders, named = [], []
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        for name in re.findall(r"^ *((?:\S+ )+) ", line)[0].split():
            path = Path(*folders[:depth], name)
            named.append(path)
            if name.endswith("/"):
                folders[depth:] = [name]
    assert len(named) > 20
    assert [str(path) for path in named if not (ROOT / path).exists()] == []


def test_every_link_leads_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert links
    assert [link for link in links if "://" not in link and not (ROOT / link).exists()] == []


@pytest.mark.parametrize("name", ["README.md", "data/README.md"])
def test_what_is_installed_is_this_checkout_and_not_another_nbkit(name):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = {".", *(f".[{extra}]" for extra in project["optional-dependencies"])}
    lines = re.findall(r"pip install (?:--\S+ )*([^`\n]+)", (ROOT / name).read_text())
    assert lines and {shlex.split(line)[0] for line in lines} <= ours


COMMANDS = re.findall(r"^nbkit ([a-z]+.*?)(?: +#.*)?$", README, re.M)
COMMANDS += re.findall(r"`nbkit ([a-z]+[^`]*)`", README)


@pytest.mark.parametrize("words", [w for w in COMMANDS if "..." not in w])
def test_each_command_can_be_read(words):
    if words.split()[0] not in ("report", "run", "copy", "lab", "doctor", "new"):
        pytest.fail(f"nbkit has no command {words.split()[0]}")
    if len(words.split()) > 1 or words not in ("report", "copy"):  # these two are also named alone
        build_parser().parse_args(shlex.split(words.replace('"', "")))


def test_there_are_commands():
    assert len(COMMANDS) > 10


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A small course with the names and parameters that the README's commands have."""
    knobs = {"01_lr_finder": ("batch_size", "depth"), "04_clipping": ("max_norm",), "05_amp": ()}
    (tmp_path / "notebooks").mkdir()
    for lesson, names in knobs.items():
        path = write(tmp_path / "notebooks" / f"{lesson}.ipynb", "1", parameters=True)
        nb = nbformat.read(path, as_version=4)
        for name in names:
            nb.cells[1].source += f"\n{name}: float = 1.0  # a number"
            nb.cells[2].source = nb.cells[2].source.replace("lr=", f"{name}=log(0.1, 100), lr=")
        nbformat.write(nb, path)
    monkeypatch.setattr("nbkit.lab.shipped.lessons_dir", lambda: tmp_path / "notebooks")
    # These lessons judge none of the recorded claims.
    monkeypatch.setattr("nbkit.course.run.course_run.ledger_dir", lambda: tmp_path / "ledger")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_block_of_commands_does_what_it_says(course, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr("subprocess.call", lambda command: opened.append(command) or 0)
    (block,) = re.findall(r"```\n(nbkit doctor.*?)```", README, re.DOTALL)
    lines = block.splitlines()
    for line in lines:
        if line.startswith("nbkit report"):  # what somebody else has run
            shutil.copytree("runs/mine", "runs/yours")
        assert main(shlex.split(line, comments=True)[1:]) == 0, line
        said = capsys.readouterr().out
        if "--resume" in line:
            assert "done before, and kept: 01_lr_finder, 04_clipping, 05_amp\n" in said
    assert len(lines) > 10
    names = sorted(path.name for path in (course / "notebooks").iterdir())
    for folder in ("my-lessons", "source/week1"):
        assert sorted(path.name for path in Path(folder).iterdir()) == names
    assert len(opened) == 1 and str(course / "my-lessons") in " ".join(opened[0])
    assert "2 runs side by side" in Path("runs/both/report.md").read_text()
    records = [json.loads(path.read_text()) for path in course.glob("runs/*/*--*.json")]
    points = [(r["parameters"]["batch_size"], r["parameters"]["depth"]) for r in records]
    assert sorted(points) == [(16, 1), (16, 3), (64, 1), (64, 3)]


NUMBERS = ("Six", "Seven", "Eight", "Nine", "Ten", "Eleven", "Twelve")


def test_the_examples_to_take_home_are_as_short_as_promised():
    home = README.partition("## Take one function home")[2].partition("All of these rely on")[0]
    (number,) = re.findall(r"(\w+) examples of three to seven lines", home)
    _, *examples = re.findall(r"```python\n(.*?)```", home, re.DOTALL)  # the first is the network
    lengths = [len(re.findall(r"^(?:>>>|\.\.\.) ", text, re.M)) for text in examples]
    assert NUMBERS.index(number) == len(lengths) - 6 and min(lengths) == 3 and max(lengths) == 7


def test_each_technique_has_its_tests_and_a_line_in_the_tree():
    rooms = {path.parent.name for path in (ROOT / "nbkit").glob("*/__init__.py")}
    assert len(rooms) > 8
    assert [name for name in rooms if not list((ROOT / "tests" / name).glob("test_*.py"))] == []
    assert [name for name in rooms if f"\n  {name}/ " not in README] == []
