"""A running `perf` that is switched on and off: started, spoken to, and ended, whatever it does.

It is the system's own `perf`, of any version. What it cannot do, or does not do in time, becomes an
`UnavailableError` with the reason in one line.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import IO, Any, Self, cast

from ktask.common.private_folders import private_directory

PATIENCE_S = 10.0  # for anything that perf is asked to do
MOST_TEXT_BYTES = 256 << 20
MOST_WORDS = 200  # letters of what perf says


class UnavailableError(Exception):
    """Nothing can be seen, with the reason and what would allow it."""


class RefusedError(UnavailableError):
    """Perf has ended by itself, and said why."""


class Perf:
    """A `perf` subcommand that runs beside this process, off until `on` is called.

    A context manager. `folder` is a directory of its own that goes with it.

    Parameters
    ----------
    arguments
        What follows `perf`: a subcommand that knows `--control`, and what it needs; "{folder}" in them
        stands for that directory.

    Raises
    ------
    UnavailableError
        If perf is not there, refuses, or does not answer.
    """

    def __init__(self, arguments: Sequence[str]):
        self._exit = contextlib.ExitStack()
        try:
            self._start(arguments)
        except BaseException:
            self._exit.close()
            raise

    def _start(self, arguments: Sequence[str]) -> None:
        self.folder = self._exit.enter_context(private_directory())
        self._said = self._exit.enter_context((self.folder / "said").open("w+b"))
        control, answer = self._pipe(), self._pipe()
        self._control, self._answer = control[1], answer[0]
        subcommand, *others = (one.replace("{folder}", str(self.folder)) for one in arguments)
        switched = ["-D", "-1", f"--control=fd:{control[0]},{answer[1]}"]
        theirs = {"pass_fds": (control[0], answer[1]), "stdout": self._said, "stderr": self._said}
        self._perf = started(["perf", subcommand, *switched, *others], **theirs)
        self._exit.callback(end, self._perf)
        self._ask("ping")

    def _pipe(self) -> tuple[int, int]:
        ends = os.pipe2(os.O_CLOEXEC)
        for one in ends:
            self._exit.callback(os.close, one)
        return ends

    def _ask(self, what: str) -> None:
        """Send a command and wait for its acknowledgement."""
        os.write(self._control, f"{what}\n".encode())
        last = time.monotonic() + PATIENCE_S
        while not select.select([self._answer], [], [], 0.02)[0]:
            if self._perf.poll() is not None:
                raise RefusedError(f"perf ended at once: {self._words()}")
            if time.monotonic() > last:
                raise UnavailableError(f"perf did not answer within {PATIENCE_S:g} s")
        os.read(self._answer, 64)  # "ack"

    def _words(self) -> str:
        self._said.seek(0)
        return words(self._said.read(4096))

    def on(self) -> None:
        """Look from now on."""
        self._ask("enable")

    def off(self) -> None:
        """Look no longer."""
        self._ask("disable")

    def stop(self) -> None:
        """Have perf write what it has, and end."""
        self._perf.send_signal(signal.SIGINT)
        try:
            self._perf.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"perf did not end within {PATIENCE_S:g} s") from None

    def finish(self) -> None:
        """Read what perf has written; called after `stop`, unless the block failed."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._exit:
            if kind is None:
                self.stop()
                self.finish()


def started(command: Sequence[str], **how: Any) -> subprocess.Popen[bytes]:
    """Start a command with what it starts itself, as one group, so that `end` ends all of it."""
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **how)  # noqa: S603
    except OSError as error:
        raise UnavailableError(f"perf cannot be started: {error.strerror}") from None


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process of `started`, and what it has started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def text_of(arguments: Sequence[str], patience_s: float) -> str:
    """Return what `perf` with these arguments prints, as far as it fits `MOST_TEXT_BYTES`.

    Raises
    ------
    UnavailableError
        If it fails, or takes longer than `patience_s`.
    """
    name = f"perf {arguments[0]}"
    with tempfile.TemporaryFile() as said, contextlib.ExitStack() as at_end:
        script = started(["perf", *arguments], stdout=subprocess.PIPE, stderr=said)
        at_end.callback(end, script)
        is_late = threading.Event()

        def give_up() -> None:
            is_late.set()
            end(script)

        timer = threading.Timer(patience_s, give_up)
        at_end.callback(timer.cancel)
        timer.start()
        with cast("IO[bytes]", script.stdout) as pipe:
            found = pipe.read(MOST_TEXT_BYTES)
        code = script.wait() if len(found) < MOST_TEXT_BYTES else 0
        if is_late.is_set():
            raise UnavailableError(f"{name} did not end within {patience_s:g} s")
        if code:
            said.seek(0)
            raise UnavailableError(f"{name} failed: {words(said.read(4096))}")
    return found.decode(errors="replace")


def words(said: bytes) -> str:
    """Return the first line with something in it, without the heading that some versions put above it."""
    text = "".join(one if one.isprintable() or one == "\n" else " " for one in said.decode(errors="replace"))
    lines = [line.strip() for line in text.split("\n")]
    return next((line[:MOST_WORDS] for line in lines if line not in ("", "Error:")), "it said nothing")
