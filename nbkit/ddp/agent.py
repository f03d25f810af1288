"""Run torch's elastic agent for one job, in a process that `nbkit.ddp.launch` has started."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from nbkit.base.whole_file import write_whole
from nbkit.ddp.options import JobOptions
from nbkit.ddp.worker import run_rank

if TYPE_CHECKING:
    from torch.distributed.launcher.api import LaunchConfig


def run_agent(folder: str) -> None:
    """Run the job in `folder` with torch's elastic agent; write each failed rank's exit code."""
    job = Path(folder)
    threading.Thread(target=_end_with_caller, args=(job,), daemon=True).start()
    options = JobOptions.read_options(job)
    # torch's log format takes a second to load, and the ranks report their errors themselves.
    logging.disable(logging.ERROR)
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    _watch_exits()
    codes = {}
    try:
        elastic_launch(_configure_launch(job, options), run_rank)(folder)
    except ChildFailedError as error:
        codes = {rank: failure.exitcode for rank, failure in error.failures.items()}
    write_whole(job / "ended.json", json.dumps(codes), durable=False)


def _end_with_caller(job: Path) -> None:
    """End the whole session when the caller is gone, which closes our standard input."""
    while os.read(0, 4096):
        pass
    shutil.rmtree(job, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


def _watch_exits() -> None:
    """Let torch's agent notice every rank that has ended early, whatever its exit code.

    By itself it waits forever for a rank that ends with code 0 before the function has returned,
    and of several ranks that have failed at once it reports one (torch 2.13).
    """
    from torch.distributed.elastic import multiprocessing as elastic
    from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

    class WatchedRanks(elastic.MultiprocessContext):
        def _poll(self) -> elastic.RunProcsResult | None:
            # Before torch looks: when it has seen a failure, it ends the other ranks itself.
            assert self._pc is not None
            codes = {rank: each.exitcode for rank, each in enumerate(self._pc.processes)}
            result = super()._poll()
            failures = {}
            for rank, code in codes.items():
                if code is not None and rank not in self._return_values:
                    file = self.error_files[rank]
                    failures[rank] = ProcessFailure(rank, self.pids()[rank], code, file)
            if result is None and failures:
                # torch would wait on; end the other ranks and report what has been found.
                self.close()
                result = elastic.RunProcsResult(stdouts=self.stdouts, stderrs=self.stderrs)
            if result is not None:
                result.failures |= failures
            return result

    elastic.MultiprocessContext = WatchedRanks  # type: ignore[misc]  # torch has no other hook


def _configure_launch(job: Path, options: JobOptions) -> LaunchConfig:
    """Configure one node, a free port on the loopback interface, and lines marked by their rank."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig

    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=options.nproc,
        run_id=job.name,
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=options.max_restarts,
        start_method=options.method,
        logs_specs=DefaultLogsSpecs(str(job / "logs"), redirects=Std.ALL, tee=Std.ALL),
        log_line_prefix_template="[rank${rank}] ",
    )
