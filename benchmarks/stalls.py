"""Many headless runs of a notebook, several at a time: does each of them end?

    python benchmarks/stalls.py notebooks/01_lr_finder.ipynb --runs 100 --jobs 4 -p profile smoke

Each run is a process of its own. One that fails, or is not done within its limit, has stalled,
and the exit status says so. Without a notebook one is made that provokes the stalls of nbclient: 25
cells with an `Output` widget each; `--with papermill` shows them.
"""

import argparse
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from time import monotonic

import nbformat
from nbformat.v4 import new_code_cell, new_notebook

WIDGET = "import ipywidgets\nout = ipywidgets.Output()\nwith out:\n    print('captured')"


def provoking(path):
    """A notebook in which nbclient answers a widget in every cell."""
    nbformat.write(new_notebook(cells=[new_code_cell(WIDGET) for _ in range(25)]), path)
    return path


def command(runner, source, out, parameters):
    """The command line of one run, which writes into the folder `out`."""
    given = [word for pair in parameters for word in ("-p", *pair)]
    if runner == "nbkit":
        words = ["-m", "nbkit.course.cli", "run", source, "--out", out, *given]
    else:
        options = ["-k", "python3", "--no-progress-bar"]
        words = ["-m", "papermill", source, out / "out.ipynb", *options, *given]
    return [sys.executable, *map(str, words)]


def run_once(words, limit):
    """Seconds of one run, and what was wrong with it."""
    began = monotonic()
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:  # it has been killed, and its kernel sees that and goes too
        return limit, f"not done after {limit:g} s"
    said = (done.stdout + done.stderr).strip().splitlines() or ["no message"]
    return monotonic() - began, said[-1] if done.returncode else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--jobs", type=int, default=4, help="at a time")
    parser.add_argument("--limit", type=float, default=180, help="seconds that a run may take")
    parser.add_argument("--with", dest="runner", choices=("nbkit", "papermill"), default="nbkit")
    parser.add_argument("-p", dest="parameters", nargs=2, action="append", default=[])
    options = parser.parse_args()

    seconds, problems = [], []
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(options.jobs) as pool:
        source = options.notebook or provoking(Path(folder, "provoking.ipynb"))
        outs = [Path(folder, str(n)) for n in range(options.runs)]
        for out in outs:
            out.mkdir()
        words = [command(options.runner, source, out, options.parameters) for out in outs]
        for took, problem in pool.map(run_once, words, [options.limit] * options.runs):
            seconds.append(took)
            problems += [problem] if problem else []
            print(f"\r{len(seconds)} of {options.runs} runs, {len(problems)} stalled", end="")
            sys.stdout.flush()
    print(f"\n{source.name}, {options.runner}, {options.jobs} at a time: ", end="")
    print(f"median {median(seconds):.1f} s, slowest {max(seconds):.1f} s")
    print(*sorted(set(problems)), sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
