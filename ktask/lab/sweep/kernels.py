"""The processes that run notebooks: fresh, there at once, out of reach of the network, gone afterwards."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from queue import Empty
from typing import Any

import zmq
from jupyter_client import AsyncKernelManager, KernelConnectionInfo
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.provisioning import KernelProvisionerBase
from jupyter_core.utils import run_sync

from ktask.common import children
from ktask.common.private_folders import private_directory
from ktask.lab.sweep import warm_process


class Kernels:
    """Starts kernels, each a fork of one warm process, which is started when first needed, or when it died.

    Use as a context manager; the end of the block ends the warm process and what it has forked.

    Parameters
    ----------
    modules
        What the warm process imports beforehand.
    """

    def __init__(self, modules: Sequence[str] = ()):
        self._modules = ("ktask.lab.sweep.kernel_process", *modules)
        self._warm: subprocess.Popen | None = None
        self._socket = socket.socket()  # until the warm process is there

    def __enter__(self) -> Kernels:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self) -> None:
        """Start the warm process unless it is there; it imports while the caller does something else."""
        if self._warm is not None and self._warm.poll() is None:
            return
        self.close()
        self._socket, theirs = socket.socketpair()
        with theirs:
            fd = theirs.fileno()
            self._warm = subprocess.Popen(  # noqa: S603 - this very Python
                [*children.python(), "-m", "ktask.lab.sweep.warm_process", str(fd), *self._modules],
                env=os.environ | warm_process.NO_THREADS,
                stdin=subprocess.DEVNULL,
                stdout=2,  # standard output is for results
                pass_fds=[fd],
                start_new_session=True,
            )

    def start(self, request: dict[str, Any]) -> tuple[int, int]:
        """Fork a kernel; return its process number and a pidfd, which the caller closes.

        Raises
        ------
        RuntimeError
            If the warm process does not start.
        """
        for _ in range(2):  # it may have died since the last cell
            self.begin()
            with contextlib.suppress(ConnectionError):
                self._socket.sendall(json.dumps(request).encode() + b"\n")
                answer, fds, _, _ = socket.recv_fds(self._socket, 32, 1)
                if answer:
                    return int(answer), fds[0]
        raise RuntimeError(f"the process that it is forked from ended with exit code {self.close()}")

    def end(self, pid: int) -> int | None:
        """Kill a kernel; return its exit code, or None if it went down with the warm process."""
        if self._warm is None:
            return None
        with contextlib.suppress(ConnectionError):
            self._socket.sendall(json.dumps({"end": pid}).encode() + b"\n")
            if answer := self._socket.recv(32):
                return int(answer)
        return None

    def close(self) -> int | None:
        """End the warm process and its kernels; return its exit code, or None if there was none."""
        self._socket.close()
        warm, self._warm = self._warm, None
        return warm.wait() if warm else None


def kernels_for_cells() -> Kernels:
    """Return kernels that have what a cell needs imported already."""
    return Kernels(["ktask.lab.sweep.preloaded"])


class _Forked(KernelProvisionerBase):
    """Tells a kernel manager about a process that is not its child."""

    def __init__(self, kernels: Kernels, manager: Kernel):
        super().__init__(parent=manager, kernel_spec=KernelSpec(language="python"))
        self._kernels, self._manager = kernels, manager
        self._pid: int | None = None
        self._pidfd = -1
        self.exit_code: int | None = None

    @property
    def has_process(self) -> bool:
        return self._pid is not None

    async def pre_launch(self, **options: Any) -> dict[str, Any]:
        self._manager.write_connection_file()
        self.connection_info = self._manager.get_connection_info()
        return await super().pre_launch(cmd=[], **options)

    async def launch_kernel(self, cmd: list[str], **options: Any) -> KernelConnectionInfo:
        connection_file = self._manager.connection_file
        # IPython's own directory is next to it: what a user has set up for typing must not run in a cell
        env = warm_process.environment_as_found(options["env"]) | {
            "IPYTHONDIR": str(Path(connection_file).parent)
        }
        cwd = str(options.get("cwd") or Path.cwd())
        self._pid, self._pidfd = self._kernels.start(
            {"connection_file": connection_file, "env": env, "cwd": cwd}
        )
        return self.connection_info

    async def poll(self) -> int | None:
        if self._pid is not None and select.select([self._pidfd], [], [], 0)[0]:
            await self.kill()
        return None if self._pid is not None else self.exit_code or 0

    async def wait(self) -> int | None:
        return self.exit_code

    async def send_signal(self, signum: int) -> None:
        if self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signum)

    async def kill(self, restart: bool = False) -> None:
        if self._pid is not None:
            pid, self._pid = self._pid, None
            os.close(self._pidfd)
            self.exit_code = self._kernels.end(pid)

    async def terminate(self, restart: bool = False) -> None:
        await self.kill()

    async def cleanup(self, restart: bool = False) -> None:
        await self.kill()


class _Client(AsyncKernelClient):
    async def _async_wait_for_ready(self, timeout: float | None = None) -> None:
        """Wait until the kernel answers and is heard.

        The one of the base class asks before it is sure to hear the answer, and waits 0.2 s more at the end.
        """
        now = asyncio.get_running_loop().time
        limit_s, is_heard = timeout or 60, False
        end = now() + limit_s
        while now() < end:
            with contextlib.suppress(Empty):
                if not is_heard:
                    is_heard = bool(await self.get_iopub_msg(timeout=1))  # its welcome
                await self._ask()
                return
            if not (self.parent and await self.parent.is_alive()):
                raise RuntimeError("it ended before it answered")
        raise RuntimeError(f"it did not answer within {limit_s:.0f} s")

    async def _ask(self) -> None:
        """Ask what the kernel is, and wait for the answer and for the end of the answering."""
        self.kernel_info()
        self._handle_kernel_info_reply(await self.get_shell_msg(timeout=1))
        while (await self.get_iopub_msg(timeout=0.2))["content"].get("execution_state") != "idle":
            pass

    wait_for_ready = _async_wait_for_ready


class Kernel(AsyncKernelManager):
    """A kernel manager that ends its process and its clients at once."""

    process: _Forked

    def client(self, **options):
        """Return a client, and remember it."""
        self._client = super().client(**options)
        return self._client

    @property
    def exit_code(self) -> int | None:
        """Exit code of the process, negative for a signal; None while it runs, and if nobody knows."""
        return self.process.exit_code

    async def end(self) -> None:
        """Kill the process; asking it nicely takes a second, and it has nothing left to do."""
        await _cancel_others()
        if client := getattr(self, "_client", None):
            client.stop_channels()
        await self.process.kill()
        await self.cleanup_resources()


async def _cancel_others() -> None:
    """Stop what Ctrl-C left waiting for the kernel; it would complain about its death."""
    waiting = asyncio.all_tasks() - {asyncio.current_task()}
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


@contextlib.contextmanager
def own_kernel(kernels: Kernels) -> Iterator[Kernel]:
    """Give a kernel to start; whatever happens, its process and its private directory are gone afterwards.

    A notebook client that makes its own kernel leaves it behind on Ctrl-C during the start, and takes a
    kernel called "python3" that the user has installed for another Python.
    """
    with private_directory() as private:
        kernel = Kernel(
            kernel_name="python3",
            transport="ipc",
            connection_file=f"{private}/kernel.json",
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
            client_factory=_Client,
        )
        kernel.context.setsockopt(zmq.RECONNECT_IVL, 5)  # the kernel opens its sockets a moment later
        kernel.provisioner = kernel.process = _Forked(kernels, kernel)
        try:
            yield kernel
        except KeyboardInterrupt:
            kernels.close()  # it may have forked a kernel whose number nobody has read yet
            raise
        finally:
            run_sync(kernel.end)()
