"""`ktask simulate`: the engine's policies on a machine that is not here."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ktask.cli.base import AsJson, Base, emit, thread_counts, whole_number
from ktask.common.units import fmt_number, fmt_rate, fmt_size, fmt_time

if TYPE_CHECKING:
    from ktask.cli.tables import Part


EXAMPLES = (
    "ktask simulate xeon-e7-8895v3 --size 100GiB --memory one-node      # as published in 2017",
    "ktask simulate mine.yaml --work zeroing-populate-THP --size 1TiB --threads 1,64,288 --json",
    "ktask simulate mine.yaml --size 64GiB --memory one-node --load 16 --policy padata-cur",
    "ktask simulate mine.yaml --calibrate data/sample      # writes mine.yaml from a run",
    "ktask simulate --contention      # published: helpers at nice 19, and hand-over",
)


def simulate(
    machine: Annotated[
        str | None, typer.Argument(help="A description (YAML), or one that comes with the project.")
    ] = None,
    work: Annotated[str | None, typer.Option(help="Kind of work in the description.")] = None,
    size: Annotated[str, typer.Option(help="Memory that the task covers.")] = "64GiB",
    threads: Annotated[
        str | None, typer.Option(help="Caps on the threads, by commas; 1, 2, 4 and so on by default.")
    ] = None,
    policy: Annotated[str, typer.Option(help="Rule for threads and chunks.")] = "ktask-v4",
    min_chunk: Annotated[str, typer.Option(help="The least that a helper is started for.")] = "2MiB",
    memory: Annotated[
        str, typer.Option(help="Where the memory lies: parts (one per node), one-node or interleaved.")
    ] = "parts",
    load: Annotated[
        int,
        typer.Option(
            help="Other threads at nice 0 that never end, instead of any load described.",
            parser=whole_number,
            metavar="INT",
        ),
    ] = 0,
    calibrate: Annotated[
        str | None, typer.Option(metavar="RUN", help="Write the description from this run instead.")
    ] = None,
    contention: Annotated[
        bool, typer.Option("--contention", help="Compare the simulator with the published contention tables.")
    ] = False,
    base: Base = None,
    as_json: AsJson = False,
) -> None:
    """Run the engine's policies on a machine that is not here.

    Prints the time of a task over its threads; with load, also what that loses. How a machine is described
    stands in docs/simulator.md.
    """
    if calibrate is not None:
        from ktask.common.resources import runs_folder  # noqa: PLC0415
        from ktask.lab.runs import find_run  # noqa: PLC0415

        _calibrate(find_run(calibrate, runs_folder(base)), machine, as_json)
        return
    if contention:
        from ktask.models.simulation import contention as tables  # noqa: PLC0415

        emit(tables.result(), as_json, render_contention)
        return
    from ktask.common.units import parse_size  # noqa: PLC0415
    from ktask.models.simulation import what_if  # noqa: PLC0415
    from ktask.models.simulation.machines import load_machine, shipped  # noqa: PLC0415

    if machine is None:
        raise ValueError(f"no machine given; name a YAML file, or one of {', '.join(shipped())}")
    result = what_if.curve(
        load_machine(machine),
        parse_size(size),
        work=work,
        threads=thread_counts(threads) if threads else None,
        policy_name=policy,
        min_chunk=parse_size(min_chunk),
        memory=memory,
        load_threads=load,
    )
    emit(result, as_json, render)


def _calibrate(path: Path, out: str | None, as_json: bool) -> None:
    from ktask.lab.records import load_run  # noqa: PLC0415
    from ktask.models.simulation.calibrate import calibrate  # noqa: PLC0415
    from ktask.models.simulation.machines import write_machine  # noqa: PLC0415

    target = Path(out or f"{path.resolve().name}.yaml")
    if target.exists():
        raise ValueError(f"{target} exists; remove it, or name another file")
    described = calibrate(load_run(path))
    write_machine(described, target)
    emit({"machine": str(target), "work": list(described.work)}, as_json, lambda value: [value["machine"]])


# --- as text ------------------------------------------------------------------------------------------------


def render(result: dict[str, Any]) -> Iterator[Part]:
    """Yield a simulated curve: a row per number of threads."""
    from ktask.cli.tables import table  # noqa: PLC0415

    work = f", {result['work']}" if result["work"] else ""
    yield f"{result['machine']}{work}: {fmt_size(result['size_bytes'])}, {result['policy']}\n"
    loaded = any("load_loss_pct" in row for row in result["curve"])
    head = ("threads", "chunks", "chunk", "time", "5 to 95 %", "rate", "speedup")
    yield table((*head, *(["load loses"] if loaded else [])), map(_curve_row, result["curve"]), left=())


def _curve_row(row: dict[str, Any]) -> tuple[str, ...]:
    has_spread = row["high_s"] > row["low_s"]
    spread = f"{fmt_time(row['low_s'])} – {fmt_time(row['high_s'])}" if has_spread else "–"
    counts = str(row["threads"]), str(row["n_chunks"]), fmt_size(row["chunk_size"])
    rate = fmt_rate(row["rate"], "byte"), fmt_number(row["speedup"])
    lost = [f"{row['load_loss_pct']:.1f} %"] if "load_loss_pct" in row else []
    return *counts, fmt_time(row["wall_s"]), spread, *rate, *lost


RESTS_ON = {
    "alone": "where task and load were published alone",
    "scaled": "where those of other sizes and machines are scaled",
    "stands in": "where one contended row says how much work there is",
}


def render_contention(result: dict[str, Any]) -> Iterator[Part]:
    """Yield the published contention tables beside the simulator's, and how many times are alike."""
    from ktask.cli.tables import table  # noqa: PLC0415

    head = ("case", "of", "threads", "published", "± sd", "simulated", "error", "variant")
    yield table(head, map(_contention_row, result["rows"]), left=(0, 1, 7))
    score = result["score"]
    yield (
        f"{score['within_15_pct']} of {score['n']} times within 15 %, median error "
        f"{score['median_ape_pct']:.1f} %, largest {score['max_ape_pct']:.1f} %; "
        "case/n: beside n threads of load"
    )
    for name, about in RESTS_ON.items():
        part = score["by_rests_on"][name]
        yield f"  {part['within_15_pct']} of {part['n']} {about}"
    yield "± sd: as published; in case 3 a spread whose kind is not defined"


def _contention_row(row: dict[str, Any]) -> tuple[str, ...]:
    handed = {"yes": ", handed over", "no": ", not handed over"}.get(row["renice"], "")
    return (
        row["setting"],
        row["kind"],
        "–" if row["kernel_threads"] is None else f"{row['kernel_threads']:.0f}",
        fmt_time(row["published_s"]),
        "–" if row["spread_pct"] is None else f"{row['spread_pct']:.1f} %",
        fmt_time(row["simulated_s"]),
        "fit" if row["calibrated_on"] else f"{row['error_pct']:+.1f} %",
        row["variant"] + ("" if "handover" in row["variant"] else handed),
    )
