"""Several processes from a notebook or a script, and the same function on several nodes."""

from __future__ import annotations

import atexit
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from numbers import Integral
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from nbkit.base.batch_gradients import check_batch, compute_gradients, read_pair
from nbkit.base.batches import count_rows, split_rows
from nbkit.base.equivalence import (
    EquivalenceCause,
    EquivalenceReport,
    compare_gradients,
    find_largest_entry,
)
from nbkit.base.equivalence_causes import (
    Advised,
    Kinds,
    are_ones,
    explain_difference,
    find_remaining_cause,
)
from nbkit.base.model_copy import copy_model
from nbkit.base.nested import move_tensors
from nbkit.base.numbers import read_integer
from nbkit.base.state import preserve_state
from nbkit.base.suspect_layers import find_starved_layers, list_suspects, switch_off_layers
from nbkit.ddp.job import run_job
from nbkit.ddp.worker import JobOptions, join_group, seed_rank


def rank() -> int:
    """This process's number in the process group; 0 without one."""
    return dist.get_rank() if _in_group() else 0


def world_size() -> int:
    """How many processes the group has; 1 without one."""
    return dist.get_world_size() if _in_group() else 1


def is_main() -> bool:
    """Whether this is the process that prints and saves: rank 0, or the only one."""
    return rank() == 0


def all_mean(tensor: Tensor) -> Tensor:
    """The mean of a tensor over the ranks, on every rank; without a group the tensor itself.

    The tensor is not changed; no gradient flows through. Ranks that saw different numbers of
    samples want a mean of sums: `all_mean(loss_sum) / all_mean(count)`.

    >>> all_mean(torch.tensor([1.0, 3.0]))
    tensor([1., 3.])
    """
    if not _in_group():
        return tensor
    total = tensor.detach().clone(memory_format=torch.contiguous_format)
    total = total.float() if total.dtype == torch.bool else total
    dist.all_reduce(total)
    return total / dist.get_world_size()


def shard(batches: Iterable[Any]) -> Iterator[Any]:
    """Each batch's rows that are this rank's: every sample on one rank, once.

    The ranks get shares of each batch that differ by one row at most, in order; so all ranks have
    the same number of batches, also when nothing divides. Shares of different sizes want weights:
    `accumulate(shard(batches), 1, model=model)` gives them. A share may have no rows.

    Args:
        batches: the same on every rank, in the same order (seed the shuffling); tensors in
            tuples, lists and dicts.

    >>> [len(batch) for batch in shard([torch.zeros(5), torch.zeros(2)])]
    [5, 2]
    """
    for batch in batches:
        yield split_rows(batch, world_size())[rank()]


def launch(
    fn: Callable,
    *args: Any,
    nproc: int = 2,
    backend: str | None = None,
    timeout: float | None = 600.0,
    max_restarts: int = 0,
    **kwargs: Any,
) -> list:
    """Run `fn(*args, **kwargs)` on several processes of this machine; each rank's value, in order.

    Each process is in one process group already, on its own GPU if the backend is nccl. What it
    prints is shown with its rank. `fn` may be defined in a notebook cell: what a new process cannot
    import by name travels by cloudpickle. torch's elastic agent runs the processes, in a session of
    their own that ends with the call, however it ends: threads and processes that `fn` leaves
    running end with it too.

    Each rank draws its own random numbers of torch, `random` and numpy. They follow from the rank
    and from `torch.initial_seed()`: after `torch.manual_seed(0)` a launch can be repeated. What all
    ranks have to draw alike, such as the order of `shard`'s batches, needs a generator with a seed.

    On several nodes the same line runs unchanged. Put it in a script, and start that by torchrun:

        TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --nnodes=2 --nproc-per-node=8 \\
            --rdzv-backend=c10d --rdzv-endpoint=HEAD:29400 --rdzv-id=1 train.py

    There `launch` runs `fn` in the process that torchrun started, on as many ranks as it started
    (not `nproc`), and every rank gets the list of values. Restarts are torchrun's
    (`--max-restarts`), and `timeout` limits each wait of a rank for the others. The variable lets
    restarted ranks find each other: without it torch 2.13 may hand them the addresses of the
    attempt before.

    Args:
        fn: what every rank runs. It need not (but may) destroy the process group.
        nproc: how many processes.
        backend: "gloo" or "nccl"; None is nccl where there is a GPU for each process, else gloo.
        timeout: seconds for the whole call; None or inf for no limit.
        max_restarts: how often all ranks start again after one failed.
            `os.environ["TORCHELASTIC_RESTART_COUNT"]` tells `fn` which attempt it is in.
    Raises:
        LaunchError: if a rank raised, was killed, or the time is up: with the rank, its traceback,
            and `failures`, one `RankFailure` a failed rank, the first to fail first.
        ValueError: for impossible numbers, or fewer GPUs than nccl needs.
        TypeError: if `fn` or an argument cannot be sent to another process.
        ImportError: if it would have to travel by cloudpickle, which is not installed.

    >>> launch(divmod, 7, 2, nproc=2)
    [(3, 1), (3, 1)]
    """
    _check_launch(fn, nproc, backend, timeout, max_restarts)
    nproc, max_restarts = int(nproc), int(max_restarts)
    timeout = None if timeout is None else float(timeout)
    if dist.is_torchelastic_launched():
        return _run_here(fn, args, kwargs, backend, timeout)
    backend = backend or ("nccl" if torch.cuda.device_count() >= nproc else "gloo")
    if backend == "nccl" and torch.cuda.device_count() < nproc:
        raise ValueError(
            f"nccl needs a GPU for each of the nproc={nproc} processes, this machine has "
            f'{torch.cuda.device_count()}. Use fewer processes, or backend="gloo".'
        )

    limit = None if timeout is None or math.isinf(timeout) else float(timeout)
    options = JobOptions(
        nproc=int(nproc),
        backend=backend,
        timeout=limit,
        deadline=None if limit is None else time.time() + limit,
        max_restarts=int(max_restarts),
        # A forkserver has torch loaded: ranks start in no time. CUDA wants untouched processes.
        method="spawn" if backend == "nccl" else "forkserver",
        seed=torch.initial_seed(),
    )
    with tempfile.TemporaryDirectory(prefix="nbkit-") as folder:
        return run_job(Path(folder), (fn, args, kwargs), options)


def _check_launch(fn, nproc, backend, timeout, max_restarts) -> None:
    if not callable(fn):
        raise TypeError(f"launch runs a function on each rank, got a {type(fn).__name__}.")
    if not isinstance(nproc, Integral) or nproc < 1:
        raise ValueError(f"nproc must be a whole number of processes, at least 1, got {nproc}.")
    if backend not in (None, "gloo", "nccl"):
        raise ValueError(f'backend must be "gloo", "nccl" or None, got {backend!r}.')
    if timeout is not None and not timeout > 0:
        raise ValueError(f"timeout must be positive seconds, or None for no limit, got {timeout}.")
    if not isinstance(max_restarts, Integral) or max_restarts < 0:
        raise ValueError(f"max_restarts must be a whole number, at least 0, got {max_restarts}.")
    if sys.platform == "win32":
        raise OSError("launch needs Linux or macOS; on Windows use WSL.")
    if "NBKIT_RANK" in os.environ:
        raise RuntimeError("launch was called inside a launched function: call fn itself there.")


def _read_nproc(nproc: Any) -> int:
    count = read_integer(nproc)
    if count is None or count < 1:
        raise ValueError(f"nproc must be a whole number of processes, at least 1, got {nproc}.")
    return count


def _run_here(fn, args, kwargs, backend, timeout) -> list:
    """The process is torchrun's: be one of its ranks."""
    if not dist.is_initialized():
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        join_group(backend or ("nccl" if torch.cuda.device_count() >= local else "gloo"), timeout)
        atexit.register(_leave_group)
    with preserve_state():  # the script goes on with its random numbers, as if fn ran elsewhere
        seed_rank(torch.initial_seed(), rank())
        value = fn(*args, **kwargs)
    if not dist.is_initialized():
        raise RuntimeError(
            "fn destroyed the process group, so the ranks cannot exchange their values: leave out "
            "destroy_process_group(), launch keeps the group for the next call."
        )
    values: list = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def _leave_group() -> None:
    """End the group in peace: a gloo thread that frees a result during Python's end aborts it.

    That is SIGABRT in one run of five (torch 2.13); the threads need a moment without the lock.
    """
    if dist.is_initialized():
        dist.destroy_process_group()
    time.sleep(0.1)


def check_ddp_equivalence(
    build_model: Callable[[], nn.Module],
    loss_fn: Callable[[Any, Any], Tensor],
    batch: Any,
    *,
    nproc: int = 2,
) -> EquivalenceReport:
    """Compare the gradient of `nproc` ranks under DDP with that of one process on the whole batch.

    Args:
        build_model: makes the model, on each rank; all ranks then take rank 0's weights.
        loss_fn: called as `loss_fn(model(x), y)`.
        batch: a pair (x, y), divided over the ranks by rows as `shard` does; or a dict, which the
            model takes as keywords and `loss_fn` as its second argument.
        nproc: how many processes; see `launch`. Inside a launched function the check runs in the
            group that is there, and every rank has to call it: so one launch can check much.
    Returns:
        EquivalenceReport: the error and, if it is more than rounding, the causes with advice, such
        as batchnorm, dropout, ragged shards, a sum, unused parameters, a mean of means.
    Raises:
        ValueError: if the batch has fewer rows than `nproc`.
        LaunchError: as for `launch`.
    """
    read_pair(batch)  # refuses what is neither a pair nor a dict
    inside = "NBKIT_RANK" in os.environ
    nproc = world_size() if inside else _read_nproc(nproc)
    if count_rows(batch) < nproc:
        raise ValueError(
            f"the batch has {count_rows(batch)} rows, fewer than nproc={nproc}: each rank needs "
            f"one."
        )
    if inside:
        return _check_on_rank(build_model, loss_fn, batch)
    return launch(_check_on_rank, build_model, loss_fn, batch, nproc=nproc)[0]


def _check_on_rank(build_model, loss_fn, batch) -> EquivalenceReport:
    """What each rank runs; all go through the same comparisons, rank 0's judgement counts."""
    model = build_model()
    device = next(model.parameters()).device
    batch = move_tensors(batch, device)
    check_batch(model, batch)
    parts = split_rows(batch, world_size())
    # Asked on every rank alike, of the same part: a rank that failed alone would leave the others
    # waiting for it.
    starved = find_starved_layers(model, min(parts, key=count_rows))
    off: Kinds = frozenset({EquivalenceCause.BATCHNORM}) if starved else frozenset()
    with switch_off_layers(model, off):
        compute_gradients(model, loss_fn, batch)
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]

    sizes = [count_rows(part) for part in parts]
    find_rest = partial(
        find_remaining_cause, model, loss_fn, batch, parts, partial(_wrong_weights, sizes)
    )
    report = explain_difference(
        list_suspects(model),
        partial(_compare_ranks, model, loss_fn, batch, parts, bool(unused)),
        find_rest,
        starved,
    )
    if unused:  # the comparison above took them into account; now as DDP is by default
        others = report.causes
        report = _compare_ranks(model, loss_fn, batch, parts, False, off)
        advice = (
            f"DDP waits for the gradients of unused parameters ({', '.join(unused[:3])}) and "
            f"averages nothing meanwhile. Pass find_unused_parameters=True, or freeze them."
        )
        report.causes = {EquivalenceCause.UNUSED_PARAMETERS: advice, **others}
    return report


def _compare_ranks(
    model, loss_fn, batch, parts, find_unused: bool, off: Kinds
) -> EquivalenceReport:
    alone, together = copy_model(model), copy_model(model)
    with switch_off_layers(alone, off), switch_off_layers(together, off):
        reference = compute_gradients(alone, loss_fn, batch)
        ddp = DistributedDataParallel(together, find_unused_parameters=find_unused)
        measured = compute_gradients(ddp, loss_fn, parts[rank()], seed=rank())
    measured = {name.removeprefix("module."): g for name, g in measured.items()}
    shared = [compare_gradients(reference, measured, find_largest_entry([measured]))]
    dist.broadcast_object_list(shared)
    return shared[0]


def _wrong_weights(sizes: list[int], fitted: list[float]) -> Advised:
    if are_ones(fitted):
        return (
            EquivalenceCause.SUM_REDUCTION,
            "DDP averages over the ranks, so a sum comes out divided by their number. Use a mean, "
            "or multiply the loss by world_size().",
        )
    if all(abs(w - n / sum(sizes)) < 0.01 for w, n in zip(fitted, sizes, strict=True)):
        return (
            EquivalenceCause.RAGGED_SHARDS,
            f"DDP averages the means of ragged shards (of {', '.join(map(str, sizes))} rows) as if "
            f"they were equal. accumulate(shard(batches), 1, model=model) weights them.",
        )
    return (
        EquivalenceCause.MEAN_OF_MEANS,
        "The loss averages over something other than rows. Give accumulate(..., weight=) the "
        "number of its terms.",
    )


def _in_group() -> bool:
    return dist.is_available() and dist.is_initialized()
