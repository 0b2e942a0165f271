"""`ktask sweep`: a grid, each cell in a fresh process."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ktask.cli.base import FOUND, INTERRUPTED, AsJson, Base, emit, fail, whole_number
from ktask.cli.case_options import Cpus, Placement
from ktask.common.units import fmt_size, fmt_time

if TYPE_CHECKING:
    from pathlib import Path

    from ktask.cli.tables import Part
    from ktask.lab.sweep.estimate import CellEstimate
    from ktask.lab.sweep.grid import Grid


SWITCH = {"auto": True, "off": False}
EXAMPLES = (
    "ktask sweep quick",
    "ktask sweep full --dry-run",
    "ktask sweep full --run night",
    "ktask sweep quick --evidence off --bystanders off",
    "ktask sweep full --run night --resume",
    "ktask sweep full --run night --resume --passes 9",
    "ktask sweep quick --placement siblings --cpus 0-15",
    "ktask sweep quick --scheduler tcp://127.0.0.1:8786",
)


def sweep(
    grid: Annotated[
        str, typer.Argument(help="quick, full, tiny, a study (free, policies, ...), or a YAML file.")
    ] = "quick",
    run: Annotated[
        str | None, typer.Option("--run", help="Name of the run; date and grid by default.")
    ] = None,
    passes: Annotated[
        int | None,
        typer.Option(
            help="Times to measure the grid, each cell in a fresh process. By default what the grid says, "
            "with --resume what the run has; give more to add some.",
            parser=whole_number,
            metavar="INT",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Measure only what the run still lacks.")] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="With --resume: measure what failed once more.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Estimate time and memory; measure nothing.")
    ] = False,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler", metavar="ADDR", help="Measure on every host of this Dask cluster: tcp://host:8786."
        ),
    ] = None,
    evidence: Annotated[
        str,
        typer.Option(
            metavar="auto|off",
            help="auto: perf looks at untimed repetitions of each case, where it may, in a quarter of the "
            "time at most.",
        ),
    ] = "auto",
    bystanders: Annotated[
        str,
        typer.Option(
            metavar="auto|off",
            help="auto: neighbours measure what others wait for beside untimed repetitions of each path, in "
            "two seconds of a pass, or as many as the grid says.",
        ),
    ] = "auto",
    placement: Placement = None,
    cpus: Cpus = None,
    base: Base = None,
    as_json: AsJson = False,
) -> None:
    """Measure a grid by papermill, each cell in a fresh process; print the directory of the run.

    The grid is measured in several passes: the first gives ranges, and each further one narrows them.
    Whatever stops it (Ctrl-C, kill -9, a full disk, a reboot), `--resume` goes on without losing a cell. A
    cell that dies, hangs or runs out of memory is kept with the reason, and the sweep goes on.
    """
    from ktask.common.resources import runs_folder  # noqa: PLC0415
    from ktask.lab.measure.measurement import check_passes  # noqa: PLC0415
    from ktask.lab.sweep import grid as grids  # noqa: PLC0415
    from ktask.lab.sweep import sweep as sweeps  # noqa: PLC0415

    check_passes(passes)
    switches = {
        name: _switched(name, text) for name, text in (("evidence", evidence), ("bystanders", bystanders))
    }
    if scheduler is not None and (placement or cpus):
        raise ValueError("--placement and --cpus are for this machine; in a grid they hold for each host")
    _require(placement, cpus)
    loaded, root = grids.load_grid(grid, placement=placement, cpus=cpus), runs_folder(base)
    if dry_run:
        _emit_estimate(replace(loaded, passes=passes or loaded.passes), root, as_json, switches)
        return
    if retry and not resume:
        raise ValueError("--retry needs --resume, and the --run whose failed cells to measure once more")
    run = run or sweeps.new_run_name(loaded)
    given = {"--scheduler": scheduler, "--placement": placement, "--cpus": cpus, "--dir": base}
    given |= {f"--{name}": None if is_on else "off" for name, is_on in switches.items()}
    how: dict[str, Any] = {"passes": passes, "resume": resume, "retry": retry, "root": root, **switches}
    where = "".join(f" {option} {value}" for option, value in given.items() if value)
    again = f"`ktask sweep {grid} --run {run} --resume{where}`"
    try:
        if scheduler is not None:
            from ktask.lab.sweep.cluster import sweep_cluster  # noqa: PLC0415

            paths = sweep_cluster(scheduler, grid, run, **how)
        else:
            paths = [sweeps.sweep(loaded, run, **how)]
    except KeyboardInterrupt:
        fail(f"interrupted; the cells done so far are kept, go on with {again}", INTERRUPTED)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        disk = error.filename or root
        fail(
            f"the disk is full ({disk}); the cells done so far are kept, make room and go on with {again}",
            FOUND,
        )
    for path in paths:
        sys.stderr.write((f"{path.name}: " if scheduler else "") + sweeps.summary(path) + "\n")
    runs = [str(path) for path in paths]
    emit({"run": runs[0], "runs": runs} if scheduler else {"run": runs[0]}, as_json, lambda _: runs)


def _switched(name: str, text: str) -> bool:
    """Return whether "auto" was said and not "off"; ValueError for anything else."""
    if text not in SWITCH:
        raise ValueError(f"{name}={text!r} is not allowed; use {' or '.join(SWITCH)}")
    return SWITCH[text]


def _require(placement: str | None, cpus: str | None) -> None:
    """Refuse CPUs that this process cannot have, and a placement that cannot be on them."""
    from ktask.engine import cpu_order  # noqa: PLC0415
    from ktask.host.topology import narrowed_to, read_topology  # noqa: PLC0415

    with narrowed_to(cpus):
        if placement:
            cpu_order.require(read_topology(), placement)


def _emit_estimate(grid: Grid, root: Path, as_json: bool, switches: dict[str, bool]) -> None:
    from ktask.lab.runs import list_runs  # noqa: PLC0415
    from ktask.lab.sweep import estimate  # noqa: PLC0415

    earlier = sorted(list_runs(root), key=lambda run: (run / "machine.json").stat().st_mtime)[-5:]
    cells = estimate.estimate_sweep(grid, [estimate.SAMPLE, *earlier])
    total = estimate.to_json(grid, cells, **switches)
    emit(total, as_json, lambda total: render_estimate(grid, cells, total))


def render_estimate(grid: Grid, cells: Sequence[CellEstimate], total: dict[str, Any]) -> Iterator[Part]:
    """Yield an estimate: a row per kind of work, what would be skipped, and the sum."""
    from ktask.cli.tables import table  # noqa: PLC0415

    kinds: dict[tuple[str, ...], list[CellEstimate]] = {}
    for cell in cells:
        kinds.setdefault((cell.case.workload, cell.case.method, cell.case.page_kind), []).append(cell)
    rows = [_kind_row(kind, found) for kind, found in kinds.items()]
    yield table(("work", "cells", "sizes", "time", "memory"), rows, left=(0, 2))
    skipped = [f"  {cell['cell_id']}: {cell['skipped']}" for cell in total["cells"] if cell["skipped"]]
    if skipped:
        yield f"\n{len(skipped)} cells would be skipped:"
        yield from skipped
    threads, memory = ", ".join(map(str, grid.threads)), fmt_size(total["memory_bytes"])
    more = " and some around the knee of each" if grid.refined and grid.threads[-1] > 2 else ""
    extra = [f"{_duration(total[f'{name}_s'])} of it for {name}" for name in switches_of(total)]
    looks = f" ({', '.join(extra)})" if extra else ""
    yield (
        f"\ngrid {grid.name}: {len(cells) - len(skipped)} cells at {threads} threads{more}, "
        f"{grid.passes} pass{'es' * (grid.passes > 1)}, about "
        f"{_duration(total['time_s'])}{looks}, up to {memory} of memory; nothing measured"
    )


def switches_of(total: dict[str, Any]) -> list[str]:
    """Return for what an estimate has time beside the cells."""
    return [name for name in ("evidence", "bystanders") if total[f"{name}_s"]]


def _kind_row(kind: tuple[str, ...], cells: Sequence[CellEstimate]) -> tuple[str, ...]:
    measured = [cell for cell in cells if cell.skipped is None]
    sizes = list(map(fmt_size, sorted(cell.case.size_bytes for cell in cells)))
    span = sizes[0] if len(set(sizes)) == 1 else f"{sizes[0]} to {sizes[-1]}"
    memory = fmt_size(max(cell.memory_bytes for cell in measured)) if measured else "-"
    took = _duration(sum(cell.time_s for cell in measured)) if measured else "skipped"
    return " ".join(kind), str(len(cells)), span, took, memory


def _duration(time_s: float) -> str:
    if time_s < 60:
        return fmt_time(time_s)
    minutes = time_s / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
