"""Kernels that begin with torch imported: forked from one process that has done it for all.

`start` makes that process ready, kernels of this process come from it while it is there, and `stop`
ends it. On other systems than Linux, and when it fails, kernels start the ordinary way.
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

# What the lessons import, as far as importing it leaves nothing behind that a kernel would have
# done otherwise: pyplot and ipywidgets ask which kernel they are in, so they are not here.
# torch._dynamo comes with the first optimizer.
MODULES = ("torch", "torch._dynamo", "scipy.stats", "matplotlib.figure")
NEEDS_THEM = re.compile(r"^\s*(?:from|import)\s+(?:torch|nbkit)\b", re.MULTILINE)
READY_SECONDS = 60
ONE_AT_A_TIME = Lock()


class ForkedKernel:
    """A kernel that is not this process's own child, as far as jupyter_client asks a `Popen`."""

    stdin = stdout = stderr = None

    def __init__(self, pid: int, line: socket.socket) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._line = line
        line.setblocking(False)

    def poll(self) -> int | None:
        """How it ended; None while it runs."""
        if self.returncode is None:
            try:
                said = self._line.recv(64)
            except BlockingIOError:
                return None
            except OSError:
                said = b""
            self._line.close()
            self.returncode = int(said) if said else -signal.SIGKILL  # its server is gone: so is it
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended."""
        while (status := self.poll()) is None:
            sleep(0.01)
        return status

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it is still there."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


class Server:
    """The process that kernels are forked from."""

    def __init__(self, modules: Iterable[str], environment: Mapping[str, str], cwd: Path) -> None:
        self.owner = os.getpid()
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, Path(__file__).with_name("forkserver.py")),
                    *(str(theirs.fileno()), *modules),
                ],
                pass_fds=[theirs.fileno()],
                env=headless_environment("") | dict(environment),
                cwd=cwd,  # matplotlib looks for its settings there
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def fork(
        self, command: Sequence[str], env: Mapping[str, str], cwd: str | None, log: IO
    ) -> ForkedKernel:
        """A new kernel; waits until the imports are done.

        Raises:
            OSError: if the process is not there any more, or does not answer.
        """
        arguments = list(command)[list(command).index("ipykernel_launcher") + 1 :]
        request = json.dumps({"arguments": arguments, "env": dict(env), "cwd": cwd})
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                socket.send_fds(self._line, [request.encode()], [theirs.fileno(), log.fileno()])
            ours.settimeout(READY_SECONDS)
            pid = ours.recv(64)
            if not pid:
                raise OSError("the process that kernels are forked from has ended")
        except OSError:
            ours.close()
            raise
        return ForkedKernel(int(pid), ours)

    def close(self) -> None:
        """End it, and the kernels that are left."""
        self._line.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


_server: Server | None = None


def start(lessons: Iterable[Path], environment: Mapping[str, str]) -> None:
    """Begin to import what these lessons need; once for a process, and only on Linux."""
    global _server
    lessons = list(lessons)
    if sys.platform != "linux" or not lessons:
        return
    with ONE_AT_A_TIME:
        if server() is None:
            _server = Server(_modules(lessons), environment, lessons[0].parent)


def _modules(lessons: Iterable[Path]) -> Sequence[str]:
    """What to import: nothing where no lesson needs it."""
    texts = (path.read_text(encoding="utf-8") for path in lessons)
    needed = any(NEEDS_THEM.search(line) for text in texts for line in _source_lines(text))
    return MODULES if needed else ()


def stop() -> None:
    """End the process that kernels are forked from, if there is one."""
    global _server
    with ONE_AT_A_TIME:
        ours, _server = server(), None
    if ours is not None:
        ours.close()


def server() -> Server | None:
    """The process that this one's kernels are forked from, if there is one."""
    if _server is not None and _server.owner == os.getpid():
        return _server
    return None


def _source_lines(text: str) -> list[str]:
    """The lines of a notebook's code cells."""
    cells = json.loads(text).get("cells", [])
    code = [cell["source"] for cell in cells if cell.get("cell_type") == "code"]
    return "\n".join("".join(source) for source in code).splitlines()
