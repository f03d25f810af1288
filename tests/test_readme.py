"""The README stays true: what it names is there (its examples run in test_docstrings)."""

import json
import re
import shlex
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from nbkit.course.cli import _parser
from nbkit.lab.claims import load_claims

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"(?:^|`)make ([a-z]+)", README, re.M))))
def test_each_make_target_is_there(target):
    assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE)


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


def test_every_lesson_is_in_the_table():
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        assert f"(notebooks/{path.name})" in README
        assert load_claims(path.stem)


ROWS = re.findall(r"^\| \[(\d\d) (\w+)\]\(.*?\) \| .+ \| (\d+) \| .+ \| (.+) \|$", README, re.M)


def test_the_table_says_the_minutes_and_the_recorded_verdicts():
    assert len(ROWS) == len(list((ROOT / "notebooks").glob("*.ipynb")))
    for number, name, minutes, verdicts in ROWS:
        lesson = f"{number}_{name}"
        first = json.loads((ROOT / "notebooks" / f"{lesson}.ipynb").read_text())["cells"][0]
        assert f"*{minutes} minutes ·" in "".join(first["source"]), lesson
        record = json.loads((ROOT / "data/ledger/cpu" / f"{lesson}.json").read_text())
        counts = Counter(verdict["verdict"] for verdict in record["verdicts"])
        words = ("SUPPORTED", "REFUTED", "INCONCLUSIVE", "SKIPPED")
        told = ", ".join(f"{counts[word]} {word.lower()}" for word in words if counts[word])
        assert verdicts == told, lesson


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
    if words.split()[0] not in ("report", "run", "copy", "lab", "doctor"):
        pytest.fail(f"nbkit has no command {words.split()[0]}")
    if len(words.split()) > 1 or words not in ("report", "copy"):  # these two are also named alone
        _parser().parse_args(shlex.split(words.replace('"', "")))


def test_there_are_commands():
    assert len(COMMANDS) > 10
