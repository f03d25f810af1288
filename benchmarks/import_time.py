"""What `import nbkit` adds to `import torch`. Run: python benchmarks/import_time.py

Each sample is a fresh process that times its own imports, in CPU seconds. The ratio is taken
within a process: between two processes, `import torch` alone differs by more than the bound.
"""

import subprocess
import sys

from timing import Spread, report

REPEATS = 15
CODE = """
from time import process_time
start = process_time()
import torch
torch_seconds = process_time() - start
import nbkit
nbkit_seconds = process_time() - start
nbkit.clip_gradients_
print(torch_seconds, nbkit_seconds, process_time() - start)
"""


def time_imports() -> tuple[float, float, float]:
    """Seconds until torch is imported, until nbkit is, and until a first function is loaded."""
    run = subprocess.run([sys.executable, "-c", CODE], check=True, capture_output=True, text=True)
    torch_seconds, nbkit_seconds, used_seconds = map(float, run.stdout.split())
    return torch_seconds, nbkit_seconds, used_seconds


def main() -> bool:
    time_imports()  # writes the .pyc files, and fills the page cache
    samples = [time_imports() for _ in range(REPEATS)]
    imported = Spread.of([nbkit / torch for torch, nbkit, _ in samples])
    used = Spread.of([first_use / torch for torch, _, first_use in samples])
    within = report("import nbkit / import torch", imported, 1.02)
    return report("import and first clip_gradients_", used, 1.05) and within


if __name__ == "__main__":
    raise SystemExit(not main())
