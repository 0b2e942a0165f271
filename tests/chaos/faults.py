"""Surroundings that lack something: disk, memory, descriptors, folders, variables, the right time."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import inputs
import ordinary_user
import trials
import yaml
from trials import Kind, SkippedError, require

from ktask.common.private_folders import private_of
from ktask.lab.records import load_run

LIMIT_S = 120.0
MIB = 1 << 20
GRID = {
    "threads": [1, 2],
    "min_chunk": "64KiB",
    "protocol": {"least": 2, "most": 2, "budget_s": 0.1, "warmup_s": 0.2},
    "work": [{"workload": "page_walk", "method": "pagemap", "page_kind": "4KiB", "size": "4MiB"}],
}
COMMANDS = {
    "sweep": ["sweep", "grid.yaml", "--run", "faulty", "--resume", "--bystanders", "off"],
    "run": [
        "run",
        "zeroing",
        "--size",
        "4MiB",
        "--passes",
        "1",
        "--repetitions",
        "2",
        "--threads",
        "2",
        "--json",
    ],
    "report": ["report", "given", "--out", "page.html"],
    "doctor": ["doctor", "--json"],
    "simulate": ["simulate", "xeon-e7-8895v3", "--json"],
}


@dataclass(frozen=True)
class Fault:
    """What a command has to do without."""

    limits: dict[int, int] = field(default_factory=dict)
    environment: dict[str, str | None] = field(default_factory=dict)
    mount: str = ""  # shell commands that make a mount namespace of its own what it should be
    around: Callable[[Path], contextlib.AbstractContextManager[list[str]]] | None = None


@contextlib.contextmanager
def memory_group(folder: Path, most: int = 300 * MIB) -> Iterator[list[str]]:
    """Give the words that start a command in a control group with little memory."""
    roots = (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup"))
    files = ("memory.limit_in_bytes", "memory.max")
    for root, file in zip(roots, files, strict=True):
        group = root / f"ktask-trial-{os.getpid()}"
        with contextlib.suppress(OSError):
            group.mkdir()
            try:
                (group / file).write_text(str(most))
                yield ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
                return
            finally:
                trials.end_all(folder)
                trials.gone(folder)
                group.rmdir()
    raise SkippedError("no control group of memory may be made here")


@contextlib.contextmanager
def clock_back(folder: Path, after_s: float = 2.0) -> Iterator[list[str]]:
    """Give the words that start a command whose clocks go back a day after a while."""
    if not (found := sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))):
        raise SkippedError("no libfaketime here (Debian: faketime)")
    clock = folder / "clock"
    clock.write_text("+0")
    timer = threading.Timer(after_s, clock.write_text, ["-1d"])
    timer.start()
    variables = {"LD_PRELOAD": found[0], "FAKETIME_TIMESTAMP_FILE": clock, "FAKETIME_NO_CACHE": 1}
    yield ["env", *(f"{name}={value}" for name, value in variables.items())]
    timer.cancel()


@contextlib.contextmanager
def ordinary(folder: Path) -> Iterator[list[str]]:
    """Give the words that start a command as a user who owns nothing but `folder`."""
    if reason := ordinary_user.why_not():
        raise SkippedError(reason)
    account = folder / "account"
    account.mkdir()
    environment = ordinary_user.make_account(account)
    ordinary_user.give(folder)
    yield [*ordinary_user.words(), "env", f"HOME={environment['HOME']}", f"PYTHONPATH={account / 'clone'}"]


FULL = "mkdir -p data reports; mount -t tmpfs -o size={} none data; mount -t tmpfs -o size={} none reports"
FAULTS: dict[str, Fault] = {
    **{f"files of at most {n} KiB": Fault(limits={resource.RLIMIT_FSIZE: n << 10}) for n in (0, 4, 64)},
    **{f"a disk of {n} KiB": Fault(mount=FULL.format(f"{n}k", f"{n}k")) for n in (4, 64, 256)},
    "a full temporary directory": Fault(mount="mount -t tmpfs -o size=4k none tmp"),
    "a folder that is read-only": Fault(mount="mount --bind . . && mount -o remount,ro,bind . && cd ."),
    "a temporary directory that is read-only": Fault(mount="mount -t tmpfs -o ro none tmp"),
    **{
        f"{n} MiB of addresses": Fault(limits={resource.RLIMIT_AS: n * MIB})
        for n in (100, 300, 600, 1200, 2400)
    },
    **{f"{n} MiB of data": Fault(limits={resource.RLIMIT_DATA: n * MIB}) for n in (64, 256)},
    **{f"{n} descriptors": Fault(limits={resource.RLIMIT_NOFILE: n}) for n in (16, 64, 128, 200)},
    **{f"{n} processes": Fault(limits={resource.RLIMIT_NPROC: n}, around=ordinary) for n in (1, 3, 10)},
    "no locked memory": Fault(limits={resource.RLIMIT_MEMLOCK: 0}),
    "a stack of 128 KiB": Fault(limits={resource.RLIMIT_STACK: 128 << 10}),
    "no /dev/shm": Fault(mount="mount -t tmpfs -o ro none /dev/shm"),
    "no /sys": Fault(mount="mount -t tmpfs -o ro none /sys"),
    "no TMPDIR": Fault(environment={"TMPDIR": None}),
    "a TMPDIR that is not there": Fault(environment={"TMPDIR": "/nowhere"}),
    "a TMPDIR that is a file": Fault(environment={"TMPDIR": "/etc/passwd"}),
    "no HOME": Fault(environment={"HOME": None}),
    "a HOME that is not there": Fault(environment={"HOME": "/proc/nowhere/at/all"}),
    "no XDG_RUNTIME_DIR": Fault(environment={"XDG_RUNTIME_DIR": None}),
    "a runtime directory that is a file": Fault(environment={"XDG_RUNTIME_DIR": "/etc/passwd"}),
    "no PATH": Fault(environment={"PATH": None}),
    "LANG=C": Fault(environment={"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0"}),
    "an ordinary user": Fault(around=ordinary),
    "300 MiB for the control group": Fault(around=memory_group),
    "a clock that goes back": Fault(around=clock_back),
}
PAIRS = [(fault, command) for fault in FAULTS for command in COMMANDS]


def attempt(seed: int, folder: Path) -> int:
    """Try a command without something; then, for a sweep, see that it goes on when that is there again."""
    name, command = PAIRS[seed % len(PAIRS)]
    fault = FAULTS[name]
    (folder / "grid.yaml").write_text(yaml.safe_dump(GRID))
    for place in ("data/runs", "tmp", "runtime"):
        (folder / place).mkdir(mode=0o700, parents=True)
    if command == "report":
        shutil.copytree(inputs.small_run(folder.parent / "base"), folder / "given")
    around = fault.around(folder) if fault.around else contextlib.nullcontext([])
    with around as words:
        before = [*_mounted(fault.mount), *words]
        _run(COMMANDS[command], folder, before=before, limits=fault.limits, **fault.environment)
    if command == "sweep":
        trials.run(COMMANDS["sweep"], folder, LIMIT_S)
        run = load_run(folder / "data/runs/faulty")
        require(
            not run.records.empty or list(run.skipped["failed"]),
            "a resumed sweep has neither records nor reasons",
        )
    return 1


def _run(words: list[str], folder: Path, **how: Any) -> None:
    """Run a command as `trials.run` does; it leaves no private directory, in the usual place neither."""
    roots = [folder / "tmp", *([Path(tempfile.gettempdir())] if "TMPDIR" in how else [])]
    before = {path for root in roots for path in private_of(root)}
    try:
        ended = trials.finish(trials.start(words, folder, **how), folder, LIMIT_S)
    except PermissionError as error:
        raise SkippedError(f"cannot be started here: {error}") from None
    trials.judge(ended)
    trials.gone(folder)
    left = [path for root in roots for path in private_of(root) if path not in before and not _is_held(path)]
    require(not left, f"left: {left[:3]}")


def _is_held(path: Path) -> bool:
    """Return whether a living process holds a private directory, or it is gone by now."""
    import fcntl

    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return True
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def _mounted(commands: str) -> list[str]:
    """Return the words that start a command in a mount namespace of its own."""
    if not commands:
        return []
    if os.getuid() != 0 or not shutil.which("unshare"):
        raise SkippedError("takes root and unshare")
    return ["unshare", "--mount", "sh", "-ec", f'{commands}; exec "$@"', "sh"]


KIND = Kind("faults", "commands without memory, disk, descriptors, folders, ...", attempt, len(PAIRS), 1)
