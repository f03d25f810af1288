"""What a number was measured on: it is shown beside every number, and keys the ledger."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import torch


def read_machine() -> dict[str, object]:
    """The hardware and the versions that a measurement depends on, ready for JSON."""
    return {
        "hardware": name_hardware(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "driver": _driver() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def name_hardware() -> str:
    """The class of hardware, as the ledger's folders are named: `cpu`, `nvidia-h200`, ..."""
    if not torch.cuda.is_available():
        return "cpu"
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


def describe_machine() -> str:
    """One line for a caption: `AMD EPYC 7B13, 1 thread, torch 2.13.0`."""
    facts = read_machine()
    threads = f"{facts['threads']} thread{'s' if facts['threads'] != 1 else ''}"
    return f"{facts['gpu'] or facts['processor']}, {threads}, torch {facts['torch']}"


@cache
def _driver() -> str | None:
    """The version of NVIDIA's driver, which torch does not tell."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    words = [tool, "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip() or None


def _processor() -> str:
    """The processor's name; Linux keeps it in a file, elsewhere platform knows."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if named:
            return named.group(1).strip()
    return platform.processor() or platform.machine()
