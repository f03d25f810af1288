"""An arm in bf16 trains as a plain loop under torch.autocast does."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from nbkit.lab.data import digits
from nbkit.lab.models import mlp
from nbkit.lab.runs.seeds import train_runs

SEEDS = (3, 1)


def plain_losses(seed, dtype):
    """Ten steps of SGD in an ordinary loop; the last model's logits on the test digits, too."""
    torch.manual_seed(seed)
    model, data = mlp(depth=2, width=16), digits()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    losses = []
    for x, y in data.batches(32, seed=seed, steps=10):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        right = (model(data.x_test).argmax(1) == data.y_test).float().mean()
    return torch.stack(losses), right


@pytest.mark.parametrize("vectorize", [True, False])
def test_an_arm_in_bf16_is_the_plain_loop_under_autocast(vectorize):
    arms = {"half": {"lr": 0.5, "precision": "bf16"}, "full": {"lr": 0.5}}
    *_, runs = train_runs(
        lambda: mlp(depth=2, width=16), digits(), arms, SEEDS, steps=10, batch_size=32,
        vectorize=vectorize,
    )  # fmt: skip
    _, accuracy = runs.evaluate(digits().x_test, digits().y_test)
    for row, dtype in enumerate((torch.bfloat16, torch.float32)):
        for column, seed in enumerate(SEEDS):
            losses, right = plain_losses(seed, dtype)
            # A batched product adds in another order: a sum near a tie may round the other way.
            exact = {} if not vectorize else {"rtol": 2e-3, "atol": 0}
            torch.testing.assert_close(runs.losses[row, column], losses, **exact)
            assert abs(accuracy[row, column] - right) <= (0.02 if vectorize else 0)
    # What autocast multiplies has bf16's digits; float32 has more.
    half, full = runs._predict(digits().x_test).split(len(SEEDS))
    assert torch.equal(half, half.bfloat16().float())
    assert not torch.equal(full, full.bfloat16().float())


def test_the_weights_of_an_arm_in_bf16_stay_in_float32_and_start_as_the_others_do():
    built = []

    def make():
        built.append(mlp(depth=1, width=4))
        return built[-1]

    arms = {"half": {"lr": 0.1, "precision": "bf16"}, "full": {"lr": 0.1}}
    for _ in train_runs(make, digits(), arms, SEEDS, steps=1, batch_size=8):
        pass
    assert len(built) == len(SEEDS)  # both arms share the start of a seed
    assert all(p.dtype == torch.float32 for model in built for p in model.parameters())


@pytest.mark.parametrize("precision", ["fp16", "half", 16])
def test_other_precisions_are_refused_with_a_way_out(precision):
    arms = {"half": {"lr": 0.1, "precision": precision}}
    expected = f"arm 'half': precision must be one of fp32, bf16, got {precision!r}; fp16 needs"
    with pytest.raises(ValueError, match=expected):
        train_runs(mlp, digits(), arms, SEEDS, steps=1, batch_size=8)
