"""Run a notebook's cells without stalling, and stop at the first fault.

papermill waits forever if a wake-up is lost. It also saves a notebook that looks successful after
a killed kernel, a cell over its time limit, `sys.exit(0)`, `exit()` or an exception inside a
widget. Here each of these becomes an error in the cell where it happened, so that papermill marks
the cell, reports the error and exits with a failure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty
from tempfile import TemporaryDirectory
from typing import Any

from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode, from_dict
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine
from papermill.log import logger
from traitlets import Float

from nbkit.course.kernel.cells import add_error, find_error, list_runnable_cells
from nbkit.course.kernel.headless import headless_environment
from nbkit.course.kernel.polling import PollingManager, Stopped

CELL_SECONDS = 600  # time limit of a cell if the caller sets none
GRACE_SECONDS = 5  # for an interrupted cell to send its traceback
OUTPUT_SECONDS = 60  # for outputs to arrive after the reply; they are late on a busy machine
LAST_LINES = 20  # of a dead kernel's log, shown in the notebook


class NbkitClient(PapermillNotebookClient):  # type: ignore[misc]  # papermill has no annotations
    """Run the cells in order up to the first fault, and write that fault into its cell.

    Args:
        nb_man: papermill's state of the notebook: statuses, times, saving.
        progress: called with `(cell, cells)` before each of the cells that run.
        stopped: asked twice a second whether to stop.
        environment: variables for the kernel, in addition to the headless ones.
        options: nbclient's options; here the seconds may be fractions.
    """

    timeout = Float(None, allow_none=True)

    def __init__(
        self,
        nb_man: Any,
        *,
        progress: Callable[[int, int], None] | None = None,
        stopped: Callable[[], bool] | None = None,
        environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(nb_man, kernel_manager_class=PollingManager, **options)
        self.progress = progress or (lambda cell, cells: None)
        self.is_stopped = stopped or (lambda: False)
        self.environment = environment or {}
        self.on_cell_executed = self._note_exit

    def execute(self, **kwargs: Any) -> NotebookNode:
        """Start a kernel, run the cells, and stop the kernel in every case."""
        self.reset_execution_trackers()
        with TemporaryDirectory(prefix="nbkit-", ignore_cleanup_errors=True) as folder:
            self.kernel_log = Path(folder, "kernel.log")
            with self.kernel_log.open("w") as log:
                # The empty folder replaces the user's IPython profile.
                env = headless_environment(folder) | dict(self.environment)
                with self.setup_kernel(**{"env": env, "stderr": log, **kwargs}):
                    self.kc.shell_channel.is_stopped = self.is_stopped
                    info = self.wait_for_reply(self.kc.kernel_info())
                    self.nb.metadata["language_info"] = info["content"]["language_info"]
                    try:
                        self.papermill_execute_cells()
                    finally:
                        self._note_memory()  # while the kernel's process still exists
        nb: NotebookNode = self.nb
        return nb

    def papermill_execute_cells(self) -> None:
        """Run the cells up to the first error; update papermill's state around each of them."""
        # Cells are counted as `In [ ]` counts them; papermill wants the index in the notebook.
        indices = list_runnable_cells(self.nb)
        numbers = {index: number for number, index in enumerate(indices, start=1)}
        for index, cell in enumerate(self.nb.cells):
            if index in numbers:
                self.progress(numbers[index], len(numbers))
            self.nb_man.cell_start(cell, index)
            try:
                self._run_cell(cell, index)
            finally:
                if find_error(cell):
                    self.nb_man.cell_exception(cell, index)
                self.nb_man.cell_complete(cell, index)
            if find_error(cell):
                return

    def _run_cell(self, cell: NotebookNode, index: int) -> None:
        """Run one cell; afterwards everything that went wrong is an error among its outputs."""
        try:
            self.execute_cell(cell, index)
        except CellExecutionError as error:
            if not find_error(cell):
                add_error(cell, error.ename, error.evalue)
        except CellTimeoutError as error:
            # nbclient appends the source of the cell, which the notebook shows anyway.
            add_error(cell, "CellTimeoutError", " ".join(str(error).split("\n", 2)[:2]))
        except DeadKernelError:
            add_error(cell, "DeadKernelError", self._explain_death(), self._read_last_lines())
        except Stopped:
            add_error(cell, "KeyboardInterrupt", "the run was stopped here")
            raise
        except BaseException as error:  # includes Ctrl-C: the notebook shows where it stopped
            add_error(cell, type(error).__name__, str(error) or "the run was stopped here")
            raise
        self._copy_widget_errors(cell)
        self._mark_early_exit(cell)

    def _copy_widget_errors(self, cell: NotebookNode) -> None:
        """Copy errors that an `Output` widget has captured, which papermill does not look into."""
        for widget in self.widget_state.values():
            for output in widget.get("outputs") or []:
                if output["output_type"] == "error":
                    error = from_dict(output)
                    cell.get("outputs", []).append(error)

    def _mark_early_exit(self, cell: NotebookNode) -> None:
        """Make `sys.exit()` an error: papermill lets exit status 0 pass as a success."""
        error = find_error(cell)
        if error and error.ename == "SystemExit":
            add_error(cell, "EarlyExit", f"the lesson was left here by sys.exit({error.evalue})")

    def _note_exit(
        self, cell: NotebookNode, cell_index: int, execute_reply: Mapping[str, Any]
    ) -> None:
        """Mark a cell that has called IPython's `exit()` or `quit()`, which raise nothing.

        IPython runs the rest of the cell, and its reply asks the front end to leave.
        """
        payload = execute_reply["content"].get("payload") or []
        sources = [item.get("source") for item in payload]
        if "ask_exit" in sources and not find_error(cell):
            add_error(cell, "EarlyExit", "the lesson was left here by exit() or quit()")

    async def _async_handle_timeout(
        self, timeout: float, cell: NotebookNode | None = None
    ) -> dict[str, Any]:
        """Interrupt a cell over its time limit, so that its traceback shows where it was.

        The cell fails even if it catches the interrupt and ends normally.
        """
        assert self.km is not None and self.kc is not None and cell is not None
        message = f"the cell ran for more than its {timeout:g} s"
        await self.km.interrupt_kernel()
        try:
            reply: dict[str, Any] = await self.kc.shell_channel.get_msg(timeout=GRACE_SECONDS)
        except Empty:
            raise CellTimeoutError(f"{message}, and did not stop when interrupted") from None
        add_error(cell, "CellTimeoutError", message)
        return reply

    def _note_memory(self) -> None:
        """Store the peak memory of the kernel process, in bytes; only Linux reports it."""
        process = self._find_process()
        status = Path(f"/proc/{process.pid}/status") if process else Path()
        try:
            # VmHWM is the high-water mark of the resident memory, in kibibytes.
            peak = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)
        except OSError:
            return
        if peak:
            self.nb.metadata.papermill["peak_bytes"] = int(peak.group(1)) * 1024

    def _explain_death(self) -> str:
        """Say how the kernel's process ended."""
        process = self._find_process()
        code = process.poll() if process else None
        if code is None:
            return "the kernel died"
        if code >= 0:
            return f"the kernel died with exit status {code}"
        # A negative code is a signal. Linux sends 9 when the memory runs out.
        hint = " (often: out of memory)" if code == -9 else ""
        return f"the kernel died of signal {-code}{hint}"

    def _read_last_lines(self) -> list[str]:
        """Read the end of what the kernel wrote to stderr outside of its messages."""
        return self.kernel_log.read_text(errors="replace").splitlines()[-LAST_LINES:]

    def _find_process(self) -> Any:
        """Return the kernel's process, as jupyter_client's provisioner has it; None if unknown."""
        return getattr(self.km.provisioner, "process", None) if self.km else None


class ClientEngine(Engine):  # type: ignore[misc]  # papermill has no annotations
    """Serve papermill as an engine that runs the cells with `NbkitClient`."""

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: Any,
        kernel_name: str,
        log_output: bool = False,
        stdout_file: Any = None,
        stderr_file: Any = None,
        start_timeout: float = 60,
        execution_timeout: float | None = None,
        **options: Any,
    ) -> None:
        """Run a notebook that papermill has prepared; the options are those of `NbkitClient`."""
        options.pop("input_path", None)
        # Widget states of an earlier run would be stored as if they belonged to this one.
        nb_man.nb.metadata.pop("widgets", None)
        settings = {
            "timeout": execution_timeout or CELL_SECONDS,
            "startup_timeout": start_timeout,
            "iopub_timeout": OUTPUT_SECONDS,
            "shutdown_kernel": "immediate",  # saves a second, and ends a stuck kernel too
            "record_timing": False,
            **options,
        }
        try:
            NbkitClient(
                nb_man,
                kernel_name=kernel_name,
                log=logger,
                log_output=log_output,
                stdout_file=stdout_file,
                stderr_file=stderr_file,
                **settings,
            ).execute()
        except BaseException as error:
            _mark_not_started(nb_man, error)
            raise


def _mark_not_started(nb_man: Any, error: BaseException) -> None:
    """Write the error into the first cell if no cell has run, as when the kernel did not start.

    Otherwise the saved notebook would show no error at all.
    """
    for cell in nb_man.nb.cells:
        if cell.metadata.papermill["status"] != "pending":
            return
    for index in list_runnable_cells(nb_man.nb)[:1]:
        cell = nb_man.nb.cells[index]
        add_error(cell, type(error).__name__, str(error))
        nb_man.cell_exception(cell, index)
