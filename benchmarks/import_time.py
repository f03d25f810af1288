"""What `import nbkit` adds to `import torch`. Run: python benchmarks/import_time.py

Each import is timed in a fresh process, by the CPU seconds of that process.
"""

import resource
import subprocess
import sys
from functools import partial

from timing import interleaved, report

REPEATS = 15
TORCH = "import torch"
NBKIT = "import torch, nbkit"
FIRST_USE = "import torch, nbkit; nbkit.clip_gradients_"


def run_python(code: str) -> None:
    subprocess.run([sys.executable, "-c", code], check=True)


def child_seconds() -> float:
    """The CPU seconds of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> bool:
    arms = {code: partial(run_python, code) for code in (TORCH, NBKIT, FIRST_USE)}
    timing = interleaved(arms, REPEATS, warmup=1, clock=child_seconds)
    imported = report("import nbkit / import torch", timing.ratio(NBKIT, TORCH), 1.02)
    used = report("import and first clip_gradients_", timing.ratio(FIRST_USE, TORCH), 1.05)
    return imported and used


if __name__ == "__main__":
    raise SystemExit(not main())
