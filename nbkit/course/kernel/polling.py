"""Talk to a kernel without missing a message, and take kernels that have torch imported.

nbclient can wait forever for a message that has already arrived. The classes here ask again every
half second, and stop waiting when the run is stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty
from time import monotonic
from typing import Any

from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.channels import AsyncZMQSocketChannel
from jupyter_client.manager import AsyncKernelManager
from traitlets import Type

from nbkit.course.kernel.fork_client import find_fork_server, stop_fork_server

POLL_SECONDS = 0.5  # the longest delay that a lost wake-up can cause


class Stopped(Exception):
    """Signal that the run to which a lesson belongs has been stopped."""


class PollingChannel(AsyncZMQSocketChannel):
    """Look for messages again and again, even if no wake-up has come.

    nbclient answers `Output` widgets on the socket that it is waiting on. Such a send can use up
    the wake-up of a message that has just arrived, and the wait then lasts forever.

    Source: jupyter/nbclient issue 312.
    """

    is_stopped: Callable[[], bool] = staticmethod(lambda: False)

    async def get_msg(  # type: ignore[override]  # the base class declares a decorated attribute
        self, timeout: float | None = None
    ) -> dict[str, Any]:
        """Wait for the next message.

        Args:
            timeout: seconds to wait; None waits without a limit.
        Raises:
            queue.Empty: if no message has come in time.
            Stopped: if the run has been stopped meanwhile.
        """
        end = monotonic() + (float("inf") if timeout is None else timeout)
        while True:
            if self.is_stopped():
                raise Stopped
            # A short wait: each new one looks into the socket, whether it was woken or not.
            patience = max(0.0, min(POLL_SECONDS, end - monotonic()))
            try:
                return await super().get_msg(patience)
            except Empty:
                if monotonic() >= end:
                    raise


class PollingClient(AsyncKernelClient):
    """Connect to a kernel through a shell channel that polls."""

    shell_channel_class = Type(PollingChannel)


class PollingManager(AsyncKernelManager):
    """Start kernels from the fork server where there is one, and connect polling clients."""

    client_factory = Type(PollingClient)

    async def _async_launch_kernel(self, kernel_cmd: list[str], **kw: Any) -> None:
        """Fork a kernel that has torch imported; without a fork server start an ordinary one."""
        server = find_fork_server()
        # Only ipykernel can be forked: other kernels have another launcher.
        if server is not None and "ipykernel_launcher" in kernel_cmd:
            try:
                process = server.fork_kernel(kernel_cmd, kw["env"], kw.get("cwd"), kw["stderr"])
            except OSError:
                # The server has ended or does not answer: this kernel and the next start as usual.
                stop_fork_server()
            else:
                provisioner: Any = self.provisioner
                provisioner.process = process
                # The forked kernel leads a new session, so its group has the same number.
                provisioner.pid = provisioner.pgid = process.pid
                return
        await super()._async_launch_kernel(kernel_cmd, **kw)
