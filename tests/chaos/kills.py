"""kill -9 in the middle of sweeps, at any moment of any pass, and starts of one run at the same time."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import trials
import yaml
from trials import BrokenError, Kind, require

from ktask.host.control_groups import room_for_quota
from ktask.lab.records import load_run
from ktask.lab.sweep import cells, sweep
from ktask.lab.sweep.grid import cell_id, parse_grid
from ktask.lab.sweep.looks import cases_to_look_at

MOST_KILLS = 25  # of one sweep
LONGEST_S = 3.5  # from a start to a kill
OF_THE_COMMAND = 0.85  # of the kills; the others kill one of the processes that it has started
END_LIMIT_S = 180.0
UNDER_A_QUOTA = {
    "workload": "zeroing",
    "method": "memset",
    "page_kind": "4KiB",
    "size": "2MiB",
    "quota": "50%",
}
GRID = {
    "seed": 1,
    "threads": [1, 2],
    "min_chunk": "64KiB",
    "passes": 2,
    "protocol": {"least": 2, "most": 2, "budget_s": 0.1, "warmup_s": 0.2},
    "work": [
        {"workload": "page_walk", "method": "pagemap", "page_kind": "4KiB", "size": "4MiB"},
        {"workload": "zeroing", "method": "populate", "page_kind": "THP", "size": "8MiB"},
        *([] if isinstance(room_for_quota(), str) else [UNDER_A_QUOTA]),
        {"workload": "zeroing", "method": "memset", "page_kind": "4KiB", "size": "64TiB"},
    ],
}
WORDS = ["sweep", "grid.yaml", "--run", "killed", "--resume"]


def kills(seed: int, folder: Path) -> int:
    """Kill a sweep again and again until it is done; see that nothing is lost, doubled or left."""
    chance = Random(seed)
    (folder / "grid.yaml").write_text(yaml.safe_dump(GRID))
    path, done = folder / "data/runs/killed", 0
    kept: dict[str, str] = {}
    for _ in range(2 + 7 * seed % (MOST_KILLS - 2)):
        hit, numbers = _killed(chance, folder)
        done += hit
        found = contents(path)
        lost = [name for name, content in kept.items() if found.get(name) != content]
        require(not lost, f"kill {done}: lost or measured twice: {lost[:3]}")
        left = trials.shared_with_all(numbers)
        require(not left, f"kill {done}: left: {left}")
        kept = found
        if not hit:  # the sweep was done
            break
    trials.run([*WORDS, "--retry"], folder, END_LIMIT_S)
    whole(path, kept)
    return done


def _killed(chance: Random, folder: Path) -> tuple[bool, set[int]]:
    """Go on with the sweep and kill it, or one of its processes, after a while.

    Returns whether it was still there, and the numbers of its processes.
    """
    process = trials.start([*WORDS, "--retry"], folder)
    end = time.monotonic() + chance.uniform(0.02, LONGEST_S)
    while process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    mine = [one for one in trials.own_processes(folder) if one.pid != process.pid]
    require(not (found := trials.listening_beyond_loopback(folder)), f"listens on {found}")
    others = mine and chance.random() > OF_THE_COMMAND
    target = chance.choice(mine).pid if others else process.pid
    if is_over := process.poll() is not None:
        require(
            process.returncode == 0, f"exit {process.returncode}: {(process.stderr.read() or b'')[-300:]!r}"
        )
    else:
        with contextlib.suppress(ProcessLookupError):
            os.kill(target, signal.SIGKILL)
    if others and not is_over:  # the sweep has to go on, or to say in one line why it does not
        trials.judge(trials.finish(process, folder, END_LIMIT_S))
    process.wait()
    trials.let_go(process)
    trials.gone(folder)
    return not is_over, {process.pid, *(one.pid for one in mine)}


def contents(path: Path) -> dict[str, str]:
    """Return what the records and skips of a run hold, by file; a cell that failed may be measured again."""
    files = [*path.glob("records/[!.]*.parquet"), *path.glob("skipped/[!.]*.json")]
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file.suffix == ".parquet" or not json.loads(file.read_text())["failed"]
    }


def whole(path: Path, kept: dict[str, str]) -> None:
    """See that a finished run has each process of each cell once, and no file that nobody needs."""
    found = contents(path)
    require(kept.items() <= found.items(), "a record was lost, or measured twice, by the last resumption")
    grid = parse_grid(yaml.safe_dump(GRID), "grid")
    run = load_run(path)
    names = [cell_id(case) for case in grid.cases]
    expected = {(name, number) for name in names[:-1] for number in range(1, grid.passes + 1)}
    have = set(zip(run.records["cell_id"], run.records["pass"], strict=True))
    require(have == expected, f"processes differ: {sorted(have ^ expected)[:3]}")
    require(list(run.skipped["cell_id"]) == names[-1:], f"skipped: {list(run.skipped['cell_id'])}")
    require(
        not run.records.duplicated(["cell_id", "pass", "round", "order"]).any(), "a repetition is there twice"
    )
    # A process that was killed before its look is not made again; another of its case looks.
    evidence = {file.stem.partition(".pass")[0] for file in path.glob("evidence/*.parquet")}
    require(evidence == set(map(cell_id, cases_to_look_at(grid.cases[:-1]))), f"evidence on {evidence}")
    hidden = sorted(file.name for file in path.rglob(".*") if file.name != ".lock")
    require(not hidden, f"files are left in the run: {hidden[:3]}")
    left = sorted(file.name for file in path.parent.iterdir() if file != path)
    require(not left, f"files are left beside the run: {left[:3]}")
    books = {file.stem for file in path.glob("cells/*.ipynb")}
    require(books == {file.stem for file in path.glob("records/*.parquet")}, "notebooks and records differ")


# --- races ------------------------------------------------------------------------------------------------


def race(seed: int, folder: Path) -> int:
    """Let some processes start one run at once; one wins, the others get one line, and the run is whole."""
    chance = Random(seed)
    resume, count = chance.random() < 0.5, chance.randrange(2, 5)
    answers = _raced(folder, count, resume, [chance.uniform(0, 0.004) for _ in range(count)])
    told = ("run raced exists in ", "another sweep is writing to run raced")
    others = [one for one in answers if one != "won"]
    require("won" in answers, f"nobody won: {others[:1]}")
    require(resume or answers.count("won") == 1, "two starts won")
    require(all(one.startswith(told) for one in others), f"{others[:1]}")
    require(
        {path.name for path in folder.iterdir()} == {"raced"},
        f"left: {sorted(map(str, folder.iterdir()))[:3]}",
    )
    files = {path.name for path in (folder / "raced").iterdir()}
    wanted = {"machine.json", "grid.yaml", "datapackage.json", ".lock", *cells.FOLDERS}
    require(files == wanted, f"the run is damaged: {sorted(files ^ wanted)}")
    require(load_run(folder / "raced").machine["host_id"] == "here", "the run is of somebody else")
    return 1


def _measure_nothing(*_: object) -> sweep.Done:
    yield from ()


def _raced(root: Path, count: int, resume: bool, delays: list[float]) -> list[str]:
    grid = parse_grid(yaml.safe_dump(GRID), "raced")
    go = os.pipe()

    def start(delay: float) -> str:
        os.close(go[1])
        os.read(go[0], 1)
        time.sleep(delay)
        machine = {"host_id": "here", "kernel_release": "6"}
        how = {"root": root, "quiet": True, "machine": machine, "executor": _measure_nothing}
        return "won" if sweep.sweep(grid, "raced", resume=resume, **how) else ""

    started = [_forked(lambda delay=delay: start(delay)) for delay in delays[:count]]
    os.close(go[1])
    os.close(go[0])
    return [_answer(*one) for one in started]


def _forked(do: Callable[[], str]) -> tuple[int, int]:
    """Do something in a fork; return its number and where it says what came of it."""
    heard, said = os.pipe()
    if (pid := os.fork()) == 0:
        try:
            answer = do()
        except ValueError as error:
            answer = str(error)
        except BaseException as error:
            answer = repr(error)
        os.write(said, answer.encode())
        os._exit(0)
    os.close(said)
    return pid, heard


def _answer(pid: int, heard: int) -> str:
    with os.fdopen(heard, encoding="utf-8") as file:
        answer = file.read()
    if status := os.waitpid(pid, 0)[1]:
        raise BrokenError(f"a start ended with {os.waitstatus_to_exitcode(status)}")
    return answer


KILLS = Kind(
    "kills", "kill -9 of a sweep of 4 cells in 2 passes with evidence, one under a CPU quota", kills, 1_000, 2
)
RACES = Kind("races", "2 to 4 starts of one run at the same time", race, 500, 6)
