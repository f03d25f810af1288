"""Repeat the timing lessons: do ten runs agree when the machine is quiet, and mislead when busy?

    python benchmarks/verdicts.py quiet          # nothing else may run; about 30 minutes
    python benchmarks/verdicts.py busy           # four busy loops beside it

Quiet: of the ten 95 % intervals of a claim, at least nine must hold the mean of the ten. Busy: no
claim may be decided against what most quiet runs found. Each run executes, in a fresh interpreter,
what the lesson executes to measure time: its first cells, the cell `measure-time`, and the timing
claims of its cell `cards`. The result is kept in data/benchmarks/verdicts_<quiet or busy>.json.
"""

import argparse
import ast
import json
import math
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean

from IPython.core.interactiveshell import InteractiveShell

from nbkit.course.lessons import find_lessons, read_notebook
from nbkit.lab.evidence.claims import REFUTED, SUPPORTED
from nbkit.lab.evidence.verdicts import judge
from nbkit.lab.machine import read_machine
from nbkit.lab.shipped import lessons_dir

DATA = Path(__file__).parents[1] / "data" / "benchmarks"
LESSONS = ("05_amp", "07_ddp")
MISSED = 1  # of ten intervals, so many may miss the mean
LOOPS = 4
DECIDED = (SUPPORTED, REFUTED)
Runs = Mapping[str, Sequence[Mapping[str, object]]]  # of each claim its verdicts, run by run


@contextmanager
def busy_loops(count: int) -> Iterator[None]:
    """Keep `count` programs busy beside, and end them on every way out."""
    loops = []
    try:
        for _ in range(count):
            loops.append(subprocess.Popen([sys.executable, "-c", "while True: pass"]))
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def run_lessons(lessons: Sequence[str], profile: str) -> dict[str, dict[str, object]]:
    """Time the lessons once, each in an interpreter of its own; each timing claim's verdict."""
    verdicts = {}
    for lesson in lessons:
        with tempfile.TemporaryDirectory(prefix="nbkit-verdicts-") as folder:
            path = Path(folder, "verdicts.json")
            words = [sys.executable, __file__, "once", "--profile", profile, "--lessons", lesson]
            subprocess.run([*words, "--data", str(path)], stdout=sys.stderr, check=True)
            verdicts |= json.loads(path.read_text())
    return verdicts


def time_lesson(path: Path, profile: str) -> dict[str, dict[str, object]]:
    """Execute the cells of a lesson that measure time; the verdicts of its timing claims."""
    cells = {cell["id"]: cell["source"] for cell in read_notebook(path).cells}
    given = f"profile = {profile!r}"
    shell = InteractiveShell.instance()
    first = (cells["open"], cells["parameters"], given, cells["guard"])
    for source in (*first, cells["measure-time"]):
        shell.run_cell(source, silent=True).raise_error()
    lesson, verdicts = shell.user_ns["lesson"], {}
    for node in ast.walk(ast.parse(cells["cards"])):
        # Of the lines `lesson.verdict("claim", measured)` those whose claim is over timings.
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "lesson.verdict":
            claim = lesson.claims[ast.literal_eval(node.args[0])]
            measured = claim.over == "timings" and eval(ast.unparse(node.args[1]), shell.user_ns)
            if measured:
                verdicts[claim.id] = judge(claim, measured).to_dict()
    return verdicts


def repeat(runs: int, once: Callable[[], dict[str, dict[str, object]]]) -> Runs:
    """Each claim's verdicts of so many runs."""
    found: dict[str, list[Mapping[str, object]]] = {}
    for number in range(runs):
        for claim, verdict in once().items():
            found.setdefault(claim, []).append(verdict)
            print(f"run {number + 1}  {claim:<26} {show(verdict)}", flush=True)
    return found


def show(verdict: Mapping) -> str:
    low, high = (math.inf if end is None else end for end in verdict["interval"])
    reason = f", {verdict['reason']}" if verdict["verdict"] == "SKIPPED" else ""
    return f"{verdict['effect']:.3g} [{low:.3g}, {high:.3g}] {verdict['verdict']}{reason}"


def count_holding(verdicts: Sequence[Mapping]) -> int:
    """How many of the intervals hold the (geometric) mean of all estimates."""
    mean = math.exp(fmean(math.log(one["effect"]) for one in verdicts))
    ends = [[math.inf if end is None else end for end in one["interval"]] for one in verdicts]
    return sum(low <= mean <= high for low, high in ends)


def find_disagreeing(runs: Runs) -> list[str]:
    """The claims of which too many intervals miss the mean, or a run was skipped."""
    wrong = []
    for claim, verdicts in runs.items():
        holding, skipped = count_holding(verdicts), _words(verdicts)["SKIPPED"]
        print(f"{claim:<26} {holding} of {len(verdicts)} intervals hold the mean of all")
        if holding < len(verdicts) - MISSED or skipped:
            wrong.append(claim)
    return wrong


def find_misled(runs: Runs, quiet: Runs) -> list[str]:
    """The claims that a busy run has decided against what most quiet runs found."""
    wrong = []
    for claim, verdicts in runs.items():
        usual = _words(quiet.get(claim, [])).most_common(1)
        words = _words(verdicts)
        print(f"{claim:<26} busy {dict(words)}, quiet {dict(usual)}")
        if not usual or any(word in DECIDED and word != usual[0][0] for word in words):
            wrong.append(claim)
    return wrong


def _words(verdicts: Sequence[Mapping]) -> Counter[str]:
    return Counter(str(one["verdict"]) for one in verdicts)


def main() -> bool:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("when", choices=("quiet", "busy", "once"), help="once: for itself")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--profile", default="lesson")
    parser.add_argument("--lessons", nargs="+", default=LESSONS)
    parser.add_argument("--data", type=Path, default=DATA, help="folder for the result")
    options = parser.parse_args()
    if options.when == "once":
        found = time_lesson(find_lessons(options.lessons, lessons_dir())[0], options.profile)
        options.data.write_text(json.dumps(found))
        return True

    with busy_loops(LOOPS if options.when == "busy" else 0):
        runs = repeat(options.runs, lambda: run_lessons(options.lessons, options.profile))
    options.data.mkdir(parents=True, exist_ok=True)
    kept = {"machine": read_machine().to_dict(), "profile": options.profile, "runs": runs}
    path = options.data / f"verdicts_{options.when}.json"
    path.write_text(json.dumps(kept, indent=1) + "\n")

    if options.when == "quiet":
        wrong = find_disagreeing(runs)
    else:
        before = options.data / "verdicts_quiet.json"
        if not before.exists():
            print(f"{path} is kept, but {before} is missing: run `quiet` first to compare.")
            return False
        wrong = find_misled(runs, json.loads(before.read_text())["runs"])
    print(f"over: {', '.join(wrong)}" if wrong else "ok")
    return not wrong


if __name__ == "__main__":
    raise SystemExit(not main())
