"""What this machine can do, what will be skipped on it and why, and what installs the rest."""

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
from nbkit.lab.evidence.claims import all_claims, without_lesson
from nbkit.lab.machine import read_machine

LESSON_GIB = 3  # what a lesson may need
ROOM = 26  # letters for the names of packages: a row has to fit on a screen of 80
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@dataclass(frozen=True)
class Finding:
    """One thing about this machine: what was found, and what to do where that is too little."""

    what: str
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Skip:
    """A claim that this machine cannot judge."""

    claim: str
    lesson: str
    needs: list[str]


@dataclass(frozen=True)
class Examination(Report):
    """What was found, and the claims of the lessons that are skipped here."""

    findings: list[Finding]
    skipped: list[Skip]

    def table(self) -> tuple[str, Sequence[str], Sequence[Sequence[object]]]:
        """One row a finding, then one a claim that is skipped."""
        rows = [(f.what, f.found, f.advice) for f in self.findings]
        rows += [
            (skip.lesson, f"{skip.claim} is skipped", f"needs {' and '.join(skip.needs)}")
            for skip in self.skipped
        ]
        lacks = sum(bool(f.advice) for f in self.findings)
        summary = (
            f"{lacks} of {len(self.findings)} things could be better; {len(self.skipped)} claims "
            f"of the lessons are skipped on this machine"
        )
        return summary, ("what", "here", "note"), rows


def examine() -> Examination:
    """Look at this machine; nothing is changed, and nothing is fetched."""
    findings = [
        *_versions(),
        _processor(),
        _memory(),
        _gpu(),
        _bf16(),
        _processes(),
        _others(),
        _browser(),
        *_extras(),
    ]
    unwritten = without_lesson()
    skipped = [
        Skip(claim.id, claim.lesson, missing)
        for name, claim in all_claims().items()
        if name not in unwritten and (missing := claim.missing())
    ]
    return Examination(findings, skipped)


def _versions() -> list[Finding]:
    here = read_machine()
    return [
        Finding("versions", f"nbkit {metadata.version('nbkit')}, torch {here['torch']}"),
        Finding("python", f"{here['python']} on {here['system']}"),
    ]


def _processor() -> Finding:
    cores = os.cpu_count() or 1
    advice = "" if cores > 1 else "one core: claims about two processes are skipped"
    plural = "s" if cores > 1 else ""
    return Finding("processor", f"{read_machine()['processor']}, {cores} core{plural}", advice)


def _memory() -> Finding:
    """The memory that a process may have: the machine's, or less where a container says so."""
    total = _total_memory()
    if total is None:
        return Finding("memory", "not known on this system")
    gib = total / 2**30
    advice = "" if gib >= LESSON_GIB else f"a lesson may need {LESSON_GIB} GiB"
    return Finding("memory", f"{gib:.1f} GiB", advice)


def _total_memory() -> int | None:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    limit = Path("/sys/fs/cgroup/memory.max")
    told = limit.read_text().strip() if limit.exists() else "max"
    return min(total, int(told)) if told.isdigit() else total


def _gpu() -> Finding:
    if torch.cuda.is_available():
        here, gib = read_machine(), torch.cuda.get_device_properties(0).total_memory / 2**30
        count = torch.cuda.device_count()
        found = f"{count} x {here['gpu']}, {gib:.0f} GiB, driver {here['driver']}"
        return Finding("GPU", found)
    if torch.version.cuda is None and shutil.which("nvidia-smi"):
        advice = "this torch was built without CUDA: see pytorch.org/get-started for one with it"
        return Finding("GPU", "there is one, and torch cannot use it", advice)
    return Finding("GPU", "none", "claims that need CUDA are skipped")


def _bf16() -> Finding:
    """Whether bfloat16 is computed by the hardware or in its place, which is right but slow."""
    if torch.cuda.is_available():
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        flags = Path("/proc/cpuinfo")
        text = flags.read_text() if flags.exists() else ""
        native = bool(re.search(r"\b(avx512_bf16|amx_bf16|bf16)\b", text))
    if native:
        return Finding("bfloat16", "in hardware")
    return Finding("bfloat16", "emulated, or not known", "expect mixed precision to be no faster")


def _processes() -> Finding:
    if not torch.distributed.is_available():
        advice = "this torch was built without torch.distributed: lesson 7 is skipped"
        return Finding("processes", "one", advice)
    backends = [name for name in ("gloo", "nccl") if _has_backend(name)]
    return Finding("processes", f"several, by {' and '.join(backends)}")


def _others() -> Finding:
    """Whether the machine is quiet enough now for a timing to be judged."""
    load = watch_others()
    advice = "too busy now: claims over timings are skipped" if load.is_busy else ""
    return Finding("other programs", str(load).removeprefix("other programs "), advice)


def _has_backend(name: str) -> bool:
    from torch import distributed

    return bool(getattr(distributed, f"is_{name}_available")())


def _browser() -> Finding:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found:
        return Finding("browser", Path(found).name)
    advice = "only the browser tests need Chromium (Debian: apt-get install chromium)"
    return Finding("browser", "no Chromium", advice)


def _extras() -> list[Finding]:
    """For each extra of nbkit what it brings and is not here, with the line that installs it."""
    wanted: dict[str, list[str]] = {}
    for line in metadata.requires("nbkit") or []:
        named = re.match(r"""([\w.-]+).*extra == ["'](\w+)["']""", line)
        if named and named[1] != "nbkit":
            wanted.setdefault(named[2], []).append(named[1])
    return [_extra(extra, names) for extra, names in wanted.items()]


def _extra(extra: str, names: Sequence[str]) -> Finding:
    missing = [name for name in names if not _installed(name)]
    what = f"nbkit[{extra}]"
    if not missing:
        return Finding(what, "all there")
    named = textwrap.shorten(", ".join(missing), ROOM, break_on_hyphens=False, placeholder=" ...")
    return Finding(what, f"without {named}", f'pip install "{what}"')


def _installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True
