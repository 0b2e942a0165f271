"""`ktask run`: one case against its one-thread baseline."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ktask.cli.base import FOUND, AsJson, emit, fail, whole_number
from ktask.cli.case_options import (
    Backend,
    Cpus,
    Load,
    Method,
    MinChunk,
    Nice,
    PageSize,
    Placement,
    Policy,
    Quota,
    Settings,
    Size,
    Threads,
    Workload,
    case_of,
    thread_count,
)
from ktask.common.units import fmt_number, fmt_rate, fmt_size, fmt_time

if TYPE_CHECKING:
    from ktask.cli.tables import Part
    from ktask.engine.task import Result

NO_LOCKS = "\nLocks could not be seen: that takes Linux 5.19 and tracefs readable, as root has it."
INSTEAD = "\nInstead, as a proxy: how long threads slept or had no CPU, and in which function of the kernel."
LEAST_SHARE = 0.0005  # what rounds to 0.0 % is not shown

EXAMPLES = (
    "ktask run zeroing --size 1GiB --threads 2",
    "ktask run zeroing --size 256MiB --passes 9",
    "ktask run page_walk --method pagemap --size 16GiB --json",
    "ktask run page_walk --method pagemap --set pages=memory --threads 2",
    "ktask run zeroing --size 1GiB --threads 2 --set node=1 --placement siblings --cpus 0-15,32",
    "ktask run protect --page-size 4KiB --size 256MiB --threads 2 --evidence",
    "ktask run zeroing --page-size 4KiB --size 1GiB --threads 2 --load spin:all --nice 19",
    "ktask run zeroing --size 1GiB --threads 2 --load memory:2 --quota 150%",
    "ktask run zeroing --page-size 4KiB --size 256MiB --threads 2 --bystanders",
    "ktask run free --page-size 4KiB --size 2GiB --min-chunk 32MiB --trace free.csv",
)


def run(
    workload: Workload,
    size: Size = "1GiB",
    threads: Threads = None,
    page_size: PageSize = None,
    method: Method = None,
    backend: Backend = None,
    settings: Settings = None,
    policy: Policy = "ktask-v4",
    min_chunk: MinChunk = "2MiB",
    placement: Placement = None,
    load: Load = None,
    quota: Quota = None,
    nice: Nice = None,
    cpus: Cpus = None,
    repetitions: Annotated[
        int, typer.Option(help="Rounds; each runs every variant once.", parser=whole_number, metavar="INT")
    ] = 7,
    passes: Annotated[
        int,
        typer.Option(
            help="Fresh processes that measure it; the interval comes from how they differ.",
            parser=whole_number,
            metavar="INT",
        ),
    ] = 3,
    trace: Annotated[
        Path | None,
        typer.Option(help="Write the chunks of one more run to .csv, .json (Perfetto), .svg or .png."),
    ] = None,
    evidence: Annotated[
        bool,
        typer.Option("--evidence", help="Show why it is not more: kernel functions and locks, seen by perf."),
    ] = False,
    bystanders: Annotated[
        bool,
        typer.Option(
            "--bystanders",
            help="Show what others wait for meanwhile: page faults and mappings of the same process, page "
            "faults, wake-ups and cached reads of another.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure one case against its one-thread baseline, in several fresh processes.

    Exit 1 if this machine cannot do it, with the reason.
    """
    from ktask.host.topology import narrowed_to  # noqa: PLC0415
    from ktask.lab.measure.measurement import Protocol, check_passes  # noqa: PLC0415
    from ktask.lab.measure.processes import measure_processes  # noqa: PLC0415
    from ktask.memory.region import UnavailableError  # noqa: PLC0415
    from ktask.workloads import CheckError  # noqa: PLC0415

    check_passes(passes)
    _check(repetitions, trace)
    rules = Protocol(least=repetitions, most=repetitions)
    how: dict[str, Any] = {"trace": trace is not None, "chunked": evidence, "evidence": evidence}
    how |= {"bystanders": bystanders, "quiet": not sys.stderr.isatty()}
    with narrowed_to(cpus):
        case = case_of(
            workload,
            method,
            size=size,
            page_size=page_size,
            backend=backend,
            min_chunk=min_chunk,
            policy=policy,
            placement=placement,
            settings=settings,
            load=load,
            quota=quota,
            nice=nice,
        )
        threads = thread_count(threads)
        try:
            found = measure_processes(case, [threads], rules, passes, **how)
        except UnavailableError as error:
            emit({"skipped": str(error)}, as_json, render)
            raise typer.Exit(FOUND) from None
        except CheckError as error:
            fail(f"no result, the work was not done as it should: {error}", FOUND)
    if trace and found.traced:
        _write(found.traced, trace)
    emit(found.as_dict(threads), as_json, render)


def _check(repetitions: int, trace: Path | None) -> None:
    """Raise ValueError on what is not allowed."""
    if repetitions < 1:
        raise ValueError(f"repetitions={repetitions} is not allowed; use 1 or more")
    if trace is not None and not trace.parent.is_dir():
        raise ValueError(f"trace file {trace} cannot be written: {trace.parent} is not a directory")


def _write(traced: Result, path: Path) -> None:
    """Write a trace in the form that the name of its file asks for."""
    from ktask.engine.trace import write_chrome, write_csv, write_figure  # noqa: PLC0415

    forms = {".json": write_chrome, ".svg": write_figure, ".png": write_figure}
    forms.get(path.suffix, write_csv)(traced, path)


def render(result: dict[str, Any]) -> Iterator[Part]:
    """Yield a result as text: what was measured, a table of its figures, and warnings."""
    from ktask.cli.tables import table  # noqa: PLC0415
    from ktask.lab.measure.measurement import cold_note  # noqa: PLC0415

    if "skipped" in result:
        yield f"skipped: {result['skipped']}"
        return
    size = fmt_size(result["size_bytes"])
    yield f"{result['workload']} {result['method']}, {size} of {result['page_size']} pages"
    n_chunks = result["n_chunks"]
    chunks = f"{n_chunks} chunk{'s' * (n_chunks != 1)} of {fmt_size(result['chunk_size'])}"
    yield f"{chunks}, {result['policy']}\n"
    if result["threads_note"]:
        yield f"{result['threads_note']}\n"
    threads = "again" if result["threads"] == 1 else f"{result['threads']} threads"
    rows = [
        ("1 thread", *_figures(result["baseline_wall_s"], fmt_time)),
        (threads, *_figures(result["wall_s"], fmt_time)),
        ("rate", *_figures(result["rate"], lambda value: fmt_rate(value, result["unit"]))),
        ("speedup", *_figures(result["speedup"], fmt_number)),
    ]
    passes = len(result["passes"])
    interval = "95 % interval" if passes > 1 else "range in this process"
    yield table(("", "median", interval, "best", "n"), rows)
    yield f"\n{_conclusion(result, passes)}"
    yield from _conditions(result["conditions"], result["threads"])
    if "above_threads" in result["flags"]:
        from ktask.lab.measure.flags import ABOVE_THREADS  # noqa: PLC0415

        yield f"\nabove_threads: the speedup is {ABOVE_THREADS}"
    if flags := {name: n for name, n in result["flags"].items() if name != "above_threads"}:
        yield f"\nwarnings: {', '.join(f'{name} ({n} repetitions)' for name, n in flags.items())}"
    for line in result["kernel_log"]:
        yield f"\nkernel log: {line}"
    for name, found in result["states"].items():
        yield f"\n{name}: {found['text']}"
    if result["cold"]:
        yield f"\n{cold_note(threads, result['cold'])}"
    if "evidence" in result:
        yield from _evidence(result["evidence"], result["threads"])
    if "bystanders" in result:
        yield from _bystanders(result["bystanders"], result["threads"])


def _conditions(found: dict[str, Any], threads: int) -> Iterator[Part]:
    """Yield what was found of the conditions with one thread and with several; nothing without them."""
    from ktask.workloads.conditions import parse_load  # noqa: PLC0415

    if load := parse_load(found["load"]):
        form = partial(fmt_rate, unit=load.unit)
        rates = found["load_rate"]
        parts = [f"{form(found['load_alone_rate'])} alone", f"{form(rates['serial'])} beside 1 thread"]
        parts += [f"{form(rates['threads'])} beside {threads}"] * (threads > 1)
        yield f"\nload {found['load']}: {', '.join(parts)}"
    if "throttled_s" in found:
        one, several = (fmt_time(found["throttled_s"][side]) for side in ("serial", "threads"))
        parts = [f"1 thread stopped for {one}"] + [f"{threads} for {several}"] * (threads > 1)
        yield f"\nquota {found['quota']}: {', '.join(parts)} of CPU time in the median"
    if "huge_share" in found:
        one, several = (f"{found['huge_share'][side]:.0%}" for side in ("serial", "threads"))
        parts = [f"{one} with 1 thread"] + [f"{several} with {threads}"] * (threads > 1)
        yield f"\ncame as huge pages: {', '.join(parts)} in the median"


def _evidence(seen: dict[str, Any], threads: int) -> Iterator[Part]:
    """Yield why it is not as many times as fast: the stack, the functions and the locks."""
    from ktask.cli.tables import table  # noqa: PLC0415

    if seen["skipped"]:
        yield f"\nno evidence on why it is not more: {seen['skipped']}"
        return
    yield f"\nWhere the time of {threads} threads goes, in untimed repetitions:\n"
    parts = [(name, f"{share:.1%}") for name, share in seen["stack"].items() if abs(share) >= LEAST_SHARE]
    yield table(("part", "of thread time"), parts)
    yield ""
    rows = [
        (one["function"], *(f"{one[name]:.1%}" for name in ("share_serial", "share_threads")))
        for one in seen["functions"]
    ]
    yield table(("kernel function", "of CPU time, 1 thread", f"{threads} threads"), rows)
    locks = [
        (*(one[name] for name in ("lock", "kind", "site")), fmt_time(one["wait_s"]), str(one["count"] or "–"))
        for one in seen["locks"]
    ]
    if not seen["sees_locks"]:
        yield NO_LOCKS + INSTEAD * bool(locks)
    yield "" if locks or not seen["sees_locks"] else "\nNo thread waited for a lock."
    if locks:
        yield table(
            ("lock", "kind", "taken in", "waited, all threads", "times in all"), locks, left=(0, 1, 2)
        )


def _bystanders(found: dict[str, Any], threads: int) -> Iterator[Part]:
    """Yield what others wait for beside the serial call and the threads."""
    from ktask.cli.tables import table  # noqa: PLC0415
    from ktask.lab.bystanders.summary import text_of  # noqa: PLC0415  (pandas is there by now)

    if found["skipped"]:
        yield f"\nno bystanders: {found['skipped']}"
        return
    yield "\nWhat others wait for meanwhile, median and 99th percentile, beside untimed repetitions:\n"
    heads = ("neighbour", "idle", "serial call", f"{threads} threads", "longest", "p99 against serial", "n")
    yield table(heads, [text_of(one) for one in found["probes"]])


def _conclusion(result: dict[str, Any], passes: int) -> str:
    """Say what is known, and what would make it known."""
    if passes == 1:
        return "undecided: one process says nothing about the next; use --passes 3 or more"
    spread = f"processes differ by {result['between_processes_pct']:.1f} %"
    more = "; more --passes narrow the interval" if result["verdict"] == "undecided" else ""
    return f"{result['verdict']} ({passes} processes, {spread}){more}"


def _figures(estimate: dict[str, Any], form: Callable[[float], str]) -> tuple[str, ...]:
    """Return an estimate as cells: median, interval, best and count."""
    median, best = (form(estimate[key]) if estimate["n"] else "–" for key in ("median", "best"))
    known = estimate["low"] is not None
    interval = f"{form(estimate['low'])} – {form(estimate['high'])}" if known else "–"
    return median, interval, best, str(estimate["n"])
