"""Seconds from the call until two processes have trained a step, beside torchrun on a script.

The bound is for two cores that have nothing else to do: the load is printed.
"""

import os
import subprocess
import sys
import time

import torch
from timing import Spread, report
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nbkit.ddp import launch

ROUNDS = 5


def first_step() -> float:
    """Train one step, and say when it was done."""
    model = DistributedDataParallel(nn.Linear(8, 8))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(torch.ones(4, 8)).sum().backward()
    optimizer.step()
    return time.time()


def by_launch() -> float:
    start = time.time()
    return max(launch(first_step, nproc=2)) - start


def by_torchrun() -> float:
    start = time.time()
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    run = subprocess.run(
        [sys.executable, *command, __file__], env=env, check=True, capture_output=True, text=True
    )
    return max(map(float, run.stdout.split())) - start


def rank_of_torchrun() -> None:
    torch.distributed.init_process_group("gloo")
    os.write(1, f"{first_step()}\n".encode())  # in one piece
    torch.distributed.barrier()
    os._exit(0)  # the regular end aborts now and then (torch 2.13)


def main() -> bool:
    seconds = [(by_launch(), by_torchrun()) for _ in range(ROUNDS)]
    ours, theirs = ([row[i] for row in seconds] for i in range(2))
    ratio = Spread.of([a / b for a, b in seconds])
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; torchrun {Spread.of(theirs)}")
    return all(
        [
            report("launch: seconds until two ranks have trained a step", Spread.of(ours), 5.0),
            report("launch / torchrun, seconds until then", ratio, 1.0),
        ]
    )


if __name__ == "__main__":
    if "RANK" in os.environ:
        rank_of_torchrun()
    else:
        raise SystemExit(not main())
