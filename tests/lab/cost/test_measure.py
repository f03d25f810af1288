"""Measurement: a clock that the tests wind themselves, and memory and work counted by hand."""

import gc
import json
import math
import time
import weakref

import pytest
import torch
from exits import EXITS, exit_name, leaving
from matplotlib.figure import Figure
from torch import nn
from torch.utils.checkpoint import checkpoint

from nbkit import digest
from nbkit.lab import plots
from nbkit.lab.cost import timing as measure
from nbkit.lab.cost.timing import MemoryReport, Timing, flops, memory_report, time_it
from nbkit.lab.evidence.stats import paired_ratio
from nbkit.lab.machine import read_machine

every_exit = pytest.mark.parametrize("way_out", EXITS, ids=exit_name)


class Clock:
    """Time passes only in the arms: each call takes the next of the arm's seconds, then the last.

    `log` has the names of the arms in the order in which they were called.
    """

    def __init__(self):
        self.now, self.log = 0.0, []

    def __call__(self):
        return self.now

    def arm(self, name, *seconds):
        left = list(seconds)

        def run():
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


@pytest.fixture
def clock():
    return Clock()


def timing(**seconds):
    return Timing(seconds, steady=True, machine=read_machine().to_dict())


# Arms in turn


def test_every_order_comes_as_often(clock):
    arms = {name: clock.arm(name, 1.0) for name in "abc"}
    time_it(arms, 6, max_warmup=0, clock=clock)
    rounds = ["".join(clock.log[i : i + 3]) for i in range(0, 18, 3)]
    assert rounds == ["abc", "cba", "bca", "acb", "cab", "bac"]


def test_two_arms_go_there_and_back(clock):
    time_it({name: clock.arm(name, 1.0) for name in "ab"}, 8, max_warmup=0, clock=clock)
    assert "".join(clock.log) == "abbabaab" * 2


def test_each_call_is_recorded_under_its_arm_and_round(clock):
    arms = {"a": clock.arm("a", *[1.0 + i for i in range(8)]), "b": clock.arm("b", 9.0)}
    result = time_it(arms, 8, max_warmup=0, clock=clock)
    assert result.seconds == {"a": [1.0 + i for i in range(8)], "b": [9.0] * 8}


# Warm-up


def test_a_steady_arm_warms_up_for_two_windows(clock):
    result = time_it({"a": clock.arm("a", 1.0)}, 7, clock=clock)
    assert result.steady and result.warmup == {"a": [1.0] * 6}
    assert result.seconds == {"a": [1.0] * 7}


def test_warm_up_lasts_until_no_call_is_slower_than_those_before(clock):
    slow = [9.0, 8.0, 7.0, 6.0, 5.0, 4.0]
    result = time_it({"a": clock.arm("a", *slow, 1.0)}, 6, clock=clock)
    # 6 5 4 | 1 1 1 and 5 4 1 | 1 1 1: the first are apart, the second meet.
    assert result.steady and result.warmup["a"] == [*slow, 1.0, 1.0, 1.0, 1.0]
    assert result.seconds["a"] == [1.0] * 6


@pytest.mark.parametrize("factor", [0.9, 1.1])
def test_a_pace_that_keeps_changing_is_never_steady(clock, factor):
    result = time_it({"a": clock.arm("a", *[factor**i for i in range(99)])}, 6, clock=clock)
    assert not result.steady and len(result.warmup["a"]) == 20
    assert result.seconds["a"] == pytest.approx([factor**i for i in range(20, 26)])
    assert "NOT STEADY when the warm-up ended" in str(result)


def test_a_drift_of_less_than_two_percent_is_steady(clock):
    falling = [0.995**i for i in range(99)]
    result = time_it({"a": clock.arm("a", *falling)}, 6, clock=clock)
    assert result.steady and len(result.warmup["a"]) == 6


def test_noise_is_not_mistaken_for_a_drift(clock):
    result = time_it({"a": clock.arm("a", 1.0, 3.0, 2.0, 1.5, 2.5, 1.2, 1.0)}, 6, clock=clock)
    assert len(result.warmup["a"]) == 6


def test_the_slowest_to_warm_up_decides_for_all(clock):
    arms = {"a": clock.arm("a", 1.0), "b": clock.arm("b", *[2.0**-i for i in range(9)])}
    result = time_it(arms, 6, clock=clock)
    # b stands still from its ninth call on; with its tenth and eleventh it meets those before.
    assert result.steady and {len(calls) for calls in result.warmup.values()} == {12}


def test_without_warm_up_nothing_is_known_to_be_steady(clock):
    result = time_it({"a": clock.arm("a", 1.0)}, 6, max_warmup=0, clock=clock)
    assert not result.steady and result.warmup == {"a": []}


# The time budget


def test_a_warm_up_that_never_gets_steady_ends_with_half_the_budget(clock):
    rising = [1.1**i for i in range(99)]
    result = time_it({"a": clock.arm("a", *rising)}, 6, budget_seconds=12, clock=clock)
    assert result.warmup["a"] == pytest.approx(rising[:5])  # 1 + 1.1 + ... = 6.1 s, half of 12
    assert len(result.seconds["a"]) == 6 and not result.steady
    assert result.unfinished == "the budget of 12 s ended the warm-up after 5 of at most 20 rounds"
    assert "UNFINISHED: the budget of 12 s" in str(result)


def test_the_rounds_end_with_the_budget_but_six_are_made(clock):
    arms = {"a": clock.arm("a", 1.0)}
    result = time_it(arms, 30, max_warmup=0, budget_seconds=9, clock=clock)
    assert len(result.seconds["a"]) == 9
    assert result.unfinished == "the budget of 9 s ended after 9 of 30 rounds"
    short = time_it(arms, 30, max_warmup=0, budget_seconds=2, clock=clock)
    assert len(short.seconds["a"]) == 6 and "after 6 of 30 rounds" in short.unfinished


def test_the_budget_is_of_the_wall_also_where_the_clock_counts_less(monkeypatch):
    from nbkit.lab.cost import rounds

    wall = Clock()
    timers = {"a": lambda: (setattr(wall, "now", wall.now + 1.0), 0.001)[1]}
    found = rounds.time_rounds(timers, 30, budget_seconds=4, clock=wall)
    assert found.seconds == {"a": [0.001] * 4}


def test_ranks_make_the_same_number_of_rounds(clock):
    """Another rank's budget is spent first: this one stops with it."""
    from nbkit.lab.cost.rounds import time_rounds

    asked = []

    def any_rank(here):
        asked.append(here)
        return len(asked) > 3

    found = time_rounds({"a": lambda: 1.0}, 30, fewest=0, any_rank=any_rank, clock=clock)
    assert len(found.seconds["a"]) == 3 and asked == [False] * 4


def test_nothing_is_unfinished_where_there_was_time(clock):
    result = time_it({"a": clock.arm("a", 1.0)}, 6, clock=clock)
    assert result.unfinished == "" and "UNFINISHED" not in str(result)


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match="budget_seconds must be above 0, got 0"):
        time_it({"a": time.time}, budget_seconds=0)


def test_a_ratio_carries_what_else_the_machine_did(monkeypatch, clock):
    from nbkit.lab.cost.busy import Load

    monkeypatch.setattr(measure, "load_since", lambda before: Load(0.71))
    arms = {name: clock.arm(name, 1.0) for name in "ab"}
    result = time_it(arms, 6, clock=clock)
    assert result.ratio("a", to="b").load.others == 0.71
    assert "BUSY: other programs used 71 % of the cores" in str(result)


# What is waited for, and what is kept out


def test_the_accelerator_is_waited_for_before_the_clock_is_read(monkeypatch, clock):
    log = []
    monkeypatch.setattr(measure, "_wait_for_devices", lambda: log.append("wait"))

    def read():
        log.append("clock")
        clock.now += 1
        return clock.now

    time_it({"a": lambda: log.append("arm")}, 6, max_warmup=0, clock=read)
    assert log == ["wait", "clock", "arm", "wait", "clock"] * 6


def test_garbage_waits_for_the_next_call():
    class Circle:
        def __init__(self):
            self.itself = self

    alive = []

    def arm():
        assert not gc.isenabled()
        assert [ref for ref in alive if ref() is not None] == []
        alive.append(weakref.ref(Circle()))

    time_it({"a": arm, "b": arm}, 6)
    assert len(alive) >= 12 and gc.isenabled()


@every_exit
@pytest.mark.parametrize("enabled", [True, False])
def test_the_setting_of_garbage_collection_is_given_back(way_out, enabled):
    calls = []
    try:
        (gc.enable if enabled else gc.disable)()
        with leaving(way_out) as leave:

            def arm():
                calls.append(gc.isenabled())
                if len(calls) == 30:
                    leave()

            time_it({"a": arm}, 30)
        assert gc.isenabled() is enabled
        assert not any(calls)
    finally:
        gc.enable()


def test_cuda_is_waited_for_once_it_is_started_and_not_started_for_it(monkeypatch):
    log = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: log.append("synchronize"))
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    time_it({"a": lambda: log.append("arm")}, 6, max_warmup=0)
    assert log == ["arm"] * 6
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    time_it({"a": lambda: log.append("arm")}, 6, max_warmup=0)
    assert log[6:] == ["synchronize", "arm", "synchronize"] * 6


@pytest.mark.gpu
def test_work_on_the_device_is_waited_for():
    """The launch takes microseconds; the kernel at least 2e8 cycles, that is 50 ms at 4 GHz."""
    result = time_it({"sleep": lambda: torch.cuda._sleep(200_000_000)}, 6, max_warmup=1)
    assert min(result.seconds["sleep"]) > 0.05


# What follows from the seconds


def test_a_ratio_is_paired_by_round():
    """The machine's pace halves each round, and the ratio does not notice."""
    pace = [2.0**i for i in range(6)]
    result = timing(slow=[3 * s for s in pace], fast=pace)
    ratio = result.ratio("slow", to="fast")
    assert [ratio.estimate, ratio.low, ratio.high, ratio.n] == pytest.approx([3, 3, 3, 6])


def test_a_ratio_is_that_of_stats():
    a, b = [1.0, 1.2, 1.1, 1.3, 0.9, 1.0], [2.0, 2.1, 2.5, 2.0, 1.8, 2.2]
    assert timing(a=a, b=b).ratio("a", "b") == paired_ratio(a, b, over="rounds")


@pytest.mark.parametrize(
    "n, low, high",
    [
        (6, 1, 6),  # 1 - 2 / 2**6 = 96.9 %
        (8, 1, 8),  # 1 - 2 (1 + 8) / 2**8 = 93 % would not do
        (9, 2, 8),  # 1 - 2 (1 + 9) / 2**9 = 96.1 %
        (20, 6, 15),  # any table of the sign test
    ],
)
def test_the_interval_of_a_median_against_the_sign_test(n, low, high):
    shuffled = [float(1 + i * 7 % n) for i in range(n)] if n % 7 else []
    middle = timing(a=shuffled).median("a")
    assert sorted(shuffled) == [float(i) for i in range(1, n + 1)]
    assert (middle.estimate, middle.low, middle.high, middle.n) == ((n + 1) / 2, low, high, n)


@pytest.mark.parametrize(
    "seconds, noisy",
    [
        ([1.0] * 20, False),
        ([1.0] * 18 + [9.0] * 2, True),
        ([1.0] * 19 + [9.0], False),  # one call in twenty held up is what every machine does
        ([1.0] * 10 + [1.3] * 10, True),  # another pace half-way
        ([1.0] * 10 + [1.2] * 10, False),
    ],
)
def test_what_counts_as_noisy(seconds, noisy):
    result = timing(a=seconds, quiet=[1.0] * 20)
    assert result.noisy == (["a"] if noisy else [])
    assert ("NOISY: the calls of a spread" in str(result)) is noisy


def test_the_spread_of_normal_noise_is_two_and_a_half_standard_deviations():
    noise = torch.randn(20_001, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert timing(a=(1 + 0.1 * noise).tolist()).spread("a") == pytest.approx(0.256, abs=0.01)


@pytest.mark.parametrize("seconds, brief", [(9e-6, True), (11e-6, False)])
def test_an_arm_too_brief_for_the_clock_is_said_to_be(seconds, brief):
    result = timing(a=[seconds] * 6, long=[1.0] * 6)
    assert ("TOO BRIEF to time: let a repeat the work" in str(result)) is brief


def test_the_table():
    result = timing(old=[0.002] * 6, new=[0.001] * 6)
    facts = read_machine().to_dict()
    where = f"{facts['gpu'] or facts['processor']}, threads: {facts['threads']}"
    assert str(result).splitlines() == [
        f"6 rounds after 0 of warm-up, on {where}, torch {torch.__version__}",
        "arm  median  95% interval  spread  time relative to old",
        "old  2 ms    2 ms to 2 ms  0%      1",
        "new  1 ms    1 ms to 1 ms  0%      0.5 [0.5, 0.5] (95% interval, n = 6 rounds)",
    ]


def test_everything_is_in_the_dict(clock):
    result = time_it({n: clock.arm(n, s) for n, s in [("a", 2.0), ("b", 1.0)]}, 6, clock=clock)
    told = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert (
        told["machine"] == read_machine().to_dict()
        and told["steady"] is True
        and told["noisy"] == []
    )
    assert told["seconds"] == {"a": [2.0] * 6, "b": [1.0] * 6}
    assert told["relative_to"] == "a" and told["ratios"]["b"]["estimate"] == pytest.approx(0.5)
    assert told["medians"]["a"]["estimate"] == 2.0


def test_the_picture_has_every_call_and_the_interval():
    ax = Figure().add_subplot()
    seconds = [0.001, 0.002, 0.003, 0.004, 0.005, 0.006]
    assert timing(a=seconds, b=[0.001] * 6).plot(ax) is ax
    dots, bar, middle = ax.lines[:3]
    assert dots.get_xdata().tolist() == pytest.approx([1, 2, 3, 4, 5, 6])
    assert list(bar.get_xdata()) == pytest.approx([1, 6])
    assert list(middle.get_xdata()) == pytest.approx([3.5])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["a", "b"]
    assert ax.get_xlabel() == "ms a call" and ax.get_xlim()[0] == 0
    assert {line.get_color() for line in ax.lines} == {plots.BASELINE, plots.TECHNIQUE}


def test_the_real_clock_runs():
    result = time_it({"a": lambda: sum(range(1000))}, 6)
    assert all(0 < s < math.inf for s in result.seconds["a"])


# Wrong arguments


@pytest.mark.parametrize(
    "arms, options, error, words",
    [
        ({}, {}, ValueError, "arms must map names to functions"),
        ([time.time], {}, ValueError, "arms must map names to functions"),
        ({"a": 3}, {}, TypeError, "arm 'a' must be a function without arguments, got a int"),
        ({"a": time.time}, {"repeats": 5}, ValueError, "repeats must be at least 6.*got 5"),
        ({"a": time.time}, {"max_warmup": -1}, ValueError, "max_warmup must be at least 0"),
        ({"a": time.time}, {"clock": lambda: 1.0}, ValueError, "arm 'a' took 0.0 s by this clock"),
        ({"a": lambda: (i for i in "ab")}, {}, TypeError, "a generator, which has not run yet"),
    ],
)
def test_wrong_arguments(arms, options, error, words):
    with pytest.raises(error, match=words):
        time_it(arms, **options)
    assert gc.isenabled()


def test_a_coroutine_has_not_run():
    async def arm():
        pass

    with pytest.raises(TypeError, match="arm 'a' returned a coroutine, which has not run yet"):
        time_it({"a": arm})


def test_an_unknown_arm_is_named_with_those_there_are():
    with pytest.raises(KeyError, match="no arm 'c' was timed; there are a, b"):
        timing(a=[1.0] * 6, b=[1.0] * 6).ratio("c", "a")


# Memory

N, IN, HIDDEN, OUT = 16, 4, 8, 3
FLOAT = 4


def mlp(activation=None):
    return nn.Sequential(nn.Linear(IN, HIDDEN), activation or nn.ReLU(), nn.Linear(HIDDEN, OUT))


def report(model, loss_fn=nn.functional.mse_loss, batch=None, optimizer=None, **options):
    batch = (torch.randn(N, IN), torch.randn(N, OUT)) if batch is None else batch
    optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1, **options)
    return memory_report(model, batch, loss_fn, optimizer)


WEIGHTS = FLOAT * (HIDDEN * IN + HIDDEN + OUT * HIDDEN + OUT)
# ReLU keeps its output, which is also what the second Linear keeps; the loss keeps its input. The
# first Linear keeps the batch, and the loss the targets: those are counted apart.
SAVED = FLOAT * (N * HIDDEN + N * OUT)


def test_an_mlp_counted_by_hand():
    assert report(mlp()) == MemoryReport(
        parameters=WEIGHTS,
        buffers=0,
        gradients=WEIGHTS,
        optimizer_state=0,
        activations=SAVED,
        batch=FLOAT * (N * IN + N * OUT),
    )


def test_double_precision_takes_twice_the_bytes():
    batch = torch.randn(N, IN).double(), torch.randn(N, OUT).double()
    assert report(mlp().double(), batch=batch).activations == 2 * SAVED


@pytest.mark.parametrize(
    "make, tensors, scalars",
    [(torch.optim.Adam, 2, 4), (torch.optim.RMSprop, 1, 4), (torch.optim.SGD, 0, 0)],
)
def test_the_state_of_optimizers(make, tensors, scalars):
    model = mlp()  # four parameters, and of each a counter of steps
    result = report(model, optimizer=make(model.parameters(), lr=0.1))
    assert result.optimizer_state == tensors * WEIGHTS + scalars * FLOAT
    assert report(mlp(), momentum=0.9).optimizer_state == WEIGHTS


def test_relu_in_place_keeps_the_same():
    assert report(mlp(nn.ReLU(inplace=True))).activations == SAVED


def test_an_activation_that_keeps_its_input_keeps_more():
    """GELU needs its input; the Linear after it needs its output."""
    assert report(mlp(nn.GELU())).activations == SAVED + FLOAT * N * HIDDEN


def test_dropout_keeps_its_mask_and_its_output():
    model = nn.Sequential(nn.Linear(IN, HIDDEN), nn.Dropout(), nn.Linear(HIDDEN, OUT))
    mask = N * HIDDEN  # bool
    assert report(model.train()).activations in (SAVED + mask, SAVED + FLOAT * mask)
    assert report(model.eval()).activations == SAVED  # passed through: the first Linear's output


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(IN, IN, bias=False)
        self.second = nn.Linear(IN, IN, bias=False)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(self.first(x))


def test_tied_weights_count_once():
    result = report(Tied(), batch=(torch.randn(N, IN), torch.randn(N, IN)))
    assert result.parameters == result.gradients == FLOAT * IN * IN
    assert result.activations == FLOAT * (N * IN + N * IN)  # neither weight is one


def test_parameters_in_one_memory_count_once():
    model = mlp()
    flat = torch.zeros(10_000)
    start = 0
    for parameter in model.parameters():
        parameter.data = flat[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
    result = report(model)
    assert result.parameters == flat.nbytes and result.gradients == WEIGHTS


class Scaled(nn.Module):
    """Its buffer is kept for the backward pass, and is no activation."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(IN, OUT)
        self.register_buffer("scale", torch.full((N, OUT), 2.0))

    def forward(self, x):
        return self.linear(x) * self.scale


def test_buffers_are_no_activations():
    result = report(Scaled())
    assert result.buffers == FLOAT * N * OUT
    assert result.activations == FLOAT * N * OUT  # what the loss keeps


class Views(nn.Module):
    """Three products, each keeping a view of the same memory."""

    def __init__(self):
        super().__init__()
        self.linear, self.last = nn.Linear(IN, HIDDEN), nn.Linear(1, 1)

    def forward(self, x):
        h = self.linear(x)
        return self.last((h[:, :2] * h[:, 2:4] * h[:, 4:6]).sum(dim=1, keepdim=True))


def test_views_share_a_memory():
    result = report(Views(), batch=(torch.randn(N, IN), torch.randn(N, 1)))
    product, total, output = N * 2, N, N
    assert result.activations == FLOAT * (N * HIDDEN + product + total + output)


class Abandoned(nn.Module):
    """Half of what it computes is dropped before the loss: autograd does not keep that."""

    def __init__(self):
        super().__init__()
        self.layers = mlp()

    def forward(self, x):
        self.layers(x).exp().sum()
        return self.layers(x)


def test_what_is_dropped_on_the_way_is_not_kept():
    assert report(Abandoned()).activations == SAVED


class Checkpointed(nn.Module):
    def __init__(self, use_reentrant):
        super().__init__()
        self.deep = nn.Sequential(*[nn.Sequential(nn.Linear(IN, IN), nn.Tanh()) for _ in range(5)])
        self.use_reentrant = use_reentrant

    def forward(self, x):
        if self.use_reentrant is None:
            return self.deep(x)
        x = self.deep[0](x)
        return checkpoint(self.deep[1:], x, use_reentrant=self.use_reentrant)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_checkpointed_segment_keeps_less(use_reentrant):
    batch = (torch.randn(N, IN), torch.randn(N, IN))
    layer = FLOAT * N * IN
    assert report(Checkpointed(None), batch=batch).activations == 5 * layer
    result = report(Checkpointed(use_reentrant), batch=batch)
    assert result.activations == 2 * layer  # the segment's input; its output, which the loss keeps
    assert result.gradients == result.parameters


def test_sparse_gradients_count_their_indices_and_values():
    model = nn.Sequential(nn.Embedding(50, 6, sparse=True))
    batch = (torch.randint(50, (N,)), torch.randn(N, 6))
    result = report(model, batch=batch)
    assert result.gradients == 8 * N + FLOAT * N * 6 and result.parameters == FLOAT * 300


def test_a_loss_that_is_a_module_counts():
    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, output, target):
            return self.scale * (output - target).square().mean()

    loss_fn = Loss()
    before = digest(loss_fn, rng=False)
    result = report(mlp(), loss_fn)
    assert result.parameters == result.gradients == WEIGHTS + FLOAT
    assert result.activations == SAVED + FLOAT  # differences to square, a mean to scale
    assert digest(loss_fn, rng=False) == before


def test_frozen_parameters_have_no_gradients():
    model = mlp()
    model[0].requires_grad_(False)
    result = report(model)
    assert result.gradients == FLOAT * (OUT * HIDDEN + OUT) and result.parameters == WEIGHTS
    assert result.activations == SAVED  # the second Linear still needs its input


def test_gradients_of_before_do_not_change_the_report():
    model = mlp()
    fresh = report(model)
    model(torch.randn(2, IN)).sum().backward()
    assert report(model) == fresh


def test_a_dict_a_bare_input_and_no_grad():
    class Keywords(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = mlp()

        def forward(self, x):
            return self.layers(x)

    batch = {"x": torch.randn(N, IN)}, torch.randn(N, OUT)
    with torch.no_grad():
        assert report(Keywords(), batch=batch).activations == SAVED
    alone = report(mlp(), torch.sum, batch=torch.randn(N, IN))
    assert alone.batch == FLOAT * N * IN and alone.activations == FLOAT * N * HIDDEN


@every_exit
def test_everything_is_put_back(way_out):
    model = nn.Sequential(
        nn.ReLU(inplace=True), nn.Linear(IN, OUT), nn.BatchNorm1d(OUT), nn.Dropout()
    )
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(N, IN)).sum().backward()  # gradients, but an empty state
    batch = (torch.randn(N, IN), torch.randn(N, OUT))
    before = digest(model, optimizer, *batch)
    calls = []
    with leaving(way_out) as leave:

        def loss_fn(output, target):
            calls.append(output)
            if len(calls) == 2:
                leave()
            return nn.functional.mse_loss(output, target)

        memory_report(model, batch, loss_fn, optimizer)
    assert digest(model, optimizer, *batch) == before
    assert torch._C._autograd._top_saved_tensors_default_hooks(False) is None


def test_a_batch_that_comes_from_a_graph_keeps_it():
    weight = torch.ones(IN, requires_grad=True)
    inputs = torch.randn(N, IN) * weight
    report(mlp(), batch=(inputs, torch.randn(N, OUT)))
    inputs.sum().backward()  # a second time through would raise
    assert weight.grad.shape == (IN,)


@pytest.mark.parametrize(
    "loss_fn, words",
    [
        (
            lambda output, target: output,
            r"one number that requires a gradient, got shape \(16, 3\)",
        ),
        (lambda output, target: output.sum().detach(), r"got shape \(\)"),
        (lambda output, target: 1.0, "got float"),
    ],
)
def test_a_loss_is_one_number_with_a_gradient(loss_fn, words):
    model = mlp()
    before = digest(model, rng=False)
    with pytest.raises(ValueError, match=words):
        report(model, loss_fn)
    assert digest(model, rng=False) == before


def test_the_optimizer_must_be_one_of_this_model():
    with pytest.raises(TypeError, match=r"must be a torch.optim.Optimizer, got a float"):
        report(mlp(), optimizer=0.1)
    other = torch.optim.SGD(mlp().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="the optimizer has no parameter of this model"):
        report(mlp(), optimizer=other)


PARTS = dict(parameters=2048, buffers=0, gradients=2048, optimizer_state=4096)


def test_the_table_of_memory():
    result = MemoryReport(**PARTS, activations=8192, batch=0, peak=20480, device="cuda:0")
    assert str(result).splitlines() == [
        "one training step on cuda:0: 16 KiB in all, peak 20 KiB",
        "part             bytes  size     share",
        "parameters       2048   2 KiB    12%",
        "buffers          0      0 bytes  0%",
        "gradients        2048   2 KiB    12%",
        "optimizer state  4096   4 KiB    25%",
        "activations      8192   8 KiB    50%",
        "batch            0      0 bytes  0%",
    ]
    assert "peak" not in str(report(mlp()))
    told = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert told == {
        **PARTS, "activations": 8192, "batch": 0, "peak": 20480, "device": "cuda:0", "total": 16384,
    }  # fmt: skip


def test_the_picture_of_memory():
    ax = Figure().add_subplot()
    assert MemoryReport(**PARTS, activations=8192, batch=0).plot(ax) is ax
    assert [bar.get_width() for bar in ax.patches] == [2, 0, 2, 4, 8, 0]
    assert ax.get_xlabel() == "KiB"
    assert [text.get_text() for text in ax.texts][3:5] == ["4 KiB", "8 KiB"]
    assert ax.get_yticklabels()[3].get_text() == "optimizer state"

    ax.clear()
    MemoryReport(**PARTS, activations=8192, batch=0, peak=16384).plot(ax)
    assert ax.patches[-1].get_width() == 16 and ax.get_yticklabels()[-1].get_text() == "peak"


@pytest.mark.gpu
@pytest.mark.parametrize("gradients", [False, True])
def test_the_peak_holds_every_part_that_is_there_at_once(gradients):
    model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512)).cuda()
    if gradients:
        model(torch.randn(2, 512, device="cuda")).sum().backward()
    optimizer = torch.optim.Adam(model.parameters())
    batch = torch.randn(2048, 512), torch.randn(2048, 512)
    held = torch.cuda.memory_allocated()
    result = memory_report(model, batch, nn.functional.mse_loss, optimizer)
    least = result.parameters + result.optimizer_state + result.activations + result.batch
    assert result.device == "cuda:0"
    assert least < result.peak < 2 * result.total
    assert torch.cuda.memory_allocated() == held


# Work


@pytest.mark.parametrize("shape", [(7,), (2, 7)])
def test_flops_of_linear(shape):
    rows = math.prod(shape)
    assert flops(nn.Linear(3, 5), torch.randn(*shape, 3)) == 2 * rows * 3 * 5


def test_backward_takes_once_more_for_the_first_layer_and_twice_for_the_next():
    """No gradient is computed for the inputs."""
    model, x = mlp(), torch.randn(N, IN)
    first, second = 2 * N * IN * HIDDEN, 2 * N * HIDDEN * OUT
    assert flops(model, x) == first + second
    assert flops(model, x, backward=True) == 2 * first + 3 * second


@pytest.mark.parametrize("stride, padding, groups", [(1, 0, 1), (2, 1, 2)])
def test_flops_of_conv2d(stride, padding, groups):
    layer = nn.Conv2d(4, 6, 3, stride=stride, padding=padding, groups=groups)
    x = torch.randn(2, 4, 9, 11)
    out = layer(x)
    assert flops(layer, x) == 2 * out.numel() * (4 // groups) * 3 * 3


def test_flops_of_attention_in_either_mode():
    """The fused kernels of eval mode do the same work, and torch's counter sees none of it."""
    length, width, hidden = 5, 8, 16
    layer = nn.TransformerEncoderLayer(width, 2, hidden, batch_first=True)
    x = torch.randn(3, length, width)
    projections = 4 * 2 * length * width * width
    attention = 2 * 2 * length * length * width
    expected = 3 * (projections + attention + 2 * 2 * length * width * hidden)
    assert flops(layer.train(), x) == flops(layer.eval(), x) == expected


def test_flops_of_an_lstm():
    length, rows, width, hidden = 5, 3, 8, 16
    x = torch.randn(length, rows, width)
    expected = 2 * length * rows * 4 * hidden * (width + hidden)
    assert flops(nn.LSTM(width, hidden), x) == expected


def test_flops_inside_wrappers_and_of_dicts_and_pairs():
    model, x = mlp(), torch.randn(N, IN)
    expected = 2 * N * HIDDEN * (IN + OUT)
    assert flops(torch.compile(model, backend="eager"), x) == expected
    assert flops(model, (x, torch.randn(N, OUT))) == expected
    assert flops(model, {"input": x}) == expected


class Leaving(nn.Module):
    def __init__(self, leave):
        super().__init__()
        self.leave, self.layers = leave, nn.Sequential(nn.Linear(IN, OUT), nn.BatchNorm1d(OUT))

    def forward(self, x):
        x.mul_(2)
        out = self.layers(x + torch.rand_like(x))
        self.leave()
        return out


def settings():
    backends = torch.backends
    return (
        *(backends.mkldnn.enabled, backends.cudnn.enabled, backends.mha.get_fastpath_enabled()),
        *(backends.cuda.flash_sdp_enabled(), backends.cuda.math_sdp_enabled()),
        torch.is_grad_enabled(),
    )


@every_exit
@pytest.mark.parametrize("backward", [False, True])
def test_counting_leaves_no_trace(way_out, backward, monkeypatch):
    x = torch.randn(N, IN)
    for library in (torch.backends.mkldnn, torch.backends.cudnn):  # whatever came before
        monkeypatch.setattr(library, "enabled", True)
    torch.backends.mha.set_fastpath_enabled(True)
    with leaving(way_out) as leave:
        model = Leaving(leave)
        before, were = digest(model, x), settings()
        flops(model, x, backward=backward)
    assert digest(model, x) == before
    assert settings() == were
    assert [p for p in model.parameters() if p._backward_hooks] == []


def test_counting_backward_needs_a_gradient():
    model = mlp().requires_grad_(False)
    with pytest.raises(ValueError, match="backward=True needs an output that requires a gradient"):
        flops(model, torch.randn(N, IN), backward=True)
    assert flops(model, torch.randn(N, IN)) > 0
