"""`ktask.measure`: one case measured by several fresh processes, one after the other."""

from __future__ import annotations

import os
import pickle
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ktask.common import children
from ktask.common.progress import rounds_bar
from ktask.host import topology
from ktask.lab.bystanders import Bystanders
from ktask.lab.evidence import Evidence
from ktask.lab.measure.cell import measure_case
from ktask.lab.measure.measurement import Measurement, Protocol, check_passes
from ktask.workloads import Case

PROBED = 3  # processes, for an interval over them


def measure(
    workload: str,
    method: str | None = None,
    *,
    size: str | int = "1GiB",
    threads: Sequence[int] | None = None,
    protocol: Mapping[str, Any] | None = None,
    passes: int = 1,
    cpus: str | Iterable[int] | None = None,
    evidence: bool | float = False,
    bystanders: bool | float = False,
    on_measured: Callable[[Measurement], None] | None = None,
    quiet: bool = False,
    **how: Any,
) -> Measurement:
    """Measure a workload with one thread and with several.

    Parameters
    ----------
    workload, method
        What to do, and in which way; `ktask run --help` lists both.
    size
        Memory to cover, such as "256MiB".
    threads
        Thread counts; if left out powers of two and what the machine has: the CPUs of a cache, a node, all
        cores, and as many as a task gets.
    protocol
        How often, such as {"least": 7, "budget_s": 2.0}: the fields of `Protocol`.
    passes
        How many fresh processes measure it. One measures here and now, and its intervals say nothing about
        the next process; with several, intervals come from how the processes differ.
    cpus
        The CPUs to use, such as "0-15,32"; all that this process may use by default.
    evidence
        Look at more repetitions, which are not timed, in the first process; a number is for how many seconds
        of each way to run the case.
    bystanders
        Have neighbours probe beside more repetitions, in every process; a number is for how many seconds.
    on_measured
        Called with the measurement when all that is timed is over; with one process before it looks.
    quiet
        Without a progress bar.
    how
        What else `ktask.workloads.Case.of` takes: page_kind, backend, min_chunk, policy, placement, options.

    Returns
    -------
    Measurement
        Shows as a table; with `.table`, `.plot()` and `.save(name)`.

    Examples
    --------
    >>> found = ktask.measure("zeroing", size="256MiB", page_kind="THP", threads=[1, 2])  # doctest: +SKIP
    """
    check_passes(passes)
    case, rules = Case.of(workload, method, size=size, **how), Protocol.of(protocol or {})
    with topology.narrowed_to(cpus):
        look: dict[str, Any] = {"evidence": evidence, "bystanders": bystanders, "on_measured": on_measured}
        return measure_processes(case, threads, rules, passes, trace=True, quiet=quiet, **look)


def measure_processes(
    case: Case,
    threads: Sequence[int] | None,
    protocol: Protocol,
    passes: int,
    *,
    trace: bool = False,
    chunked: bool = True,
    evidence: bool | float = False,
    bystanders: bool | float = False,
    on_measured: Callable[[Measurement], None] | None = None,
    quiet: bool = False,
) -> Measurement:
    """Measure `case` in `passes` fresh processes, or once in this one; see `measure_case`.

    Each process has another random order within its rounds. The trace and the evidence, if
    asked for, are those of the first.

    Raises
    ------
    ktask.workloads.CheckError, ktask.memory.region.UnavailableError, ktask.memory.region.BudgetError
        What the process raised.
    RuntimeError
        If a process died.
    """
    if passes == 1:
        with rounds_bar(protocol.most, quiet=quiet) as on_round:
            how: dict[str, Any] = {"trace": trace, "chunked": chunked, "evidence": evidence}
            how |= {"bystanders": bystanders, "on_round": on_round, "on_measured": on_measured}
            return measure_case(case, threads, protocol, **how)
    whole = Measurement(case, protocol)
    with rounds_bar(passes, "processes", quiet) as on_pass:
        for number in range(1, passes + 1):
            rules = replace(protocol, seed=protocol.seed + number - 1)
            first = {"trace": trace, "evidence": evidence} if number == 1 else {}
            task = case, threads, rules, {**first, "chunked": chunked, "bystanders": bystanders}
            found = _in_a_process(task)
            whole.rows += [{**row, "pass": number} for row in found.rows]
            whole.kernel_log += found.kernel_log
            whole.beside |= {number: found.beside[1]} if found.beside else {}
            if number == 1:
                whole.traced, whole.bytes_per_unit = found.traced, found.bytes_per_unit
                whole.seen = found.seen
                whole.grants = found.grants
            on_pass(number)
    if on_measured:
        on_measured(whole)
    return whole


def look_at(case: Case, threads: int) -> Evidence:
    """Return what a fresh process sees of `case` with `threads`, after a few repetitions to warm up."""
    rules = Protocol(least=1, most=1)
    found = _in_a_process((case, [threads], rules, {"evidence": True}))
    return found.seen or Evidence(skipped="nothing was looked at")


def probe(case: Case, threads: int) -> dict[int, Bystanders]:
    """Return what neighbours find beside `case` with `threads`, in several fresh processes."""
    task = case, [threads], Protocol(least=1, most=1), {"bystanders": True}
    return {number: _in_a_process(task).beside[1] for number in range(1, PROBED + 1)}


def _in_a_process(task: tuple[Case, Sequence[int] | None, Protocol, dict[str, Any]]) -> Measurement:
    command = [*children.python(), "-m", "ktask.lab.measure.one_process", str(os.getpid())]
    return _answer(
        subprocess.run(command, input=pickle.dumps(task), stdout=subprocess.PIPE, check=False)  # noqa: S603
    )


def _answer(done: subprocess.CompletedProcess) -> Measurement:
    if done.returncode or not done.stdout:
        raise RuntimeError(f"the process that measured the case died (exit code {done.returncode})")
    found = pickle.loads(done.stdout)  # noqa: S301 - written by our own child
    if isinstance(found, Exception):
        raise found
    return found
