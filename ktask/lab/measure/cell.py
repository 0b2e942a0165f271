"""One cell: a case measured against its own one-thread baseline, in one process.

Every round runs each variant once, in random order: the serial baseline, the same baseline again (the A/A
comparison), one thread in the chunks of the most threads (the chunking overhead), and each thread count. So a
speedup is a ratio of neighbours in time.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from statistics import median

from ktask import workloads
from ktask.engine.task import Result
from ktask.host import kernel_files, topology
from ktask.host.kernel_log import kernel_log
from ktask.lab import bystanders as neighbours
from ktask.lab.bystanders import Bystanders, ProcessNeighbour
from ktask.lab.evidence import Evidence, gather
from ktask.lab.evidence.collect import BUDGET_S
from ktask.lab.measure import flags, states, stats
from ktask.lab.measure.measurement import CHUNKED, Measurement, Protocol, Variant, is_of, variants
from ktask.lab.measure.rounds import SERIAL_POLICY, Repetition, interleave, prepared, repeat
from ktask.lab.measure.rows import observed, row_of
from ktask.lab.measure.threads import default_threads, distinct, granted
from ktask.workloads import Case, State

MOST_CALLS = 100
# Of many calls with all that prepares and checks them: 100 frees of one page of 1 GiB, cleared before each,
# are a repetition of 20 s, and a cell of ten minutes.
LONGEST_S = 1.0
PATIENCE = 4.0
STEADY_FACTOR = 1.2
MOST_TRACED = 5  # attempts at a typical trace


def measure_case(
    case: Case,
    threads: Sequence[int] | None = None,
    protocol: Protocol | None = None,
    *,
    on_round: Callable[[int], None] | None = None,
    trace: bool = False,
    chunked: bool = True,
    evidence: bool | float = False,
    bystanders: bool | float = False,
    on_measured: Callable[[Measurement], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Measurement:
    """Measure `case` with one thread and with each of `threads`.

    Parameters
    ----------
    case
        What to run.
    threads
        Thread counts; those of `default_threads` if left out. Of counts that give as many threads, the
        smallest is measured.
    protocol
        How often.
    on_round
        Called with the number of rounds done after each.
    trace
        Keep the chunks of one more repetition with the most threads (`Measurement.traced`).
    chunked
        Measure one thread in the chunks of the most threads, too: the chunking overhead.
    evidence
        Look afterwards at repetitions that are not timed (`Measurement.seen`); a number is for how many
        seconds of each way to run the case.
    bystanders
        Have neighbours probe beside more repetitions, after all that (`Measurement.beside`); a number is for
        how many seconds.
    on_measured
        Called with the measurement before that, when all that is timed is over.

    Raises
    ------
    ktask.workloads.CheckError
        If the work did not happen, or failed; no number comes of such a cell.
    ktask.memory.region.UnavailableError, ktask.memory.region.BudgetError, ValueError
        If the case cannot be run here, or nowhere.
    """
    threads = default_threads() if threads is None else threads
    if bad := [n for n in threads if n < 1]:
        most, why = topology.cpu_count(), topology.why_so_many_cpus()
        raise ValueError(f"threads={bad[0]} is not allowed; use 1 to {most}, {why}")
    found = Measurement(case, protocol or Protocol())
    log, n_lines = kernel_log(), kernel_log().read()
    with _standing_by(bystanders) as others, prepared(case) as state:
        grants = {asked: granted(state, asked, case.policy) for asked in threads if asked > 1}
        found.grants = {asked: one for asked, one in sorted(grants.items()) if one.why}
        cell = _Cell(found, state, variants(distinct(grants)), clock)
        cell.warm_up(chunked)
        calls = {variant.name: partial(cell.repeat, variant) for variant in cell.variants}
        is_enough = cell.rule_to_stop(on_round)
        interleave(calls, found.protocol.most, found.protocol.seed, on_round=is_enough)
        if trace:
            found.traced, found.bytes_per_unit = cell.traced(), state.bytes_per_unit
        found.kernel_log = log.since(n_lines)
        flags.mark_all(found.rows, _may_be_cold(case), found.protocol.sample_s)
        if on_measured:
            on_measured(found)
        if evidence:
            found.seen = cell.evidence(BUDGET_S if evidence is True else evidence)
        if bystanders:
            budget_s = neighbours.BUDGET_S if bystanders is True else bystanders
            found.beside[1] = others if isinstance(others, Bystanders) else cell.bystanders(others, budget_s)
    return found


@contextlib.contextmanager
def _standing_by(wanted: bool | float) -> Iterator[Sequence[ProcessNeighbour] | Bystanders]:
    """Start neighbours for the block if they are wanted; give the reason where they cannot be."""
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(neighbours.standing_by()) if wanted else []
        except OSError as error:
            yield Bystanders(skipped=f"no neighbour can be started: {error}")
            return
        yield found


class _Cell:
    """A measurement under way, on a case that is set up."""

    def __init__(self, found: Measurement, state: State, variants: list[Variant], clock: Callable[[], float]):
        self.found, self.rows, self.state, self.clock = found, found.rows, state, clock
        self.variants = variants
        self.protocol = found.protocol
        self.n_warmups = 0  # rows of them, once they are over
        self.calls = 1  # in a row, per repetition

    def warm_up(self, chunked: bool) -> None:
        """Repeat until two serial repetitions are as fast as the best, then run every variant once.

        On a virtual machine this is where the host gives back the memory that the case needs.
        """
        end, is_steady = self.clock() + self.protocol.warmup_s, False
        walls: list[float] = []
        while not is_steady and (not walls or self.clock() <= end):
            walls.append(self.repeat(self.variants[0]))
            is_steady = sum(wall <= STEADY_FACTOR * min(walls) for wall in walls) >= 2
        for variant in self.variants[2:]:
            self.repeat(variant)
        last = self.rows[-1]
        if chunked and last["n_chunks"] > 1:
            alone = Variant(CHUNKED, 1, chunk_size=last["chunk_size"] // self.state.bytes_per_unit)
            self.repeat(alone)
            self.variants.insert(2, alone)
        self.n_warmups, self.calls = len(self.rows), self._calls()

    def _calls(self) -> int:
        """Return how many calls make a repetition of the fastest variant long enough for the clock."""
        fastest_s = max(min(row["wall_s"] for row in self.rows), 1e-9)
        return min(math.ceil(self.protocol.sample_s / fastest_s), MOST_CALLS)

    def repeat(self, variant: Variant) -> float:
        """Keep the row of one repetition; return its wall time in seconds, the mean of its calls."""
        round_and_order = -1, len(self.rows)
        if self.n_warmups:
            round_and_order = divmod(len(self.rows) - self.n_warmups, len(self.variants))
        case, state = self.found.case, self.state
        policy = "dynamic" if variant.chunk_size else SERIAL_POLICY if variant.baseline else case.policy
        end, is_last = self.clock() + LONGEST_S, False
        repetitions: list[Repetition] = []
        while not is_last:
            is_last = len(repetitions) + 1 == self.calls or (bool(repetitions) and self.clock() > end)
            observe = observed if is_last or not repetitions else lambda: None
            repetitions.append(repeat(state, variant.threads, policy, variant.chunk_size, observe=observe))
        self.rows.append(row_of(case, state, variant, repetitions, round_and_order))
        return self.rows[-1]["wall_s"]

    def rule_to_stop(self, on_round: Callable[[int], None] | None) -> Callable[[int], bool]:
        """Return what says after each round whether there is enough; the time runs from now."""
        end = self.clock() + self.protocol.budget_s

        def is_enough(done: int) -> bool:
            self.calls = self._calls()  # anew each round: warm-ups were slower than what follows
            if on_round:
                on_round(done)
            if _may_be_cold(self.found.case):
                flags.mark_cold(self.rows)
            return done >= self.protocol.least and self._has_enough(self.clock() - end)

        return is_enough

    def _has_enough(self, over_s: float) -> bool:
        """Return whether to stop, `over_s` seconds past the budget (negative before it is used up)."""
        samples = [self.found.walls(variant) for variant in self.variants]
        if min(len(walls) for walls in samples) < self.protocol.least:
            return over_s > (PATIENCE - 1) * self.protocol.budget_s
        if over_s > 0:
            return True
        found, precision = [stats.estimate(walls) for walls in samples], self.protocol.precision
        return all(max(e.high - e.median, e.median - e.low) <= precision * e.median for e in found)

    def traced(self) -> Result:
        """Return one more repetition with a trace: the first that took a typical time, else the nearest.

        It is no part of the rows: reading the clock around each chunk costs what the others do not pay.
        """
        variant = self.variants[-1]
        walls, tries = self.found.walls(variant), list[Result]()
        while len(tries) < MOST_TRACED:
            tries.append(repeat(self.state, variant.threads, self.found.case.policy, trace=True).result)
            if states.is_typical(tries[-1].wall_s, walls):
                return tries[-1]
        return min(tries, key=lambda one: states.distance(one.wall_s, walls))

    def evidence(self, budget_s: float) -> Evidence:
        """Return what is seen of the serial call, of one thread in chunks and of the most threads."""
        alone = next((one.chunk_size for one in self.variants if one.name == CHUNKED), 0)
        threads, policy = self.variants[-1].threads, self.found.case.policy
        seen = gather(self.state, threads, policy, alone, budget_s=budget_s)
        ends = self.variants[0], self.variants[-1]
        return seen.beside({one.threads: median(self.found.walls(one)) for one in ends})

    def bystanders(self, others: Sequence[ProcessNeighbour], budget_s: float) -> Bystanders:
        """Return what neighbours wait for beside the serial call and the most threads."""
        variant, policy = self.variants[-1], self.found.case.policy
        last = next(row for row in reversed(self.rows) if is_of(row, variant))
        used = [int(cpu) for cpu in last["cpus"].split(",") if cpu]
        return neighbours.gather(self.state, others, variant.threads, policy, used, budget_s=budget_s)


def _may_be_cold(case: Case) -> bool:
    """Return whether memory that the case takes may have to be brought back by a host."""
    return workloads.get(case.workload).method(case.method).allocates and is_virtual()


def is_virtual() -> bool:
    """Return whether a host may take free memory away from this machine."""
    return " hypervisor" in (kernel_files.read_text(kernel_files.ROOT / "proc/cpuinfo") or "")
