"""What a run has to do: a task for each lesson and point of a grid, checked before any starts."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from urllib.parse import quote

import nbkit
from nbkit.course.companions import list_companions, read_bytes
from nbkit.course.kernel.client import CELL_SECONDS
from nbkit.course.lessons import LessonError, check_parameters
from nbkit.course.record import OK, WAITING, Record
from nbkit.course.run.leftovers import (
    DAMAGED,
    FOREIGN,
    OWN,
    holds_something,
    look_at_notebook,
    look_at_record,
)
from nbkit.lab import shipped
from nbkit.lab.curriculum import word_of
from nbkit.lab.knobs import KnobError, Value

MAX_NAME_BYTES = 200  # a disk takes 255, and files add up to 12 to a name


@dataclass(frozen=True)
class Task:
    """One lesson with checked values, and where its files go: all that another machine needs."""

    path: Path
    out: Path
    name: str
    values: dict[str, Value] = field(default_factory=dict)
    timeout: float = CELL_SECONDS
    environment: dict[str, str] = field(default_factory=dict)  # for the kernel
    per_gpu: int = 1  # lessons on one GPU at a time; 0: leave the GPUs alone
    token: tuple[Path, str] | None = None  # a file, and what is in it while the run goes on
    nbkit: str = nbkit.__version__

    @property
    def lesson(self) -> str:
        """The lesson's word: the stem of the notebook without the number."""
        return word_of(self.path.stem)

    @property
    def notebook(self) -> Path:
        """The executed notebook."""
        return self.out / f"{self.name}.ipynb"

    @property
    def part(self) -> Path:
        """The executed notebook while it grows."""
        return self.out / f".{self.name}.part.ipynb"

    @property
    def page(self) -> Path:
        """The executed notebook as HTML."""
        return self.out / f"{self.name}.html"

    @property
    def record_path(self) -> Path:
        """The record's file."""
        return self.out / f"{self.name}.json"

    def stopped(self) -> bool:
        """Whether the run that this is part of has been stopped, or another has taken its place."""
        if self.token is None:
            return False
        file, text = self.token
        try:
            return file.read_text() != text
        except FileNotFoundError:
            return True
        except OSError:  # a shared disk may hiccup
            return False

    def record(self, **facts: object) -> Record:
        """A record of this task, with the attempts at it that were cut off."""
        earlier = Record.find(self.record_path)
        same = earlier is not None and self._is_of(earlier)
        return Record(
            **{
                "lesson": self.lesson,
                "parameters": dict(self.values),
                "nbkit": nbkit.__version__,
                "notebook_sha256": lesson_sha256(self.path),
                "started": "",
                "machine": {},
                "status": WAITING,
                "name": self.name,
                "code_sha256": code_sha256(),
                "attempts": earlier.cut_off() if earlier and same else [],
                **facts,
            }  # type: ignore[arg-type]
        )

    def done(self) -> Record | None:
        """The record of an earlier run that did just this, and whose files are all there."""
        earlier = Record.find(self.record_path)
        there = _is_json(self.notebook) and holds_something(self.page)
        if earlier is not None and earlier.status == OK and there and self._is_of(earlier):
            return earlier
        return None

    def clear(self) -> None:
        """Remove what earlier runs have left, except for the record."""
        for earlier in (self.notebook, self.part, self.page):
            earlier.unlink(missing_ok=True)

    def _is_of(self, record: Record) -> bool:
        """Whether a record is of this very task: parameters, lesson and nbkit are the same."""
        return (
            record.lesson == self.lesson
            and record.name == self.name
            and record.parameters == self.values
            and record.nbkit == nbkit.__version__
            and record.code_sha256 == code_sha256()
            and record.notebook_sha256 == lesson_sha256(self.path)
        )


def plan(
    lessons: Sequence[Path],
    out: Path,
    given: Mapping[str, object],
    grid: Mapping[str, Sequence[object]] | None = None,
    *,
    timeout: float = CELL_SECONDS,
    environment: Mapping[str, str] | None = None,
    per_gpu: int = 1,
) -> list[Task]:
    """A task for each lesson; with a grid, for each lesson at each point.

    Args:
        lessons: paths of notebooks.
        out: the folder for what they leave.
        given: parameters for each of the lessons; text is read by the declared type.
        grid: values by parameter; the points are all combinations.
        timeout: seconds that one cell may take.
        environment: variables for the kernels.
        per_gpu: number of lessons that may share a GPU; 0 lets every lesson see all GPUs.
    Raises:
        KnobError: if a lesson does not take one of the parameters.
        LessonError: if two tasks, or a task and somebody's work, would share a file.
    """
    if out.exists() and not out.is_dir():
        raise LessonError(f"{out} is a file: choose a folder for the outputs.")
    out = out.absolute()
    tasks = []
    for path in (path.absolute() for path in lessons):
        for name, values in _points(path, given, grid or {}):
            tasks.append(Task(path, out, name, values, timeout, dict(environment or {}), per_gpu))
    names = [task.name for task in tasks]
    for task in tasks:
        if names.count(task.name) > 1:
            raise LessonError(f"two lessons are called {task.name}: run them one after the other.")
        check_place(task)
    return tasks


def read_grid(texts: Sequence[str]) -> dict[str, list[str]]:
    """The values by parameter that `NAME=V1,V2,...` mean.

    >>> read_grid(["lr=0.1,1", "depth=2"])
    {'lr': ['0.1', '1'], 'depth': ['2']}

    Raises:
        KnobError: if one is not of this form, or a name comes twice.
    """
    grid: dict[str, list[str]] = {}
    for text in texts:
        name, equals, values = text.partition("=")
        if not (name.isidentifier() and equals and all(values.split(","))):
            raise KnobError(f"a grid is NAME=V1,V2,..., got {text!r}.")
        if name in grid:
            raise KnobError(f"the grid has {name} twice: put all its values into one.")
        grid[name] = values.split(",")
    return grid


def check_place(task: Task) -> None:
    """Refuse to write over a file that no run has made: it is a lesson, or somebody's work.

    A run's notebook says that papermill made it, a record reads like one, and beside a run's page
    there is at least one of the two. A file that a power cut has damaged may be written over where
    the files beside it are a run's; an empty one always.

    Raises:
        LessonError: if there is such a file where one of the task's would go.
    """
    executed = look_at_notebook(task.notebook, task.path)
    recorded = look_at_record(task.record_path)
    page, trace = task.page.exists(), task.notebook.exists() or task.record_path.exists()
    lost = None
    if executed is FOREIGN or (executed is DAMAGED and recorded is not OWN):
        lost = task.notebook
    elif recorded in (FOREIGN, DAMAGED) and not (executed is OWN and page):
        lost = task.record_path
    elif page and not trace and holds_something(task.page):
        lost = task.page
    if lost:
        raise LessonError(f"{lost} is not a run's and would be lost: choose another folder.")


def _points(
    path: Path, given: Mapping[str, object], grid: Mapping[str, Sequence[object]]
) -> list[tuple[str, dict[str, Value]]]:
    """Name and checked values of each point; `01_lr_finder--lr=0.1--depth=2`."""
    twice = [name for name in grid if name in given]
    if twice:
        raise KnobError(f"{twice[0]} is given as a parameter and in the grid: choose one.")
    points: dict[str, dict[str, Value]] = {}
    for values in itertools.product(*grid.values()):
        point = dict(zip(grid, values, strict=True))
        checked = check_parameters(path, {**given, **point})
        words = [f"{knob}={_file_word(checked[knob])}" for knob in point]
        points[shorten_name("--".join([path.stem, *words]))] = (
            checked  # the same value twice is one point
        )
    return list(points.items())


def shorten_name(name: str) -> str:
    """The name as it is, or where files of that name could not be, its beginning and a checksum."""
    data = os.fsencode(name)
    if len(data) <= MAX_NAME_BYTES:
        return name
    ending = f"--{hashlib.sha256(data).hexdigest()[:16]}"
    return data[: MAX_NAME_BYTES - len(ending)].decode(errors="ignore") + ending


def _is_json(path: Path) -> bool:
    """Whether a file is whole, as far as its being JSON tells."""
    try:
        json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return True


def _file_word(value: Value) -> str:
    """A value as it may stand in a file's name; two values never give the same word."""
    text = f"{value:g}" if _is_short(value) else str(value)
    return re.sub(r"[^\w.+-]", lambda found: quote(found[0], safe=""), text)


def _is_short(value: Value) -> bool:
    return isinstance(value, float) and float(f"{value:g}") == value


def lesson_sha256(path: Path) -> str:
    """What a lesson is: its notebook, and beside it the claims and the modules that it may import.

    Without such files it is the notebook's own checksum.
    """
    digest = hashlib.sha256(path.read_bytes())
    for file in list_companions(path):
        name = file.relative_to(path.parent).as_posix()
        digest.update(f"{name}\0".encode("utf-8", "surrogateescape") + read_bytes(file))
    return digest.hexdigest()


@cache
def code_sha256() -> str:
    """What nbkit's own source and data are: they can change where the version does not."""
    package, data = Path(nbkit.__file__).parent, shipped.data_dir()
    digest = hashlib.sha256()
    for folder, pattern in ((package, "**/*.py"), (package, "**/*.toml"), (data, "*.npz")):
        for file in sorted(folder.glob(pattern)):
            digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return digest.hexdigest()
