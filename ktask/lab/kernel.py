"""The process that runs a notebook: this very Python, out of reach of the network, gone afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Iterator

from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_core.utils import run_sync

_LONGEST_ROOT = 70  # the path of a socket has at most 107 characters


class Kernel(AsyncKernelManager):
    """A kernel manager for `ktask.lab.kernel_process` that ends its process and its clients at once."""

    def format_kernel_cmd(self, extra_arguments=None) -> list[str]:
        """Return the command of the process; -P: what lies beside the notebook shadows no module."""
        command = [sys.executable, "-P", "-m", "ktask.lab.kernel_process", "-f", self.connection_file]
        return command + (extra_arguments or [])

    def client(self, **options):
        """Return a client, and remember it."""
        self._client = super().client(**options)
        return self._client

    async def end(self) -> None:
        """Kill the process; asking it nicely takes a second, and it has nothing left to do."""
        await _cancel_others()
        if client := getattr(self, "_client", None):
            client.stop_channels()
        if self.has_kernel:
            await self.provisioner.kill()
            await self.provisioner.wait()
        await self.cleanup_resources()


async def _cancel_others() -> None:
    """Stop what Ctrl-C left waiting for the kernel; it would complain about its death."""
    waiting = asyncio.all_tasks() - {asyncio.current_task()}
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


@contextlib.contextmanager
def own_kernel() -> Iterator[Kernel]:
    """Give a kernel to start; whatever happens, its process and its private directory are gone afterwards.

    A notebook client that makes its own kernel leaves it behind on Ctrl-C during the start, and takes a
    kernel called "python3" that the user has installed for another Python.
    """
    root = None if len(tempfile.gettempdir()) <= _LONGEST_ROOT else "/tmp"  # noqa: S108
    with tempfile.TemporaryDirectory(prefix="ktask-", dir=root, ignore_cleanup_errors=True) as private:
        kernel = Kernel(
            kernel_name="python3",
            transport="ipc",
            connection_file=f"{private}/kernel.json",
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
        )
        try:
            yield kernel
        finally:
            run_sync(kernel.end)()
