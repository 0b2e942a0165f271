"""The command line: a thin layer over the Python calls."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from ktask.cli.workload_names import option_names, workload_names
from ktask.common.units import fmt_number, fmt_rate, fmt_size, fmt_time
from ktask.lab.sweep.warm_process import keep_from_threads

OK, FOUND, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    help="Would multithreading the kernel's big memory paths pay on this machine?",
    epilog="Start with `ktask doctor`, then `ktask run zeroing --size 1GiB --threads 2`, then `make report`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

NAMES = workload_names()
METHODS, OPTIONS = (
    "; ".join(f"{name}: {', '.join(texts)}" for name, texts in names.items())
    for names in (NAMES, option_names())
)
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]


def _examples(*lines: str) -> str:
    """Return an epilog that keeps its line breaks."""
    return "Examples:\n\n\b\n" + "\n".join(f"  {line}" for line in lines)


def _whole(text: str | int) -> int:
    """Return a whole number; the message of typer's own would not name the value."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not allowed; use a whole number") from None


def _print(text: str) -> None:
    sys.stdout.write(text.rstrip("\n") + "\n")


def _tell(text: str) -> None:
    sys.stderr.write(f"report: {text} ...\n")


def _emit(value: Any, as_json: bool, render: Callable[[Any], str]) -> None:
    _print(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) if as_json else render(value))


@app.command(epilog=_examples("ktask doctor", "ktask doctor --json"))
def doctor(as_json: AsJson = False) -> None:
    """Tell what this machine can do and what would spoil a measurement; change nothing.

    Each finding comes with its remedy. Exit 1 only if something makes measuring impossible.
    """
    from ktask.host import doctor as checks  # noqa: PLC0415
    from ktask.memory.address_space import no_scan  # noqa: PLC0415

    findings = checks.diagnose(pagemap_scan=lambda: no_scan() is None)
    _emit(checks.to_json(findings), as_json, lambda _: checks.render(findings))
    raise typer.Exit(checks.exit_code(findings))


@app.command(
    epilog=_examples(
        "ktask run zeroing --size 1GiB --threads 2",
        "ktask run page_walk --method pagemap --size 16GiB --json",
        "ktask run page_walk --method pagemap --set pages=memory --threads 2",
        "ktask run free --page-size 4KiB --size 2GiB --min-chunk 32MiB --trace free.csv",
    )
)
def run(
    workload: Annotated[str, typer.Argument(help=f"One of {', '.join(NAMES)}.")],
    size: Annotated[
        str, typer.Option(help="Memory to cover, such as 512MiB; bare numbers are bytes.")
    ] = "1GiB",
    threads: Annotated[
        int | None,
        typer.Option(help="Threads, the caller included; all CPUs by default.", parser=_whole, metavar="INT"),
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
        int, typer.Option(help="Rounds; each runs every variant once.", parser=_whole, metavar="INT")
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
    from ktask.lab.measure import one_case  # noqa: PLC0415
    from ktask.workloads import CheckError  # noqa: PLC0415

    case = one_case.choose(workload, backend, method, page_size, size, min_chunk, policy, settings or ())
    try:
        result = one_case.run_one(case, threads, repetitions, trace)
    except CheckError as error:
        _fail(f"no result, the work was not done as it should: {error}", FOUND)
    _emit(result, as_json, _render_run)
    raise typer.Exit(FOUND if "skipped" in result else OK)


def _render_run(result: dict[str, Any]) -> str:
    if "skipped" in result:
        return f"skipped: {result['skipped']}"
    size = fmt_size(result["size_bytes"])
    what = f"{result['workload']} {result['method']}, {size} of {result['page_size']} pages"
    rows = [
        ("1 thread", result["baseline_wall_s"], fmt_time),
        ("again" if result["threads"] == 1 else f"{result['threads']} threads", result["wall_s"], fmt_time),
        ("rate", result["rate"], lambda value: fmt_rate(value, result["unit"])),
        ("speedup", result["speedup"], fmt_number),
    ]
    lines = [what, f"{result['n_chunks']} chunks of {fmt_size(result['chunk_size'])}, {result['policy']}", ""]
    lines.append(f"{'':12} {'median':>12} {'95 % interval':>27} {'best':>12} {'n':>4}")
    for name, e, form in rows:
        interval = f"{form(e['low'])} – {form(e['high'])}" if e["low"] is not None else "–"
        median, best = (form(e[key]) if e["n"] else "–" for key in ("median", "best"))
        lines.append(f"{name:12} {median:>12} {interval:>27} {best:>12} {e['n']:>4}")
    if result["flags"]:
        lines += ["", "warnings: " + ", ".join(f"{k} ({v} repetitions)" for k, v in result["flags"].items())]
    return "\n".join(lines)


@app.command(
    epilog=_examples(
        "ktask sweep quick",
        "ktask sweep full --dry-run",
        "ktask sweep full --run night",
        "ktask sweep full --run night --resume",
        "ktask sweep quick --scheduler tcp://127.0.0.1:8786",
    )
)
def sweep(
    grid: Annotated[
        str, typer.Argument(help="quick, full, tiny, a study (free, policies, ...), or a YAML file.")
    ] = "quick",
    run: Annotated[
        str | None, typer.Option("--run", help="Name of the run; date and grid by default.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Measure only what the run still lacks.")] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="With --resume: measure what failed once more.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Tell what it would take, and measure nothing.")
    ] = False,
    scheduler: Annotated[
        str | None,
        typer.Option(
            "--scheduler", metavar="ADDR", help="Measure on every host of this Dask cluster: tcp://host:8786."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a grid by papermill, each cell in a fresh process; print the directory of the run.

    Whatever stops it (Ctrl-C, kill -9, a full disk, a reboot), `--resume` goes on without losing a cell. A
    cell that dies, hangs or runs out of memory is kept with the reason, and the sweep goes on.
    """
    from ktask.lab.sweep import grid as grids  # noqa: PLC0415
    from ktask.lab.sweep import sweep as sweeps  # noqa: PLC0415

    loaded = grids.load_grid(grid)
    if dry_run:
        _emit_estimate(loaded, as_json)
        return
    if retry and not resume:
        raise ValueError("--retry needs --resume, and the --run whose failed cells to measure once more")
    run = run or sweeps.new_run_name(loaded)
    where = f" --scheduler {scheduler}" if scheduler else ""
    again = f"`ktask sweep {grid} --run {run} --resume{where}`"
    try:
        if scheduler:
            from ktask.lab.sweep.cluster import sweep_cluster  # noqa: PLC0415

            paths = sweep_cluster(scheduler, grid, run, resume=resume, retry=retry)
        else:
            paths = [sweeps.sweep(loaded, run, resume=resume, retry=retry)]
    except KeyboardInterrupt:
        _fail(f"interrupted; the cells done so far are kept, go on with {again}", INTERRUPTED)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        disk = error.filename or sweeps.RUNS
        _fail(
            f"the disk is full ({disk}); the cells done so far are kept, make room and go on with {again}",
            FOUND,
        )
    for path in paths:
        sys.stderr.write((f"{path.name}: " if scheduler else "") + sweeps.summary(path) + "\n")
    runs = [str(path) for path in paths]
    _emit(
        {"run": runs[0], "runs": runs} if scheduler else {"run": runs[0]}, as_json, lambda _: "\n".join(runs)
    )


def _emit_estimate(grid: Any, as_json: bool) -> None:
    from ktask.lab.sweep import estimate, sweep  # noqa: PLC0415

    earlier = sorted(sweep.RUNS.glob("*/machine.json"), key=lambda path: path.stat().st_mtime)[-5:]
    cells = estimate.estimate_sweep(grid, [estimate.SAMPLE, *(path.parent for path in earlier)])
    _emit(estimate.to_json(grid, cells), as_json, lambda _: estimate.render(grid, cells))


@app.command(
    epilog=_examples("ktask report data/sample", "ktask report 20261123-054255-quick --out mine.html")
)
def report(
    runs: Annotated[list[str], typer.Argument(help="Names of runs, or their directories.")],
    out: Annotated[Path | None, typer.Option(help="The HTML file; reports/<run>.html by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write one self-contained HTML file from one or several runs; print its path."""
    from ktask.lab.sweep import notebooks  # noqa: PLC0415
    from ktask.lab.sweep.sweep import find_run  # noqa: PLC0415
    from ktask.report import write_report  # noqa: PLC0415

    paths = [find_run(name) for name in runs]
    if out is None:
        out = notebooks.FOLDER.parent / "reports" / f"{'+'.join(path.resolve().name for path in paths)}.html"
    written = write_report(paths, out, progress=_tell)
    _emit({"report": str(written)}, as_json, lambda value: value["report"])


@app.command(
    epilog=_examples(
        "ktask compare before after",
        "ktask compare data/sample 20261123-054255-quick --threshold 10%",
        "ktask compare before after --json",
    )
)
def compare(
    old: Annotated[str, typer.Argument(help="Name or directory of the run to start from.")],
    new: Annotated[str, typer.Argument(help="Name or directory of the run to judge.")],
    threshold: Annotated[
        str, typer.Option(help="Exit 1 if something got slower by more than this: 5% or 0.05.")
    ] = "5%",
    as_json: AsJson = False,
) -> None:
    """Compare two runs: times, their ratios with intervals, and a verdict for each.

    A row is better or worse only if it differs by more than two processes of the same commit do. Exit 1 on a
    regression beyond the threshold.
    """
    from ktask.lab import compare as comparing  # noqa: PLC0415
    from ktask.lab.records import load_run  # noqa: PLC0415
    from ktask.lab.sweep.sweep import find_run  # noqa: PLC0415

    share = _share(threshold)
    found = comparing.compare(*(load_run(find_run(name)) for name in (old, new)), share)
    _emit(comparing.to_json(found), as_json, lambda _: comparing.render(found))
    raise typer.Exit(FOUND if found.regressions else OK)


def _share(text: str) -> float:
    """Return 0.05 for "5%" and for "0.05"."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0 <= value < 10:  # not a number fails here, too
        raise ValueError(f"threshold {text!r} is not allowed; use a share such as 5% or 0.05")
    return value


@app.command(epilog=_examples("ktask vectors tests/data/ktask-vectors.csv", "ktask vectors mine.csv --json"))
def vectors(
    file: Annotated[Path, typer.Argument(help="A file in the format of tests/data/ktask-vectors.csv.")],
    as_json: AsJson = False,
) -> None:
    """Check policies and engine against a vector file; exit 1 if anything differs."""
    from ktask.engine.conformance.check import check_file  # noqa: PLC0415

    result = check_file(file)
    _emit(result, as_json, _render_vectors)
    raise typer.Exit(FOUND if result["mismatches"] else OK)


def _render_vectors(result: dict[str, Any]) -> str:
    lines = [
        f"case {m['case_id']}, {m['column']}: expected {m['expected']}, got {m['got']}"
        for m in result["mismatches"]
    ]
    return "\n".join([*lines, f"{result['passed']} of {result['rows']} rows hold"])


@app.command(
    epilog=_examples(
        "ktask predict data/published/ktask_clear_gigantic_page.csv",
        "ktask predict mine.csv --fit-threads 1,2,4 --threads 32,64 --pool",
        "ktask predict mine.csv --time-column elapsed_ms --by host,test --machine big.yaml --json",
        "ktask predict data/published      # the scores over all published tables",
        "ktask predict data/published --held-out machine    # by laws learned from the other machines",
    )
)
def predict(
    table: Annotated[
        Path, typer.Argument(help="A CSV table with threads, size and time; or a folder of them.")
    ],
    fit_threads: Annotated[
        str, typer.Option(help="Thread counts to fit on; all others are tests.")
    ] = "1,2,4",
    threads: Annotated[
        str | None, typer.Option(help="Thread counts to predict; by default those of the table.")
    ] = None,
    pool: Annotated[
        bool, typer.Option("--pool", help="Let other sizes and other work of the same machine inform a fit.")
    ] = False,
    machine: Annotated[
        str | None, typer.Option(help="Description of the machine (YAML): its roof and CPUs enter.")
    ] = None,
    work: Annotated[str | None, typer.Option(help="Kind of work in that description.")] = None,
    other_sizes: Annotated[
        bool, typer.Option("--other-sizes", help="Predict each size from the other sizes alone.")
    ] = False,
    held_out: Annotated[
        str | None,
        typer.Option(
            metavar="machine|workload|table",
            help="Score the published curves by laws that were learned without the same one.",
        ),
    ] = None,
    threads_column: Annotated[str | None, typer.Option(help="Column of the thread count.")] = None,
    size_column: Annotated[str | None, typer.Option(help="Column of the size; none if all are one.")] = None,
    time_column: Annotated[str | None, typer.Option(help="Column of the time, such as elapsed_ms.")] = None,
    by: Annotated[str | None, typer.Option(help="Columns that tell curves apart, by commas.")] = None,
    skip_zero: Annotated[
        bool, typer.Option("--skip-zero", help="Set rows with a time of 0 aside instead of refusing them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Fit each curve of a table on few threads, predict the others, and score that where times are known.

    Every prediction has a 90 % interval. Exit 1 if no curve could be predicted.
    """
    from ktask.models.scaling import render, scores  # noqa: PLC0415
    from ktask.models.scaling.predict import Options  # noqa: PLC0415

    known = _known_machine(machine, work)
    options = Options(_counts(fit_threads, 2), _counts(threads, 1) if threads else (), pool, known)
    if held_out is not None:
        _held_out(table, held_out, options, as_json)
        return
    if table.is_dir():
        result = scores.score_folder(table, options, _progress)
        _emit(result, as_json, render.scores)
        raise typer.Exit(OK if result["score"]["n"] else FOUND)
    columns = {"threads": threads_column, "size": size_column, "time": time_column, "skip_zero": skip_zero}
    columns["by"] = by.split(",") if by else None
    result = scores.predict_file(table, options, columns=columns, other_sizes=other_sizes, progress=_progress)
    _emit(result, as_json, render.predictions)
    raise typer.Exit(OK if any(curve["predictions"] for curve in result["curves"]) else FOUND)


def _held_out(table: Path, by: str, options: Any, as_json: bool) -> None:
    from ktask.models import published  # noqa: PLC0415
    from ktask.models.scaling import render, scores  # noqa: PLC0415

    if table.resolve() != published.FOLDER:
        raise ValueError(f"--held-out learns from {published.FOLDER}; give that folder, not {table}")
    if options.pool or options.machine or options.threads:
        raise ValueError("--held-out scores curves one by one; it goes with --fit-threads and --json only")
    _emit(scores.score_held_out(by, options, _progress), as_json, render.held_out)


def _progress(curves: Any) -> Any:
    """Show how far a long prediction is, on a terminal."""
    from tqdm import tqdm  # noqa: PLC0415

    return tqdm(curves, desc="curves", unit="", file=sys.stderr, leave=False, disable=None)


def _known_machine(name: str | None, work: str | None) -> Any:
    from ktask.models.simulation.machines import load_machine  # noqa: PLC0415

    if name is None:
        if work is not None:
            raise ValueError(f"work {work!r} needs a description of the machine; give --machine FILE")
        return None
    machine = load_machine(name)
    return machine.for_work(work) if work else machine


def _counts(text: str, least: int) -> tuple[int, ...]:
    """Return thread counts, ascending; at least so many of them."""
    counts = sorted({int(part) if part.strip().isdecimal() else 0 for part in text.split(",")})
    if len(counts) < least or counts[0] < 1 or counts[-1] > 1 << 20:
        more = "at least two thread counts" if least > 1 else "thread counts"
        raise ValueError(f"threads {text!r} are not allowed; use {more} by commas, such as 1,2,4")
    return tuple(counts)


@app.command(
    epilog=_examples(
        "ktask simulate xeon-e7-8895v3 --size 100GiB",
        "ktask simulate mine.yaml --work zeroing-populate-THP --size 1TiB --threads 1,64,288 --json",
        "ktask simulate mine.yaml --size 64GiB --memory one-node --load 16 --policy padata-cur",
        "ktask simulate mine.yaml --calibrate data/sample      # writes mine.yaml from a run",
        "ktask simulate --contention      # published: helpers at nice 19, and hand-over",
    )
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
            parser=_whole,
            metavar="INT",
        ),
    ] = 0,
    calibrate: Annotated[
        str | None, typer.Option(metavar="RUN", help="Write the description from this run instead.")
    ] = None,
    contention: Annotated[
        bool, typer.Option("--contention", help="Hold the published contention tables against the simulator.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run the engine's policies on a machine that is not here.

    Prints the time of a task over its threads; with load, also what that loses. How a machine is described
    stands in docs/simulator.md.
    """
    if calibrate is not None:
        _calibrate(calibrate, machine, as_json)
        return
    if contention:
        from ktask.models.simulation import contention as tables  # noqa: PLC0415

        _emit(tables.result(), as_json, _render_contention)
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
        threads=_counts(threads, 1) if threads else None,
        policy_name=policy,
        min_chunk=parse_size(min_chunk),
        memory=memory,
        load_threads=load,
    )
    _emit(result, as_json, _render_simulate)


def _calibrate(run: str, out: str | None, as_json: bool) -> None:
    from ktask.lab.records import load_run  # noqa: PLC0415
    from ktask.lab.sweep.sweep import find_run  # noqa: PLC0415
    from ktask.models.simulation.calibrate import calibrate  # noqa: PLC0415
    from ktask.models.simulation.machines import write_machine  # noqa: PLC0415

    path = find_run(run)
    target = Path(out or f"{path.resolve().name}.yaml")
    if target.exists():
        raise ValueError(f"{target} exists; remove it, or name another file")
    described = calibrate(load_run(path))
    write_machine(described, target)
    _emit({"machine": str(target), "work": list(described.work)}, as_json, lambda value: value["machine"])


def _render_contention(result: dict[str, Any]) -> str:
    head = f"{'case':5} {'of':10} {'threads':>7} {'published':>10} {'± sd':>7} {'simulated':>10} {'error':>8}"
    lines = [f"{head}  variant"]
    for row in result["rows"]:
        threads = "–" if row["kernel_threads"] is None else f"{row['kernel_threads']:.0f}"
        error = "fit" if row["calibrated_on"] else f"{row['error_pct']:+.1f} %"
        spread = "–" if row["spread_pct"] is None else f"{row['spread_pct']:.1f} %"
        line = f"{row['setting']:5} {row['kind']:10} {threads:>7} {fmt_time(row['published_s']):>10}"
        handed = {"yes": ", handed over", "no": ", not handed over"}.get(row["renice"], "")
        handed = "" if "handover" in row["variant"] else handed
        simulated = fmt_time(row["simulated_s"])
        lines.append(f"{line} {spread:>7} {simulated:>10} {error:>8}  {row['variant']}{handed}")
    score = result["score"]
    abouts = {
        "alone": "where task and load were published alone",
        "scaled": "where those of other sizes and machines are scaled",
        "stands in": "where one contended row says how much work there is",
    }
    parts = [
        f"  {score['by_rests_on'][name]['within_15_pct']} of {score['by_rests_on'][name]['n']} {about}"
        for name, about in abouts.items()
    ]
    return "\n".join(
        [
            *lines,
            f"{score['within_15_pct']} of {score['n']} times within 15 %, median error "
            f"{score['median_ape_pct']:.1f} %, largest {score['max_ape_pct']:.1f} %; "
            "case/n: beside n threads of load",
            *parts,
            "± sd: as published; in case 3 a spread whose kind is not defined",
        ]
    )


def _render_simulate(result: dict[str, Any]) -> str:
    work = f", {result['work']}" if result["work"] else ""
    head = f"{result['machine']}{work}: {fmt_size(result['size_bytes'])}, {result['policy']}"
    loaded = any("load_loss_pct" in row for row in result["curve"])
    columns = f"{'threads':>8} {'chunks':>8} {'chunk':>10} {'time':>10} {'5 to 95 %':>21}"
    columns += f" {'rate':>12} {'speedup':>8}"
    lines = [head, "", columns + (f" {'load loses':>10}" if loaded else "")]
    for row in result["curve"]:
        spread = (
            f"{fmt_time(row['low_s'])} – {fmt_time(row['high_s'])}" if row["high_s"] > row["low_s"] else "–"
        )
        line = f"{row['threads']:>8} {row['n_chunks']:>8} {fmt_size(row['chunk_size']):>10}"
        line += f" {fmt_time(row['wall_s']):>10} {spread:>21} {fmt_rate(row['rate'], 'byte'):>12}"
        line += f" {fmt_number(row['speedup']):>8}"
        lines.append(line + (f" {row['load_loss_pct']:>8.1f} %" if loaded else ""))
    return "\n".join(lines)


def _interrupt_again(lost: Any) -> None:
    """Repeat Ctrl-C that came while compiled code had called Python, where an exception is lost."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(lost)


def main() -> None:
    """Run the command line; bad input ends with exit 2 and one line."""
    hook, sys.unraisablehook = sys.unraisablehook, _interrupt_again
    keep_from_threads()  # OpenBLAS ends a process whose threads cannot start, as by Ctrl-C
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except (ValueError, OSError) as error:
        _fail(_told(error), BAD_INPUT)
    except MemoryError:
        _fail("memory has run out; raise what limits it (`ulimit -v`, `ulimit -d`), or use less", FOUND)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        _fail(error.format_message(), BAD_INPUT)
    finally:
        sys.unraisablehook = hook
    if code == INTERRUPTED:  # typer turns Ctrl-C into this code
        _fail("interrupted; nothing is left behind", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else OK)


def _told(error: ValueError | OSError) -> str:
    """Return what an error says, without the number of it that Python puts in front."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"ktask: {' '.join(message.split())}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
