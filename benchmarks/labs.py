"""The live lab of every lesson: seconds from a moved slider to its first picture, and to its last.

    python benchmarks/labs.py [LESSON ...] [--repeats 3] [--wall]

Each lesson runs from its first cell down to its lab, as in JupyterLab; then each slider is moved
to each of its stops, from where all of them start. Printed is the slowest of these moves. Timed in
CPU seconds, which leaves out what other programs did meanwhile; `--wall` by the clock on the wall.
"""

import argparse
import asyncio
import subprocess
import sys
import time

from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from timing import Spread, report

from nbkit.course.lessons import find_lessons, read_notebook
from nbkit.lab.live import explorer as explore
from nbkit.lab.live.headless_stops import format_value
from nbkit.lab.shipped import lessons_dir

FIRST, FINAL = 0.3, 1.0  # seconds


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
    """Seconds to the first picture and to the last, of a control that goes to this stop."""
    shown, start = ui.pictures, clock()
    ui.controls[name].value = value
    while ui.pictures == shown:
        await asyncio.sleep(0.001)
    first = clock() - start
    while not ui._task.done():
        await asyncio.sleep(0.001)
    if ui.error is not None:
        raise ui.error
    return first, clock() - start


async def measure(lesson, lab, repeats, clock):
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
    for what, number, bound in (("first picture", 0, FIRST), ("final picture", 1, FINAL)):
        spreads = {move: Spread.of([t[number] for t in times]) for move, times in took.items()}
        name, stop = slowest = max(spreads, key=lambda move: spreads[move].median)
        label = f"{lesson}, {what}, slowest: {name} {format_value(stop)}"
        within.append(report(label, spreads[slowest], bound))
    return all(within)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lessons", nargs="*")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--wall", action="store_true")
    options = parser.parse_args()
    lessons = find_lessons(options.lessons, lessons_dir())
    if len(lessons) > 1:  # each in a process of its own
        words = ["--repeats", str(options.repeats), *(["--wall"] if options.wall else [])]
        runs = [subprocess.run([sys.executable, __file__, path, *words]) for path in lessons]
        return max(run.returncode for run in runs)
    clock = time.perf_counter if options.wall else time.process_time
    lab = lab_of(lessons[0])
    return int(not asyncio.run(measure(lessons[0].stem, lab, options.repeats, clock)))


if __name__ == "__main__":
    raise SystemExit(main())
