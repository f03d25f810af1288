"""Examine this machine: what it can do, which claims it cannot judge, what installs the rest."""

from __future__ import annotations

import os
import re
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

from nbkit.base.report import Report
from nbkit.lab.cost.busy import watch_others
from nbkit.lab.evidence.register import all_claims, without_lesson
from nbkit.lab.machine import CPUINFO, read_machine, read_processor

LESSON_GIB = 3  # the most memory that a lesson needs
NAMES_WIDTH = 26  # characters for the names of packages, so that a row fits on a screen of 80
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BF16_FLAGS = re.compile(r"\b(avx512_bf16|amx_bf16|bf16)\b")
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")  # a number of bytes, or "max" for none
# A requirement with an extra: `ipywidgets>=8; extra == "lab"` gives the groups ipywidgets and lab.
EXTRA_REQUIREMENT = re.compile(r"""([\w.-]+).*extra == ["'](\w+)["']""")


@dataclass(frozen=True)
class MachineCheck:
    """One check of the machine: its subject, what was found, and advice if that is too little."""

    what: str
    found: str
    advice: str = ""


@dataclass(frozen=True)
class SkippedClaim:
    """A claim that this machine cannot judge, with its lesson and what the machine lacks."""

    claim: str
    lesson: str
    needs: list[str]


@dataclass(frozen=True)
class Examination(Report):
    """The checks of this machine, and the claims that are skipped on it."""

    findings: list[MachineCheck]
    skipped: list[SkippedClaim]
    lists_claims: bool = True  # whether the table has a row for each skipped claim

    def table(self) -> tuple[str, Sequence[str], Sequence[Sequence[object]]]:
        """List one row for each check, then one for each skipped claim."""
        rows = [(check.what, check.found, check.advice) for check in self.findings]
        for skip in self.skipped if self.lists_claims else ():
            needs = " and ".join(skip.needs)
            rows.append((skip.lesson, f"{skip.claim} is skipped", f"needs {needs}"))
        noted = sum(bool(check.advice) for check in self.findings)
        summary = (
            f"{noted} of {len(self.findings)} checks have a note; claims that are skipped on this "
            f"machine: {len(self.skipped)}"
        )
        return summary, ("what", "here", "note"), rows


def examine(*, everything: bool = False) -> Examination:
    """Look at this machine without changing or downloading anything.

    Args:
        everything: False looks at what somebody needs who works through a lesson; True also at
            what writing lessons and testing them needs, and lists each skipped claim.
    """
    needed = [*_check_versions(), _check_processor(), _check_other_programs()]
    memory = _check_main_memory()
    # Enough memory is nothing to read about.
    if everything or memory.advice:
        needed.append(memory)
    needed += [_check_jupyterlab(), _check_gpu()]
    if everything:
        needed += [_check_bfloat16(), _check_distributed(), _check_browser(), *_check_extras()]
    return Examination(needed, _find_skipped_claims(), lists_claims=everything)


def _find_skipped_claims() -> list[SkippedClaim]:
    """List the claims that a lesson measures and that need what this machine lacks."""
    # A claim that no lesson measures yet would be skipped on every machine.
    unwritten = without_lesson()
    skipped = []
    for name, claim in all_claims().items():
        missing = claim.find_missing_needs()
        if missing and name not in unwritten:
            skipped.append(SkippedClaim(claim.id, claim.lesson, missing))
    return skipped


def _check_versions() -> list[MachineCheck]:
    here = read_machine()
    return [
        MachineCheck("versions", f"nbkit {metadata.version('nbkit')}, torch {here.torch}"),
        MachineCheck("python", f"{here.python} on {here.system}"),
    ]


def _check_processor() -> MachineCheck:
    # os.cpu_count() is None where the system does not say; one core is the careful guess.
    cores = os.cpu_count() or 1
    advice = "one core: claims about two processes are skipped" if cores == 1 else ""
    threads = _count_things(torch.get_num_threads(), "thread")
    found = f"{read_processor()}, {_count_things(cores, 'core')}, torch uses {threads}"
    return MachineCheck("processor", found, advice)


def _count_things(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


def _check_main_memory() -> MachineCheck:
    """Check the memory that one process may use."""
    total = _total_memory()
    if total is None:
        return MachineCheck("memory", "not known on this system")
    # A little less than 3 GiB is shown as 3.0 and still gets the advice.
    gib = total / 2**30
    advice = "" if gib >= LESSON_GIB else f"a lesson may need {LESSON_GIB} GiB"
    return MachineCheck("memory", f"{gib:.1f} GiB", advice)


def _total_memory() -> int | None:
    """Read the machine's memory in bytes, or the container's limit if that is lower."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        # Windows has no sysconf, and some systems do not know these two names.
        return None
    limit = CONTAINER_LIMIT.read_text().strip() if CONTAINER_LIMIT.exists() else "max"
    return min(total, int(limit)) if limit.isdigit() else total


def _check_gpu() -> MachineCheck:
    if torch.cuda.is_available():
        here = read_machine()
        gib = torch.cuda.get_device_properties(0).total_memory / 2**30
        count = torch.cuda.device_count()
        return MachineCheck("GPU", f"{count} x {here.gpu}, {gib:.0f} GiB, driver {here.driver}")
    # With NVIDIA's tool installed but a torch without CUDA, only torch has to be replaced.
    if torch.version.cuda is None and shutil.which("nvidia-smi"):
        advice = "this torch was built without CUDA: see pytorch.org/get-started for one with it"
        return MachineCheck("GPU", "there is one, and torch cannot use it", advice)
    return MachineCheck("GPU", "none", "not needed; claims that need CUDA are skipped")


def has_bfloat16() -> bool:
    """Return whether the hardware is known to compute bfloat16; the GPU's, if there is one."""
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # torch has no such question for processors; Linux lists their instruction sets.
    flags = CPUINFO.read_text() if CPUINFO.exists() else ""
    return bool(BF16_FLAGS.search(flags))


def _check_bfloat16() -> MachineCheck:
    """Check whether the hardware computes bfloat16; emulation is correct but slow."""
    if has_bfloat16():
        return MachineCheck("bfloat16", "in hardware")
    advice = "expect mixed precision to be no faster"
    return MachineCheck("bfloat16", "emulated, or not known", advice)


def _check_distributed() -> MachineCheck:
    """Check which backends several processes can communicate by."""
    if not torch.distributed.is_available():
        advice = "this torch was built without torch.distributed: lesson 7 is skipped"
        return MachineCheck("processes", "one", advice)
    # gloo connects processes on CPUs, nccl on NVIDIA's GPUs.
    backends = []
    if torch.distributed.is_gloo_available():
        backends.append("gloo")
    if torch.distributed.is_nccl_available():
        backends.append("nccl")
    return MachineCheck("processes", f"several, by {' and '.join(backends)}")


def _check_other_programs() -> MachineCheck:
    """Check whether the machine is now quiet enough to judge a timing."""
    # This watches the other programs for a moment: their load is a rate.
    load = watch_others()
    advice = "too busy now: claims over timings are skipped" if load.is_busy else ""
    return MachineCheck("other programs", str(load).removeprefix("other programs "), advice)


def _check_jupyterlab() -> MachineCheck:
    try:
        return MachineCheck("JupyterLab", metadata.version("jupyterlab"))
    except metadata.PackageNotFoundError:
        return MachineCheck("JupyterLab", "not installed", 'pip install "nbkit[lab]"')


def _check_browser() -> MachineCheck:
    # Distributions name the same program differently.
    for name in BROWSERS:
        path = shutil.which(name)
        if path is not None:
            return MachineCheck("browser", Path(path).name)
    advice = "only the browser tests need Chromium (Debian: apt-get install chromium)"
    return MachineCheck("browser", "no Chromium", advice)


def _check_extras() -> list[MachineCheck]:
    """Check, for each optional extra of nbkit, whether its packages are installed."""
    # Without an installation of nbkit there is no metadata, and requires() is None.
    packages: dict[str, list[str]] = {}
    for line in metadata.requires("nbkit") or []:
        requirement = EXTRA_REQUIREMENT.match(line)
        # An extra that includes another, as nbkit[test] in bench, is listed by itself.
        if requirement and requirement[1] != "nbkit":
            packages.setdefault(requirement[2], []).append(requirement[1])
    return [_check_extra(extra, names) for extra, names in packages.items()]


def _check_extra(extra: str, packages: Sequence[str]) -> MachineCheck:
    missing = [name for name in packages if not _is_installed(name)]
    what = f"nbkit[{extra}]"
    if not missing:
        return MachineCheck(what, "all there")
    # All names of a large extra would make the row wider than a screen.
    names = textwrap.shorten(
        ", ".join(missing), NAMES_WIDTH, break_on_hyphens=False, placeholder=" ..."
    )
    return MachineCheck(what, f"without {names}", f'pip install "{what}"')


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
