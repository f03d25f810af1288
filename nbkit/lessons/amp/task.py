"""What lesson `amp` trains and measures: small gradients, steps, recorded verdicts."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from nbkit.amp import Amp
from nbkit.base.dtypes import DTYPES
from nbkit.lab import shipped
from nbkit.lab.cost.timing import BUDGET_SECONDS, Timing, memory_report, time_it
from nbkit.lab.data import Data
from nbkit.lab.markdown import escape_markdown
from nbkit.lab.models import mlp
from nbkit.lab.runs.training import one_thread

if TYPE_CHECKING:
    pass


def locate_ink(data: Data, pixel: float) -> Data:
    """Give the digits a position to predict: the centre of the ink, in metres from the middle.

    Args:
        data: 8x8 digits, flattened.
        pixel: the side of a pixel, in metres.

    >>> from nbkit.lab.data import digits
    >>> locate_ink(digits(), pixel=0.003).y_train.shape
    torch.Size([1497, 2])
    """
    y_train, y_test = (pixel * _find_ink_centre(x) for x in (data.x_train, data.x_test))
    return replace(data, y_train=y_train, y_test=y_test)


def _find_ink_centre(x: Tensor) -> Tensor:
    """Find the mean row and column of the ink, in pixels from the middle."""
    ink = x.view(-1, 8, 8)
    # The middle of an 8 x 8 image lies between pixels 3 and 4.
    place = torch.arange(8.0, device=x.device) - 3.5
    # Centre of mass: sum of position * ink, divided by all the ink.
    return torch.stack([(ink.sum(2) * place).sum(1), (ink.sum(1) * place).sum(1)], 1) / ink.sum(
        (1, 2)
    ).unsqueeze(1)


class AutocastModel(nn.Module):
    """A model that runs its forward pass under an Amp's autocast."""

    def __init__(self, model: nn.Module, amp: Amp) -> None:
        super().__init__()
        self.model, self.amp = model, amp

    def forward(self, x: Tensor) -> Tensor:
        """The model's output, in float32, as a loss under autocast would read it."""
        with self.amp.autocast():
            output: Tensor = self.model(x)
        return output.float()


def time_steps(
    arms: Mapping[str, Callable[[], object]],
    device: str,
    *,
    repeats: int,
    max_warmup: int = 20,
    budget_seconds: float = BUDGET_SECONDS,
) -> Timing:
    """Time training steps: on a GPU by the wall clock, else one thread by its CPU time.

    The time of the thread leaves out what other programs on the machine take.
    """
    timed = partial(time_it, arms, repeats, max_warmup=max_warmup, budget_seconds=budget_seconds)
    # Work on a GPU is not in the time of this process, so the wall clock decides.
    if device != "cpu":
        return timed()
    with one_thread():
        return timed(clock=time.process_time)


def measure_step_bytes(precision: str, width: int, size: int, device: str, seed: int = 0) -> int:
    """Measure one training step of a perceptron in bytes: on a GPU its peak, else all parts."""
    torch.manual_seed(seed)
    model = mlp(3, width, inputs=width).to(device)
    batch = torch.randn(size, width), torch.randint(10, (size,))
    mixed, adam = AutocastModel(model, Amp(precision, device)), torch.optim.Adam(model.parameters())
    report = memory_report(mixed, batch, nn.functional.cross_entropy, adam)
    # Only a GPU reports a peak; elsewhere the parts are added up.
    return report.peak or report.total


def measure_seed_bytes(
    precision: str, size: tuple[int, int], device: str, seeds: Sequence[int]
) -> list[int]:
    """Measure the bytes of one training step for each seed; size is (width, batch)."""
    return [measure_step_bytes(precision, *size, device, seed) for seed in seeds]


def collect_gradients(model: nn.Module) -> Tensor:
    """Collect every gradient that is not zero, in one row."""
    rows = [p.grad.detach().float().flatten() for p in model.parameters() if p.grad is not None]
    row = torch.cat(rows).cpu()
    # A zero gradient has no size on a logarithmic axis.
    return row[row != 0]


def count_rounding(values: Tensor, precision: str, scale: float = 1.0) -> dict[str, float]:
    """Count what rounding does to these numbers, times the scale: shares lost, short, kept, inf.

    >>> count_rounding(torch.tensor([1e-9, 1e-6, 1.0, 1e6]), "fp16")
    {'zero': 0.25, 'short': 0.25, 'kept': 0.25, 'infinite': 0.25}
    """
    dtype = DTYPES[precision] or torch.float32
    # What half precision makes of each scaled number.
    rounded = (values * scale).to(dtype).abs()
    zero, infinite = rounded == 0, rounded.isinf()
    # Subnormal: below the smallest number with all its digits.
    short = (rounded < torch.finfo(dtype).tiny) & ~zero
    counts = {"zero": zero, "short": short, "kept": ~(zero | short | infinite)}
    counts["infinite"] = infinite
    return {name: float(each.double().mean()) for name, each in counts.items()}


def show_recorded_verdicts(lesson: str, ledger: Path | None = None) -> str:
    """Show the verdicts that were recorded for a lesson on GPUs, as a table in Markdown.

    Args:
        lesson: the lesson's word.
        ledger: the folder of the ledger; by default the one that ships with the kit.

    It reads `<ledger>/<hardware>/<lesson>.json`. Where no such file is of a machine with a GPU, it
    says so in a sentence.
    """
    folder = ledger or shipped.data_dir() / "ledger"
    records = [json.loads(path.read_text()) for path in sorted(folder.glob(f"*/{lesson}.json"))]
    rows = [
        f"| `{one['claim']}` | {one['verdict']} | {_format_recorded_effect(one)} | "
        f"{escape_markdown(record['machine']['gpu'])} | {record['started'][:10]} |"
        for record in records
        if record["machine"]["gpu"]
        for one in record["verdicts"]
    ]
    if not rows:
        return (
            "**No run of this lesson on a GPU has been recorded yet.** What it says of speed and "
            "memory on a GPU is not measured: where a claim needs CUDA, this page only has SKIPPED."
        )
    head = "| claim | verdict | effect | GPU | recorded |\n| --- | --- | --- | --- | --- |\n"
    return "Recorded on GPUs:\n\n" + head + "\n".join(rows)


def _format_recorded_effect(verdict: Mapping[str, Any]) -> str:
    if verdict["effect"] is None:
        return escape_markdown(verdict["reason"])
    low, high = ("∞" if end is None else f"{end:.3g}" for end in verdict["interval"])
    return f"{verdict['effect']:.3g} [{low}, {high}], n = {verdict['n']} {verdict['over']}"
