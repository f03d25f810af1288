"""What a number was measured on."""

import pytest
import torch

from nbkit.lab import machine as module
from nbkit.lab.machine import describe_machine, name_hardware, read_machine


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """A machine that seems to have a GPU, with the tool that tells its driver."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H200 (SXM)")
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 580.95.05\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    module._read_driver.cache_clear()
    yield tool
    module._read_driver.cache_clear()


def test_a_gpu_is_named_with_its_driver(gpu):
    facts = read_machine()
    assert (facts.gpu, facts.driver) == ("NVIDIA H200 (SXM)", "580.95.05")
    assert facts.hardware == name_hardware() == "nvidia-h200-sxm"
    assert describe_machine().startswith("NVIDIA H200 (SXM), ")


def test_without_the_tool_the_driver_is_unknown(gpu):
    gpu.unlink()
    assert read_machine().driver is None


def test_a_machine_without_a_gpu_is_its_processor(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    facts = read_machine()
    assert (facts.gpu, facts.driver, facts.hardware) == (None, None, "cpu")
    assert facts.torch == torch.__version__ and facts.threads == torch.get_num_threads()
    assert describe_machine().startswith(facts.processor)
