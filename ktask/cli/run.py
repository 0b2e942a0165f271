"""`ktask run`: one case against its one-thread baseline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ktask.cli.base import FOUND, AsJson, emit, fail, whole_number
from ktask.cli.workload_names import option_names, workload_names
from ktask.common.units import fmt_number, fmt_rate, fmt_size, fmt_time

if TYPE_CHECKING:
    from ktask.cli.tables import Part
    from ktask.engine.task import Result

NAMES = workload_names()
METHODS, OPTIONS = (
    "; ".join(f"{name}: {', '.join(texts)}" for name, texts in names.items())
    for names in (NAMES, option_names())
)


EXAMPLES = (
    "ktask run zeroing --size 1GiB --threads 2",
    "ktask run page_walk --method pagemap --size 16GiB --json",
    "ktask run page_walk --method pagemap --set pages=memory --threads 2",
    "ktask run free --page-size 4KiB --size 2GiB --min-chunk 32MiB --trace free.csv",
)


def run(
    workload: Annotated[str, typer.Argument(help=f"One of {', '.join(NAMES)}.")],
    size: Annotated[
        str, typer.Option(help="Memory to cover, such as 512MiB; bare numbers are bytes.")
    ] = "1GiB",
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads, the caller included; all CPUs by default.", parser=whole_number, metavar="INT"
        ),
    ] = None,
    page_size: Annotated[
        str | None, typer.Option(help="4KiB, THP, 2MiB or 1GiB; the last two need a hugetlb pool.")
    ] = None,
    method: Annotated[str | None, typer.Option(help=f"How to do the work. {METHODS}.")] = None,
    backend: Annotated[str | None, typer.Option(help="kernel or user; picks the first method of it.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help=f"An option of the method, by default none; may be given again. {OPTIONS}. A wrong value is "
            "answered by those allowed.",
        ),
    ] = None,
    policy: Annotated[str, typer.Option(help="Rule for threads and chunks.")] = "ktask-v4",
    min_chunk: Annotated[str, typer.Option(help="The least that a helper is started for.")] = "2MiB",
    repetitions: Annotated[
        int, typer.Option(help="Rounds; each runs every variant once.", parser=whole_number, metavar="INT")
    ] = 7,
    trace: Annotated[
        Path | None,
        typer.Option(help="Write the chunks of one more run to .csv, .json (Perfetto), .svg or .png."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure one case against its one-thread baseline.

    Exit 1 if this machine cannot do it, with the reason.
    """
    from ktask.lab.measure.cell import measure_case  # noqa: PLC0415
    from ktask.lab.measure.measurement import Protocol  # noqa: PLC0415
    from ktask.memory.region import UnavailableError  # noqa: PLC0415
    from ktask.workloads import Case, CheckError  # noqa: PLC0415

    options = dict(map(_setting, settings or ()))
    case = Case.of(
        workload,
        method,
        size=size,
        page_kind=page_size,
        backend=backend,
        min_chunk=min_chunk,
        policy=policy,
        options=options,
    )
    threads = _checked(threads, repetitions, trace)
    rules = Protocol(least=repetitions, most=repetitions)
    try:
        found = measure_case(case, [threads], rules, trace=trace is not None, chunked=False)
    except UnavailableError as error:
        emit({"skipped": str(error)}, as_json, render)
        raise typer.Exit(FOUND) from None
    except CheckError as error:
        fail(f"no result, the work was not done as it should: {error}", FOUND)
    if trace and found.traced:
        _write(found.traced, trace)
    emit(found.as_dict(threads), as_json, render)


def _checked(threads: int | None, repetitions: int, trace: Path | None) -> int:
    """Return how many threads to use; ValueError on what is not allowed."""
    from ktask.host import topology  # noqa: PLC0415

    most = topology.cpu_count()
    threads = most if threads is None else threads
    if not 1 <= threads <= most:
        raise ValueError(f"threads={threads} is not allowed; use 1 to {most}, the CPUs of this process")
    if repetitions < 1:
        raise ValueError(f"repetitions={repetitions} is not allowed; use 1 or more")
    if trace is not None and not trace.parent.is_dir():
        raise ValueError(f"trace file {trace} cannot be written: {trace.parent} is not a directory")
    return threads


def _write(traced: Result, path: Path) -> None:
    """Write a trace in the form that the name of its file asks for."""
    from ktask.engine.trace import write_chrome, write_csv, write_figure  # noqa: PLC0415

    forms = {".json": write_chrome, ".svg": write_figure, ".png": write_figure}
    forms.get(path.suffix, write_csv)(traced, path)


def _setting(text: str) -> tuple[str, str]:
    """Return name and value of a setting."""
    name, is_there, value = text.partition("=")
    if not is_there:
        raise ValueError(f"setting {text!r} is not understood; use name=value, such as layout=sparse")
    return name.strip(), value.strip()


def render(result: dict[str, Any]) -> Iterator[Part]:
    """Yield a result as text: what was measured, a table of its figures, and warnings."""
    from ktask.cli.tables import table  # noqa: PLC0415

    if "skipped" in result:
        yield f"skipped: {result['skipped']}"
        return
    size = fmt_size(result["size_bytes"])
    yield f"{result['workload']} {result['method']}, {size} of {result['page_size']} pages"
    n_chunks = result["n_chunks"]
    chunks = f"{n_chunks} chunk{'s' * (n_chunks != 1)} of {fmt_size(result['chunk_size'])}"
    yield f"{chunks}, {result['policy']}\n"
    threads = "again" if result["threads"] == 1 else f"{result['threads']} threads"
    rows = [
        ("1 thread", *_figures(result["baseline_wall_s"], fmt_time)),
        (threads, *_figures(result["wall_s"], fmt_time)),
        ("rate", *_figures(result["rate"], lambda value: fmt_rate(value, result["unit"]))),
        ("speedup", *_figures(result["speedup"], fmt_number)),
    ]
    yield table(("", "median", "95 % interval", "best", "n"), rows)
    if result["flags"]:
        flags = ", ".join(f"{name} ({n} repetitions)" for name, n in result["flags"].items())
        yield f"\nwarnings: {flags}"


def _figures(estimate: dict[str, Any], form: Callable[[float], str]) -> tuple[str, ...]:
    """Return an estimate as cells: median, interval, best and count."""
    median, best = (form(estimate[key]) if estimate["n"] else "–" for key in ("median", "best"))
    known = estimate["low"] is not None
    interval = f"{form(estimate['low'])} – {form(estimate['high'])}" if known else "–"
    return median, interval, best, str(estimate["n"])
