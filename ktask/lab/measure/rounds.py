"""The measuring core: variants in turns, a case set up, and one repetition of it.

All that measures calls these three: `ktask run`, the cells of a sweep, the studies, the knobs, the validation
of the simulator and the benchmarks. So everywhere the order is random from a seed, the work is checked, and a
repetition with an error never becomes a number.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np

from ktask import workloads
from ktask.engine import run as engine
from ktask.engine.placement import placed, wait_for_helpers
from ktask.engine.task import Result
from ktask.host.counters import MIN_EVIDENCE_S, OTHER_LOAD_LIMIT, sample_state, state_change
from ktask.lab.conditions import NONE, Meanwhile, under
from ktask.lab.measure.failures import as_check_errors
from ktask.memory import region as memory
from ktask.workloads import Case, State

Name = TypeVar("Name", bound=Hashable)
Value = TypeVar("Value")

SEED = 1
# With one thread: one call over the whole range, which is what the kernel does now.
SERIAL_POLICY = "ktask-v4"


def interleave(
    variants: Mapping[Name, Callable[[], Value]],
    rounds: int,
    seed: int = SEED,
    *,
    warmups: int = 0,
    on_round: Callable[[int], bool | None] | None = None,
) -> dict[Name, list[Value]]:
    """Call each variant once per round, in random order, so that ratios compare neighbours in time.

    Parameters
    ----------
    variants
        What to call, by name.
    rounds
        How many to keep, at most.
    seed
        Of the order within the rounds.
    warmups
        Rounds before them whose values are dropped.
    on_round
        Called after each round that is kept, with how many there are; True ends the measurement.

    Returns
    -------
    dict
        What the calls returned, by name, in the order of the rounds.
    """
    random, names = np.random.default_rng(seed), list(variants)
    found: dict[Name, list[Value]] = {name: [] for name in names}
    for number in range(-warmups, rounds):
        for k in random.permutation(len(names)):
            value = variants[names[k]]()
            if number >= 0:
                found[names[k]].append(value)
        if number >= 0 and on_round and on_round(number + 1):
            break
    return found


def quiet_rounds(
    variants: Mapping[Name, Callable[[], float]],
    rounds: int,
    seed: int = SEED,
    *,
    least: int = 5,
    warmups: int = 2,
) -> tuple[dict[Name, np.ndarray], float]:
    """Interleave variants, and keep the rounds beside which other processes used up to 5 % of the CPUs.

    For comparisons of two times on a machine that is not ours alone. The rounds to warm up are dropped.

    Returns
    -------
    dict, float
        The values by name, of `least` rounds in any case, those with the least load; and the largest share of
        the CPUs that others used beside one of them.
    """
    samples = [sample_state()]
    keep = lambda _: samples.append(sample_state())  # noqa: E731
    found = interleave(variants, rounds, seed, warmups=warmups, on_round=keep)
    changes = [state_change(*pair) for pair in itertools.pairwise(samples)]
    loads = np.array([change["other_s"] / change["capacity_s"] for change in changes])
    loads[[change["other_s"] < MIN_EVIDENCE_S for change in changes]] = 0.0
    n_kept = max(least, np.count_nonzero(loads <= OTHER_LOAD_LIMIT))
    kept = np.sort(np.argsort(loads, kind="stable")[:n_kept])
    return {name: np.array(values)[kept] for name, values in found.items()}, float(loads[kept].max())


@contextlib.contextmanager
def prepared(case: Case) -> Iterator[State]:
    """Set `case` up for the block, and give everything back after it.

    Meanwhile the calling thread is kept to the first CPU of the case's placement: what prepares, runs and
    checks a repetition has the same caller there, with one thread and with many.

    Raises
    ------
    ktask.memory.region.UnavailableError, ktask.memory.region.BudgetError
        If this machine cannot run the case, or lacks the memory.
    ktask.workloads.CheckError
        If inside the block the work did not happen, or the kernel refused something.
    """
    workloads.require_memory(case)  # first: a smaller size is what the user can do about it
    if reason := workloads.why_not(case):
        raise memory.UnavailableError(reason)
    kept = placed(case.option("placement"), workloads.nodes_of(case).threads[0])
    with contextlib.ExitStack() as stack:
        stack.enter_context(as_check_errors(case))
        conditions = stack.enter_context(under(case))  # first: a load is not kept to the caller's CPU
        stack.enter_context(kept)
        state = stack.enter_context(contextlib.closing(workloads.get(case.workload).setup(case)))
        if case.is_conditioned:
            cast("Any", state).conditions = conditions  # for `repeat`
            conditions.settle()
        yield state


class Repetition(NamedTuple):
    """A result, what was observed just before the task and just after it, and what load and quota did."""

    result: Result
    before: Any = None
    after: Any = None
    meanwhile: Meanwhile = Meanwhile()


def repeat(
    state: State,
    threads: int,
    policy: str = SERIAL_POLICY,
    chunk_size: int = 0,
    *,
    trace: bool = False,
    nice: int | None = None,
    hand_over: bool = True,
    observe: Callable[[], Any] = lambda: None,
) -> Repetition:
    """Prepare one repetition, run it and check it.

    Parameters
    ----------
    state
        From `prepared`.
    threads
        Cap on the threads, the caller included.
    policy, trace
        As of `ktask.run`.
    nice, hand_over
        As of `ktask.run`; those of the case if `nice` is left out.
    chunk_size
        The least chunk in units of the task; 0 for that of the case.
    observe
        Called outside of the clock, but with nothing else between.

    Raises
    ------
    OSError
        With the code of the thread function if that is not 0; `prepared` makes a CheckError of it.
    ktask.workloads.CheckError
        If the work did not happen.
    """
    state.ctl = replace(state.ctl, max_threads=threads)
    conditions = getattr(state, "conditions", NONE)
    load = conditions.threads
    # For those of the repetition before: to wait later would cool what the preparation leaves warm.
    wait_for_helpers(besides=load)
    state.before()
    wait_for_helpers(besides=load)  # of the preparation, if it has any
    ctl = replace(state.ctl, min_chunk_size=chunk_size) if chunk_size else state.ctl
    level, hands_over = conditions.nice if nice is None else (nice, hand_over)
    how: dict[str, Any] = {"trace": trace, "nice": level, "hand_over": hands_over}
    parts = getattr(state, "parts", ())
    with conditions.entered():
        before = observe()
        with conditions.metered() as meanwhile:
            if threads > 1 and len(parts) > 1:
                result = engine.run_numa(parts, ctl, policy, **how)
            else:  # one thread alone does all of it in one call
                result = engine.run(0, state.size, ctl, policy, **how)
        after = observe()
    without_error(result)
    state.check()
    return Repetition(result, before, after, meanwhile)


def without_error(result: Result) -> Result:
    """Return `result`; OSError with the code of its thread function if that is not 0."""
    if result.error:
        raise OSError(result.error, os.strerror(result.error))
    return result
