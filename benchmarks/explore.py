"""How long a moved slider takes: to its first picture, to its last, after a storm; and its memory.

Run: python benchmarks/explore.py [--wall]

The training is the size of a lesson's: 8 paired seeds, 200 steps, every seed a line. The kernel's
side of it is one thread, timed in CPU seconds, which leaves out what other programs did meanwhile;
`--wall` times by the clock on the wall. What a learner sees is in explore_browser.py.
"""

import asyncio
import resource
import sys
import time
from itertools import pairwise
from pathlib import Path

from timing import Spread, report

from nbkit.lab.data import digits
from nbkit.lab.knobs import between, log
from nbkit.lab.live.explorer import Explorer, explore
from nbkit.lab.live.gc_pause import IDLE
from nbkit.lab.models import mlp
from nbkit.lab.runs.seeds import train_runs

KNOBS = {
    "lr": log(1e-3, 1.0).with_name("lr", float),
    "momentum": between(0.0, 0.95).with_name("momentum", float),
}
START = {"lr": 0.1, "momentum": 0.0}
DATA, SEEDS, STEPS = digits(), range(8), 200
MOVES, STORMS = 20, 4
STORM, PAUSE = 100, 0.016  # a drag: a move for each frame of the screen
clock = time.perf_counter if "--wall" in sys.argv else time.process_time


def fit(fig, *, lr, momentum):
    axes = fig.subplots(1, 2)
    for ax in axes:
        ax.set(xlabel="step", ylabel="loss", xlim=(0, STEPS), ylim=(0, 3))
    lines = [ax.plot([], [], color="C0", alpha=0.5)[0] for ax in axes for _ in SEEDS]
    arms = {"sgd": {"lr": lr, "momentum": momentum}}
    for runs in train_runs(mlp, DATA, arms, SEEDS, steps=STEPS, batch_size=64):
        if runs.step % 10 == 0:
            for line, losses in zip(lines, [*runs.losses[0], *runs.losses[0]], strict=True):
                line.set_data(range(len(losses)), losses)
            yield
    return f"loss {runs.final().mean():.3f}"


async def settled(ui: Explorer) -> None:
    await asyncio.sleep(0)
    while not ui._task.done():
        await asyncio.sleep(0.001)


async def next_picture(ui: Explorer) -> None:
    shown = ui.pictures
    while ui.pictures == shown:
        await asyncio.sleep(0.001)


async def one_move(ui: Explorer) -> tuple[float, float]:
    """Seconds to the first picture of a new value, and to the last."""
    start = clock()
    ui.controls["lr"].value = 0.002 if ui.values["lr"] > 0.5 else ui.values["lr"] * 1.4
    await next_picture(ui)
    first = clock() - start
    await settled(ui)
    return first, clock() - start


async def storm(ui: Explorer) -> tuple[float, float, int]:
    """Seconds from the last move to its first and its final picture; pictures until that move."""
    shown = ui.pictures
    for move in range(STORM):
        ui.controls["lr"].value = 0.005 * (move + 1)
        await asyncio.sleep(PAUSE)
    start, during = clock(), ui.pictures - shown
    while ui._begun != ui._asked:  # the run before is still on the screen
        await asyncio.sleep(0.001)
    await next_picture(ui)
    first = clock() - start
    await settled(ui)
    return first, clock() - start, during


def resident() -> float:
    """MB that this process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


async def measure() -> bool:
    ui = explore(fit, KNOBS, START)
    moves = [await one_move(ui) for _ in range(MOVES)]
    storms, memory = [], []
    for _ in range(STORMS):
        storms.append(await storm(ui))
        await asyncio.sleep(2 * IDLE)  # somebody looks at the picture
        memory.append(resident())
    growth = [after - before for before, after in pairwise(memory)]
    print("pictures during a storm of 100 moves:", [during for _, _, during in storms])
    rows = [
        ("one move: its first picture, seconds", [first for first, _ in moves], 0.3),
        ("one move: its final picture, seconds", [final for _, final in moves], 1.0),
        ("after a storm: a picture of the last value", [first for first, _, _ in storms], 0.3),
        ("after a storm: its final picture", [final for _, final, _ in storms], 1.0),
        ("100 moves: growth of memory, MB", growth, 2.0),
    ]
    return all([report(name, Spread.of(values), bound) for name, values, bound in rows])


if __name__ == "__main__":
    raise SystemExit(not asyncio.run(measure()))
