"""The process that `nbkit.lab.cost.processes` starts: it imports torch, waits, runs one function.

    python -m nbkit.lab.cost.fresh_worker FOLDER GROUP RANK

It reports in a file that it is ready, and starts when a line arrives on its standard input. When
that closes, its parent is gone, and it ends itself with everything that it has started.
"""

from __future__ import annotations

import linecache
import os
import pickle
import signal
import sys
import threading
import traceback
from pathlib import Path

import torch
import torch._dynamo  # the first optimizer would import it, which takes a second
import torch.distributed as dist

from nbkit.base.pickling import pickle_value
from nbkit.base.whole_file import write_whole


def run_worker(folder: str, group: str, rank: str) -> None:
    """Wait for the signal, run the function and leave its value or its error in the folder."""
    job, name = Path(folder), f"{group}_{rank}"
    write_whole(job / f"ready_{name}", b"", durable=False)
    if not os.read(0, 1):
        os._exit(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        call = pickle.loads((job / "call").read_bytes())
        for file, lines in call["sources"].items():  # cells, which no file holds
            linecache.cache[file] = (sum(map(len, lines)), None, lines, file)
        fn, args = pickle.loads(call["fn"])
        if call["ranks"] > 1:
            meeting = (job / f"meeting_{group}").as_uri()
            dist.init_process_group(
                "gloo", init_method=meeting, rank=int(rank), world_size=call["ranks"]
            )
        value = fn(int(group), *args)
        data = pickle_value(value, f"what {getattr(fn, '__name__', fn)} returned")
    except BaseException as error:  # also SystemExit: a process that leaves early has failed
        told = (type(error).__name__, str(error), traceback.format_exc())
        write_whole(job / f"error_{name}", pickle.dumps(told), durable=False)
        os._exit(1)
    write_whole(job / f"value_{name}", data, durable=False)
    os._exit(0)  # the interpreter's regular end takes long, and gloo's threads may abort it


def _end_with_parent() -> None:
    while os.read(0, 4096):
        pass
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)  # its own group: it was started in a session of its own
    os._exit(1)


if __name__ == "__main__":
    torch.set_num_threads(1)
    run_worker(*sys.argv[1:])
