"""What an arm says about its runs, read and checked before anything is built."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn

from nbkit.base.numbers import read_real
from nbkit.clipping import MODES, clip_gradients_
from nbkit.initialization import initialize_

OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
ONLY = {"momentum": ("sgd",), "nesterov": ("sgd",), "betas": ("adam", "adamw")}
ONLY["eps"] = ONLY["betas"]
PER_SEED = ("lr", "momentum", "weight_decay", *MODES, "label_smoothing", "eps", "gain")


@dataclass(frozen=True)
class Rule:
    """How one run is trained; `lr * schedule(step)` is the lr of each step.

    The options of the optimizer mean what they mean in torch.optim. `max_norm`, `max_value` and
    `agc` mean what they mean in `clip_gradients_`, which clips before the optimizer sees the
    gradients; infinity does not clip.
    """

    lr: float
    optimizer: str = "sgd"
    momentum: float = 0.0
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    max_norm: float = math.inf
    max_value: float = math.inf
    agc: float = math.inf
    label_smoothing: float = 0.0
    schedule: Callable[[int], float] | None = None
    init: Callable[[nn.Module], object] | str | None = None
    gain: float | None = None
    model: Callable[[], nn.Module] | None = None

    def build(self, make_model: Callable[[], nn.Module], seed: int) -> nn.Module:
        """The run's model as it starts; seeds torch's random state, and moves it on."""
        torch.manual_seed(seed)
        model = (self.model or make_model)()
        if callable(self.init):
            self.init(model)
        elif self.init is not None:
            initialize_(model, self.init, gain=self.gain)
        return model

    def lrs(self, steps: int) -> list[float]:
        """The lr of each step."""
        schedule = self.schedule or (lambda step: 1.0)
        return [self.lr * schedule(step) for step in range(steps)]

    def clip_options(self) -> dict[str, float]:
        """What `clip_gradients_` is called with; empty where nothing clips."""
        options = {mode: getattr(self, mode) for mode in MODES}
        return {mode: limit for mode, limit in options.items() if math.isfinite(limit)}

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """torch's own optimizer for one run, which clips before each step."""
        own = {name: getattr(self, name) for name in ONLY if self.optimizer in ONLY[name]}
        make: Any = OPTIMIZERS[self.optimizer]
        optimizer = make(model.parameters(), lr=self.lr, weight_decay=self.weight_decay, **own)
        if options := self.clip_options():

            def clip(*_: Any) -> None:
                # A run that has diverged goes on beside the others, as it would in torch.
                clip_gradients_(model, nonfinite="ignore", **options)  # type: ignore[arg-type]

            optimizer.register_step_pre_hook(clip)
        return optimizer


def read_arms(arms: Mapping[str, Mapping[str, Any]], seeds: int, steps: int) -> list[Rule]:
    """The rule of each run: arm after arm, in each of them seed after seed.

    Raises:
        ValueError: if an arm says too little, something unknown, or what its optimizer cannot use.
    """
    if not arms:
        raise ValueError('arms must hold at least one, such as {"plain": {"lr": 0.1}}, got none.')
    rules = []
    for name, values in arms.items():
        _check_names(name, values)
        for own in _each_seed(name, values, seeds):
            rules.append(Rule(**own))
            _check(name, rules[-1], steps)
    return rules


def _check_names(name: str, values: Mapping[str, Any]) -> None:
    known = [field.name for field in fields(Rule)]
    if "lr" not in values or not set(values) <= set(known):
        raise ValueError(
            f"arm {name!r} must have lr and may have {', '.join(known[1:])}, got "
            f"{', '.join(values) or 'nothing'}."
        )
    optimizer = values.get("optimizer", "sgd")
    if optimizer not in OPTIMIZERS:
        raise ValueError(
            f"arm {name!r}: optimizer must be one of {', '.join(OPTIMIZERS)}, got {optimizer!r}."
        )
    for option, optimizers in ONLY.items():
        if option in values and optimizer not in optimizers:
            raise ValueError(
                f"arm {name!r}: {option} is for {' and '.join(optimizers)}, and this arm trains "
                f"with {optimizer}: leave {option} out, or name another optimizer."
            )


def _each_seed(name: str, values: Mapping[str, Any], seeds: int) -> list[dict[str, Any]]:
    """The arm's values for each seed: a list holds one for each."""
    own: dict[str, Any] = {"weight_decay": 0.01} if values.get("optimizer") == "adamw" else {}
    # numpy's numbers, and torch's, as Python's: an optimizer keeps them in its state
    own.update(
        {
            key: value.item() if getattr(value, "shape", None) == () else value
            for key, value in values.items()
        }
    )
    lists = {option: value for option, value in own.items() if option in PER_SEED}
    lists = {option: value for option, value in lists.items() if isinstance(value, Sequence)}
    for option, value in lists.items():
        if len(value) != seeds:
            raise ValueError(f"arm {name!r} must have one {option}, or {seeds}, got {len(value)}.")
    return [
        {**own, **{option: value[seed] for option, value in lists.items()}} for seed in range(seeds)
    ]


def _check(name: str, rule: Rule, steps: int) -> None:
    for option in PER_SEED:
        value = getattr(rule, option)
        if read_real(value) is None and not (option == "gain" and value is None):
            raise ValueError(f"arm {name!r}: {option} must be a number, got {value!r}.")
    lrs = rule.lrs(steps)
    numbers = [rule.lr, rule.momentum, *lrs]
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        raise ValueError(
            f"arm {name!r}: momentum and lr * schedule(step) must be finite and at least 0, "
            f"got momentum={rule.momentum} and lr={rule.lr}, scheduled from "
            f"{min(numbers[2:])} to {max(numbers[2:])}."
        )
    wrong = [must for must, holds in _demands(rule).items() if not holds]
    if wrong:
        raise ValueError(f"arm {name!r}: {wrong[0]}.")


def _demands(rule: Rule) -> dict[str, bool]:
    """What must hold, and whether it does."""
    betas, decay, smoothing = rule.betas, rule.weight_decay, rule.label_smoothing
    clips = rule.clip_options()
    return {
        f"weight_decay must be finite and at least 0, got {decay}": 0 <= decay < math.inf,
        f"eps must be finite and at least 0, got {rule.eps}": 0 <= rule.eps < math.inf,
        **{
            f"{mode} must be above 0, got {getattr(rule, mode)}": getattr(rule, mode) > 0
            for mode in MODES
        },
        f"only one of {', '.join(MODES)} may be finite, got {clips}": len(clips) <= 1,
        f"label_smoothing must be from 0 to 1, got {smoothing}": 0 <= smoothing <= 1,
        f"betas must be two numbers from 0 to below 1, got {betas!r}": _are_betas(betas),
        "gain is for a scheme: give init its name, such as 'kaiming_normal'": (
            rule.gain is None or isinstance(rule.init, str)
        ),
        "nesterov needs a momentum above 0": not rule.nesterov or rule.momentum > 0,
    }


def _are_betas(betas: Any) -> bool:
    return (
        isinstance(betas, tuple | list)
        and len(betas) == 2
        and all((number := read_real(beta)) is not None and 0 <= number < 1 for beta in betas)
    )
