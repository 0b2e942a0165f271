"""`ktask predict`: curves of a table fitted on few threads, and predicted for the others."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ktask.cli.base import FOUND, OK, AsJson, emit, thread_counts
from ktask.common.units import fmt_number, fmt_time

if TYPE_CHECKING:
    from ktask.cli.tables import Part


EXAMPLES = (
    "ktask predict data/published/ktask_clear_gigantic_page.csv",
    "ktask predict mine.csv --fit-threads 1,2,4 --threads 32,64 --pool",
    "ktask predict mine.csv --time-column elapsed_ms --by host,test --machine big.yaml --json",
    "ktask predict data/published      # the scores over all published tables",
    "ktask predict data/published --held-out machine    # by laws learned from the other machines",
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
    from ktask.models import published  # noqa: PLC0415
    from ktask.models.scaling import scores  # noqa: PLC0415
    from ktask.models.scaling.predict import Options  # noqa: PLC0415

    table = published.find(table)
    known = _known_machine(machine, work)
    options = Options(thread_counts(fit_threads, 2), thread_counts(threads) if threads else (), pool, known)
    if held_out is not None:
        _held_out(table, held_out, options, as_json)
        return
    if table.is_dir():
        result = scores.score_folder(table, options, _progress)
        emit(result, as_json, render_scores)
        raise typer.Exit(OK if result["score"]["n"] else FOUND)
    columns: dict[str, Any] = {
        "threads": threads_column,
        "size": size_column,
        "time": time_column,
        "skip_zero": skip_zero,
    }
    columns["by"] = by.split(",") if by else None
    result = scores.predict_file(table, options, columns=columns, other_sizes=other_sizes, progress=_progress)
    emit(result, as_json, render_predictions)
    raise typer.Exit(OK if any(curve["predictions"] for curve in result["curves"]) else FOUND)


def _held_out(table: Path, by: str, options: Any, as_json: bool) -> None:
    from ktask.models import published  # noqa: PLC0415
    from ktask.models.scaling import scores  # noqa: PLC0415

    if table.resolve() != published.FOLDER:
        raise ValueError(f"--held-out learns from {published.FOLDER}; give that folder, not {table}")
    if options.pool or options.machine or options.threads:
        raise ValueError("--held-out scores curves one by one; it goes with --fit-threads and --json only")
    emit(scores.score_held_out(by, options, _progress), as_json, render_held_out)


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


# --- as text ------------------------------------------------------------------------------------------------


def score_line(score: dict[str, Any]) -> str:
    """Return a score as one line."""
    if not score["n"]:
        return "nothing to score: no predicted time is known"
    return (
        f"median error {score['median_ape_pct']:.1f} %, 90th percentile {score['p90_ape_pct']:.1f} %, "
        f"{score['coverage']:.0%} of {score['n']} times inside the 90 % interval"
    )


def render_predictions(result: dict[str, Any]) -> Iterator[Part]:
    """Yield what `scores.predict_file` found: a table per curve, and the score."""
    curves, by = result["curves"], result["columns"]["by"]
    alike = [name for name in by if len({str(curve[name]) for curve in curves}) == 1] if curves[1:] else []
    yield from (f"{name}: {curves[0][name]}" for name in alike if curves[0][name] not in ("", None))
    for curve in curves:
        yield from _curve(curve, [name for name in by if name not in alike])
    yield ""
    yield from result["notes"]
    if result["used_for_design"]:
        yield "The laws were learned from this table, so its score is no blind test."
    yield f"fit: {result['split']['fit']}; test: {result['split']['test']}"
    yield score_line(result["score"])


def _curve(curve: dict[str, Any], by: Sequence[str]) -> Iterator[Part]:
    from ktask.cli.tables import table  # noqa: PLC0415

    yield "\n" + ", ".join(f"{name}: {curve[name]}" for name in by if curve[name] not in ("", None))
    if "reason" in curve:
        yield f"  not predicted: {curve['reason']}"
        return
    values = ", ".join(f"{name} {fmt_number(p['value'])}" for name, p in curve["parameters"].items())
    yield f"  law {curve['law']}" + (f": {values}" if values else "")
    head = ("threads", "predicted", "90 % interval", "observed", "error")
    yield table(head, map(_prediction, curve["predictions"]), left=(), indent=2)
    yield from (f"  warning: {warning}" for warning in curve["warnings"])


def _prediction(p: dict[str, Any]) -> tuple[str, ...]:
    observed, error = "–", "–"
    if p["observed_s"] is not None:
        observed = fmt_time(p["observed_s"])
        error = f"{(p['time_s'] / p['observed_s'] - 1) * 100:+.1f} %"
    interval = f"{fmt_time(p['low_s'])} – {fmt_time(p['high_s'])}"
    return str(p["threads"]), fmt_time(p["time_s"]), interval, observed, error


def render_scores(result: dict[str, Any]) -> Iterator[Part]:
    """Yield what `scores.score_folder` found: a row per table and way of leaving rows out."""
    yield f"fit: {result['split']['fit']} ({result['split']['fit_threads']})\n"
    rows = [
        (one["table"], f"{one['fitted']} of {one['curves']}", what, one[key])
        for one in result["tables"]
        for what, key in (("other threads", "threads"), ("one size out", "sizes"))
    ]
    rows += [("all", "", "other threads", result["score"]), ("all", "", "one size out", result["sizes"])]
    yield _score_table(("table", "curves", "predicted"), rows)
    yield f"\nTables that the laws were learned from: {', '.join(result['designed_on'])}"
    yield "--held-out machine scores them by laws that never saw the machine."
    yield from (f"no curves in {name}: {why}" for name, why in result["unreadable"].items())


def render_held_out(result: dict[str, Any]) -> Iterator[Part]:
    """Yield what `scores.score_held_out` found: a row per group and kind of value."""
    split = result["split"]
    yield f"fit: {split['fit']} ({split['fit_threads']}); laws: {split['laws']}\n"
    rows = [
        (fold["name"], str(fold["curves"]), kind, fold[kind])
        for fold in result["folds"]
        for kind in ("times", "rates")
    ]
    rows += [("all", "", "times", result["score"]), ("all", "", "rates", result["rates"])]
    yield _score_table((result["held_out"], "curves", "predicted"), rows)


def _score_table(head: Sequence[str], rows: Sequence[tuple[str, str, str, dict[str, Any]]]) -> Part:
    """Return a table of scores; those of nothing are left out."""
    from ktask.cli.tables import table  # noqa: PLC0415

    cells = [(*names, *_score_cells(score)) for *names, score in rows if score["n"]]
    return table((*head, "median error", "90 % below", "in the interval", "times"), cells, left=(0, 2))


def _score_cells(score: dict[str, Any]) -> tuple[str, ...]:
    errors = (f"{score[key]:.1f} %" for key in ("median_ape_pct", "p90_ape_pct"))
    return *errors, f"{score['coverage']:.0%}", str(score["n"])
