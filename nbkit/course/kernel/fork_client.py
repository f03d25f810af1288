"""Start kernels that have torch imported already, by forking them from one prepared process.

`start_fork_server` prepares that process. While it exists, the kernels of this process are forked
from it; `stop_fork_server` ends it. Where it fails, and on systems other than Linux, kernels start
the ordinary way.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from time import sleep
from typing import IO

from nbkit.course.kernel.headless import headless_environment

# The imports of the lessons that behave the same before and after a fork. pyplot and ipywidgets
# ask which kernel they are in, so they are not here. The first optimizer imports torch._dynamo.
MODULES = ("torch", "torch._dynamo", "scipy.stats", "matplotlib.figure")
NEEDS_MODULES = re.compile(r"^\s*(?:from|import)\s+(?:torch|nbkit)\b", re.MULTILINE)
READY_SECONDS = 60  # for the imports, before the first kernel
CLOSE_SECONDS = 10  # for the server to end its kernels
SERVER_LOCK = Lock()  # threads that start lessons at once share one server


class ForkedKernel:
    """Stand in for the `Popen` that jupyter_client expects.

    The kernel is a child of the fork server, so this process cannot wait for it. Instead the
    server sends the exit status through a socket.
    """

    stdin = stdout = stderr = None

    def __init__(self, pid: int, status_socket: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._socket = status_socket
        status_socket.setblocking(False)

    def poll(self) -> int | None:
        """Return the exit status, or minus the signal; None while the kernel runs."""
        if self.returncode is None:
            try:
                status = self._socket.recv(64)
            except BlockingIOError:
                return None
            except OSError:
                status = b""
            self._socket.close()
            # No status: the server has died, and Linux kills its kernels then.
            self.returncode = int(status) if status else -signal.SIGKILL
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the kernel has ended; the timeout is ignored."""
        while (status := self.poll()) is None:
            sleep(0.01)
        return status

    def send_signal(self, number: int) -> None:
        """Send a signal to the kernel if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """Run `forkserver.py` in a process, and ask it for kernels.

    Args:
        modules: names of the modules that it imports.
        environment: variables in addition to the headless ones.
        cwd: working directory during the imports.
    """

    def __init__(self, modules: Iterable[str], environment: Mapping[str, str], cwd: Path) -> None:
        self.owner = os.getpid()
        # SOCK_SEQPACKET keeps the boundaries of messages: one message is one request.
        self._socket, server_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        script = Path(__file__).with_name("forkserver.py")
        with server_end:
            self._process = subprocess.Popen(
                [sys.executable, script, str(server_end.fileno()), *modules],
                pass_fds=[server_end.fileno()],
                env=headless_environment("") | dict(environment),
                cwd=cwd,  # matplotlib looks for its settings there
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def fork_kernel(
        self, command: Sequence[str], env: Mapping[str, str], cwd: str | None, log: IO[str]
    ) -> ForkedKernel:
        """Fork a new kernel; wait until the imports are done.

        Args:
            command: command line of the kernel, with `ipykernel_launcher` and its arguments.
            env: all environment variables of the kernel.
            cwd: working directory of the kernel.
            log: file for its stdout and stderr.
        Raises:
            OSError: if the server has ended or does not answer.
        """
        words = list(command)
        arguments = words[words.index("ipykernel_launcher") + 1 :]
        request = json.dumps({"arguments": arguments, "env": dict(env), "cwd": cwd}).encode()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                # The server gets its end of the status socket and the log with the request.
                socket.send_fds(self._socket, [request], [theirs.fileno(), log.fileno()])
            ours.settimeout(READY_SECONDS)
            pid = ours.recv(64)
            if not pid:
                raise OSError("the process that kernels are forked from has ended")
        except OSError:
            ours.close()
            raise
        return ForkedKernel(int(pid), ours)

    def close_server(self) -> None:
        """End the server and the kernels that are left."""
        self._socket.close()  # the server ends when it reads the end of this connection
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


_server: ForkServer | None = None


def start_fork_server(lessons: Iterable[Path], environment: Mapping[str, str]) -> None:
    """Begin to import what these lessons need, unless this process has a fork server already.

    Does nothing on systems other than Linux.
    """
    global _server
    paths = list(lessons)
    if sys.platform != "linux" or not paths:
        return
    with SERVER_LOCK:
        if find_fork_server() is None:
            _server = ForkServer(_choose_modules(paths), environment, paths[0].parent)


def stop_fork_server() -> None:
    """End the fork server of this process, if there is one."""
    global _server
    with SERVER_LOCK:
        server, _server = find_fork_server(), None
    if server is not None:
        server.close_server()


def find_fork_server() -> ForkServer | None:
    """Return the fork server of this process; None if there is none.

    A process that was forked from this one inherits the variable, but must not use the connection.
    """
    if _server is not None and _server.owner == os.getpid():
        return _server
    return None


def _choose_modules(lessons: Iterable[Path]) -> Sequence[str]:
    """Choose the modules to import: none if no lesson imports torch or nbkit."""
    for path in lessons:
        if NEEDS_MODULES.search(_read_code(path)):
            return MODULES
    return ()


def _read_code(path: Path) -> str:
    """Read the source of a notebook's code cells, without checking the notebook's format."""
    cells = json.loads(path.read_text(encoding="utf-8")).get("cells", [])
    sources = []
    for cell in cells:
        if cell.get("cell_type") == "code":
            # A source is a string or a list of lines with their ends; join accepts both.
            sources.append("".join(cell["source"]))
    return "\n".join(sources)
