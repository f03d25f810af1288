"""Import what the lessons need, then fork a kernel for each request.

A kernel often takes longer to import torch, scipy and matplotlib than to run half of a lesson.
Here they are imported once: a forked kernel begins where the imports end, and otherwise behaves
like any other.

`fork_client` starts this file by its path and holds the other end of the connection. Apart from
the requested modules it imports the standard library only. It has one thread, because forking a
process with several threads is not safe.

When the connection to the runner ends, for any reason, this process kills the process group
of each kernel and exits. When it is killed itself, Linux kills the kernels.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import json
import os
import selectors
import signal
import socket
import sys
from typing import Any, NoReturn

REQUEST_BYTES = 1 << 20
PR_SET_PDEATHSIG = 1  # of Linux's prctl: the signal that a process gets when its parent dies


def import_and_serve(descriptor: str, *modules: str) -> None:
    """Import the modules, then serve the connection at that file descriptor until it ends."""
    del sys.path[0]  # the folder of this file, where a lesson would find modules by accident
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the runner handles Ctrl-C
    # ipykernel watches its parent unless this is 1; here the runner ends the kernels.
    os.environ["JPY_PARENT_PID"] = "1"
    # ipykernel sets this backend too, but matplotlib is imported before ipykernel starts.
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"
    for module in ("ipykernel.kernelapp", *modules):
        with contextlib.suppress(ImportError):  # the lesson that needs it will raise the error
            __import__(module)
    gc.collect()
    gc.freeze()  # a garbage collection in a kernel would copy every page that it visits
    serve_requests(socket.socket(fileno=int(descriptor)))


def serve_requests(connection: socket.socket) -> None:
    """Fork a kernel for each request; send its pid, and later its exit status, to its socket."""
    # When a kernel ends, SIGCHLD writes a byte into this pair, which ends the wait of `select`.
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    woken.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    kernels: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in selector.select()]
            if woken in ready:
                woken.recv(4096)
                _send_exit_statuses(kernels)
            if connection in ready:
                text, descriptors, _, _ = socket.recv_fds(connection, REQUEST_BYTES, 2)
                if not text:  # the runner has closed its end, or has died
                    break
                status_socket, log = socket.socket(fileno=descriptors[0]), descriptors[1]
                parent = os.getpid()
                pid = os.fork()
                if pid == 0:
                    # The kernel must hold no end of a connection of the server's.
                    for other in (connection, woken, waker, status_socket, *kernels.values()):
                        other.close()
                    selector.close()
                    _become_kernel(json.loads(text), log, parent)
                os.close(log)
                kernels[pid] = status_socket
                with contextlib.suppress(OSError):  # the runner no longer waits for this kernel
                    status_socket.send(str(pid).encode())
    for pid in kernels:
        with contextlib.suppress(OSError):  # it has just ended
            os.killpg(pid, signal.SIGKILL)


def _send_exit_statuses(kernels: dict[int, socket.socket]) -> None:
    """Send the exit status, or minus the signal, of each kernel that has ended; forget these."""
    for pid in list(kernels):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with contextlib.suppress(OSError):  # the runner has closed its end
                kernels[pid].send(str(os.waitstatus_to_exitcode(status)).encode())
            kernels.pop(pid).close()


def _become_kernel(request: dict[str, Any], log: int, parent: int) -> NoReturn:
    """Turn this forked process into what `python -m ipykernel_launcher` would be."""
    status = 1
    try:
        os.setsid()  # a group for the kernel and its children, so that all can be killed at once
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # the server died before prctl: no signal would come
            sys.exit(status)
        _restore_defaults(request)
        _redirect_streams(log)
        _reseed_generators()
        sys.argv = ["ipykernel_launcher", *request["arguments"]]

        from ipykernel.kernelapp import launch_new_instance

        launch_new_instance()
        status = 0
    except SystemExit as exit:
        status = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        # What the interpreter does at its end. os._exit skips the server's own frames.
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _restore_defaults(request: dict[str, Any]) -> None:
    """Undo the server's signal handlers; set the requested variables and working directory."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"] or ".")


def _redirect_streams(log: int) -> None:
    """Connect stdin to the null device, and stdout and stderr to the log."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard, descriptor in enumerate((null, log, log)):
        os.dup2(descriptor, standard)
    os.close(null)
    os.close(log)


def _reseed_generators() -> None:
    """Give the kernel new random states; only Python's own generator is reseeded by a fork."""
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    if "torch" in sys.modules:
        sys.modules["torch"].default_generator.seed()


if __name__ == "__main__":
    import_and_serve(*sys.argv[1:])
