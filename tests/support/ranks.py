"""What the ranks of the tests do: found by name in each new process."""

import os
import sys
from contextlib import nullcontext
from functools import partial

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nbkit.accumulation import accumulate
from nbkit.amp import Amp
from nbkit.ddp import all_mean, check_ddp_equivalence, is_main, rank, shard, world_size

# How long a start may take on a busy machine before it counts as a hang.
PATIENCE = 120.0


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def data(n):
    generator = torch.Generator().manual_seed(n)
    x = torch.randn(n, 5, dtype=torch.float64, generator=generator)
    return x, torch.randint(3, (n,), generator=generator)


def grads(model):
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def reference(batch, loss_fn=nn.functional.cross_entropy):
    model = net()
    loss_fn(model(batch[0]), batch[1]).backward()
    return grads(model)


def error(model, batch):
    expected = reference(batch)
    return float((grads(model) - expected).abs().max() / expected.abs().max())


def alone_in_the_world():
    """What a rank finds around it."""
    return {
        "rank": (rank(), world_size(), is_main()),
        "interface": os.environ["GLOO_SOCKET_IFNAME"],
        "cloudpickle": "cloudpickle" in sys.modules,
        "session": os.getsid(0),
        "threads": os.environ["OMP_NUM_THREADS"],
        "own store": (
            os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"],
            os.environ["TORCHELASTIC_USE_AGENT_STORE"],  # what the agent made of it
        ),
        "numpy": float(sys.modules["numpy"].random.rand()) if "numpy" in sys.modules else rank(),
        "mean": all_mean(torch.tensor([rank(), 3])).tolist(),
        "unchanged": float(all_mean(mine := torch.tensor(float(rank())))) + float(mine),
        "mean of bools": float(all_mean(torch.tensor(rank() == 0))),
        "shards": [
            x.flatten().tolist() for x in shard([torch.arange(5.0).view(5, 1), torch.ones(1)])
        ],
    }


def count_averages(state, bucket):
    """A communication hook that counts how often DDP averages."""
    state.append(bucket.index())
    future = dist.all_reduce(bucket.buffer() / dist.get_world_size(), async_op=True).get_future()
    return future.then(lambda done: done.value()[0])


def run_window(model, window, averages):
    model.zero_grad()
    averages.clear()
    for micro in window:
        with micro.sync():
            x, y = micro.batch
            (nn.functional.cross_entropy(model(x), y) * micro.weight).backward()
    return len(averages)


def accumulated(static_graph=False, steps=3, n=37, size=11, **options):
    """Windows of ragged shards: each one's error, and how often DDP averaged over the ranks."""
    model, averages, (x, y) = net(), [], data(n)
    ddp = DistributedDataParallel(model, static_graph=static_graph)
    ddp.register_comm_hook(averages, count_averages)
    loader = list(zip(x.split(size), y.split(size), strict=True))
    found, seen = [], 0
    for window in accumulate(shard(loader), steps, model=ddp, **options):
        count = run_window(ddp, window, averages)
        whole = tuple(torch.cat(part) for part in zip(*loader[seen : seen + steps], strict=True))
        found.append((error(model, whole), count))
        seen += steps
    return found


def some_ranks_have_no_label():
    """Rank 1 has no label in the first window, none has in the second, nor rank 0 in the third."""
    model, averages, (x, y) = net(), [], data(24)
    ddp = DistributedDataParallel(model)
    y = y.view(3, 2, 2, 2)  # windows, micro-batches, ranks, rows
    y[0, :, 1] = y[1] = y[2, :, 0] = -100
    mine = list(zip(x.view(6, 2, 2, 5)[:, rank()], y.reshape(6, 2, 2)[:, rank()], strict=True))
    found = []
    for window in accumulate(mine, 2, model=ddp, weight=lambda batch: (batch[1] != -100).sum()):
        run_window(ddp, window, averages)
        whole = (x.view(3, 8, 5)[2 if found else 0], y.view(3, 8)[2 if found else 0])
        found.append((error(model, whole), [m.weight > 0 for m in window]))
    return found


def masked_mean(output, target):
    """0 / 0 where all are masked; torch's own cross-entropy has a gradient of zeros there."""
    mask = (target != -100).double()
    losses = nn.functional.cross_entropy(output, target, reduction="none", ignore_index=-100)
    return (losses * mask).sum() / mask.sum()


def rank_1_has_nothing_but_masked_labels(synced):
    """Its loss is NaN; the gradient is to be rank 0's all the same."""
    model, (x, y) = net(), data(4)
    ddp = DistributedDataParallel(model)
    mine = (x.view(2, 2, 5)[rank()], y.view(2, 2)[rank()].clone())
    if rank() == 1:
        mine[1][:] = -100
    (window,) = accumulate([mine], 1, model=ddp, weight=lambda batch: (batch[1] != -100).sum())
    for micro in window:
        with micro.sync() if synced else nullcontext():
            (masked_mean(ddp(micro.batch[0]), micro.batch[1]) * micro.weight).backward()
    found = error(model, (x[:2], y[:2]))
    hooks = sum(len(p._backward_hooks or ()) for p in model.parameters())
    return found, hooks


def different_numbers_of_windows():
    try:
        for window in accumulate([torch.ones(2, 1)] * (3 - rank()), 2):
            list(window)
    except RuntimeError as error:
        return str(error)
    return "nothing was said"


def left_in_no_sync():
    model, (x, y) = net(), data(8)
    ddp = DistributedDataParallel(model)
    try:
        for micro in next(accumulate([(x, y)] * 2, 2, model=ddp)):
            with micro.sync():
                raise OSError
    except OSError:
        return ddp.require_backward_grad_sync


def overflow_on_one_rank(clip):
    """The loss scale is too large for rank 1's gradient in the second of three steps."""
    model = net().float()
    ddp, amp = DistributedDataParallel(model), Amp("fp16", "cpu")
    optimizer = torch.optim.SGD(ddp.parameters(), lr=0.1)
    found = []
    for factor in (1.0, 1e37 if rank() == 1 else 1.0, 1.0):
        optimizer.zero_grad()
        amp.backward(ddp(data(8)[0].float()).sum() * factor)
        report = amp.step(optimizer, clip=clip)
        weights = torch.cat([p.detach().flatten() for p in model.parameters()])
        found.append((report.stepped, report.scale, weights))
    return found


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.heads = nn.ModuleList(nn.Linear(5, 3).double() for _ in range(2))

    def forward(self, x, head):
        return self.heads[head](x)


def different_graphs():
    """The second head is used by rank 0 alone, and not in the micro-batch that is averaged."""
    ddp = DistributedDataParallel(TwoHeads(), find_unused_parameters=True)
    alone, (x, y), heads = TwoHeads(), data(8), [[1, 0], [0, 0]]
    for turn, micro in enumerate(next(accumulate([(x, y)] * 2, 2, model=ddp))):
        with micro.sync():
            loss = nn.functional.cross_entropy(ddp(x, heads[turn][rank()]), y)
            (loss * micro.weight).backward()
        for head in heads[turn]:
            (nn.functional.cross_entropy(alone(x, head), y) / 4).backward()
    return float((grads(ddp) - grads(alone)).abs().max())


def plainly_under_no_sync():
    """The defect that accumulate works around: is it still there?"""
    ddp = DistributedDataParallel(net(), static_graph=True)
    try:
        for micro in range(2):
            with nullcontext() if micro else ddp.no_sync():
                ddp(data(4)[0]).sum().backward()
    except RuntimeError as error:
        return str(error)
    return "no error"


def build(layer, *arguments):
    torch.manual_seed(rank())  # each rank builds another model: rank 0's counts
    return nn.Sequential(nn.Linear(5, 4), layer(*arguments), nn.Linear(4, 3)).double()


def build_in_place():
    return nn.Sequential(nn.ELU(inplace=True), nn.Linear(5, 3)).double()


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.spare = nn.Linear(5, 3).double(), nn.Linear(5, 3).double()

    def forward(self, x):
        return self.used(x)


def masked(output, target):
    return nn.functional.cross_entropy(output, target, ignore_index=0)


CHECKS = {
    "equal": (partial(build, nn.Tanh), nn.CrossEntropyLoss(), 8),
    "in place": (build_in_place, nn.CrossEntropyLoss(), 8),
    "norm": (partial(build, nn.BatchNorm1d, 4), nn.CrossEntropyLoss(), 8),
    "a row a rank": (partial(build, nn.BatchNorm1d, 4), nn.CrossEntropyLoss(), 2),
    "one rank of one row": (partial(build, nn.BatchNorm1d, 4), nn.CrossEntropyLoss(), 3),
    "dropout": (partial(build, nn.Dropout, 0.5), nn.CrossEntropyLoss(), 8),
    "ragged": (partial(build, nn.Tanh), nn.CrossEntropyLoss(), 43),
    "sum": (partial(build, nn.Tanh), nn.CrossEntropyLoss(reduction="sum"), 44),
    "mask": (partial(build, nn.Tanh), masked, 42),
    "root": (
        partial(build, nn.Tanh),
        lambda out, y: nn.functional.cross_entropy(out, y).sqrt(),
        40,
    ),
    "unused": (Unused, nn.CrossEntropyLoss(), 8),
    "unused and ragged": (Unused, nn.CrossEntropyLoss(), 43),
}


def outlive_the_group():
    """torch 2.13 hangs when this returns, nearly always: the model is the group's last owner."""
    model = DistributedDataParallel(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 8)))
    for _ in range(5):
        model(torch.ones(4, 64)).sum().backward()
    dist.destroy_process_group()


def everything():
    print("hello from", rank())
    found = {
        "around": alone_in_the_world(),
        "accumulated": accumulated(),
        "one by one": accumulated(steps=1, n=23, size=11),
        "static graph": accumulated(static_graph=True, n=66, size=11),
        "no label": some_ranks_have_no_label(),
        "all masked": [rank_1_has_nothing_but_masked_labels(synced) for synced in (True, False)],
        "windows": different_numbers_of_windows(),
        "left": left_in_no_sync(),
        "overflow": [overflow_on_one_rank(clip) for clip in (None, {"max_norm": 1.0})],
        "graphs": different_graphs(),
        "torch's crash": plainly_under_no_sync(),
        "checks": {
            name: check_ddp_equivalence(make, loss_fn, data(n))
            for name, (make, loss_fn, n) in CHECKS.items()
        },
    }
    outlive_the_group()
    if found["around"]["rank"][0]:
        print("the last word", end="")
    return found


def trains_on_its_gpu():
    device = torch.device("cuda", torch.cuda.current_device())
    model, (x, y) = net().to(device), data(23)
    ddp = DistributedDataParallel(model, static_graph=True)
    batches = [(x[:11].to(device), y[:11].to(device)), (x[11:].to(device), y[11:].to(device))]
    (window,) = accumulate(shard(batches), 2, model=ddp)
    run_window(ddp, window, [])
    grad = grads(model).cpu()
    expected = reference((x, y))
    return (
        dist.get_backend(),
        device.index,
        float((grad - expected).abs().max() / expected.abs().max()),
        float(all_mean(torch.ones(1, device=device))),
        float(all_mean(torch.ones(1))),
    )
