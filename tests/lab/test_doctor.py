"""What the machine can do: each lack is named, with what it means or what installs it."""

import os
from importlib import metadata
from pathlib import Path

import pytest
import torch

from nbkit.lab import doctor
from nbkit.lab.evidence.register import all_claims


def found(what):
    (finding,) = [one for one in doctor.examine(everything=True).findings if one.what == what]
    return finding


def test_a_healthy_machine_has_no_advice_but_for_what_it_lacks():
    told = doctor.examine()
    assert [f.what for f in told.findings][:2] == ["versions", "python"]
    assert f"torch {torch.__version__}" in str(told)
    assert told.to_dict()["findings"][0]["what"] == "versions"


def test_a_learner_sees_what_a_learner_needs(monkeypatch):
    monkeypatch.setattr(doctor, "_total_memory", lambda: 8 * 2**30)
    names = [check.what for check in doctor.examine().findings]
    assert names == ["versions", "python", "processor", "other programs", "JupyterLab", "GPU"]
    everything = [check.what for check in doctor.examine(everything=True).findings]
    assert set(names) < set(everything) and {"browser", "nbkit[test]"} <= set(everything)
    monkeypatch.setattr(doctor, "_total_memory", lambda: 2 * 2**30)
    assert "memory" in [check.what for check in doctor.examine().findings]


@pytest.mark.parametrize(("threads", "words"), [(1, "torch uses 1 thread"), (2, "2 threads")])
def test_the_threads_of_torch_are_told(monkeypatch, threads, words):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert found("processor").found.endswith(words)


def test_without_jupyterlab_the_line_that_installs_it_is_told(monkeypatch):
    here = metadata.version

    def without_jupyterlab(name):
        if name == "jupyterlab":
            raise metadata.PackageNotFoundError(name)
        return here(name)

    monkeypatch.setattr(metadata, "version", without_jupyterlab)
    assert found("JupyterLab").found == "not installed"
    assert found("JupyterLab").advice == 'pip install "nbkit[lab]"'


def test_one_core_is_told(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert found("processor").advice == "one core: claims about two processes are skipped"


@pytest.mark.parametrize(("gib", "advice"), [(2, "a lesson may need 3 GiB"), (4, "")])
def test_little_memory_is_told(monkeypatch, gib, advice):
    monkeypatch.setattr(doctor, "_total_memory", lambda: gib * 2**30)
    assert found("memory").found == f"{gib}.0 GiB"
    assert found("memory").advice == advice


def test_a_container_s_limit_counts(monkeypatch):
    pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2**20}  # 4 GiB
    monkeypatch.setattr(os, "sysconf", pages.__getitem__, raising=False)
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path: f"{2**30}\n")
    assert doctor._total_memory() == 2**30
    monkeypatch.setattr(Path, "read_text", lambda path: "max\n")
    assert doctor._total_memory() == 2**32


def test_a_gpu_that_torch_cannot_use_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/bin/{name}")
    assert "built without CUDA" in found("GPU").advice
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    assert found("GPU").advice == "not needed; claims that need CUDA are skipped"
    assert "Debian: apt-get install chromium" in found("browser").advice


@pytest.mark.parametrize(
    ("flags", "said"), [("fpu avx512_bf16", "in hardware"), ("fpu avx", "emulated, or not known")]
)
def test_bfloat16_is_read_from_the_processor_s_flags(monkeypatch, flags, said):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(Path, "exists", lambda path: True)
    monkeypatch.setattr(Path, "read_text", lambda path: f"flags : {flags}\n")
    assert doctor._check_bfloat16().found == said


def test_what_is_not_installed_is_named_with_the_line_that_installs_it(monkeypatch):
    here = metadata.distribution

    def without_matplotlib(name):
        if name == "matplotlib":
            raise metadata.PackageNotFoundError(name)
        return here(name)

    monkeypatch.setattr(metadata, "distribution", without_matplotlib)
    assert found("nbkit[lab]") == doctor.MachineCheck(
        "nbkit[lab]", "without matplotlib", 'pip install "nbkit[lab]"'
    )


def test_what_is_missing_fits_on_a_screen_however_much_it_is(monkeypatch):
    monkeypatch.setattr(doctor, "_is_installed", lambda name: False)
    assert found("nbkit[lab]").found == "without anywidget, ..."
    _, _, *rows = str(doctor.Examination(doctor._check_extras(), [])).splitlines()
    assert len(rows) == 5 and max(map(len, rows)) <= 80


def test_claims_that_cannot_be_judged_are_listed_with_what_they_need(monkeypatch):
    claim = next(iter(all_claims().values()))
    needy = type(claim)(**{**vars(claim), "needs": ("two gpus",)})
    monkeypatch.setattr(doctor, "all_claims", lambda: {claim.id: needy})
    monkeypatch.setattr(doctor, "without_lesson", dict)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    told = doctor.examine(everything=True)
    assert told.skipped == [doctor.SkippedClaim(claim.id, claim.lesson, ["two gpus"])]
    assert f"{claim.id} is skipped" in str(told) and "needs two gpus" in str(told)
    brief = doctor.examine()
    assert brief.skipped == told.skipped and claim.id not in str(brief)
    assert "; claims that are skipped on this machine: 1\n" in str(brief)
