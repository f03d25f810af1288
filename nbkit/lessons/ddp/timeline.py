"""Record when two ranks compute, when their buckets travel, and when they wait for them."""

# No `from __future__ import annotations`: DDP reads the annotations of a hook, as types.

import time
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nbkit.lab.models import mlp
from nbkit.lab.runs.training import one_thread

Span = tuple[float, float]  # start and end, in seconds


@dataclass
class Timeline:
    """What one rank did in one update; all times are seconds since the first rank began.

    Attributes:
        forward: the forward pass.
        backward: from its start until the last gradient was there.
        waiting: from then until all means had arrived.
        step: the optimizer's step.
        buckets: for each bucket, from when its gradients were ready until their mean was there.
    """

    forward: Span
    backward: Span
    waiting: Span
    step: Span
    buckets: list[Span] = field(default_factory=list)

    @property
    def overlapped(self) -> int:
        """Return how many buckets were sent while gradients were still being computed."""
        return sum(start < self.backward[1] for start, _ in self.buckets)

    def shift(self, seconds: float) -> "Timeline":
        """Return the same with all times later by `seconds`."""
        spans = (self.forward, self.backward, self.waiting, self.step, *self.buckets)
        moved = [(start + seconds, end + seconds) for start, end in spans]
        forward, backward, waiting, step, *buckets = moved
        return Timeline(forward, backward, waiting, step, buckets)


@dataclass
class BucketLog:
    """Note when each bucket of a backward begins and ends its journey."""

    starts: list[float] = field(default_factory=list)
    ends: dict[int, float] = field(default_factory=dict)

    def send_bucket(self, bucket: Any) -> torch.futures.Future[Tensor]:
        """Average a bucket as DDP does by itself, with a look at the clock before and after."""
        number = len(self.starts)
        self.starts.append(time.perf_counter())
        # Divided first: the sum over the ranks is then their mean.
        buffer = bucket.buffer().div_(dist.get_world_size())
        sent = dist.all_reduce(buffer, async_op=True).get_future()

        def note_end(future: torch.futures.Future[Any]) -> Tensor:
            self.ends[number] = time.perf_counter()
            mean: Tensor = future.value()[0]
            return mean

        averaged: torch.futures.Future[Tensor] = sent.then(note_end)
        return averaged

    def read_spans(self) -> list[Span]:
        """Return each bucket's start and end, in the order in which they were sent."""
        return [(start, self.ends[number]) for number, start in enumerate(self.starts)]

    def clear(self) -> None:
        """Forget the buckets of the last backward."""
        self.starts.clear()
        self.ends.clear()


def _send_bucket(
    log: BucketLog,
    bucket: dist.GradBucket,  # type: ignore[name-defined]  # torch's stubs do not export it
) -> torch.futures.Future[Tensor]:
    return log.send_bucket(bucket)


def record_update(
    bucket_kb: int, *, rows: int = 256, width: int = 256, depth: int = 6, updates: int = 15
) -> Timeline:
    """Record some updates, and return this rank's timeline of the one of median length.

    Every rank has to call it. A timeline needs a clock that all processes share, as `perf_counter`
    is on Linux and macOS.
    """
    torch.manual_seed(0)
    model = nn.parallel.DistributedDataParallel(mlp(depth, width), bucket_cap_mb=bucket_kb / 1000)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
    log, recorded = BucketLog(), []
    model.register_comm_hook(log, _send_bucket)
    x, y = torch.randn(rows, 64), torch.randint(10, (rows,))
    with one_thread():
        for _ in range(updates):
            log.clear()
            dist.barrier()
            recorded.append(_record_one(model, optimizer, log, x, y))

    # Both ranks must choose the same update: that whose slower rank has the median length.
    # The first two do not count, since DDP orders its buckets after them.
    ends = torch.tensor([line.step[1] - line.forward[0] for line in recorded[2:]])
    dist.all_reduce(ends, dist.ReduceOp.MAX)
    chosen = recorded[2 + int(ends.argsort()[len(ends) // 2])]
    first = torch.tensor(chosen.forward[0], dtype=torch.float64)
    dist.all_reduce(first, dist.ReduceOp.MIN)
    return chosen.shift(-float(first))


def _record_one(
    model: nn.Module, optimizer: torch.optim.Optimizer, log: BucketLog, x: Tensor, y: Tensor
) -> Timeline:
    """Run one update and note the times."""
    start = time.perf_counter()
    loss = cross_entropy(model(x), y)
    forward = time.perf_counter()
    loss.backward()
    averaged = time.perf_counter()
    optimizer.step()
    optimizer.zero_grad()
    end = time.perf_counter()
    # The last bucket is sent when the last gradient is there.
    computed = log.starts[-1]
    return Timeline(
        (start, forward),
        (forward, computed),
        (computed, averaged),
        (averaged, end),
        log.read_spans(),
    )
