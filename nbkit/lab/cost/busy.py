"""Recognise a busy machine: how much of the cores other programs used while something was timed.

Linux counts the CPU seconds of all programs; those of this process and of what it has started are
taken off. Elsewhere a short spin before and after shows how much of a core this process gets.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

# Timings are judged only if other programs used less than this share of the cores. A desktop at
# rest uses 1 to 3 %; one busy program on two cores uses 50 %.
BUSY = 0.10
SHORTEST = 0.1  # seconds: the kernel counts in steps of 0.01 s
SPIN = 0.1  # seconds of computing, where the system does not count
COUNTED = "the system's count of CPU seconds"
SPUN = "a short spin before and after, as this system does not count what other programs use"
TOO_SHORT = "nothing: it was too short to tell"

PROC = Path("/proc")


@dataclass(frozen=True)
class Reading:
    """The counters at one moment, in seconds.

    Attributes:
        wall: the time.
        busy: CPU seconds of all programs on the cores that this process may use; None: not counted.
        stolen: what a hypervisor gave to other virtual machines instead.
        own: CPU seconds of this process and everything that it has started.
        stalled: how long some program has waited for a core; None where it is not counted.
        cores: how many cores these are.
        spin: the share of a core that a short spin got, where there is no count.
    """

    wall: float
    busy: float | None
    stolen: float
    own: float
    stalled: float | None
    cores: int
    spin: float | None = None


@dataclass(frozen=True)
class Load:
    """What else the machine did during a measurement.

    Attributes:
        others: the share of the cores that other programs used, with what a hypervisor took; None
            if the measurement was too short to tell.
        stolen: the share that a hypervisor took.
        stalled: the share of the time in which some program, ours included, waited for a core.
        seconds: how long the measurement took.
        source: how `others` is known.
    """

    others: float | None
    stolen: float = 0.0
    stalled: float | None = None
    seconds: float = 0.0
    source: str = COUNTED

    @property
    def is_busy(self) -> bool:
        """Whether other programs used too much for a timing to be judged."""
        return self.others is not None and self.others >= BUSY

    def __str__(self) -> str:
        if self.others is None:
            return "what other programs used is not known: the measurement was too short"
        text = f"other programs used {100 * self.others:.0f} % of the cores"
        if self.stolen >= BUSY / 2:
            text += f" ({100 * self.stolen:.0f} % went to other virtual machines)"
        return text if self.source == COUNTED else f"{text} (known from {self.source})"

    @property
    def reason(self) -> str:
        """Why nothing is judged; empty on a quiet machine."""
        return f"the machine was busy: {self}" if self.is_busy else ""

    def to_dict(self) -> dict[str, object]:
        """Every field, for JSON."""
        return asdict(self)


def read_cores(
    proc: Path | None = None,
    pid: int | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Reading:
    """Read the counters now; `load_since` compares two readings.

    Args:
        proc: the folder with the kernel's counters, /proc.
        pid: the process that measures, this one.
        clock: gives seconds; on a system without counters it also times a spin.
    """
    proc, pid = PROC if proc is None else proc, os.getpid() if pid is None else pid
    cores = _allowed_cores()
    try:
        busy, stolen, counted = _read_cores(proc / "stat", cores)
        own = _own_seconds(proc, pid)
    except (OSError, ValueError, IndexError):
        return Reading(clock(), None, 0.0, 0.0, None, len(cores), _spin_briefly(clock))
    return Reading(clock(), busy, stolen, own, _read_stalled(proc / "pressure" / "cpu"), counted)


def load_since(before: Reading, after: Reading | None = None) -> Load:
    """Tell what other programs used between two readings.

    Args:
        before: what `read_cores` returned when the measurement began.
        after: the same at its end; by default it is read now.

    >>> before = Reading(wall=0, busy=100, stolen=0, own=10, stalled=None, cores=2)
    >>> after = Reading(wall=10, busy=116, stolen=0, own=18, stalled=None, cores=2)
    >>> load_since(before, after).reason
    'the machine was busy: other programs used 40 % of the cores'
    """
    after = read_cores() if after is None else after
    wall = after.wall - before.wall
    if before.busy is None or after.busy is None:
        return _load_by_spin(before, after, wall)
    if wall < SHORTEST:
        return Load(None, seconds=wall, source=TOO_SHORT)

    room = wall * after.cores
    stolen = max(0.0, after.stolen - before.stolen)
    busy, own = after.busy - before.busy, after.own - before.own
    # A sandbox may show counters that stand still: they would call every machine quiet.
    if own > SHORTEST and busy < own / 2:
        return _load_by_spin(before, after, wall)
    stalled = None
    if before.stalled is not None and after.stalled is not None:
        stalled = (after.stalled - before.stalled) / wall
    others = min(1.0, max(0.0, busy - own + stolen) / room)
    return Load(others, min(1.0, stolen / room), stalled, wall)


def watch_others(seconds: float = 0.5) -> Load:
    """Look for some time at what other programs use, while this one does nothing."""
    before = read_cores()
    time.sleep(seconds)
    return load_since(before)


def _load_by_spin(before: Reading, after: Reading, wall: float) -> Load:
    """The share of a core that the worse of two spins did not get: a lower bound."""
    spins = [reading.spin for reading in (before, after) if reading.spin is not None]
    share = min(spins) if spins else _spin_briefly(time.monotonic)
    return Load(max(0.0, 1.0 - share), seconds=wall, source=SPUN)


def _spin_briefly(clock: Callable[[], float]) -> float:
    """Compute for SPIN seconds of CPU time, and return that over the wall-clock time it took."""
    # On a quiet machine SPIN seconds of computing take SPIN seconds.
    start, end = clock(), time.thread_time() + SPIN
    while time.thread_time() < end:
        pass
    return min(1.0, SPIN / max(clock() - start, SPIN))


def _allowed_cores() -> set[int]:
    """The cores that this process may run on."""
    # A container or taskset may allow fewer cores than there are.
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def _read_cores(stat: Path, allowed: set[int]) -> tuple[float, float, int]:
    """CPU seconds and stolen seconds, summed over the allowed cores, and how many these are."""
    lines = stat.read_text().splitlines()
    tick, busy, stolen, counted = _read_tick_seconds(), 0.0, 0.0, 0
    for line in lines:
        name, *columns = line.split()
        if not name.startswith("cpu") or name == "cpu" or int(name[3:]) not in allowed:
            continue
        # user nice system idle iowait irq softirq steal; guests are within user and nice
        user, nice, system, _, _, irq, softirq, *rest = map(int, columns)
        busy += (user + nice + system + irq + softirq) * tick
        stolen += rest[0] * tick if rest else 0.0
        counted += 1
    if not counted:
        raise ValueError(f"{stat} counts none of the cores {sorted(allowed)}.")
    return busy, stolen, counted


def _own_seconds(proc: Path, pid: int) -> float:
    """CPU seconds of a process and all its descendants, those that have ended included."""
    children: dict[int, list[int]] = {}
    ticks: dict[int, int] = {}
    for entry in proc.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            text = (entry / "stat").read_text()
        except OSError:  # it has just ended; its parent has its seconds now
            continue
        columns = text.rpartition(")")[2].split()  # a name may hold spaces and brackets
        number = int(entry.name)
        children.setdefault(int(columns[1]), []).append(number)
        ticks[number] = sum(int(column) for column in columns[11:15])
    if pid not in ticks:
        raise ValueError(f"{proc} does not show process {pid}.")

    total, found = 0, [pid]
    while found:
        number = found.pop()
        total += ticks[number]
        found += children.get(number, [])
    return total * _read_tick_seconds()


def _read_stalled(pressure: Path) -> float | None:
    """Seconds in which some program waited for a core: the kernel's pressure-stall information."""
    try:
        first = pressure.read_text().splitlines()[0]
        return int(first.rpartition("total=")[2]) / 1e6
    except (OSError, ValueError, IndexError):
        return None


def _read_tick_seconds() -> float:
    return 1.0 / os.sysconf("SC_CLK_TCK")
