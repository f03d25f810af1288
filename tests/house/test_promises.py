"""The rules of the house: what an import loads, and who may import whom."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "nbkit"
MODULES = sorted(PACKAGE.rglob("*.py"))
ROOMS = {"base", "lab", "lessons", "course"}
TECHNIQUES = {path.parent.name for path in PACKAGE.glob("*/__init__.py")} - ROOMS
# The rooms from the ground up: an import may point to the same room or to one before it.
ORDER = ("base", "technique", "lab", "lessons", "course")
# A function of a notebook cell cannot be imported by name: cloudpickle carries it to the processes.
CLOUDPICKLE = {"ddp/job.py", "ddp/worker.py"}


def loaded_by(statement: str) -> set[str]:
    """The packages that a statement loads in a fresh Python on top of torch's own."""
    code = (
        f"import sys, torch; before = set(sys.modules); {statement}; "
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(run.stdout.split())


def imports_of(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too; `from x import y` is `x.y`."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def is_module(name: str) -> bool:
    path = PACKAGE.parent / name.replace(".", "/")
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def room_of(name: str) -> str:
    """Which room a dotted name of nbkit belongs to; the top package counts as a technique."""
    room = name.split(".")[1] if "." in name else ""
    return room if room in ROOMS else "technique"


def dotted(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def forbidden(path: Path) -> set[str]:
    """What a module imports from nbkit although the house does not let it."""
    own = dotted(path)
    wrong = set()
    for name in imports_of(path):
        if not name.startswith("nbkit."):
            continue
        room = name.split(".")[1]
        if ORDER.index(room_of(name)) > ORDER.index(room_of(own)):
            wrong.add(name)
        # Of another technique only the face is imported: `nbkit.clipping`, never its modules.
        is_inside = room in TECHNIQUES and room != own.split(".")[1]
        if is_inside and (name.count(".") > 2 or (name.count(".") == 2 and is_module(name))):
            wrong.add(name)
    return wrong


def technique_imports() -> dict[str, set[str]]:
    """For each technique the other techniques that it imports."""
    found: dict[str, set[str]] = {}
    for technique in TECHNIQUES:
        names = set()
        for path in (PACKAGE / technique).glob("*.py"):
            names |= imports_of(path)
        rooms = {name.split(".")[1] for name in names if name.startswith("nbkit.")}
        found[technique] = (rooms & TECHNIQUES) - {technique}
    return found


def test_import_nbkit_loads_torch_and_the_standard_library_only():
    assert loaded_by("import nbkit") <= {"nbkit"} | sys.stdlib_module_names


def test_the_test_above_can_fail():
    assert not loaded_by("import nbkit, scipy") <= {"nbkit"} | sys.stdlib_module_names


@pytest.mark.parametrize("path", MODULES, ids=dotted)
def test_imports_point_down_and_to_faces(path):
    if path == PACKAGE / "__init__.py":  # the shop window shows every technique
        return
    assert forbidden(path) == set()


def test_the_rule_sees_an_arrow_upwards_and_one_past_a_face(tmp_path, monkeypatch):
    def planted(where, line):
        path = PACKAGE / where
        monkeypatch.setattr(Path, "read_text", lambda self: line)
        found = forbidden(path)
        monkeypatch.undo()
        return found

    assert planted("lab/data.py", "from nbkit.course.record import Record")
    assert planted("base/state.py", "from nbkit.clipping import ClipReport")
    assert planted("amp/amp.py", "from nbkit.clipping.rule import ClipRule")
    assert planted("amp/amp.py", "from nbkit.clipping import rule")
    assert not planted("amp/amp.py", "from nbkit.clipping import ClipRule")
    assert not planted("amp/amp.py", "from nbkit.amp import loss_scale")


def test_no_circle_among_techniques():
    waiting = technique_imports()
    assert waiting["amp"] == {"clipping"}  # the imports are found at all
    while waiting:
        ready = {name for name, needs in waiting.items() if not needs & set(waiting)}
        assert ready, f"these techniques import each other in a circle: {sorted(waiting)}"
        waiting = {name: needs for name, needs in waiting.items() if name not in ready}


@pytest.mark.parametrize(
    "path", [path for path in MODULES if room_of(dotted(path)) in ("base", "technique")], ids=dotted
)
def test_a_technique_imports_torch_and_the_standard_library(path):
    allowed = {"nbkit", "torch", "__future__"} | sys.stdlib_module_names
    allowed |= {"matplotlib"}  # in `plot`; that importing nbkit does not load it is tested above
    if str(path.relative_to(PACKAGE)) in CLOUDPICKLE:
        allowed.add("cloudpickle")
    assert {name for name in imports_of(path) if name.partition(".")[0] not in allowed} == set()


def test_no_module_has_an_underscore():
    named = [path for path in MODULES if path.name.startswith("_") and path.name != "__init__.py"]
    assert named == []
