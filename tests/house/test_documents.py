"""The small documents: what they name is there, what they promise runs, and linters read them."""

import hashlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import nbkit

ROOT = Path(__file__).parents[2]
COMMANDS = re.compile(r"^(?:- run: )?make ([a-z ]+?)(?:  .*)?$|`make ([a-z]+)`", re.M)


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", ".github/workflows/course.yml", ".ci/run"])
def test_each_make_target_can_be_made(name):
    text = (ROOT / name).read_text().replace("      - run", "- run")
    targets = {t for found in COMMANDS.findall(text) for t in " ".join(found).split()}
    assert targets
    for target in targets:  # -n: what it would do, without doing it
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_a_target_that_is_not_there_would_be_found():
    assert subprocess.run(["make", "-n", "nothing"], cwd=ROOT, capture_output=True).returncode


@pytest.mark.parametrize("torch", ["torch==2.13.0+cpu", "torch @ file:///torch.whl"])
def test_lock_pins_all_but_torch_and_what_comes_with_it(tmp_path, torch):
    """Run with a pip whose answer is known."""
    kept = ["torch-lr-finder==0.2.2", "tornado==6.6.1", "tqdm==4.70.1"]
    left = [torch, "triton==3.5.0", "nvidia-cublas==13.0.1", "cuda-bindings==13.0.3"]
    (tmp_path / ".ci").mkdir()
    head = "".join((ROOT / ".ci/constraints.txt").read_text().splitlines(keepends=True)[:2])
    (tmp_path / ".ci/constraints.txt").write_text(f"{head}old==1\n")
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv/.has-bench").touch()  # installed since
    (tmp_path / "python").write_text("#!/bin/sh\n" + "".join(f"echo '{x}'\n" for x in left + kept))
    (tmp_path / "python").chmod(0o755)
    words = ["make", "-f", str(ROOT / "Makefile"), f"BIN={tmp_path}", "lock"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / ".ci/constraints.txt").read_text() == head + "\n".join([*kept, ""])


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("vendor.github-workflows", ".github/workflows/course.yml"),
        ("vendor.citation-file-format", "CITATION.cff"),
    ],
)
def test_a_linter_reads_it(schema, file):
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, str(ROOT / file)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_workflow_s_paths_are_there():
    text = (ROOT / ".github/workflows/course.yml").read_text()
    assert "python tests/notebooks/nbval_strict.py" in text
    for path in ("tests/notebooks/nbval_strict.py", ".ci/constraints.txt", "pyproject.toml"):
        assert path in text and (ROOT / path).exists()


def test_the_version_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == nbkit.__version__
    assert f"\nversion: {nbkit.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {nbkit.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_the_licence_is_apache_s_own_text():
    text = (ROOT / "LICENSE").read_bytes()
    # As apache.org/licenses/LICENSE-2.0.txt and Debian's common-licenses have it.
    wanted = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    assert hashlib.sha256(text).hexdigest() == wanted
    assert "license: Apache-2.0" in (ROOT / "CITATION.cff").read_text()


def test_the_changelog_names_what_is_there():
    names = re.findall(r"`([a-z_]+_?|Amp)`", (ROOT / "CHANGELOG.md").read_text())
    commands = {"lab", "copy", "report", "doctor"}
    assert len(names) > 15
    assert [name for name in names if name not in commands and not hasattr(nbkit, name)] == []


def test_the_pages_of_the_api_hold_every_public_name(tmp_path):
    words = [sys.executable, "-m", "pdoc", "--docformat", "google", "--output-directory", tmp_path]
    done = subprocess.run([*words, "nbkit"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "nbkit.html").read_text()
    assert [name for name in nbkit.__all__ if f'id="{name}"' not in page] == []
