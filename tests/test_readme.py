"""The README stays true: what it names is there (its examples run in test_docstrings)."""

import re
from pathlib import Path

import pytest

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
