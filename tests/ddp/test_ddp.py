"""Several processes from one call: what the ranks find, and what comes back."""

import contextlib
import io
import os
import subprocess
import sys
import threading

import pytest
import ranks as at
import torch
from torch import nn

from nbkit import EquivalenceCause
from nbkit.base.state import preserve_state
from nbkit.ddp import (
    all_mean,
    check_ddp_equivalence,
    is_main,
    launch,
    launching,
    rank,
    shard,
    world_size,
)
from nbkit.ddp.job import _make_environment
from nbkit.ddp.worker import seed_rank

SEED = 5

# ---- without a group ----


def test_alone_the_helpers_do_nothing():
    tensor = torch.arange(3)
    assert (rank(), world_size(), is_main()) == (0, 1, True)
    assert all_mean(tensor) is tensor
    batch = {"x": torch.zeros(5, 2), "y": (torch.zeros(5), None, 3)}
    (same,) = shard([batch])
    assert same["x"].shape == (5, 2) and same["y"][1:] == (None, 3)


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ((torch.zeros(2), "text"), TypeError, "a str in a batch cannot be divided by rows"),
        ((torch.zeros(2), torch.zeros(3)), ValueError, r"share their first dimension.*\[2, 3\]"),
        ("text", ValueError, "found no tensors in a str"),
    ],
)
def test_shard_refuses_what_has_no_rows(batch, error, message):
    with pytest.raises(error, match=message):
        next(shard([batch]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"nproc": 0}, ValueError, "at least 1, got 0"),
        ({"nproc": 1.5}, ValueError, "whole number of processes, at least 1, got 1.5"),
        ({"backend": "mpi"}, ValueError, 'backend must be "gloo", "nccl" or None, got \'mpi\''),
        ({"timeout": 0}, ValueError, "timeout must be positive seconds, or None .* got 0"),
        ({"max_restarts": -1}, ValueError, "max_restarts must be .* at least 0, got -1"),
        (
            {"backend": "nccl", "nproc": 99},
            ValueError,
            r"nccl needs a GPU for each of the nproc=99",
        ),
    ],
)
def test_launch_refuses_impossible_numbers(arguments, error, message):
    with pytest.raises(error, match=message):
        launch(print, **arguments)


@pytest.mark.parametrize("timeout", [None, float("inf")])
def test_no_limit_is_no_deadline(monkeypatch, timeout):
    monkeypatch.setattr(launching, "run_job", lambda job, call, options: options)
    options = launch(print, timeout=timeout)
    assert (options.timeout, options.deadline) == (None, None)


def test_launch_refuses_what_is_no_function():
    with pytest.raises(TypeError, match="launch runs a function on each rank, got a int"):
        launch(3)


def test_launch_refuses_to_run_inside_a_launched_function(monkeypatch):
    monkeypatch.setenv("NBKIT_RANK", "0")
    with pytest.raises(RuntimeError, match="inside a launched function: call fn itself there"):
        launch(print)


def test_what_cannot_be_sent_is_refused_before_anything_starts(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(TypeError, match=r"print \(with its arguments\) cannot be sent .* lock"):
        launch(print, threading.Lock())


def test_without_cloudpickle_a_local_function_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(ImportError, match="<lambda> .* pip install cloudpickle, or move it"):
        launch(lambda: 0)


def test_the_check_refuses_fewer_rows_than_ranks():
    with pytest.raises(ValueError, match="the batch has 1 rows, fewer than nproc=2"):
        check_ddp_equivalence(at.net, nn.functional.cross_entropy, at.data(1))


# ---- with two ranks: one launch for all that goes right ----


@pytest.fixture(scope="module")
def ranks():
    """What two ranks found, and what they printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cloudpickle", None)  # nothing here has to travel by it
        patch.delenv("OMP_NUM_THREADS", raising=False)
        patch.setattr(os, "sched_getaffinity", lambda pid: range(6), raising=False)
        patch.setattr(os, "cpu_count", lambda: 6)
        with preserve_state():
            torch.manual_seed(SEED)
            found = launch(at.everything, timeout=at.PATIENCE)
    return found, printed.getvalue().splitlines()


def test_each_rank_has_its_number_and_a_session_apart(ranks):
    (first, second), _ = ranks
    assert first["around"]["rank"] == (0, 2, True) and second["around"]["rank"] == (1, 2, False)
    assert first["around"]["session"] == second["around"]["session"] != os.getsid(0)


def test_the_group_is_on_the_loopback_interface(ranks):
    assert ranks[0][0]["around"]["interface"] == ("lo" if sys.platform == "linux" else "lo0")


def test_each_rank_has_its_share_of_the_cores(ranks):
    """Under torchrun it would have one thread; else as many as there are cores."""
    assert [found["around"]["threads"] for found in ranks[0]] == ["3"] * 2


def test_a_number_of_threads_that_is_set_is_kept(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert _make_environment(2)["OMP_NUM_THREADS"] == "7"


def test_the_ranks_have_a_store_of_their_own(ranks):
    """In the agent's, restarted ranks read the addresses of the attempt before (torch 2.13)."""
    assert [found["around"]["own store"] for found in ranks[0]] == [("1", "False")] * 2


def test_output_is_shown_with_its_rank(ranks):
    told = ["[rank0] hello from 0", "[rank1] hello from 1", "[rank1] the last word"]
    assert sorted(ranks[1]) == told


def test_a_function_that_can_be_imported_needs_no_cloudpickle(ranks):
    assert not any(found["around"]["cloudpickle"] for found in ranks[0])


def test_each_rank_draws_its_own_numbers(ranks):
    first, second = (found["draws"] for found in ranks[0])
    assert first.keys() == second.keys() >= {"torch", "random"}
    assert all(first[source] != second[source] for source in first)


def test_the_callers_seed_decides_what_the_ranks_draw(ranks):
    with preserve_state():
        for number, found in enumerate(ranks[0]):
            seed_rank(SEED, number)
            assert at.draws() == found["draws"]
        seed_rank(SEED + 1, 0)
        assert at.draws() != ranks[0][1]["draws"]  # as it would be if the two were added


@pytest.mark.parametrize("case", ["model", "original parameters", "step"])
def test_the_norm_of_a_part_is_not_taken_for_the_norm(ranks, case):
    for found in ranks[0]:
        assert found["shards"][case].endswith("model.clip_grad_norm_(max_norm).")


def test_a_loss_scale_over_parts_is_refused(ranks):
    """One rank would find an overflow in its part, and skip a step that the others make."""
    for found in ranks[0]:
        assert "so that the search for an overflow needs all ranks" in found["shards"]["scale"]


def test_a_dtensor_is_sent_to_torch(ranks):
    for found in ranks[0]:
        assert "Use torch.nn.utils.clip_grad_norm_" in found["shards"]["DTensor"]


def test_what_fsdp_does_not_divide_is_clipped_as_under_ddp(ranks):
    for found in ranks[0]:
        norm = found["shards"]["DDP"]
        assert norm > 1 and found["shards"]["not divided"] == pytest.approx(norm, rel=1e-5)


def test_all_mean_is_the_mean_on_every_rank(ranks):
    assert all(found["around"]["mean"] == [0.5, 3.0] for found in ranks[0])
    assert all(found["around"]["mean of bools"] == 0.5 for found in ranks[0])
    assert [found["around"]["unchanged"] for found in ranks[0]] == [0.5, 1.5]


def test_shard_gives_every_sample_once_also_when_nothing_divides(ranks):
    first, second = (found["around"]["shards"] for found in ranks[0])
    assert [a + b for a, b in zip(first, second, strict=True)] == [[0, 1, 2, 3, 4], [1]]
    assert [len(x) for x in first] == [2, 0] and [len(x) for x in second] == [3, 1]


@pytest.mark.parametrize("case", ["accumulated", "one by one", "static graph"])
def test_accumulated_over_ragged_ranks_is_the_full_batch(ranks, case):
    for found in ranks[0]:
        assert found[case] and all(error < 1e-11 for error, _ in found[case])


def test_ddp_averages_once_a_window(ranks):
    """Around the backward alone, no_sync does nothing, and each micro-batch is averaged."""
    assert all([n for _, n in found["accumulated"]] == [1, 1] for found in ranks[0])


def test_a_static_graph_averages_its_first_micro_batch_too(ranks):
    assert all([n for _, n in found["static graph"]] == [2, 1] for found in ranks[0])


@pytest.mark.parametrize("clip", ["no clip", "norm"])
def test_an_overflow_on_one_rank_is_skipped_on_every_rank(ranks, clip):
    first, second = (found["overflow"][clip == "norm"] for found in ranks[0])
    for (stepped, scale, weights), (*told, others) in zip(first, second, strict=True):
        assert told == [stepped, scale] and torch.equal(weights, others)
    assert [each[:2] for each in first] == [(True, 65536.0), (False, 65536.0), (True, 32768.0)]
    after = [weights for *_, weights in first]
    assert torch.equal(after[0], after[1]) and not torch.equal(after[1], after[2])


def test_micro_batches_with_different_graphs_are_averaged_as_one(ranks):
    assert all(found["graphs"] < 1e-15 for found in ranks[0])


def test_torch_still_crashes_where_accumulate_does_not(ranks):
    """When this fails, torch is repaired: the extra synchronisation can go."""
    assert all("expect_autograd_hooks_" in found["torch's crash"] for found in ranks[0])


def test_a_rank_without_a_label_takes_part_with_weight_zero(ranks):
    for found in ranks[0]:
        assert all(error < 1e-11 for error, _ in found["no label"])
    assert [positive for _, positive in ranks[0][0]["no label"]] == [[True, True], [False]]
    assert [positive for _, positive in ranks[0][1]["no label"]] == [[False], [True, True]]


def test_a_rank_whose_loss_is_nan_adds_zeros(ranks):
    for found in ranks[0]:
        assert all(error < 1e-11 and hooks == 0 for error, hooks in found["all masked"])


def test_ranks_with_different_numbers_of_windows_are_told_and_do_not_hang(ranks):
    told = "expected the same number of batches on every rank, but 1 of 2 ranks have another window"
    # rank 0 has 3 batches, rank 1 has 2: one has a second window of one batch
    assert all(found["windows"].startswith(told) for found in ranks[0])


def test_an_exception_in_mid_window_leaves_synchronisation_on(ranks):
    assert all(found["left"] is True for found in ranks[0])


BATCHNORM = {EquivalenceCause.BATCHNORM: "BatchNorm (1) normalises each part"}
STARVED = {EquivalenceCause.BATCHNORM: "BatchNorm (1) gets one value a channel from a part"}
RAGGED = {EquivalenceCause.RAGGED_SHARDS: "ragged shards (of 21, 22 rows)"}
UNUSED = {
    EquivalenceCause.UNUSED_PARAMETERS: "unused parameters (spare.weight, spare.bias)",
}
# For each case the causes, in their order, with a part of the advice.
CAUSES = {
    "equal": {},
    "keeps": {},
    "in place": {},
    "norm": BATCHNORM,
    "a row a rank": STARVED,
    "one rank of one row": {
        **STARVED,
        EquivalenceCause.RAGGED_SHARDS: "ragged shards (of 1, 2 rows)",
    },
    "dropout": {EquivalenceCause.DROPOUT: "Dropout (1) draws new masks"},
    "ragged": RAGGED,
    "sum": {EquivalenceCause.SUM_REDUCTION: "DDP averages over the ranks"},
    "mask": {EquivalenceCause.MEAN_OF_MEANS: "averages over something other than rows"},
    "root": {EquivalenceCause.COUPLED_SAMPLES: "couples the samples of a batch"},
    "unused": UNUSED,
    "unused and ragged": {**UNUSED, **RAGGED},
}


@pytest.mark.parametrize("case", at.CHECKS)
def test_the_check_names_the_causes_and_no_other(ranks, case):
    report = ranks[0][0]["checks"][case]
    assert report.equivalent == (not CAUSES[case]) == (report.error < 1e-12)
    assert list(report.causes) == list(CAUSES[case])
    assert all(part in report.causes[cause] for cause, part in CAUSES[case].items())


@pytest.mark.gpu
def test_nccl_with_a_process_for_each_gpu():
    count = torch.cuda.device_count()
    for number, (backend, device, error, on_gpu, on_cpu) in enumerate(
        launch(at.trains_on_its_gpu, nproc=count, timeout=at.PATIENCE)
    ):
        assert "nccl" in backend and device == number and error < 1e-11
        assert on_gpu == on_cpu == 1.0
