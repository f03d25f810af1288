"""The task, the networks and the pictures of 04_clipping do what the lesson says of them."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nbkit import digest
from nbkit.lab import plots
from nbkit.lab.runs.seeds import train_runs
from nbkit.lessons.clipping import pictures, task


@pytest.fixture
def batch():
    return next(iter(task.make_adding_problem(9).batches(16, seed=0)))


def test_the_answer_is_the_sign_of_the_sum_of_the_two_marked_numbers():
    data = task.make_adding_problem(7)
    for x, y in ((data.x_train, data.y_train), (data.x_test, data.y_test)):
        numbers, markers, ones = x.unbind(-1)
        assert (markers[:, :3].sum(1) == 1).all() and (markers[:, 3:].sum(1) == 1).all()
        assert set(markers.unique().tolist()) == {0.0, 1.0} and (ones == 1).all()
        assert torch.equal(y, ((numbers * markers).sum(1) > 0).long())
        assert 0.4 < y.float().mean() < 0.6  # guessing costs log 2
    assert torch.equal(data.x_train, task.make_adding_problem(7).x_train)


def test_the_adding_problem_leaves_the_random_state_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    task.make_adding_problem(5)
    assert torch.equal(torch.rand(1), expected)


def test_a_sequence_too_short_for_two_marks_is_refused():
    with pytest.raises(ValueError, match="length must be at least 2, one number in each half, got"):
        task.make_adding_problem(1)


def test_the_memory_remembers_at_the_start():
    memory = task.ReLUMemory(4)
    with torch.no_grad():
        memory.rnn.weight_ih_l0[:, :2] = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0, 0], [0, 0]])
    x = torch.zeros(1, 6, 3)
    x[..., 2] = 1  # the bias: zero at the start
    x[0, 0, 0], x[0, 3, 1] = 0.25, 0.5
    assert memory(x).tolist() == [[0.25, 0.5, 0.0, 0.0]]


def test_bf16_reaches_every_product_of_the_memory_in_a_stack():
    """Under vmap autocast passes over a linear layer with a bias: the memory has none."""
    seen = set()

    class Spy(task.ReLUMemory):
        def forward(self, x):
            state = super().forward(x)
            seen.add(state.dtype)
            return state

    def model():
        return nn.Sequential(Spy(4), nn.Linear(4, 2))

    runs = train_runs(
        model, task.make_adding_problem(4), {"a": {"lr": 0.1}}, [0, 1], steps=2, batch_size=8
    )
    seen.clear()  # the stack was compared in float32
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        list(runs)
    assert seen == {torch.bfloat16}


def test_the_transformer_trains_in_a_stack_as_it_does_alone():
    arms = {"a": {"lr": 0.1, "max_norm": 0.1}}
    ends = [
        list(
            train_runs(
                task.Transformer,
                task.load_patches(),
                arms,
                [0, 1],
                steps=3,
                batch_size=8,
                vectorize=vectorize,
            )
        )[-1].losses
        for vectorize in (True, False)
    ]
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-4)


def test_patches_are_the_digits():
    from nbkit.lab.data import digits

    assert torch.equal(task.load_patches().x_test.flatten(1), digits().x_test)


def test_lost_is_no_better_than_guessing_or_not_finite():
    losses = torch.tensor([0.94, 0.96, math.inf, math.nan]) * math.log(10)
    assert task.find_lost_runs(losses, 10).tolist() == [False, True, True, True]


def test_the_way_back_is_autograds(batch):
    x, y = batch
    torch.manual_seed(1)
    model = task.build_adder()
    norms = task.trace_back_in_time(model, x, y)
    assert len(norms) == 9
    # Independently: add a zero to the state through the bias column at one time only.
    rnn = model[0].rnn
    for time in (0, 4, 8):
        push = torch.zeros(16, 16, requires_grad=True)
        state = torch.zeros(16, 16)
        for now in range(9):
            ahead = x[:, now] @ rnn.weight_ih_l0.mT + state @ rnn.weight_hh_l0.mT
            state = torch.relu(ahead) + (push if now == time else 0)
        torch.testing.assert_close(model[1](state), model(x))
        cross_entropy(model[1](state), y).backward()
        assert norms[time] == pytest.approx(float(push.grad.norm()), rel=1e-4)


def test_downhill_starts_at_the_loss_and_falls_by_the_norm(batch):
    x, y = batch
    torch.manual_seed(1)
    model = task.build_adder().double()
    x, before = x.double(), digest(model)
    here, near = task.measure_downhill(model, x, y, [0.0, 1e-6])
    loss = cross_entropy(model(x), y)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    norm = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
    assert here == pytest.approx(loss.item())
    assert (here - near) / 1e-6 == pytest.approx(norm, rel=1e-3)
    assert digest(model) == before


def test_the_steepest_moment_is_the_one_of_the_longest_gradient():
    settings = {"lr": 0.05, "momentum": 0.9, "max_norm": 0.5, "batch_size": 16}
    ends = [
        task.find_steepest_step(task.make_adding_problem(9), **settings, steps=steps)
        for steps in (1, 5, 20)
    ]
    assert ends[0][-1] <= ends[1][-1] <= ends[2][-1]
    model, x, y, norm = ends[2]
    gradients = torch.autograd.grad(cross_entropy(model(x), y), list(model.parameters()))
    found = math.sqrt(sum(float(gradient.square().sum()) for gradient in gradients))
    assert found == pytest.approx(norm, rel=1e-4)


def test_strips_count_the_lost_and_draw_what_diverged_at_the_edge(ax):
    rows = {"net: no clipping": torch.tensor([0.7, math.inf, 0.3]), "net: clipped": torch.ones(3)}
    pictures.draw_strips(ax, rows, classes={"net: no clipping": 2, "net: clipped": 10})
    assert [text.get_text() for text in ax.texts] == ["2 of 3 lost", "0 of 3 lost"]
    plain, clipped = ax.lines[:2]
    assert list(plain.get_xdata()) == pytest.approx([0.7 / math.log(2), 1.6, 0.3 / math.log(2)])
    assert (plain.get_color(), clipped.get_color()) == (plots.BASELINE, plots.TECHNIQUE)


def test_curves_are_means_of_ten_and_redrawn(ax):
    losses = torch.arange(20.0).expand(2, 3, 20)
    for _ in range(2):
        pictures.draw_training_losses(ax, losses, {"one": "red", "other": "blue"})
    assert len(ax.lines) == 2 * (3 + 1) + 1
    assert list(ax.lines[0].get_ydata()) == [4.5, 14.5]
    assert [text.get_text() for text in ax.texts if text.get_text()] == ["one", "other"]


def test_the_journey_begins_at_the_end(ax):
    pictures.draw_journey(ax, {"before": [1.0, 2.0, 3.0], "after": [3.0, 2.0, 1.0]})
    assert list(ax.lines[0].get_ydata()) == [3.0, 2.0, 1.0]
    assert ax.get_ylabel() == "norm of the gradient for h"  # h is the lesson's word


def test_the_cliff_marks_where_the_steps_end(ax, batch):
    model = task.build_adder()
    steps = {"short": 0.01, "long": 1.0}
    pictures.draw_cliff(ax, model, *batch, steps=steps)
    curve, short, long = ax.lines
    assert max(curve.get_xdata()) == pytest.approx(2.0)
    assert [short.get_xdata()[0], long.get_xdata()[0]] == [0.01, 1.0]
    assert long.get_ydata()[0] == pytest.approx(task.measure_downhill(model, *batch, [1.0])[0])


def test_the_sweep_shows_losses_and_the_clip_rate_over_the_threshold(ax):
    pictures.draw_sweep(
        ax, [0.1, 1.0], torch.tensor([[0.5, 0.6, 0.7], [math.inf] * 3]), [1.0, 0.25]
    )
    (above,) = [other for other in ax.figure.axes if other is not ax]
    assert list(above.lines[0].get_ydata()) == [1.0, 0.25]
    assert list(ax.lines[1].get_ydata()) == [1.0, 1.0, 1.0]  # diverged: at the top edge
    assert ax.lines[2].get_ydata()[0] == pytest.approx(0.6)


def test_kept_draws_each_element_before_and_after(ax):
    before = torch.tensor([-1.0, 2.0])
    pictures.draw_clipped_elements(ax, before, {"norm": before / 2}, ["red"])
    assert list(ax.lines[0].get_ydata()) == [-0.5, 1.0]


def test_a_spike_is_drawn_over_the_steps(ax):
    pictures.draw_spike(ax, [torch.tensor(1.0), torch.tensor(3.0)], "norm")
    assert list(ax.lines[0].get_xdata()) == [1, 2] and ax.get_yscale() == "log"
