"""The caller's side of `nbkit.ddp.launch`: start the agent, show its output, explain a failure."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import linecache
import os
import pickle
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

from nbkit.base.pickling import pickle_value
from nbkit.base.state import delay_interrupts
from nbkit.ddp.worker import JobOptions

# How long the launcher waits for what should come at once: each rank's stack, and the end of the
# process that clears up after the others.
PATIENCE_SECONDS = 5.0

# The resource tracker removes semaphores and shared memory from /dev/shm when all that could use
# them have ended. In a session of its own it outlives the others, which are killed as one group.
# torch._dynamo: the first optimizer of a process imports it, which takes a second.
START = """
import multiprocessing, subprocess, sys
from multiprocessing import forkserver, resource_tracker, util

def start_apart(path, arguments, files):
    global tracker
    tracker = subprocess.Popen(
        arguments, executable=path, pass_fds=files, start_new_session=True)
    return tracker.pid

usual, util.spawnv_passfds = util.spawnv_passfds, start_apart
resource_tracker.ensure_running()
util.spawnv_passfds = usual
if sys.argv[2] == "forkserver":
    multiprocessing.set_forkserver_preload(["torch._dynamo", "nbkit.ddp.worker"])
    forkserver.ensure_running()  # it loads torch while this process does
from nbkit.ddp.worker import agent
agent(sys.argv[1])
"""


@dataclasses.dataclass
class RankFailure:
    """How one rank ended: `error` is an exception's class or a signal's name."""

    rank: int
    error: str
    message: str
    traceback: str = ""


class LaunchError(RuntimeError):
    """A launch failed; `failures` holds what each rank said, the first to fail first."""

    def __init__(self, text: str, failures: list[RankFailure] | None = None):
        super().__init__(text)
        self.failures = failures or []

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows: the rank's traceback, and not the launcher's own frames."""
        return f"LaunchError: {self}".splitlines()


def run_job(job: Path, call: tuple, options: JobOptions) -> list:
    """Run `call` = (fn, args, kwargs) on `options.nproc` processes; each rank's value."""
    name = getattr(call[0], "__name__", str(call[0]))
    _prepare(job, name, call, options)
    agent: subprocess.Popen | None = None
    try:
        with delay_interrupts():  # until the processes are known that an interrupt has to end
            agent = _start_agent(job, options)
        try:
            said = _show(agent, job, options)
        finally:
            _kill(agent)  # at once: a second interrupt may come at any time
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{name} was interrupted; its processes were ended") from None
    finally:
        if agent is not None:
            with delay_interrupts():
                _end(agent)
    values = [job / f"value_{rank}" for rank in range(options.nproc)]
    if _exit_codes(job) == {} and all(path.exists() for path in values):
        return [pickle.loads(path.read_bytes()) for path in values]
    raise explain(job, name, options, said)


def _prepare(job: Path, name: str, call: tuple, options: JobOptions) -> None:
    data = pickle_value(call, f"{name} (with its arguments)")
    # A cell is a file that only this process knows: send its lines for the ranks' tracebacks.
    sources = {
        file: entry[2]
        for file, entry in list(linecache.cache.items())
        if len(entry) == 4 and entry[1] is None and file.encode() in data
    }
    (job / "call").write_bytes(data)
    dataclasses.replace(options, sources=sources).save(job)


def _start_agent(job: Path, options: JobOptions) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", START, str(job), options.method],
        env=_environment(options.nproc),
        stdin=subprocess.PIPE,  # the agent ends when our end of it closes, however we end
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # one group to end as a whole; a notebook's interrupt is ours
    )


def _environment(nproc: int) -> dict[str, str]:
    """The caller's environment, with the caller's import path and a share of the cores."""
    env = dict(os.environ)
    env.pop("MPLBACKEND", None)  # a notebook's inline backend has no notebook to draw in
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    if not env.get("OMP_NUM_THREADS", "").strip():  # empty counts as unset: clusters set it so
        env["OMP_NUM_THREADS"] = str(max(1, cores // nproc))
    loopback = "lo" if sys.platform == "linux" else "lo0"
    env.setdefault("GLOO_SOCKET_IFNAME", loopback)
    env.setdefault("NCCL_SOCKET_IFNAME", loopback)
    # After a restart the ranks would otherwise read the keys of the attempt before (torch 2.13).
    env["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    env["PYTHONUNBUFFERED"] = "1"
    env["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    return env


def _show(agent: subprocess.Popen, job: Path, options: JobOptions) -> list[str]:
    """Print the ranks' lines as they come, until the agent has ended; return its own lines."""
    assert agent.stdout is not None
    pipe, rest, own = agent.stdout.fileno(), b"", []
    while not _is_late(options):
        ended = (job / "ended.json").exists() or agent.poll() is not None
        if select.select([pipe], [], [], 0.0 if ended else 0.1)[0]:
            chunk = os.read(pipe, 1 << 16)
            if not chunk:
                break
            *lines, rest = (rest + chunk).split(b"\n")
            own += _print_ranks(lines)
        elif ended:
            break
    else:
        _ask_for_stacks(agent, job)
    return own + _print_ranks([rest] if rest else [])


def _is_late(options: JobOptions) -> bool:
    """Whether the time of the call is up."""
    return options.deadline is not None and time.time() >= options.deadline


def _ask_for_stacks(agent: subprocess.Popen, job: Path) -> None:
    """Have each rank write where it is, and wait until it has."""
    stacks = {}  # of each rank that was asked: how much it had written when we last looked
    for path in job.glob(f"pid_{_last_attempt(job)}_*"):
        with contextlib.suppress(ProcessLookupError):
            pid = int(path.read_text())
            if os.getpgid(pid) == agent.pid:  # not another process that has got the number since
                os.kill(pid, signal.SIGUSR1)
                stacks[path.with_name(path.name.replace("pid", "stack"))] = 0
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        sizes = {path: path.stat().st_size for path in stacks}
        if sizes == stacks and all(sizes.values()):
            return
        stacks = sizes
        time.sleep(0.05)


def _last_attempt(job: Path) -> int:
    return max((int(path.name.split("_")[1]) for path in job.glob("stack_*")), default=0)


def _print_ranks(lines: list[bytes]) -> list[str]:
    """Print what begins with a rank, return the rest."""
    texts = [line.decode(errors="replace") for line in lines]
    for text in texts:
        if text.startswith("[rank"):
            print(text, flush=True)
    return [text for text in texts if not text.startswith("[rank")]


def _kill(agent: subprocess.Popen) -> None:
    """Kill the agent and all that it started: they are one process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(agent.pid, signal.SIGKILL)


def _end(agent: subprocess.Popen) -> None:
    """Wait until nothing of the job is left."""
    _kill(agent)
    agent.wait()
    assert agent.stdin is not None and agent.stdout is not None
    agent.stdin.close()
    pipe = agent.stdout.fileno()
    # The resource tracker holds the pipe's other end until it has cleared up.
    end = time.monotonic() + PATIENCE_SECONDS
    while (seconds := end - time.monotonic()) > 0:
        if select.select([pipe], [], [], seconds)[0] and not os.read(pipe, 1 << 16):
            break
    agent.stdout.close()


def _exit_codes(job: Path) -> dict[int, int] | None:
    """The exit code of each rank that the agent saw fail first; None if it did not end itself."""
    try:
        codes = json.loads((job / "ended.json").read_text())
    except FileNotFoundError:
        return None
    return {int(rank): code for rank, code in codes.items()}


def explain(job: Path, name: str, options: JobOptions, said: list[str]) -> LaunchError:
    """What went wrong, from what the ranks and the agent left in the job's folder."""
    attempt, nproc, codes = _last_attempt(job), options.nproc, _exit_codes(job)
    failures = _failures(job, attempt, nproc, codes or {})
    if codes is None and _is_late(options):
        lines = [
            f"{name} did not end within timeout={options.timeout:g} s on {nproc} processes. "
            f"A longer run needs a larger timeout (or None); where a rank waits for another, "
            f"look for a collective that not every rank reaches. Each rank was here:"
        ]
        for rank in range(nproc):
            stack = _stack(job / f"stack_{attempt}_{rank}")
            lines += [f"--- rank {rank} ---", stack or "(not in the function yet, or ended)"]
    elif failures:
        first, *others = failures
        again = f" (attempt {attempt + 1})" if attempt else ""
        lines = [f"{name} failed on rank {first.rank} of {nproc}{again}.", first.traceback.strip()]
        lines += [f"Rank {f.rank} then: {f.error}: {f.message.strip()[:160]}" for f in others]
    else:
        lines = [f"{name}: the launcher ended before a rank failed. It said:", *said[-25:]]
    return LaunchError("\n".join(lines), failures)


def _failures(job: Path, attempt: int, nproc: int, codes: dict[int, int]) -> list[RankFailure]:
    """What each failed rank said, in order of time; a killed rank says nothing, and goes first."""
    told = {}
    for path in job.glob(f"error_{attempt}_*"):
        told[int(path.name.split("_")[2])] = json.loads(path.read_text())
    killed = []
    for rank, code in sorted(codes.items()):
        if rank not in told:
            error, message = _describe_exit(code)
            stack = _stack(job / f"stack_{attempt}_{rank}")
            killed.append(RankFailure(rank, error, message, f"{message}\n{stack}"))
    return killed + [
        RankFailure(rank, error["type"], error["message"], error["traceback"])
        for rank, error in sorted(told.items(), key=lambda item: item[1]["time"])
    ]


def _describe_exit(code: int) -> tuple[str, str]:
    """The name of an exit code, and what it says of a rank that has reported no exception."""
    if code >= 0:
        return f"exit code {code}", (
            f"the process ended with exit code {code} before the function had returned, and "
            f"reported no exception: look for os._exit(), or a library that calls C's exit()."
        )
    name = signal.Signals(-code).name
    hint = " Out of memory is the usual reason." if code == -signal.SIGKILL else ""
    return name, f"the process ended by {name}, without a Python exception.{hint}"


def _stack(path: Path) -> str:
    """The frames of the thread that crashed, or of the main one, as a traceback shows them."""
    text = path.read_text() if path.exists() else ""
    threads = text.replace("Current thread 0x", "Thread 0x").split("Thread 0x")
    if "Current thread 0x" in text and "Fatal Python error" in text:
        threads = text.split("Current thread 0x")[1].split("Thread 0x")[:1]
    frames = []
    for file, line, function in re.findall(r'File "(.*)", line (\d+) in (.*)', threads[-1]):
        if file.endswith("_ddp_worker.py"):
            break  # the frames outside are those that started the process
        source = linecache.getline(file, int(line)).strip()
        frames.append(f'  File "{file}", line {line}, in {function}\n    {source}'.rstrip())
    return "\n".join(reversed(frames))
