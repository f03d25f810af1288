"""The promises of the house: what an import loads, and that imports point downwards only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "nbkit"
TECHNIQUES = sorted(path for path in PACKAGE.glob("*.py") if path.name != "__init__.py")
# What techniques may share: saving and restoring, how a result prints, how gradients compare.
BASE = {"nbkit.state", "nbkit.report", "nbkit.equivalence"}
# A function of a notebook cell cannot be imported by name: cloudpickle carries it to the processes.
EXCEPTIONS = {"_ddp_launch": {"cloudpickle"}, "_ddp_worker": {"cloudpickle"}}
LAB = sorted((PACKAGE / "lab").rglob("*.py"))
COURSE = sorted((PACKAGE / "course").rglob("*.py"))


def loaded_by(statement: str) -> set[str]:
    """The packages that a statement loads in a fresh Python on top of torch's own."""
    code = (
        f"import sys, torch; before = set(sys.modules); {statement}; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= (
                whole if node.module in ("nbkit", "nbkit.lab", "nbkit.course") else {node.module}
            )
    return found


def test_import_nbkit_loads_torch_and_the_standard_library_only():
    assert loaded_by("import nbkit") <= {"nbkit"} | sys.stdlib_module_names


def test_the_test_above_can_fail():
    assert not loaded_by("import nbkit, scipy") <= {"nbkit"} | sys.stdlib_module_names


@pytest.mark.parametrize("path", TECHNIQUES, ids=lambda path: path.stem)
def test_a_technique_imports_torch_and_the_standard_library(path):
    """And no other technique: what two of them share is private (`_forward`) or in the base."""
    allowed = {"torch", "__future__"} | sys.stdlib_module_names | EXCEPTIONS.get(path.stem, set())
    allowed |= {"matplotlib"}  # in `plot`; that importing nbkit does not load it is tested above
    outside = {name for name in imports_of(path) if name.partition(".")[0] not in allowed}
    shared = ("nbkit._", "nbkit.base.")
    assert {name for name in outside - BASE if not name.startswith(shared)} == set()


@pytest.mark.parametrize(
    "path", sorted((PACKAGE / "base").glob("*.py")), ids=lambda path: path.stem
)
def test_the_base_knows_no_technique(path):
    ours = {name for name in imports_of(path) if name.partition(".")[0] == "nbkit"}
    assert all(name.startswith("nbkit.base.") for name in ours)


@pytest.mark.parametrize("path", LAB, ids=lambda path: path.stem)
def test_the_lab_does_not_import_the_course(path):
    assert not {name for name in imports_of(path) if name.startswith("nbkit.course")}


def test_the_imports_are_found_at_all():
    assert "nbkit.lab.claims" in imports_of(PACKAGE / "lab" / "plots.py")
    assert "nbkit.lab.explore" in imports_of(PACKAGE / "lab" / "lesson.py")
    assert len(TECHNIQUES) >= 2 and len(LAB) >= 10 and COURSE
