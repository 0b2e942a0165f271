"""What a repetition starts from, and what that does to its time: two states in turns, in fresh processes.

    python benchmarks/start_states.py [--processes N] [--rounds N] [--only TEXT] [--json FILE]

Each line is the time from one state over the time from another, as the mean over processes with its 95 %
interval. Rounds beside which others used over 5 % of the CPUs are left out, if five remain.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats as distributions

import ktask
from ktask.common.files import write_json
from ktask.engine import run as engine
from ktask.engine.placement import wait_for_helpers
from ktask.host.facts import machine_facts
from ktask.lab.measure.rounds import prepared, quiet_rounds, without_error
from ktask.memory import region as memory
from ktask.workloads import Case
from ktask.workloads.populated import filling

Do = Callable[[Any, int], float]  # takes a state and threads, returns seconds


@ktask.thread_func(cache=True)
def nothing(start, end, arg):
    """Return at once."""
    return 0


@dataclass(frozen=True)
class Effect:
    """A state, and the one it is compared with, of the same work."""

    name: str
    case: Case
    changed: Do
    usual: Do
    threads: tuple[int, ...] = (1, 2)
    changed_case: Case | None = None


def case_of(workload: str, method: str, size: str, kind: str = "4KiB", **options: str) -> Case:
    """Return a case by its names."""
    return Case.of(workload, method, size=size, page_kind=kind, options=options)


def timed(state: Any, threads: int, policy: str = "ktask-v4", **how: Any) -> float:
    """Run and check what is prepared; return the seconds."""
    ctl = replace(state.ctl, max_threads=threads)
    result = without_error(engine.run(0, state.size, ctl, policy, **how))
    state.check()
    return result.wall_s


def usual(state: Any, threads: int, **how: Any) -> float:
    """Prepare as every repetition is."""
    state.ctl = replace(state.ctl, max_threads=threads)
    state.before()
    wait_for_helpers()
    return timed(state, threads, **how)


def beside_spinning(state: Any, threads: int) -> float:
    """Start while helpers of a task that is over still spin."""
    state.ctl = replace(state.ctl, max_threads=threads)
    state.before()
    engine.run(0, 64, ktask.Ctl(nothing, (1,), 1))
    return timed(state, threads)


def after_a_look(state: Any, threads: int) -> float:
    """Look at every page before."""
    state.ctl = replace(state.ctl, max_threads=threads)
    state._looked_at_all = False
    state.before()
    wait_for_helpers()
    return timed(state, threads)


def zapped_by(state: Any, threads: int, by: int) -> float:
    """Have `by` threads give the pages back that `threads` populate."""
    state.ctl = replace(state.ctl, max_threads=by)
    state.before()
    wait_for_helpers()
    return timed(state, threads)


def without_tables(state: Any, threads: int) -> float:
    """Populate a fresh mapping, without page tables."""
    state.ctl = replace(state.ctl, max_threads=1)
    state.before()
    state.region.unmap()
    state.region.map()
    wait_for_helpers()
    return timed(state, threads)


def prepared_elsewhere(state: Any, threads: int) -> float:
    """Prepare on another CPU than the caller will run on."""
    with filling("other"):
        state.before()
    with filling("one"):
        pass
    return timed(state, threads)


def prepared_here(state: Any, threads: int) -> float:
    """Prepare on the CPU of the caller."""
    with filling("one"):
        state.before()
    return timed(state, threads)


def after(state: Any, threads: int, before: int) -> float:
    """Do the same work with `before` threads first."""
    usual(state, before)
    return usual(state, threads)


def by_sleeping_helpers(state: Any, threads: int) -> float:
    """Start with helpers asleep, and not pinned."""
    state.ctl = replace(state.ctl, max_threads=threads)
    state.before()
    plan = engine.plan(ktask.Node(0, state.size, -1), state.ctl)
    wait_for_helpers()
    seconds = without_error(engine.carry_out(plan, state.ctl)).wall_s
    state.check()
    return seconds


def effects() -> Iterator[Effect]:
    """Yield what is looked at."""
    for method, kind, size in (
        ("dontneed", "4KiB", "256MiB"),
        ("dontneed", "THP", "1GiB"),
        ("munmap", "4KiB", "256MiB"),
        ("exit", "4KiB", "256MiB"),
    ):
        case = case_of("free", method, size, kind)
        for fill in ("each", "other"):
            changed = case_of("free", method, size, kind, fill=fill)
            yield Effect(f"fill={fill} / fill=one", case, usual, usual, changed_case=changed)
    for case in (
        case_of("free", "dontneed", "8MiB"),
        case_of("protect", "mprotect", "64MiB"),
        case_of("page_walk", "pagemap_scan", "64MiB"),
        case_of("zeroing", "memset", "1MiB", "THP"),
    ):
        yield Effect("helpers spinning / asleep", case, beside_spinning, usual, (1,))
    look = case_of("free", "dontneed", "256MiB")
    yield Effect("after a look at every page / at a 64th", look, after_a_look, usual)
    for kind in ("4KiB", "THP"):
        case = case_of("zeroing", "populate", "256MiB", kind)
        one = partial(zapped_by, by=1)
        yield Effect("pages given back by one / by both", case, one, partial(zapped_by, by=2), (2,))
        yield Effect("without page tables / with", case, without_tables, one)
    for method in ("mprotect", "uffd_wp"):
        case = case_of("protect", method, "256MiB")
        yield Effect("reset on another CPU / on the caller's", case, prepared_elsewhere, prepared_here)
    for case in (
        case_of("page_walk", "pagemap", "1GiB", pages="memory"),
        case_of("page_walk", "pagemap_scan", "1GiB"),
        case_of("zeroing", "memset", "1MiB", "THP"),
        case_of("zeroing", "memset", "64MiB", "THP"),
    ):
        yield Effect(
            "after two threads / after one", case, partial(after, before=2), partial(after, before=1)
        )
    for case in (case_of("zeroing", "populate", "8MiB", "THP"), case_of("free", "dontneed", "256MiB")):
        yield Effect(
            "helpers asleep and not pinned / awake and pinned", case, by_sleeping_helpers, usual, (2,)
        )
        low, high = (partial(usual, nice=nice) for nice in (19, 0))
        yield Effect("helpers at nice 19 / at the caller's", case, low, high, (2,))


def title(effect: Effect, threads: int) -> str:
    """Return what a line is about."""
    case = effect.case
    what = f"{case.workload} {case.method}, {case.size_bytes // memory.MIB} MiB of {case.page_kind} pages"
    return f"{what}, {threads} thread{'s' * (threads > 1)}: {effect.name}"


def measure(effect: Effect, rounds: int) -> dict[str, Any]:
    """Return the ratio for each thread count, in this process, and the share of the CPUs that others used."""
    with ExitStack() as stack:
        state = stack.enter_context(prepared(effect.case))
        other = stack.enter_context(prepared(effect.changed_case)) if effect.changed_case else state
        calls: dict[tuple[int, bool], Callable[[], float]] = {}
        for threads in effect.threads:
            calls[threads, True] = partial(effect.changed, other, threads)
            calls[threads, False] = partial(effect.usual, state, threads)
        found, load = quiet_rounds(calls, rounds, os.getpid())
    medians = {key: float(np.median(values)) for key, values in found.items()}
    ratios = {title(effect, n): medians[n, True] / medians[n, False] for n in effect.threads}
    times = {title(effect, n): medians[n, False] for n in effect.threads}
    return {"ratios": ratios, "times_s": times, "other": load}


def in_a_process(number: int, rounds: int) -> dict[str, Any]:
    """Return what a fresh process measures of an effect."""
    command = [sys.executable, __file__, "--effect", str(number), "--rounds", str(rounds)]
    done = subprocess.run(command, capture_output=True, check=True)  # noqa: S603
    return json.loads(done.stdout)


def over_processes(ratios: list[float]) -> dict[str, float]:
    """Return the mean of ratios on the logarithmic scale, with its 95 % interval."""
    logs = np.log(ratios)
    reach = 0.0
    if len(logs) > 1:
        error = logs.std(ddof=1) / np.sqrt(len(logs))
        reach = float(distributions.t.ppf(0.975, len(logs) - 1) * error)
    low, mean, high = np.exp([logs.mean() - reach, logs.mean(), logs.mean() + reach])
    return {"ratio": float(mean), "low": float(low), "high": float(high)}


def main() -> None:
    """Print a line per effect and thread count; write JSON if asked to."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--only", default="", help="effects with this in their line")
    parser.add_argument("--json", type=Path, help="write the result there")
    parser.add_argument("--effect", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    known = list(effects())
    if options.effect is not None:
        sys.stdout.write(json.dumps(measure(known[options.effect], options.rounds)))
        return
    wanted = [k for k, one in enumerate(known) if any(options.only in title(one, n) for n in one.threads)]
    results: dict[str, Any] = {}
    for k in wanted:
        found = [in_a_process(k, options.rounds) for _ in range(options.processes)]
        for name in found[0]["ratios"]:
            line = over_processes([one["ratios"][name] for one in found])
            line |= {"time_s": float(np.median([one["times_s"][name] for one in found]))}
            line |= {"processes": len(found), "other_load": max(one["other"] for one in found)}
            results[name] = line
            text = f"{line['ratio']:6.2f}  [{line['low']:5.2f}, {line['high']:5.2f}]"
            sys.stdout.write(f"{text}  {1e3 * line['time_s']:9.3f} ms  {line['other_load']:4.0%}  {name}\n")
            sys.stdout.flush()
    if options.json:
        write_json(options.json, {"machine": machine_facts(), "effects": results})


if __name__ == "__main__":
    main()
