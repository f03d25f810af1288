"""Describe what a number was measured on: it is shown beside every number, and keys the ledger."""

from __future__ import annotations

import dataclasses
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

CPUINFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Machine:
    """The hardware and the versions that a measurement depends on.

    `hardware` is the class of hardware (see `name_hardware`); `cores` counts logical processors;
    `threads` is the number that torch computes on. `gpu` and `driver` are None without a GPU.
    """

    hardware: str
    processor: str
    cores: int | None
    threads: int
    gpu: str | None
    driver: str | None
    torch: str
    python: str
    system: str

    def to_dict(self) -> dict[str, object]:
        """Return the fields by name, ready for JSON."""
        return dataclasses.asdict(self)


def read_machine() -> Machine:
    """Read the hardware and the versions of this process."""
    has_gpu = torch.cuda.is_available()
    return Machine(
        hardware=name_hardware(),
        processor=read_processor(),
        cores=os.cpu_count(),
        threads=torch.get_num_threads(),
        gpu=torch.cuda.get_device_name() if has_gpu else None,
        driver=_read_driver() if has_gpu else None,
        torch=str(torch.__version__),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
    )


def name_hardware() -> str:
    """Return the class of hardware, as the ledger names its folders: `cpu`, `nvidia-h200`, ..."""
    if not torch.cuda.is_available():
        return "cpu"
    # Lower case, with one hyphen for each run of other characters: safe in any file system.
    return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")


def describe_machine() -> str:
    """Return one line for a caption: `AMD EPYC 7B13, 1 thread, torch 2.13.0`."""
    # The GPU stands for the machine where there is one: it does the computing.
    machine = read_machine()
    plural = "" if machine.threads == 1 else "s"
    device = machine.gpu or machine.processor
    return f"{device}, {machine.threads} thread{plural}, torch {machine.torch}"


def read_processor() -> str:
    """Return the name of the processor."""
    # On Linux, platform.processor() returns only the architecture; the kernel lists the model.
    if CPUINFO.exists():
        model = re.search(r"^model name\s*:\s*(.+)$", CPUINFO.read_text(), re.MULTILINE)
        if model:
            return model.group(1).strip()
    return platform.processor() or platform.machine()


@cache  # it starts a process, and the driver does not change while this one runs
def _read_driver() -> str | None:
    """Return the version of NVIDIA's driver; None where `nvidia-smi` is missing or says nothing."""
    # torch knows the version of CUDA, but not that of the driver.
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return None
    command = [tool, "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None
