"""The client that runs a notebook's cells: it cannot stall, and stops at the first fault.

papermill's own waits for ever when a wake-up is lost, and saves a notebook that looks successful
after a killed kernel, a cell over its time, `sys.exit(0)`, `exit()` or an exception inside a
widget. Here each of these is left as an error in the cell where it happened, so that papermill
marks that cell, reports it and exits with an error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode, from_dict
from nbformat.v4 import new_output
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine
from papermill.log import logger
from traitlets import Float, Type

from nbkit.course.kernel import fork_client as warm
from nbkit.course.kernel.headless import headless_environment

CELL_SECONDS = 600  # a cell's time limit where the caller names none
POLL_SECONDS = 0.5  # what a lost wake-up costs
GRACE_SECONDS = 5  # for an interrupted cell to say where it was
SKIP_TAG = "skip-execution"


class Stopped(Exception):
    """The run that a lesson is part of has been stopped."""


class PollingChannel(AsyncZMQSocketChannel):
    """A channel that looks for messages again and again, whether it was woken or not.

    nbclient answers `Output` widgets on the socket that it is waiting at, and such a send can use
    up the wake-up of a message that has just come: the wait then lasts for ever.

    Source: jupyter/nbclient issue 312.
    """

    stopped: Callable[[], bool] = staticmethod(lambda: False)

    async def get_msg(  # type: ignore[override]
        self, timeout: float | None = None
    ) -> dict[str, Any]:
        """The next message; `queue.Empty` when none has come within `timeout` seconds.

        Raises:
            Stopped: if the run has been stopped meanwhile.
        """
        end = monotonic() + (float("inf") if timeout is None else timeout)
        while True:
            if self.stopped():
                raise Stopped
            try:
                return await super().get_msg(max(0.0, min(POLL_SECONDS, end - monotonic())))
            except Empty:
                if monotonic() >= end:
                    raise


class PollingClient(AsyncKernelClient):
    """A kernel's client whose shell channel polls."""

    shell_channel_class = Type(PollingChannel)


class PollingManager(AsyncKernelManager):
    """A kernel's manager whose client polls, and whose kernel is forked where that can be."""

    client_factory = Type(PollingClient)

    async def _async_launch_kernel(self, kernel_cmd: list[str], **kw: Any) -> None:
        """Take a kernel that has torch imported; the ordinary way where there is none."""
        server = warm.server()
        if server is not None and "ipykernel_launcher" in kernel_cmd:
            try:
                process = server.fork(kernel_cmd, kw["env"], kw.get("cwd"), kw["stderr"])
            except OSError:
                warm.stop()
            else:
                provisioner: Any = self.provisioner
                provisioner.process = process
                provisioner.pid = provisioner.pgid = process.pid  # it leads a session of its own
                return
        await super()._async_launch_kernel(kernel_cmd, **kw)


class NbkitClient(PapermillNotebookClient):
    """Runs the cells in order up to the first fault, which it leaves as an error in its cell.

    Args:
        nb_man: papermill's state of the notebook: statuses, times, saving.
        progress: called with `(cell, cells)` before each of the cells that run.
        stopped: asked again and again whether to stop.
        environment: variables for the kernel on top of the headless ones.
        options: nbclient's; seconds may be fractions here.
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
        self.stopped = stopped or (lambda: False)
        self.environment = environment or {}
        self.on_cell_executed = self._note_exit

    def execute(self, **kwargs: Any) -> NotebookNode:
        """Start a kernel, run the cells, and stop the kernel whatever happened."""
        self.reset_execution_trackers()
        with TemporaryDirectory(prefix="nbkit-", ignore_cleanup_errors=True) as folder:
            self.kernel_log = Path(folder, "kernel.log")
            with self.kernel_log.open("w") as log:
                env = headless_environment(folder) | dict(self.environment)
                with self.setup_kernel(**{"env": env, "stderr": log, **kwargs}):
                    self.kc.shell_channel.stopped = self.stopped
                    info = self.wait_for_reply(self.kc.kernel_info())
                    self.nb.metadata["language_info"] = info["content"]["language_info"]
                    try:
                        self.papermill_execute_cells()
                    finally:
                        self._note_memory()
        return self.nb

    def papermill_execute_cells(self) -> None:
        """Run each cell; papermill's state is brought up to date before and after."""
        numbers = {index: number for number, index in enumerate(runnable_cells(self.nb), start=1)}
        for index, cell in enumerate(self.nb.cells):
            if index in numbers:
                self.progress(numbers[index], len(numbers))
            self.nb_man.cell_start(cell, index)
            try:
                self._run(cell, index)
            finally:
                if find_error(cell):
                    self.nb_man.cell_exception(cell, index)
                self.nb_man.cell_complete(cell, index)
            if find_error(cell):
                return

    def _run(self, cell: NotebookNode, index: int) -> None:
        """Run one cell; whatever goes wrong is an error among its outputs afterwards."""
        try:
            self.execute_cell(cell, index)
        except CellExecutionError as error:
            if not find_error(cell):
                add_error(cell, error.ename, error.evalue)
        except CellTimeoutError as error:
            add_error(cell, "CellTimeoutError", " ".join(str(error).split("\n", 2)[:2]))
        except DeadKernelError:
            add_error(cell, "DeadKernelError", *self._cause_of_death())
        except Stopped:
            add_error(cell, "KeyboardInterrupt", "the run was stopped here")
            raise
        except BaseException as error:  # Ctrl-C as well: the notebook says where it was
            add_error(cell, type(error).__name__, str(error) or "the run was stopped here")
            raise

        for widget in self.widget_state.values():
            errors = [out for out in widget.get("outputs") or [] if out["output_type"] == "error"]
            cell.get("outputs", []).extend(from_dict(error) for error in errors)
        left = find_error(cell)
        if left and left.ename == "SystemExit":  # papermill lets exit status 0 pass
            add_error(cell, "EarlyExit", f"the lesson was left here by sys.exit({left.evalue})")

    def _note_exit(
        self, cell: NotebookNode, cell_index: int, execute_reply: Mapping[str, Any]
    ) -> None:
        """Mark a cell that has called IPython's `exit()` or `quit()`, which raise nothing.

        IPython runs the rest of the cell, and its reply asks the front end to leave.
        """
        payload = execute_reply["content"].get("payload") or []
        asked = any(each.get("source") == "ask_exit" for each in payload)
        if asked and not find_error(cell):
            add_error(cell, "EarlyExit", "the lesson was left here by exit() or quit()")

    async def _async_handle_timeout(
        self, timeout: float, cell: NotebookNode | None = None
    ) -> dict[str, Any]:
        """Interrupt a cell over its time: its traceback shows where it was.

        It has failed even if it survives the interrupt.
        """
        assert self.km is not None and self.kc is not None and cell is not None
        message = f"the cell ran for more than its {timeout:g} s"
        await self.km.interrupt_kernel()
        try:
            reply = await self.kc.shell_channel.get_msg(timeout=GRACE_SECONDS)
        except Empty:
            raise CellTimeoutError(f"{message}, and did not stop when interrupted") from None
        add_error(cell, "CellTimeoutError", message)
        return reply

    def _note_memory(self) -> None:
        """Note the most memory that the kernel itself has held, where Linux tells."""
        process = getattr(self.km.provisioner, "process", None) if self.km else None
        status = Path(f"/proc/{process.pid}/status") if process else Path()
        try:
            peak = re.search(r"^VmHWM:\s*(\d+) kB", status.read_text(), re.MULTILINE)
        except OSError:
            return
        if peak:
            self.nb.metadata.papermill["peak_bytes"] = int(peak.group(1)) * 1024

    def _cause_of_death(self) -> tuple[str, list[str]]:
        """How the kernel ended, and the last lines it wrote."""
        process = getattr(self.km.provisioner, "process", None) if self.km else None
        code = process.poll() if process else None
        cause = "the kernel died"
        if code is not None and code < 0:
            cause += f" of signal {-code}" + (" (often: out of memory)" if code == -9 else "")
        elif code is not None:
            cause += f" with exit status {code}"
        return cause, self.kernel_log.read_text(errors="replace").splitlines()[-20:]


class ClientEngine(Engine):
    """papermill's engine for a run, with `NbkitClient` doing the work."""

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
        """Run a notebook that papermill has prepared; the options are `NbkitClient`'s."""
        options.pop("input_path", None)
        nb_man.nb.metadata.pop("widgets", None)  # an earlier run's; ours is not stored
        settings = {
            "timeout": execution_timeout or CELL_SECONDS,
            "startup_timeout": start_timeout,
            "iopub_timeout": 60,  # outputs come late on a busy machine
            "shutdown_kernel": "immediate",  # a second sooner, and a stuck kernel goes too
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


def runnable_cells(nb: NotebookNode) -> list[int]:
    """The indices of the cells that a run has to run: code that is neither empty nor skipped."""
    return [
        index
        for index, cell in enumerate(nb.cells)
        if cell.cell_type == "code"
        and cell.source.strip()
        and SKIP_TAG not in cell.metadata.get("tags", [])
    ]


def find_error(cell: NotebookNode) -> NotebookNode | None:
    """The first error among a cell's outputs."""
    errors = (out for out in cell.get("outputs", []) if out.output_type == "error")
    return next(errors, None)


def add_error(
    cell: NotebookNode, name: str, message: str, traceback: list[str] | None = None
) -> None:
    """Put an error before a cell's other outputs, where papermill and a reader look first."""
    if cell.cell_type == "code":
        lines = [*(traceback or []), f"{name}: {message}"]
        cell.outputs.insert(0, new_output("error", ename=name, evalue=message, traceback=lines))


def _mark_not_started(nb_man: Any, error: BaseException) -> None:
    """Mark the first cell where no kernel came up: nothing has run, and nothing looks as if."""
    if any(cell.metadata.papermill["status"] != "pending" for cell in nb_man.nb.cells):
        return
    for index in runnable_cells(nb_man.nb)[:1]:
        cell = nb_man.nb.cells[index]
        add_error(cell, type(error).__name__, str(error))
        nb_man.cell_exception(cell, index)
