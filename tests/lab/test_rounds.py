"""The measuring core: all who measure call it, check, randomise from a seed, and refuse an error."""

import contextlib
import errno
import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_measure import Toy

from ktask.engine.task import Result
from ktask.lab.measure import rounds as core
from ktask.lab.measure.cell import measure_case
from ktask.lab.measure.measurement import Protocol
from ktask.lab.studies import fault_mutexes, freeing, page_walks, ways
from ktask.lab.studies import zeroing as store_study
from ktask.memory import region as memory
from ktask.models.simulation import validation
from ktask.report import knobs
from ktask.workloads import Case, CheckError, Method, Option, Workload
from ktask.workloads import base as workloads

CASE = Case("toy", "a", "4KiB", 400 << 10)
BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


# --- rounds -----------------------------------------------------------------------------------------------


def order_of(rounds, seed=1, **options):
    """Return the values of `interleave` and the order of its calls, for three variants."""
    order = []
    calls = {name: lambda name=name: order.append(name) or len(order) for name in "abc"}
    return core.interleave(calls, rounds, seed, **options), "".join(order)


def test_every_variant_is_called_once_per_round_in_changing_order():
    found, order = order_of(20)
    turns = [order[k : k + 3] for k in range(0, 60, 3)]
    assert all(sorted(turn) == list("abc") for turn in turns)
    assert len(set(turns)) > 3
    assert {name: [order.index(name), len(values)] for name, values in found.items()} == {
        name: [order.index(name), 20] for name in "abc"
    }
    assert all(order[k - 1] == name for name, values in found.items() for k in values)


def test_the_order_follows_the_seed():
    assert order_of(8, 1) == order_of(8, 1) != order_of(8, 2)


def test_rounds_to_warm_up_are_dropped():
    found, order = order_of(2, warmups=3)
    assert len(order) == 15
    assert sorted(value for values in found.values() for value in values) == list(range(10, 16))


def test_enough_is_enough():
    done = []
    _, order = order_of(100, warmups=1, on_round=lambda n: done.append(n) or n == 4)
    assert done == [1, 2, 3, 4]
    assert len(order) == 15


# --- everybody ----------------------------------------------------------------------------------------------


class Anything(Workload):
    """A workload that has every method, on every kind of page."""

    def method(self, name):
        names = ("work", "batch", "zones", "merge", "lock", "pages", "layout")
        options = tuple(Option(one, "", "usual", form=str) for one in names)
        return Method(name, "", "kernel", tuple(memory.PAGE_KINDS), options=options)


class Everything(dict):
    def __missing__(self, name):
        need = {"setup": Toy, "memory_need": lambda case: case.size_bytes}
        return Anything(name, "about", "page", (Method("a", "", "kernel", ("4KiB",)),), **need)


class Machine:
    """Counts what is run; the call number `fails_at` comes back with an error."""

    def __init__(self):
        self.calls, self.fails_at = [], None

    def run(self, start, size, ctl, policy, trace=False, nice=None, hand_over=True):
        self.calls.append((ctl.max_threads, policy, ctl.min_chunk_size, ctl.args))
        failed = len(self.calls) == self.fails_at
        result = Result(errno.ENOMEM if failed else 0, ctl.max_threads, 50, 2, policy, 1.0, 0.5, 0.5)
        result.faults_minor, result.chunks_per_thread = 2, (1, 1)
        result.trace_rows = [(0, k, 0, 0, 50, 0.0, 1.0) for k in range(2)]
        return result


@pytest.fixture
def machine(monkeypatch):
    found = Machine()
    monkeypatch.setattr(workloads, "registry", Everything)
    monkeypatch.setattr(core.engine, "run", found.run)
    monkeypatch.setattr(fault_mutexes, "why_not", lambda: None)
    region = SimpleNamespace(address=0, zap=lambda: None)
    monkeypatch.setattr(fault_mutexes.memory, "Region", lambda *_: contextlib.nullcontext(region))
    monkeypatch.setattr(fault_mutexes, "MOST_PAIRS", 4)
    return found


def bench(seed):
    if BENCHMARKS not in sys.path:
        sys.path.append(BENCHMARKS)
    contests, kernel_paths = map(importlib.import_module, ("contest", "kernel_paths"))
    contests.SEED = seed
    state, close = kernel_paths.set_up(CASE)
    calls = {n: lambda n=n: kernel_paths.seconds_of(state, n) for n in (1, 2, 3)}
    with contextlib.closing(contests.Contest("c", "s", 1.0, calls, 1, close=close)) as contest:
        contest.measure(4, warmups=2)


ENTRIES = {"a way": ("toy", "a", "4KiB", ())}
SIZE = "400KiB"
CALLERS = {
    "measure": lambda seed: measure_case(CASE, [1, 2], Protocol(least=4, most=4, seed=seed), trace=True),
    "ways": lambda seed: ways.ways("400KiB", ENTRIES, 2, 4, seed),
    "chunk sizes": lambda seed: freeing.chunk_sizes("64MiB", threads=2, rounds=4, seed=seed),
    "stores": lambda seed: store_study.stores([SIZE], "4KiB", 2, 4, seed),
    "page walks": lambda seed: page_walks.walk_rates(SIZE, (1, 2), 4, seed),
    "fault mutexes": lambda seed: fault_mutexes.pairs(4, seed),
    "validation": lambda seed: validation.measure_trials(CASE, validation.trials(2), 4, seed),
    "benchmarks": bench,
}
ONE_RUN = {
    "run": lambda seed: measure_case(CASE, [1], Protocol(least=1, most=1)),
    "knobs": lambda seed: knobs.traced(CASE, 2),
    "zone lock": lambda seed: freeing.zone_lock(SIZE, [{}], 2, 1, 1, seed),
}


@pytest.mark.parametrize("call", CALLERS.values(), ids=CALLERS)
def test_the_order_of_every_caller_follows_its_seed(call, machine):
    orders = []
    for seed in (1, 1, 2):
        machine.calls.clear()
        call(seed)
        orders.append(list(machine.calls))
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])


@pytest.mark.parametrize("fails_at", [1, 4])
@pytest.mark.parametrize("call", (CALLERS | ONE_RUN).values(), ids=CALLERS | ONE_RUN)
def test_no_caller_takes_an_error_for_a_number(call, fails_at, machine):
    machine.fails_at = 1 if call is ONE_RUN["knobs"] else fails_at
    with pytest.raises((CheckError, OSError), match="Cannot allocate memory"):
        call(1)
    assert len(machine.calls) == machine.fails_at


@pytest.mark.parametrize("call", (CALLERS | ONE_RUN).values(), ids=CALLERS | ONE_RUN)
def test_every_caller_checks_the_work(call, machine, monkeypatch):
    def missing(self):
        raise CheckError("3 pages still hold data")

    for state in (Toy, fault_mutexes.Pair):
        monkeypatch.setattr(state, "check", missing)
    with pytest.raises(CheckError, match="3 pages still hold data"):
        call(1)
    assert len(machine.calls) == 1


def test_a_knob_for_the_chunk_keeps_the_options_of_its_case(machine, monkeypatch):
    drawn = []
    traced = knobs.traced
    monkeypatch.setattr(knobs, "traced", lambda case, threads: drawn.append(case) or traced(case, threads))
    knobs.chunk_sizes(Case("toy", "a", "4KiB", 1 << 20, options=(("pages", "file"),)), 2)
    assert {case.options for case in drawn} == {(("pages", "file"),)}


def test_a_repetition_starts_from_the_control_block_of_its_case():
    state = Toy(CASE)
    first, calls = state.ctl, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(core.engine, "run", lambda *a, **_: calls.append(a[2]) or Result())
        core.repeat(state, 2, "dynamic", 7)
        core.repeat(state, 1)
    assert [(ctl.max_threads, ctl.min_chunk_size) for ctl in calls] == [(2, 7), (1, 2)]
    assert (first.max_threads, first.min_chunk_size) == (0, 2)


@pytest.mark.parametrize(
    ("busy", "kept", "load"), [((3, 4), [0, 1, 2, 5, 6, 7], 0.0), (range(7), [0, 1, 2, 3, 7], 0.5)]
)
def test_rounds_beside_which_others_ran_are_left_out_if_enough_remain(busy, kept, load, monkeypatch):
    """Round k is busy if others use half of the two CPUs in it; five remain in any case."""
    number = iter(range(100))

    def change(before, after):
        return {"capacity_s": 2.0, "other_s": 1.0 if before in busy else 0.0}

    monkeypatch.setattr(core, "sample_state", lambda: next(number))
    monkeypatch.setattr(core, "state_change", change)
    values = iter(range(-2, 8))
    found, most = core.quiet_rounds({"a": lambda: next(values)}, 8)
    assert found["a"].tolist() == kept
    assert most == load
