"""What the studies share: one case in several variants, and a row of their table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ktask import workloads
from ktask.common.progress import rounds_bar
from ktask.engine.task import CPU_TIME_FROM_S
from ktask.host import kernel_files
from ktask.lab.measure import stats
from ktask.lab.measure.rounds import SEED, Name, Repetition, interleave, prepared, repeat
from ktask.memory import region as memory
from ktask.workloads import Case, State


class How(NamedTuple):
    """A variant of a study: a cap on threads, and bytes per chunk (0: as the default policy says)."""

    threads: int
    chunk_bytes: int = 0


def can_run(case: Case) -> bool:
    """Return whether this machine can run the case and has the memory for it."""
    need = workloads.get(case.workload).memory_need(case)
    return workloads.why_not(case) is None and need <= memory.budget_bytes()


def sample(state: State, how: How) -> Repetition:
    """Return one repetition, with the TLB shootdowns before and after it."""
    units = max(1, how.chunk_bytes // state.bytes_per_unit)
    chunking = ("dynamic", units) if how.chunk_bytes else ()
    return repeat(state, how.threads, *chunking, observe=shootdowns)


def samples(
    state: State, variants: Mapping[Name, How], rounds: int, seed: int = SEED
) -> dict[Name, list[Repetition]]:
    """Return `rounds` repetitions of each variant, interleaved; one round more goes before, to warm up."""
    calls = {name: partial(sample, state, how) for name, how in variants.items()}
    with rounds_bar(rounds) as on_round:
        return interleave(calls, rounds, seed, warmups=1, on_round=on_round)


def samples_of(
    case: Case, variants: Mapping[Name, How], rounds: int, seed: int = SEED
) -> dict[Name, list[Repetition]]:
    """Return `samples` of a case that is set up for them alone."""
    with prepared(case) as state:
        return samples(state, variants, rounds, seed)


def shootdowns() -> float:
    """Return how many TLB shootdowns all CPUs have received; NaN where the kernel does not count them."""
    text = kernel_files.read_text(kernel_files.ROOT / "proc/interrupts") or ""
    found = re.search(r"^ *TLB:((?: +[0-9]+)+)", text, re.MULTILINE)
    return float(sum(map(int, found[1].split()))) if found else float("nan")


def walls(repetitions: Sequence[Repetition]) -> np.ndarray:
    """Return the wall times in seconds."""
    return np.array([one.result.wall_s for one in repetitions])


def row_of(repetitions: Sequence[Repetition], serial: Sequence[Repetition], threads: int) -> dict[str, Any]:
    """Return medians of some repetitions beside those of one thread, and the speedup with its interval.

    `busy` is the CPU time over the time that the threads had, `cpu` that over the CPU time of one thread;
    both are NaN for tasks too short to have a CPU time.
    """
    wall_s = walls(repetitions)
    cpu_s, serial_cpu_s = (
        np.array([one.result.cpu_user_s + one.result.cpu_system_s for one in some])
        for some in (repetitions, serial)
    )
    per_chunk = [(one.after - one.before) / one.result.n_chunks for one in repetitions]
    speedup = stats.ratio(walls(serial), wall_s, paired=True)
    return {
        "serial_ms": float(np.median(walls(serial))) * 1e3,
        "wall_ms": float(np.median(wall_s)) * 1e3,
        "speedup": speedup.median,
        "low": speedup.low,
        "high": speedup.high,
        "busy": float(np.median(cpu_s / (wall_s * threads))) if wall_s.min() > CPU_TIME_FROM_S else np.nan,
        "cpu": float(np.median(cpu_s) / np.median(serial_cpu_s)) if np.median(serial_cpu_s) else np.nan,
        "shootdowns_per_chunk": float(np.median(per_chunk)),
        "n": len(repetitions),
    }
