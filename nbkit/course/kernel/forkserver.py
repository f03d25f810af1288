"""A process that has imported what the lessons need, and forks a kernel from it when told to.

Importing torch, scipy and matplotlib takes a kernel longer than many a lesson's first half. Here it
is done once: a forked kernel begins where the imports end, and is otherwise like any other.

It is started by its path, imports the standard library only (before what it is told to), and has
one thread: a fork of more than one is not sound. `fork_client` is the other end of
the line.

Nothing survives it, and it survives nobody: when the line to the runner ends, whatever ended the
runner, it kills the process group of each kernel and goes. When it is killed itself, Linux kills
the kernels.
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

REQUEST_BYTES = 1 << 20
PR_SET_PDEATHSIG = 1


def main(descriptor: str, *modules: str) -> None:
    """Import the modules, then serve the line at that file descriptor until it ends."""
    del sys.path[0]  # the folder of this file
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the runner's business
    os.environ["JPY_PARENT_PID"] = "1"  # ipykernel: somebody else sees to it that kernels end
    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # as ipykernel does
    for module in ("ipykernel.kernelapp", *modules):
        with contextlib.suppress(ImportError):  # the lesson will say so, if it needs it
            __import__(module)
    gc.collect()
    gc.freeze()  # a collection in a kernel would copy every page that it looks at
    serve(socket.socket(fileno=int(descriptor)))


def serve(line: socket.socket) -> None:
    """Fork a kernel for each request; tell each one's own line its pid, and how it ended."""
    woken, waker = socket.socketpair()
    waker.setblocking(False)
    woken.setblocking(False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
    kernels: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(line, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in selector.select()]
            if woken in ready:
                woken.recv(4096)
                _bury(kernels)
            if line in ready:
                text, descriptors, _, _ = socket.recv_fds(line, REQUEST_BYTES, 2)
                if not text:
                    break
                own, log = socket.socket(fileno=descriptors[0]), descriptors[1]
                parent = os.getpid()
                pid = os.fork()
                if pid == 0:
                    for other in (line, woken, waker, own, *kernels.values()):
                        other.close()
                    selector.close()
                    _become_kernel(json.loads(text), log, parent)
                os.close(log)
                kernels[pid] = own
                with contextlib.suppress(OSError):
                    own.send(str(pid).encode())
    for pid in kernels:
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)


def _bury(kernels: dict[int, socket.socket]) -> None:
    """Tell how the kernels that have ended did: the exit status, or minus the signal."""
    for pid in list(kernels):
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            with contextlib.suppress(OSError):  # nobody listens any more
                kernels[pid].send(str(os.waitstatus_to_exitcode(status)).encode())
            kernels.pop(pid).close()


def _become_kernel(request: dict, log: int, parent: int) -> None:
    """Be what `python -m ipykernel_launcher` would be; never returns."""
    status = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it was gone before Linux knew
            return
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"] or ".")
        nothing = os.open(os.devnull, os.O_RDWR)
        for standard, descriptor in enumerate((nothing, log, log)):
            os.dup2(descriptor, standard)
        os.close(nothing)
        os.close(log)
        if "numpy" in sys.modules:  # Python reseeds its own generator after a fork, these do not
            sys.modules["numpy"].random.seed()
        if "torch" in sys.modules:
            sys.modules["torch"].default_generator.seed()
        sys.argv = ["ipykernel_launcher", *request["arguments"]]

        from ipykernel.kernelapp import launch_new_instance

        launch_new_instance()
        status = 0
    except SystemExit as exit:
        status = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main(*sys.argv[1:])
