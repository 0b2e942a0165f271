"""Hostile inputs: in this process with limits on time and memory, and by the command itself."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import io
import json
import os
import re
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import inputs
import trials
import typer.main
from trials import BrokenError, Ended, Kind, require

OUT_OF_MEMORY = "memory has run out"
MODULES = ("cli.app", "lab.sweep.sweep", "lab.sweep.estimate", "lab.compare", "models.scaling.scores")
MODULES += ("models.simulation.what_if", "engine.conformance.check")
BATCH = 1000  # inputs per process
COMMAND_LIMIT_S = 60.0
REPORT_LIMIT_S = 120.0


def _words(name: str, chance: Random, folder: Path) -> list[str]:
    """Write a hostile input of a kind to `folder`, and return the words of the command that reads it."""
    if name == "command line":
        return inputs.command_line(chance)
    if name in ("run", "report"):
        damaged = inputs.damaged_run(chance, inputs.small_run(folder.parent / "base"), folder / "damaged")
        if name == "report":
            return ["report", str(damaged), "--out", str(folder / "page.html")]
        return ["compare", str(folder.parent / "base/run"), str(damaged), "--json"]
    make, words = FILES[name]
    path = folder / ("input.csv" if name in ("table", "vectors") else "input.yaml")
    path.write_bytes(make(chance))
    return [word.format(path) for word in words] + _options(name, chance)


def _options(name: str, chance: Random) -> list[str]:
    if name == "machine":
        more = (("--threads", "1,2,4"), ("--size", "1GiB"), ("--load", "3"), ("--memory", "one-node"))
    elif name == "table":
        more = (("--fit-threads", "1,2"), ("--threads", "3,1000"), ("--pool",), ("--other-sizes",))
    else:
        return []
    return [word for option in more if chance.random() < 0.3 for word in option]


FILES: dict[str, tuple[Callable[[Random], bytes], list[str]]] = {
    "grid": (lambda c: inputs.yaml_file(c, inputs.GRIDS), ["sweep", "{}", "--dry-run", "--json"]),
    "machine": (lambda c: inputs.yaml_file(c, inputs.MACHINES), ["simulate", "{}", "--json"]),
    "table": (lambda c: inputs.table_file(c, inputs.table_paths()), ["predict", "{}", "--json"]),
    "vectors": (lambda c: inputs.table_file(c, [inputs.VECTORS]), ["vectors", "{}", "--json"]),
}


# --- in a process that is there already -------------------------------------------------------------------


def preload() -> None:
    """Load what the commands need, so that a fork has it."""
    for name in MODULES:
        importlib.import_module(f"ktask.{name}")


def _keep_what_is_not_tried(base: Path) -> None:
    """Have the sound run, what an estimate knows and the help of all verbs made once: it takes long."""
    records = sys.modules["ktask.lab.records"]
    load, sound = records.load_run, records.load_run(base)
    records.load_run = lambda path: sound if Path(path) == base else load(path)  # type: ignore[attr-defined]
    estimate = sys.modules["ktask.lab.sweep.estimate"]
    known = estimate._known_repetitions([base])  # type: ignore[attr-defined]
    estimate._known_repetitions = lambda _: known  # type: ignore[attr-defined]
    typer.main.get_command = functools.cache(typer.main.get_command)


def called(words: list[str]) -> Ended:
    """Call the command line in this process."""
    from ktask.cli import app

    out, err, code = io.StringIO(), io.StringIO(), None
    sys.argv = ["ktask", *words]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app.main()
        except SystemExit as end:
            code = end.code
    return Ended(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue(), 0.0, 0)


def _judged(name: str, words: list[str]) -> None:
    try:
        ended = called(words)
    except BaseException as error:
        raise BrokenError(f"{type(error).__name__}: {str(error)[:300]}") from error
    trials.judge(ended)
    require(OUT_OF_MEMORY not in ended.err, "took more than the memory allowed")
    if "--json" in words and ended.code == 0 and name not in ("command line",):
        json.loads(ended.out, parse_constant=lambda text: require(False, f"JSON has {text}"))


def in_process(name: str, seeds: Iterator[int], folder: Path) -> Iterator[tuple[int, str]]:
    """Try the inputs of some seeds, each with its limits; yield what each came to, "" if it held."""
    preload()
    base = inputs.small_run(folder / "base")
    sys.modules["ktask.lab.records"].load_run(
        base
    )  # Arrow reserves 1 GiB of addresses, before there is a limit
    _compile(name)
    gc.freeze()
    waiting = list(seeds)
    while waiting:
        done = 0
        for seed, problem in _batch(name, waiting[:BATCH], folder):
            done += 1
            yield seed, problem
        waiting = waiting[done:]


def _compile(name: str) -> None:
    """Have what a kind runs compiled, if it is not yet, so that no input has to wait for that."""
    words = {"vectors": ["vectors", str(inputs.VECTORS)], "machine": ["simulate", "xeon-e7-8895v3"]}
    if (pid := os.fork()) == 0:
        try:
            called([*words.get(name, words["machine"]), "--json"])
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def _batch(name: str, seeds: list[int], folder: Path) -> Iterator[tuple[int, str]]:
    """Try some inputs in a fork; yield what each came to. It ends early if one ends the process."""
    heard, said = os.pipe()
    if (pid := os.fork()) == 0:
        os.close(heard)
        code = 1
        try:
            _child(name, seeds, folder, said)
            code = 0
        finally:
            os._exit(code)
    os.close(said)
    done, ended = 0, 0
    try:
        with os.fdopen(heard, encoding="utf-8") as lines:
            for line in lines:
                done += 1
                yield seeds[done - 1], json.loads(line)
    finally:  # who asks may have enough
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if done < len(seeds):
        too_long = f"went on for more than {trials.LIMIT_S:g} s"
        yield (
            seeds[done],
            too_long if -ended in (signal.SIGALRM, signal.SIGPROF) else f"ended the process with {ended}",
        )


def _child(name: str, seeds: list[int], folder: Path, said: int) -> None:
    size = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) << 10  # type: ignore[index]
    place = folder / f"{name.replace(' ', '-')}.{os.getpid()}"
    place.mkdir(parents=True)
    os.chdir(place)
    with Path(os.devnull).open("w") as null:  # what does not go through sys.stderr
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_AS, (size + trials.LIMIT_BYTES,) * 2)
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, signal.SIG_DFL)
    _keep_what_is_not_tried(folder / "base/run")
    for seed in seeds:
        problem = _one(name, seed, place)
        os.write(said, (json.dumps(problem) + "\n").encode())
    os.chdir("/")
    shutil.rmtree(place, ignore_errors=True)


def _one(name: str, seed: int, place: Path) -> str:
    for path in place.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    words = _words(name, Random(seed), place)
    signal.setitimer(signal.ITIMER_PROF, trials.LIMIT_S)
    signal.setitimer(signal.ITIMER_REAL, trials.LIMIT_S * trials.PATIENCE)
    try:
        _judged(name, words)
    except BrokenError as error:
        return str(error)
    finally:
        for timer in (signal.ITIMER_REAL, signal.ITIMER_PROF):
            signal.setitimer(timer, 0)
    return ""


def attempt(name: str) -> Callable[[int, Path], int]:
    """Return what tries one input of a kind in a fork."""

    def one(seed: int, folder: Path) -> int:
        for _, problem in in_process(name, iter([seed]), folder):
            require(not problem, problem)
        return 1

    return one


# --- by the command ---------------------------------------------------------------------------------------


def by_command(seed: int, folder: Path) -> int:
    """Try a hostile input of any kind by the command."""
    chance = Random(seed)
    name = chance.choice((*FILES, *FILES, "run", "command line", "command line", "report"))
    words = _words(name, chance, folder)
    limit_s = REPORT_LIMIT_S if name == "report" else COMMAND_LIMIT_S
    limits = {resource.RLIMIT_AS: 8 << 30}  # so that a trial does not take the machine with it
    ended = trials.run(words, folder, limit_s, limits=limits)
    if name == "report" and ended.code == 0:
        page = (folder / "page.html").read_text(encoding="utf-8")
        require(
            not re.search(r"<script>alert|\x1b\[", page),
            "markup or control characters from data are in the page",
        )
    return 1


IN_PROCESS = (
    Kind("grid", "grids, read and estimated", attempt("grid"), 35_000, 20),
    Kind("machine", "machine descriptions, simulated", attempt("machine"), 25_000, 10),
    Kind("table", "CSV tables, predicted", attempt("table"), 15_000, 5),
    Kind("vectors", "files of worked cases, checked", attempt("vectors"), 15_000, 30),
    Kind("run", "run directories, compared", attempt("run"), 5_000, 5),
    Kind("command line", "words of all verbs", attempt("command line"), 5_000, 15),
)
BY_COMMAND = Kind("command", "any of them by the command itself, and reports", by_command, 1_000, 1)
