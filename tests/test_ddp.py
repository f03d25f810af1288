"""Several processes from one call: what comes back, what goes wrong, what is left behind."""

import atexit
import linecache
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nbkit import _ddp_launch
from nbkit.accumulation import accumulate
from nbkit.ddp import (
    LaunchError,
    _check_on_rank,
    all_mean,
    check_ddp_equivalence,
    is_main,
    launch,
    rank,
    shard,
    world_size,
)

# Two machines' worth of work share two cores here: how long a start may take before it is a hang.
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


# ---- without a group ----


def test_alone_the_helpers_do_nothing():
    tensor = torch.arange(3)
    assert (rank(), world_size(), is_main()) == (0, 1, True)
    assert all_mean(tensor) is tensor
    batch = {"x": torch.zeros(5, 2), "y": (torch.zeros(5), None, 3)}
    (same,) = shard([batch])
    assert same["x"].shape == (5, 2) and same["y"][1:] == (None, 3)


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        ((torch.zeros(2), "text"), TypeError, "a str in a batch cannot be divided by rows"),
        ((torch.zeros(2), torch.zeros(3)), ValueError, r"share their first dimension.*\[2, 3\]"),
        ("text", ValueError, "found tensors nowhere in a str"),
    ],
)
def test_shard_refuses_what_has_no_rows(batch, error, message):
    with pytest.raises(error, match=message):
        next(shard([batch]))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"nproc": 0}, ValueError, "at least 1, got 0"),
        ({"nproc": 1.5}, ValueError, "whole number of processes, at least 1, got 1.5"),
        ({"backend": "mpi"}, ValueError, 'backend must be "gloo", "nccl" or None, got \'mpi\''),
        ({"timeout": 0}, ValueError, "timeout must be positive seconds, or None .* got 0"),
        ({"max_restarts": -1}, ValueError, "max_restarts must be .* at least 0, got -1"),
        (
            {"backend": "nccl", "nproc": 99},
            ValueError,
            r"nccl needs a GPU for each of the nproc=99",
        ),
    ],
)
def test_launch_refuses_impossible_numbers(arguments, error, message):
    with pytest.raises(error, match=message):
        launch(print, **arguments)


def test_launch_refuses_what_is_no_function():
    with pytest.raises(TypeError, match="launch runs a function on each rank, got a int"):
        launch(3)


def test_launch_refuses_to_run_inside_a_launched_function(monkeypatch):
    monkeypatch.setenv("NBKIT_RANK", "0")
    with pytest.raises(RuntimeError, match="inside a launched function: call fn itself there"):
        launch(print)


def test_what_cannot_be_sent_is_refused_before_anything_starts(monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(TypeError, match=r"print \(with its arguments\) cannot be sent .* lock"):
        launch(print, threading.Lock())


def test_without_cloudpickle_a_local_function_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "cloudpickle", None)
    with pytest.raises(ImportError, match="<lambda> .* pip install cloudpickle, or move it"):
        launch(lambda: 0)


def test_the_check_refuses_fewer_rows_than_ranks():
    with pytest.raises(ValueError, match="the batch has 1 rows, fewer than nproc=2"):
        check_ddp_equivalence(net, nn.functional.cross_entropy, data(1))


# ---- with two ranks: one launch for all that goes right ----


def alone_in_the_world():
    """What a rank finds around it."""
    return {
        "rank": (rank(), world_size(), is_main()),
        "interface": os.environ["GLOO_SOCKET_IFNAME"],
        "cloudpickle": "cloudpickle" in sys.modules,
        "session": os.getsid(0),
        "numpy": float(sys.modules["numpy"].random.rand()) if "numpy" in sys.modules else rank(),
        "mean": all_mean(torch.tensor([rank(), 3])).tolist(),
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
    "norm": (partial(build, nn.BatchNorm1d, 4), nn.CrossEntropyLoss(), 8),
    "dropout": (partial(build, nn.Dropout, 0.5), nn.CrossEntropyLoss(), 8),
    "ragged": (partial(build, nn.Tanh), nn.CrossEntropyLoss(), 43),
    "sum": (partial(build, nn.Tanh), nn.CrossEntropyLoss(reduction="sum"), 44),
    "mask": (partial(build, nn.Tanh), masked, 42),
    "unused": (Unused, nn.CrossEntropyLoss(), 8),
    "unused and ragged": (Unused, nn.CrossEntropyLoss(), 43),
}
CAUSES = {
    "equal": None,
    "norm": "BatchNorm (1): each part",
    "dropout": "dropout (1): the masks",
    "ragged": "ragged shards (of 21, 22 rows): DDP averages the ranks' means",
    "sum": "sum reduction: DDP averages over the ranks",
    "mask": "mean of means: the loss averages over something else than rows",
    "unused": "unused parameters (spare.weight, spare.bias): DDP waits",
    "unused and ragged": "or freeze them; ragged shards (of 21, 22 rows)",
}


def everything():
    print("hello from", rank())
    found = {
        "around": alone_in_the_world(),
        "accumulated": accumulated(),
        "one by one": accumulated(steps=1, n=23, size=11),
        "static graph": accumulated(static_graph=True, n=66, size=11),
        "no label": some_ranks_have_no_label(),
        "windows": different_numbers_of_windows(),
        "left": left_in_no_sync(),
        "torch's crash": plainly_under_no_sync(),
        "checks": {
            name: _check_on_rank(make, loss_fn, data(n))
            for name, (make, loss_fn, n) in CHECKS.items()
        },
    }
    outlives = DistributedDataParallel(net())
    outlives(data(4)[0]).sum().backward()
    dist.destroy_process_group()  # torch 2.13 would hang here or below: the model is still alive
    del outlives
    return found


@pytest.fixture(scope="module")
def ranks():
    """What two ranks found, and what they printed."""
    import contextlib
    import io

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        found = launch(everything, timeout=PATIENCE)
    return found, printed.getvalue().splitlines()


def test_each_rank_has_its_number_and_a_session_apart(ranks):
    (first, second), _ = ranks
    assert first["around"]["rank"] == (0, 2, True) and second["around"]["rank"] == (1, 2, False)
    assert first["around"]["session"] == second["around"]["session"] != os.getsid(0)


def test_the_group_is_on_the_loopback_interface(ranks):
    assert ranks[0][0]["around"]["interface"] == ("lo" if sys.platform == "linux" else "lo0")


def test_output_is_shown_with_its_rank(ranks):
    assert sorted(ranks[1]) == ["[rank0] hello from 0", "[rank1] hello from 1"]


def test_a_function_that_can_be_imported_needs_no_cloudpickle(ranks):
    assert not any(found["around"]["cloudpickle"] for found in ranks[0])


def test_numpy_draws_other_numbers_on_each_rank(ranks):
    first, second = (found["around"]["numpy"] for found in ranks[0])
    assert first != second


def test_all_mean_is_the_mean_on_every_rank(ranks):
    assert all(found["around"]["mean"] == [0.5, 3.0] for found in ranks[0])
    assert all(found["around"]["mean of bools"] == 0.5 for found in ranks[0])


def test_shard_gives_every_sample_once_also_when_nothing_divides(ranks):
    first, second = (found["around"]["shards"] for found in ranks[0])
    assert [a + b for a, b in zip(first, second, strict=True)] == [[0, 1, 2, 3, 4], [1]]
    assert [len(x) for x in first] == [2, 0] and [len(x) for x in second] == [3, 1]


@pytest.mark.parametrize("case", ["accumulated", "one by one", "static graph"])
def test_accumulated_over_ragged_ranks_is_the_full_batch(ranks, case):
    for found in ranks[0]:
        assert found[case] and all(error < 1e-11 for error, _ in found[case])


def test_ddp_averages_once_a_window(ranks):
    """Around the backward alone, no_sync does nothing, and each micro-batch is averaged."""
    assert all([n for _, n in found["accumulated"]] == [1, 1] for found in ranks[0])


def test_a_static_graph_averages_its_first_micro_batch_too(ranks):
    assert all([n for _, n in found["static graph"]] == [2, 1] for found in ranks[0])


def test_torch_still_crashes_where_accumulate_does_not(ranks):
    """When this fails, torch is repaired: the extra synchronisation can go."""
    assert all("expect_autograd_hooks_" in found["torch's crash"] for found in ranks[0])


def test_a_rank_without_a_label_takes_part_with_weight_zero(ranks):
    for found in ranks[0]:
        assert all(error < 1e-11 for error, _ in found["no label"])
    assert [positive for _, positive in ranks[0][0]["no label"]] == [[True, True], [False]]
    assert [positive for _, positive in ranks[0][1]["no label"]] == [[False], [True, True]]


def test_ranks_with_different_numbers_of_windows_are_told_and_do_not_hang(ranks):
    told = "1 of 2 ranks have another window, the others have no batch left. Give each rank"
    # rank 0 has 3 batches, rank 1 has 2: one has a second window of one batch
    assert all(found["windows"].startswith(told) for found in ranks[0])


def test_an_exception_in_mid_window_leaves_synchronisation_on(ranks):
    assert all(found["left"] is True for found in ranks[0])


@pytest.mark.parametrize("case", CHECKS)
def test_the_check_names_the_cause(ranks, case):
    for found in ranks[0]:
        report = found["checks"][case]
        assert report.equivalent == (CAUSES[case] is None)
        assert (report.error < 1e-12) == report.equivalent
        assert report.cause == CAUSES[case] or CAUSES[case] in report.cause


# ---- what goes wrong: each fault in a launch of its own ----


@pytest.fixture
def token(monkeypatch):
    """Marks every process that starts from here, and says at the end that none is left."""
    name = uuid.uuid4().hex
    monkeypatch.setenv("NBKIT_TEST", name)
    yield name
    assert not left_after(10.0, name)


def left_after(seconds, token):
    """The processes that carry the token, once they had this long to end."""
    end = time.monotonic() + seconds
    while (found := processes(token)) and time.monotonic() < end:
        time.sleep(0.05)
    return found


def processes(token):
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (
                int(folder.name) != os.getpid()
                and token.encode() in (folder / "environ").read_bytes()
            ):
                found.append((folder / "cmdline").read_bytes().decode().replace("\0", " "))
        except OSError:
            pass  # it has ended meanwhile, or is not ours
    return found


needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")


def is_killed():
    if rank() == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.barrier()


@needs_proc
def test_a_killed_rank_is_named_though_the_other_complains_first(token):
    with pytest.raises(LaunchError, match=r"rank 1 of 2\.\nthe process ended by SIGKILL") as caught:
        launch(is_killed, timeout=PATIENCE)
    assert "Out of memory is the usual reason" in str(caught.value)
    assert [f.rank for f in caught.value.failures] == [1, 0]


def never_arrives():
    if rank() == 1:
        time.sleep(1000)
    dist.barrier()


@needs_proc
def test_a_hang_ends_at_the_timeout_and_says_where_each_rank_was(token):
    start = time.monotonic()
    with pytest.raises(LaunchError, match=r"did not end within timeout=12 s on 2") as caught:
        launch(never_arrives, timeout=12)
    assert time.monotonic() - start < 20
    text = str(caught.value)
    first, second = text.split("--- rank 1 ---")
    assert "dist.barrier()" in first and "time.sleep(1000)" in second


CELL = """
class Net(torch.nn.Linear):
    pass

def fails_once(width):
    store = torch.distributed.distributed_c10d._get_default_store()
    if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
        store.set("written by the first attempt", "1")
        raise ValueError("a first time")
    torch.distributed.barrier()
    return Net(width, 1), store.check(["written by the first attempt"])

def fails(settings):
    if os.environ["RANK"] == "1":
        settings["momentum"]
    torch.distributed.barrier()
"""


@pytest.fixture
def cell(monkeypatch):
    """Run code as a notebook does: in __main__, from a file that only this process knows."""
    name = "<cell 7>"
    entry = (len(CELL), None, CELL.splitlines(keepends=True), name)
    monkeypatch.setitem(linecache.cache, name, entry)
    scope = {"__name__": "__main__", "torch": torch, "os": os}
    exec(compile(CELL, name, "exec"), scope)
    return scope


@needs_proc
def test_an_exception_comes_back_with_its_rank_and_traceback(token, cell, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(LaunchError) as caught:
        launch(cell["fails"], {}, timeout=PATIENCE)
    *said, last = str(caught.value).splitlines()
    assert [line for line in said if "^^^" not in line] == [
        "fails failed on rank 1 of 2.",
        "Traceback (most recent call last):",
        '  File "<cell 7>", line 15, in fails',  # and no frame of the launcher's
        '    settings["momentum"]',
        "KeyError: 'momentum'",
    ]
    assert last.startswith("Rank 0 then: RuntimeError: ")  # it lost its peer
    told = [(failure.rank, failure.error) for failure in caught.value.failures]
    assert told == [(1, "KeyError"), (0, "RuntimeError")]
    assert caught.value._render_traceback_()[0] == "LaunchError: fails failed on rank 1 of 2."
    assert not list(tmp_path.glob("nbkit-*"))


@needs_proc
def test_a_function_from_a_cell_restarts_and_returns_a_class_of_the_cell(token, cell):
    """A restarted rank must not read the store of the attempt before (torch 2.13 hangs on it)."""
    values = launch(cell["fails_once"], 3, max_restarts=1, timeout=PATIENCE)
    assert [type(net) is cell["Net"] for net, _ in values] == [True, True]
    assert [stale for _, stale in values] == [False, False]


def leaves_or_returns_a_lock():
    if rank() == 0:
        sys.exit(0)
    return threading.Lock()


@needs_proc
def test_a_rank_without_a_value_is_a_failure(token):
    with pytest.raises(LaunchError) as caught:
        launch(leaves_or_returns_a_lock, timeout=PATIENCE)
    left, locked = sorted(caught.value.failures, key=lambda failure: failure.rank)
    assert (left.error, left.message) == ("SystemExit", "0")
    told = "what leaves_or_returns_a_lock returned cannot be sent to another process"
    assert locked.error == "TypeError" and locked.message.startswith(told)


OPTIONS = {"nproc": 2, "backend": "gloo", "timeout": 5.0, "max_restarts": 1, "deadline": None}
CRASH = """Fatal Python error: Segmentation fault

Thread 0x0000000000000002 (most recent call first):
  File "threading.py", line 1 in wait

Current thread 0x0000000000000001 (most recent call first):
  File "{file}", line 2 in inner
  File "{file}", line 1 in outer
  File "nbkit/_ddp_worker.py", line 1 in work

Thread 0x0000000000000003 (most recent call first):
  File "main.py", line 1 in main
"""


def test_a_crash_says_in_which_attempt_and_where(tmp_path):
    (source := tmp_path / "user.py").write_text("outer()\ninner()\n")
    (tmp_path / "stack_0_1").write_text("")
    (tmp_path / "stack_1_1").write_text(CRASH.format(file=source))
    (tmp_path / "ended.json").write_text('{"1": -11}')
    error = _ddp_launch.explain(tmp_path, "train", OPTIONS, [])
    assert str(error).splitlines() == [
        "train failed on rank 1 of 2 (attempt 2).",
        "the process ended by SIGSEGV, without a Python exception.",
        f'  File "{source}", line 1, in outer',
        "    outer()",
        f'  File "{source}", line 2, in inner',
        "    inner()",
    ]


def test_a_launcher_that_ends_early_is_quoted(tmp_path):
    error = _ddp_launch.explain(tmp_path, "train", OPTIONS, ["no port", "was free"])
    assert (
        str(error) == "train: the launcher ended before a rank failed. It said:\nno port\nwas free"
    )


SCRIPT = """
import os, sys, time
from nbkit.ddp import launch

def stays():
    print("started", flush=True)
    time.sleep(1000)

if __name__ == "__main__":
    try:
        launch(stays)
    except KeyboardInterrupt as error:
        print("KeyboardInterrupt:", error)
"""


@pytest.fixture
def script(tmp_path, token):
    """Start a Python file; its output is closed at the end."""
    started = []

    def start(text, *command):
        (file := tmp_path / f"script_{len(started)}.py").write_text(text)
        root = str(Path(__file__).parents[1])
        env = os.environ | {"PYTHONPATH": root, "TMPDIR": str(tmp_path)}
        command = [sys.executable, *command, str(file)]
        started.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.communicate(timeout=PATIENCE)


@needs_proc
def test_an_interrupt_or_the_callers_death_ends_every_process(script, token, tmp_path):
    interrupted, killed = script(SCRIPT), script(SCRIPT)
    for process, number in [(interrupted, signal.SIGINT), (killed, signal.SIGKILL)]:
        lines = sorted(process.stdout.readline() for _ in range(2))
        assert lines == ["[rank0] started\n", "[rank1] started\n"]
        process.send_signal(number)
        process.wait()
    told = "KeyboardInterrupt: stays was interrupted; its processes were ended\n"
    assert (interrupted.stdout.read(), interrupted.returncode) == (told, 0)
    assert killed.returncode == -signal.SIGKILL
    assert not left_after(10.0, token) and not list(tmp_path.glob("nbkit-*"))


UNDER_TORCHRUN = """
import torch
from nbkit.ddp import launch, rank, world_size, all_mean

def train(lr):
    return rank(), world_size(), float(all_mean(torch.tensor(lr * rank())))

if __name__ == "__main__":
    first, second = launch(train, 2.0, nproc=7), launch(train, 4.0)
    if rank() == 0:
        print(first, second)
"""


@needs_proc
def test_the_same_line_runs_under_torchrun(script):
    address = ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1"]
    process = script(UNDER_TORCHRUN, "-m", "torch.distributed.run", "--nproc-per-node=2", *address)
    out, _ = process.communicate(timeout=PATIENCE)
    assert out == "[(0, 2, 1.0), (1, 2, 1.0)] [(0, 2, 2.0), (1, 2, 2.0)]\n"
    assert process.returncode == 0


class Finalized:
    def __init__(self, file):
        self.file = file

    def __del__(self):
        os.write(self.file, b"finalized ")


def leaves_an_object_and_a_handler(path):
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    sys.nbkit_test = Finalized(file)
    atexit.register(os.write, file, b"handlers ran ")


@needs_proc
def test_spawned_ranks_end_before_the_interpreter_does(token, tmp_path):
    """As with nccl: gloo's threads abort a rank's regular end now and then (torch 2.13)."""
    options = OPTIONS | {"nproc": 1, "method": "spawn", "timeout": PATIENCE}
    call = (leaves_an_object_and_a_handler, (tmp_path / "end",), {})
    assert _ddp_launch.run_job(tmp_path, call, options) == [None]
    assert (tmp_path / "end").read_text() == "handlers ran "


# ---- on GPUs ----


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


@pytest.mark.gpu
def test_nccl_with_a_process_for_each_gpu(token):
    count = torch.cuda.device_count()
    for number, (backend, device, error, on_gpu, on_cpu) in enumerate(
        launch(trains_on_its_gpu, nproc=count, timeout=PATIENCE)
    ):
        assert "nccl" in backend and device == number and error < 1e-11
        assert on_gpu == on_cpu == 1.0


@pytest.mark.gpu
def test_nccl_rank_that_fails_is_named(token):
    with pytest.raises(LaunchError, match="rank 0 of 1.*KeyError"):
        launch({}.__getitem__, "momentum", nproc=1, backend="nccl", timeout=PATIENCE)
