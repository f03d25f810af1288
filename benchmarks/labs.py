"""The live lab of every lesson: seconds from a moved slider to its pictures.

    python benchmarks/labs.py [LESSON ...] [--repeats 3] [--wall | --busy]

Each lesson runs from its first cell down to its lab, as in JupyterLab; then each slider is moved
to each of its stops, from where all of them start. Printed is the slowest of these moves: to the
first picture, to a sound one (a finished run, perhaps with few seeds), and to the final one, with
all seeds. Timed in CPU seconds, which leaves out what other programs did meanwhile; `--wall` by
the clock on the wall.

`--busy` shows a machine that is half as fast, by the clock on the wall: a busy loop shares the only
core that the lab may use. There the first picture is asked for within 0.25 s and a sound one within
1 s, from the first move on.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import time
from contextlib import contextmanager

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from timing import Spread, report

from nbkit.course.lessons import find_lessons, read_notebook
from nbkit.lab.live import explorer as explore
from nbkit.lab.live.headless_stops import format_value
from nbkit.lab.shipped import lessons_dir

# Seconds that are asked for. The final picture has no bound when the core is shared: it comes while
# the reader looks at the sound one.
BOUNDS = {"first picture": 0.25, "sound picture": 1.0, "final picture": 1.0}
BUSY_BOUNDS = BOUNDS | {"final picture": 5.0}


@contextmanager
def shared_core():
    """Keep this process and a busy loop on one core, so that each gets half of it."""
    core = min(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {core})  # the loop inherits it
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        loop.kill()
        loop.wait()


def lab_of(path):
    """What the lesson hands to its lab: fit, knobs, where they start, and the picture's options."""

    def show(*arguments, tile, **options):
        lab.append((arguments, options))

    lab, explore.show = [], show
    shell = InteractiveShell.instance()
    for cell in read_notebook(path).cells:
        if cell.cell_type == "code" and not lab:
            with capture_output():
                done = shell.run_cell(cell.source, silent=True)
            done.raise_error()
    return lab[0]


async def one_move(ui, name, value, clock):
    """Seconds to the first picture, a sound one and the last, of a control that goes to a stop."""
    shown, finished, start = ui.pictures, ui.finished, clock()
    ui.controls[name].value = value
    while ui.pictures == shown:
        await asyncio.sleep(0.001)
    first = clock() - start
    while ui.finished == finished and not ui._task.done():
        await asyncio.sleep(0.001)
    sound = clock() - start
    while not ui._task.done():
        await asyncio.sleep(0.001)
    if ui.error is not None:
        raise ui.error
    return first, sound, clock() - start


async def measure(lesson, lab, repeats, clock, bounds):
    """Move everything; report the slowest."""
    (fit, knobs, start), options = lab
    ui = explore.explore(fit, knobs, start, **options)
    at_first = ui.values
    stops = [(name, stop) for name, knob in ui.knobs.items() for stop in knob.stops]
    moves = [(name, stop) for name, stop in stops if stop != at_first[name]]
    took = {move: [] for move in moves}
    for _ in range(repeats):
        for name, stop in moves:
            took[name, stop].append(await one_move(ui, name, stop, clock))
            ui.run(**at_first)
    within = []
    for number, (what, bound) in enumerate(bounds.items()):
        spreads = {move: Spread.of([t[number] for t in times]) for move, times in took.items()}
        name, stop = slowest = max(spreads, key=lambda move: spreads[move].median)
        label = f"{lesson}, {what}, slowest: {name} {format_value(stop)}"
        within.append(report(label, spreads[slowest], bound))
    return all(within)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lessons", nargs="*")
    parser.add_argument("--repeats", type=int, default=3)
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--wall", action="store_true", help="by the clock on the wall")
    how.add_argument("--busy", action="store_true", help="on a core that a busy loop shares")
    options = parser.parse_args()
    lessons = find_lessons(options.lessons, lessons_dir())
    if len(lessons) > 1:  # each in a process of its own
        flags = [f"--{name}" for name in ("wall", "busy") if getattr(options, name)]
        words = ["--repeats", str(options.repeats), *flags]
        runs = [subprocess.run([sys.executable, __file__, path, *words]) for path in lessons]
        return max(run.returncode for run in runs)
    clock = time.perf_counter if options.wall or options.busy else time.process_time
    bounds = BUSY_BOUNDS if options.busy else BOUNDS
    lab = lab_of(lessons[0])
    measuring = measure(lessons[0].stem, lab, options.repeats, clock, bounds)
    if not options.busy:
        return int(not asyncio.run(measuring))
    with shared_core():
        return int(not asyncio.run(measuring))


if __name__ == "__main__":
    raise SystemExit(main())
