"""What one object costs: a step of make_optimizer's Muon beside torch.optim.Muon plus AdamW.

Run: python benchmarks/make_optimizer.py
"""

import time

import torch
from timing import interleaved, report
from torch import nn

from nbkit import make_optimizer

BOUND = 1.1
MODELS = {"4 layers of 64": (4, 64), "20 layers of 64": (20, 64), "6 layers of 256": (6, 256)}


def build_model(layers: int, width: int) -> nn.Module:
    model = nn.Sequential(*[nn.Linear(width, width) for _ in range(layers)], nn.Linear(width, 10))
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


def arms(layers: int, width: int, calls: int) -> dict:
    """Each arm has a model of its own; both split the parameters alike."""
    ours = make_optimizer(build_model(layers, width), "muon", 1e-4, weight_decay=0.1)
    split = {"muon": [], "adamw": []}
    for group in make_optimizer(build_model(layers, width), "muon", 1e-4).param_groups:
        split[group["rule"]] += group["params"]
    muon = torch.optim.Muon(split["muon"], lr=1e-4, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(split["adamw"], lr=1e-4)

    def by_torch():
        for _ in range(calls):
            muon.step()
            adamw.step()

    def as_one():
        for _ in range(calls):
            ours.step()

    return {"torch": by_torch, "nbkit": as_one}


def main() -> bool:
    torch.set_num_threads(1)
    ok = True
    for name, (layers, width) in MODELS.items():
        calls = max(1, 400 // (layers * (1 + width // 64) ** 2))
        timing = interleaved(arms(layers, width, calls), 25, clock=time.process_time)
        ok &= report(f"muon as one object / two, {name}", timing.ratio("nbkit", "torch"), BOUND)
    return ok


if __name__ == "__main__":
    raise SystemExit(not main())
