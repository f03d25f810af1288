"""Plan a run: one task for each lesson and grid point, checked before any of them starts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbkit
from nbkit.course.kernel.client import CELL_SECONDS
from nbkit.course.lessons import LessonError
from nbkit.course.record import OK, WAITING, Record
from nbkit.course.run.checksums import hash_lesson, hash_package
from nbkit.course.run.grid import list_points
from nbkit.course.run.leftovers import (
    Origin,
    find_notebook_origin,
    find_record_origin,
    holds_something,
)
from nbkit.lab.curriculum import word_of
from nbkit.lab.knobs import Value


@dataclass(frozen=True)
class Task:
    """Describe one run of one lesson completely, so that any machine can execute it.

    Args:
        path: the lesson's notebook, absolute if another process executes the task.
        out: output folder.
        name: stem of the output files.
        values: checked parameters.
        timeout: time limit of one cell, in seconds.
        environment: variables for the kernel.
        per_gpu: number of lessons that may share a GPU; 0 lets the kernel see all GPUs.
        token: a file and its content; the run goes on as long as both are there.
        nbkit: version of nbkit that planned the task.
    """

    path: Path
    out: Path
    name: str
    values: dict[str, Value] = field(default_factory=dict)
    timeout: float = CELL_SECONDS
    environment: dict[str, str] = field(default_factory=dict)
    per_gpu: int = 1
    token: tuple[Path, str] | None = None
    # Evaluated where the task is planned: a worker compares it with the version that it has.
    nbkit: str = nbkit.__version__

    @property
    def lesson(self) -> str:
        """Return the lesson's word: the stem of the notebook without the number."""
        return word_of(self.path.stem)

    @property
    def notebook_path(self) -> Path:
        """Return the path of the executed notebook."""
        return self.out / f"{self.name}.ipynb"

    @property
    def part_path(self) -> Path:
        """Return the path of the executed notebook while cells are still running."""
        # The dot hides the file from listings while it is incomplete.
        return self.out / f".{self.name}.part.ipynb"

    @property
    def page_path(self) -> Path:
        """Return the path of the executed notebook as HTML."""
        return self.out / f"{self.name}.html"

    @property
    def record_path(self) -> Path:
        """Return the path of the record."""
        return self.out / f"{self.name}.json"

    def is_stopped(self) -> bool:
        """Return whether the run of this task has been stopped, or replaced by another run."""
        if self.token is None:
            return False
        file, text = self.token
        # Another run in this folder writes its own token, and this one must not go on beside it.
        try:
            return file.read_text() != text
        except FileNotFoundError:
            return True
        except OSError:  # a shared disk may fail for a moment
            return False

    def make_record(self, **facts: Any) -> Record:
        """Make a record of this task.

        Args:
            facts: fields of `Record`. By default the record is waiting, and lists the earlier
                attempts at the same task that were cut off.
        """
        earlier = Record.find(self.record_path)
        # An attempt with other parameters or another notebook was not an attempt at this task.
        same = earlier is not None and self._matches(earlier)
        default: dict[str, Any] = {
            "lesson": self.lesson,
            "parameters": dict(self.values),
            "nbkit": nbkit.__version__,
            "notebook_sha256": hash_lesson(self.path),
            "started": "",
            "machine": {},
            "status": WAITING,
            "name": self.name,
            "code_sha256": hash_package(),
            "attempts": earlier.cut_off() if earlier and same else [],
        }
        return Record(**(default | facts))

    def find_finished_record(self) -> Record | None:
        """Return the record of an earlier run of the same task if all its files are there."""
        record = Record.find(self.record_path)
        # After a power cut, a record may say `ok` beside files that never reached the disk.
        complete = _is_json(self.notebook_path) and holds_something(self.page_path)
        if record is not None and record.status == OK and complete and self._matches(record):
            return record
        return None

    def remove_outputs(self) -> None:
        """Remove the notebook and the page of an earlier run; its record stays."""
        for path in (self.notebook_path, self.part_path, self.page_path):
            path.unlink(missing_ok=True)

    def _matches(self, record: Record) -> bool:
        """Return whether a record has the same lesson, parameters and nbkit as this task."""
        return (
            record.lesson == self.lesson
            and record.name == self.name
            and record.parameters == self.values
            and record.nbkit == nbkit.__version__
            and record.code_sha256 == hash_package()
            and record.notebook_sha256 == hash_lesson(self.path)
        )


def plan_tasks(
    lessons: Sequence[Path],
    out: Path,
    given: Mapping[str, object],
    grid: Mapping[str, Sequence[object]] | None = None,
    *,
    timeout: float = CELL_SECONDS,
    environment: Mapping[str, str] | None = None,
    per_gpu: int = 1,
) -> list[Task]:
    """Plan a task for each lesson, or with a grid for each lesson at each point.

    Args:
        lessons: paths of notebooks.
        out: output folder.
        given: parameters for each of the lessons; text is converted to the declared type.
        grid: values by parameter; the points are all combinations.
        timeout: time limit of one cell, in seconds.
        environment: variables for the kernels.
        per_gpu: number of lessons that may share a GPU; 0 lets every lesson see all GPUs.
    Raises:
        KnobError: if a lesson does not accept one of the parameters.
        LessonError: if two tasks would write the same file, or a task would overwrite a file that
            was not written by a run.
    """
    # A file in place of the folder would raise only after the lessons were checked.
    if out.exists() and not out.is_dir():
        raise LessonError(f"{out} is a file: choose a folder for the outputs.")
    # Another process, on another machine too, does not share this one's current folder.
    out = out.absolute()
    variables = dict(environment or {})
    tasks = []
    for lesson in lessons:
        path = lesson.absolute()
        for name, values in list_points(path, given, grid or {}).items():
            tasks.append(Task(path, out, name, values, timeout, variables, per_gpu))
    # All names are known before the first check, so nothing has been written if one occurs twice.
    names = [task.name for task in tasks]
    for task in tasks:
        if names.count(task.name) > 1:
            raise LessonError(
                f"two lessons are called {task.name}, so their files would have the same names: "
                f"run them separately, each with another --out."
            )
        check_output_files(task)
    return tasks


def check_output_files(task: Task) -> None:
    """Refuse to overwrite a file that no run has written: a lesson, or a user's work.

    papermill marks the notebooks that a run writes, a record has the fields of one, and a run
    writes a page only together with one of these. A file that a power cut has damaged may be
    overwritten if the files beside it come from a run; an empty file always.

    Raises:
        LessonError: if a file that would be overwritten does not come from a run.
    """
    notebook = find_notebook_origin(task.notebook_path, task.path)
    record = find_record_origin(task.record_path)
    has_page = task.page_path.exists()
    has_others = task.notebook_path.exists() or task.record_path.exists()
    # A damaged file belongs to a run if its neighbours do.
    lost = None
    if notebook is Origin.USER or (notebook is Origin.DAMAGED and record is not Origin.RUN):
        lost = task.notebook_path
    elif record in (Origin.USER, Origin.DAMAGED) and not (notebook is Origin.RUN and has_page):
        lost = task.record_path
    elif has_page and not has_others and holds_something(task.page_path):
        lost = task.page_path
    if lost:
        raise LessonError(
            f"{lost} was not written by a run and would be lost: choose another folder."
        )


def _is_json(path: Path) -> bool:
    """Return whether a file can be read as JSON, which half of a notebook cannot."""
    try:
        json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return True
