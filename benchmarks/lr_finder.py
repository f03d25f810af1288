"""What a range test costs: beside the same steps written by hand, and beside torch-lr-finder.

All three put model and optimizer back, or the next round would begin elsewhere.
"""

import contextlib
import copy
import io

import torch
from timing import interleaved, report
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch_lr_finder import LRFinder

from nbkit.lab.data import digits
from nbkit.lab.models import mlp
from nbkit.lr_finder import lr_range_test

STEPS, BATCH = 100, 64
LOWEST, HIGHEST = 1e-7, 0.01  # neither finder diverges, so all take the same steps


def arms() -> dict:
    data, loss_fn = digits(), nn.CrossEntropyLoss()
    torch.manual_seed(0)
    model = mlp()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = data.batches(BATCH, seed=0, steps=STEPS)
    loader = DataLoader(TensorDataset(data.x_train, data.y_train), BATCH, shuffle=True)

    def by_hand():
        before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
        losses = []
        for i, (x, y) in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = LOWEST * (HIGHEST / LOWEST) ** (i / (STEPS - 1))
            loss = loss_fn(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        model.load_state_dict(before[0])
        optimizer.load_state_dict(before[1])
        return losses

    def nbkit():
        curve = lr_range_test(model, optimizer, batches, loss_fn, min_lr=LOWEST, max_lr=HIGHEST)
        assert len(curve.lrs) == STEPS
        return curve.losses

    def torch_lr_finder():
        finder = LRFinder(model, optimizer, loss_fn)
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            finder.range_test(loader, start_lr=LOWEST, end_lr=HIGHEST, num_iter=STEPS)
        assert len(finder.history["lr"]) == STEPS
        finder.reset()

    assert nbkit() == by_hand(), "the arms must take the same steps"
    return {"by hand": by_hand, "nbkit": nbkit, "torch-lr-finder": torch_lr_finder}


def main() -> bool:
    torch.set_num_threads(1)
    timing = interleaved(arms(), 61)
    ok = report("range test / the loop by hand", timing.ratio("nbkit", "by hand"), 1.05)
    peer = timing.ratio("nbkit", "torch-lr-finder")
    return report("range test / torch-lr-finder with its DataLoader", peer, 0.8) and ok


if __name__ == "__main__":
    raise SystemExit(not main())
