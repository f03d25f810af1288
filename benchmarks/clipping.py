"""What a report costs: clip_gradients_ beside torch's clip_grad_norm_, on gradients that clip."""

import torch
from timing import interleaved, report
from torch import nn

from nbkit.clipping import clip_gradients_

BOUND = 1.15
MODELS = {"4 layers of 64": (4, 64), "50 layers of 64": (50, 64), "20 layers of 512": (20, 512)}


def gradients(layers: int, width: int) -> nn.Module:
    model = nn.Sequential(*[nn.Linear(width, width) for _ in range(layers)])
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    return model


def arms(model: nn.Module, calls: int) -> dict:
    # A threshold that falls from call to call, so that each call does clip.
    thresholds = [0.99**i for i in range(calls)]
    start = [parameter.grad.clone() for parameter in model.parameters()]

    def refill():
        torch._foreach_copy_([parameter.grad for parameter in model.parameters()], start)

    def by_torch():
        refill()
        for threshold in thresholds:
            nn.utils.clip_grad_norm_(model.parameters(), threshold).item()

    def with_report():
        refill()
        for threshold in thresholds:
            assert clip_gradients_(model, max_norm=threshold).clipped

    return {"torch": by_torch, "nbkit": with_report}


def main() -> bool:
    torch.set_num_threads(1)
    ok = True
    for name, (layers, width) in MODELS.items():
        calls = max(5, 800 // (layers * (1 + width // 64)))  # short rounds, many of them
        timing = interleaved(arms(gradients(layers, width), calls), 51)
        ok &= report(
            f"clip_gradients_ / clip_grad_norm_, {name}", timing.ratio("nbkit", "torch"), BOUND
        )
    return ok


if __name__ == "__main__":
    raise SystemExit(not main())
