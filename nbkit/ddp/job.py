"""Run one launch from the caller's side: start the agent, show its output, collect the values."""

from __future__ import annotations

import contextlib
import dataclasses
import linecache
import os
import pickle
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nbkit.base.pickling import pickle_value
from nbkit.base.state import delay_interrupts
from nbkit.ddp.failures import explain_launch, find_last_attempt, is_late, read_exit_codes
from nbkit.ddp.options import JobOptions

# A function with its arguments and its keywords.
Call = tuple[Callable[..., Any], Sequence[Any], Mapping[str, Any]]
Agent = subprocess.Popen[bytes]

# How long the launcher waits for what should come at once: each rank's stack, and the end of the
# process that clears up after the others.
PATIENCE_SECONDS = 5.0

# The agent's program. The resource tracker removes semaphores and shared memory from /dev/shm when
# all processes that could use them have ended. It gets a separate session, because the others are
# killed as one group and it has to outlive them. torch._dynamo is loaded ahead because the first
# optimizer of a process imports it, which takes a second.
AGENT_PROGRAM = """
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
from nbkit.ddp.agent import run_agent
run_agent(sys.argv[1])
"""


def run_job(job: Path, call: Call, options: JobOptions) -> list[Any]:
    """Run a call on `options.nproc` processes; return each rank's value."""
    name = getattr(call[0], "__name__", str(call[0]))
    _write_job(job, name, call, options)
    agent: Agent | None = None
    try:
        # An interrupt in here would leave processes that nothing else ends.
        with delay_interrupts():
            agent = _start_agent(job, options)
        try:
            said = _show_output(agent, job, options)
        finally:
            _kill_agent(agent)  # at once, because a second interrupt may come at any time
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{name} was interrupted; its processes were ended") from None
    finally:
        if agent is not None:
            with delay_interrupts():
                _await_end(agent)
    # Every rank has ended well and has written its value; anything else is a failure.
    values = [job / f"value_{rank}" for rank in range(options.nproc)]
    if read_exit_codes(job) == {} and all(path.exists() for path in values):
        return [pickle.loads(path.read_bytes()) for path in values]
    raise explain_launch(job, name, options, said)


def _write_job(job: Path, name: str, call: Call, options: JobOptions) -> None:
    """Write the call and the options into the job's folder."""
    data = pickle_value(call, f"{name} (with its arguments)")
    sources = {}
    for file, entry in list(linecache.cache.items()):
        # A cell is a file without a modification time, known to this process only. The ranks need
        # its lines for their tracebacks.
        if len(entry) == 4 and entry[1] is None and file.encode() in data:
            sources[file] = entry[2]
    (job / "call").write_bytes(data)
    dataclasses.replace(options, sources=sources).write_options(job)


def _start_agent(job: Path, options: JobOptions) -> Agent:
    """Start the agent's process; it ends when our end of its standard input closes."""
    return subprocess.Popen(
        [sys.executable, "-c", AGENT_PROGRAM, str(job), options.method],
        env=_make_environment(options.nproc),
        stdin=subprocess.PIPE,  # closes however this process ends
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # one group to end as a whole; a notebook's interrupt is ours
    )


def _make_environment(nproc: int) -> dict[str, str]:
    """Copy the caller's environment, with its import path and a share of the cores."""
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
    # An empty entry is the current folder, of this process and not of the agent.
    env["PYTHONPATH"] = os.pathsep.join([path or os.getcwd() for path in sys.path])
    return env


def _show_output(agent: Agent, job: Path, options: JobOptions) -> list[str]:
    """Print the ranks' lines as they come, until the agent has ended; return its own lines."""
    assert agent.stdout is not None
    pipe, rest, own = agent.stdout.fileno(), b"", []
    while not is_late(options):
        ended = (job / "ended.json").exists() or agent.poll() is not None
        # After the end, read on without waiting until the pipe is empty.
        if select.select([pipe], [], [], 0.0 if ended else 0.1)[0]:
            chunk = os.read(pipe, 1 << 16)
            if not chunk:
                break
            *lines, rest = (rest + chunk).split(b"\n")
            own += _print_ranks(lines)
        elif ended:
            break
    else:
        _request_stacks(agent, job)
    return own + _print_ranks([rest] if rest else [])


def _request_stacks(agent: Agent, job: Path) -> None:
    """Make each rank write where it is, and wait until it has."""
    stacks = {}  # by file of an asked rank, its size when we last looked
    for path in job.glob(f"pid_{find_last_attempt(job)}_*"):
        with contextlib.suppress(ProcessLookupError):
            pid = int(path.read_text())
            # The rank may have ended, and another process may have its number now.
            if os.getpgid(pid) == agent.pid:
                os.kill(pid, signal.SIGUSR1)
                stacks[path.with_name(path.name.replace("pid", "stack"))] = 0
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        sizes = {path: path.stat().st_size for path in stacks}
        # Complete when no file has grown since the last look and none is empty.
        if sizes == stacks and all(sizes.values()):
            return
        stacks = sizes
        time.sleep(0.05)


def _print_ranks(lines: list[bytes]) -> list[str]:
    """Print the lines that begin with a rank, and return the others."""
    own = []
    for line in lines:
        text = line.decode(errors="replace")
        if text.startswith("[rank"):
            print(text, flush=True)
        else:
            own.append(text)
    return own


def _kill_agent(agent: Agent) -> None:
    """Kill the agent and everything that it has started: they are one process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(agent.pid, signal.SIGKILL)


def _await_end(agent: Agent) -> None:
    """Kill the agent, and wait until nothing of the job is left."""
    _kill_agent(agent)
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
