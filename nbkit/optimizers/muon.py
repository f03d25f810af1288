"""Muon for hidden matrices and AdamW for the rest, as one optimizer.

    mean = momentum * mean + (1 - momentum) * gradient
    change = orthogonalize(nesterov ? lerp(gradient, mean, momentum) : mean)
    weight -= lr * weight_decay * weight + lr * ratio * change

torch.optim.Muon refuses convolutions, and takes matrices only: with AdamW for the rest that makes
two objects to step, schedule, scale and save. Here they are one, with one `param_groups` and one
state_dict. A convolution is a matrix of one row an output.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the ratio
0.2 * sqrt(longer side): Liu et al. 2025, "Muon is scalable for LLM training".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

RULES = ("muon", "adamw")
ADJUSTMENTS = ("match_rms_adamw", "original")
# The defaults of torch.optim.Muon: the polynomial, its steps, and the least norm.
COEFFICIENTS, NEWTON_STEPS, LEAST_NORM = (3.4445, -4.7750, 2.0315), 5, 1e-7


class MuonAdamW(torch.optim.Optimizer):
    """Step the groups whose `rule` is "muon" by Muon, and those of "adamw" by AdamW.

    Args:
        params: groups of parameters, each with its `rule`; a group without one is "adamw".
        lr: lr of both rules.
        weight_decay: decoupled, of both.
        momentum: Muon's; weight of the old mean of the gradient.
        nesterov: whether Muon looks one step ahead.
        adjust_lr_fn: "match_rms_adamw" makes Muon's steps as long as AdamW's, so that one lr serves
            both; "original" is torch's default, whose steps are longer.
        betas, eps: AdamW's.
    Raises:
        ValueError: for a wrong argument, or a group for Muon with a vector in it.
    """

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        *,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        nesterov: bool = True,
        adjust_lr_fn: str = "match_rms_adamw",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        defaults = {"lr": lr, "weight_decay": weight_decay, "rule": "adamw", "momentum": momentum}
        defaults |= {"nesterov": nesterov, "adjust_lr_fn": adjust_lr_fn, "betas": betas, "eps": eps}
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group after checking its rule."""
        super().add_param_group(param_group)
        problem = _find_problem(self.param_groups[-1])
        if problem is not None:
            del self.param_groups[-1]
            raise ValueError(problem)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update each parameter that has a gradient; return the closure's loss, if there is one."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._refuse_sparse()
        for group in self.param_groups:
            if group["rule"] == "muon":
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._move_matrix(parameter, group)
            else:
                self._move_others(group)
        return loss

    def _refuse_sparse(self) -> None:
        """Refuse sparse gradients before anything is changed; neither rule has a use for them."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.grad.is_sparse:
                    raise RuntimeError(
                        f"expected dense gradients, but that of a parameter of shape "
                        f"{tuple(parameter.shape)} is sparse. Use nn.Embedding(sparse=False)."
                    )

    def _move_matrix(self, parameter: Tensor, group: Mapping[str, Any]) -> None:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None  # for the type checker: `step` has looked
        if not state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        mean = state["momentum_buffer"].lerp_(gradient, 1 - group["momentum"])
        change = gradient.lerp(mean, group["momentum"]) if group["nesterov"] else mean

        # (outputs, inputs * kernel): the matrix that a convolution multiplies its patches by.
        straight = orthogonalize_matrix(change.flatten(1))
        lr = float(group["lr"])
        ratio = _find_ratio(group["adjust_lr_fn"], *straight.shape)
        parameter.mul_(1 - lr * group["weight_decay"])
        parameter.add_(straight.view(parameter.shape), alpha=-lr * ratio)

    def _move_others(self, group: Mapping[str, Any]) -> None:
        """Step a group by torch's own function for AdamW."""
        parameters, gradients, means, squares, steps = [], [], [], [], []
        for parameter in group["params"]:
            if parameter.grad is None:
                continue
            state = self.state[parameter]
            if not state:
                # A number of steps that is a tensor in CPU memory, as torch's AdamW keeps it.
                state["step"] = torch.tensor(0.0, dtype=torch.float32)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            parameters.append(parameter)
            gradients.append(parameter.grad)
            means.append(state["exp_avg"])
            squares.append(state["exp_avg_sq"])
            steps.append(state["step"])
        adamw(
            *(parameters, gradients, means, squares, [], steps),
            has_complex=any(map(torch.is_complex, parameters)),
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def _find_problem(group: Mapping[str, Any]) -> str | None:
    """Say what is wrong with a group, or None."""
    for name in ("lr", "weight_decay", "momentum", "eps"):
        if not 0 <= group[name] < math.inf:
            return f"{name} must be a number >= 0, got {group[name]!r}."
    if not group["momentum"] < 1:
        return f"momentum must be less than 1, got {group['momentum']!r}."
    if not all(0 <= beta < 1 for beta in group["betas"]):
        return f"betas must be two numbers from 0 to less than 1, got {group['betas']!r}."
    for name, choices in (("rule", RULES), ("adjust_lr_fn", ADJUSTMENTS)):
        if group[name] not in choices:
            return f"{name} must be one of {', '.join(map(repr, choices))}, got {group[name]!r}."
    for parameter in group["params"] if group["rule"] == "muon" else ():
        if parameter.dim() < 2 or parameter.is_complex():
            return (
                f"muon trains real matrices and convolutions, got a {parameter.dtype} of shape "
                f'{tuple(parameter.shape)}. Put it in a group with rule="adamw".'
            )
    return None


def _find_ratio(adjustment: str, outputs: int, inputs: int) -> float:
    """Return torch's factor on the lr of a matrix."""
    if adjustment == "match_rms_adamw":
        # Each element of the change is then about 0.2, as one of AdamW's is.
        return 0.2 * math.sqrt(max(outputs, inputs))
    return math.sqrt(max(1, outputs / inputs))


def orthogonalize_matrix(matrix: Tensor) -> Tensor:
    """Move the singular values of a matrix towards 1; the result is in bfloat16, as in torch.

    Five steps of a polynomial, x = a x + (b A + c A^2) x with A = x x^T, which needs only products.
    The values end between about 0.7 and 1.2, which is enough for a direction.
    """
    a, b, c = COEFFICIENTS
    x = matrix.bfloat16()
    is_tall = x.shape[0] > x.shape[1]
    if is_tall:
        x = x.T  # A is then the smaller of the two squares
    x = x / x.norm().clamp(min=LEAST_NORM)
    for _ in range(NEWTON_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x
