"""The course headless, its smoke profile: `nbkit run --jobs 2` against papermill, one by one.

    python benchmarks/course.py [LESSON ...] [--profile smoke] [--repeats 3] [--copies N]

Each arm is what a shell would do: papermill is called once a lesson, as it comes, and writes the
notebook; nbkit is called once for all, and writes notebook, page and record of each. Both have one
compute thread a kernel, and the same parameters. In the smoke profile the start of the kernels
weighs most; `--profile ''` times the lessons as a reader runs them. Below that: what the start of
a kernel costs.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from timing import Spread, interleaved, report

from nbkit.course.lessons import find_lessons
from nbkit.lab.shipped import lessons_dir

BOUND = 0.65
IMPORTS = "import torch, torch._dynamo, scipy.stats, matplotlib.figure"


def papermill(lessons, out, profile):
    """One process a lesson, one after another."""
    for path in lessons:
        words = ["-m", "papermill", path, out / path.name, "-k", "python3", "--no-progress-bar"]
        call([*words, *(["-p", "profile", profile] if profile else [])])


def nbkit(lessons, out, profile, jobs):
    """One process for all."""
    words = ["-m", "nbkit.course.cli", "run", *lessons, "--out", out, "--jobs", jobs]
    call([*words, *(["--profile", profile] if profile else [])])


def call(words):
    """Run Python; what fails has not been timed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "NBKIT_LIVE": "0"}
    words = [sys.executable, *map(str, words)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 3):  # 3: a verdict is another than the ledger's
        raise SystemExit(f"{' '.join(words)}\n{done.stdout}{done.stderr}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lessons", nargs="*")
    parser.add_argument(
        "--profile", default="smoke", help="that is timed: %(default)s; '' is the lessons' own"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--copies", type=int, default=1, help="of each lesson, to have more")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        lessons, copies = find_lessons(options.lessons, lessons_dir()), Path(folder, "lessons")
        copies.mkdir()
        lessons = [
            Path(shutil.copy(path, copies / f"{path.stem}{'_copy' * n}.ipynb"))
            for path in lessons
            for n in range(options.copies)
        ]
        out = Path(folder, "out")
        out.mkdir()
        arms = {
            "nbkit": lambda: nbkit(lessons, out / "runs", options.profile, options.jobs),
            "papermill": lambda: papermill(lessons, out, options.profile),
        }
        timed = interleaved(arms, options.repeats, warmup=0)
        starts = {
            "Python": lambda: call(["-c", ""]),
            "ipykernel": lambda: call(["-c", "import ipykernel.kernelapp"]),
            "imports": lambda: call(["-c", IMPORTS]),
        }
        start = interleaved(starts, 3)

    ours, theirs = timed.of("nbkit"), timed.of("papermill")
    profile = options.profile or "own profile"
    print(f"{len(lessons)} lessons, {profile}, seconds:")
    for name, spread in (("nbkit run --jobs 2", ours), ("papermill, in turn", theirs)):
        print(f"  {name:<40} {spread.median:7.1f} ({spread.low:.1f}..{spread.high:.1f})")
    print("what a kernel's start costs, seconds:")
    for name in starts:
        spread: Spread = start.of(name)
        print(f"  {name:<40} {spread.median:7.2f} ({spread.low:.2f}..{spread.high:.2f})")
    name = f"{len(lessons)} lessons, {profile}: nbkit run --jobs {options.jobs} / papermill in turn"
    return 0 if report(name, timed.ratio("nbkit", "papermill"), BOUND) else 1


if __name__ == "__main__":
    sys.exit(main())
