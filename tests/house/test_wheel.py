"""What `pip install nbkit` brings: the wheel, built as pip builds it, from this checkout."""

import hashlib
import subprocess
import sys
from email.parser import BytesParser
from pathlib import Path
from zipfile import ZipFile

import pytest

from nbkit.lab.data import DIGITS_SHA256

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, open; pip fetches the build backend."""
    folder = tmp_path_factory.mktemp("wheel")
    words = ["pip", "wheel", "--no-deps", "--quiet", "--wheel-dir", str(folder), str(ROOT)]
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("nbkit-*.whl")
    with ZipFile(path) as opened:
        yield opened


def test_lessons_claims_data_and_ledger_are_inside(wheel):
    there = [ROOT / "data/digits.npz"]
    there += [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("data/ledger/*/*.json")]
    assert len(there) > 10
    for path in there:
        assert wheel.read(f"nbkit/share/{path.relative_to(ROOT)}") == path.read_bytes(), path
    digits = wheel.read("nbkit/share/data/digits.npz")
    assert hashlib.sha256(digits).hexdigest() == DIGITS_SHA256


def test_what_lies_beside_the_modules_is_inside(wheel):
    beside = [*ROOT.glob("nbkit/lessons/**/*.toml"), *ROOT.glob("nbkit/course/template/*.txt")]
    assert len(beside) > 20
    for path in beside:
        assert wheel.read(str(path.relative_to(ROOT))) == path.read_bytes(), path


def test_every_module_is_inside_and_nothing_of_the_tests(wheel):
    names = set(wheel.namelist())
    assert {str(path.relative_to(ROOT)) for path in (ROOT / "nbkit").rglob("*.py")} <= names
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"nbkit"}
    files = {path.name for path in (ROOT / "tests").rglob("*.py")}
    assert [n for n in names if "tests/" in n or n.rsplit("/")[-1] in files] == []


def test_it_asks_for_torch_only_unless_extras_are_named(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    asked = BytesParser().parsebytes(wheel.read(name)).get_all("Requires-Dist")
    (plain,) = (words for words in asked if "extra ==" not in words)
    assert plain.startswith(("torch<", "torch>"))
    assert any("papermill" in words and "extra == 'lab'" in words for words in asked)
