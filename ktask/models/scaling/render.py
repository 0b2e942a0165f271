"""Predictions and scores as text for a terminal."""

from __future__ import annotations

from typing import Any

from ktask.common.units import fmt_number, fmt_time


def score_line(score: dict[str, Any]) -> str:
    """Return a score as one line."""
    if not score["n"]:
        return "nothing to score: no predicted time is known"
    return (
        f"median error {score['median_ape_pct']:.1f} %, 90th percentile {score['p90_ape_pct']:.1f} %, "
        f"{score['coverage']:.0%} of {score['n']} times inside the 90 % interval"
    )


def predictions(result: dict[str, Any]) -> str:
    """Return what `scores.predict_file` found: a table per curve, and the score."""
    curves, by = result["curves"], result["columns"]["by"]
    alike = [name for name in by if len({str(curve[name]) for curve in curves}) == 1] if curves[1:] else []
    head = [f"{name}: {curves[0][name]}" for name in alike if curves[0][name] not in ("", None)]
    blocks = [_curve(curve, [name for name in by if name not in alike]) for curve in curves]
    fit = f"fit: {result['split']['fit']}; test: {result['split']['test']}"
    design = ["The laws were learned from this table, so its score is no blind test."]
    notes = result["notes"] + (design if result["used_for_design"] else [])
    return "\n".join([*head, "", *blocks, *notes, fit, score_line(result["score"])])


def _curve(curve: dict[str, Any], by: list[str]) -> str:
    title = ", ".join(f"{name}: {curve[name]}" for name in by if curve[name] not in ("", None))
    if "reason" in curve:
        return f"{title}\n  not predicted: {curve['reason']}\n"
    values = ", ".join(f"{name} {fmt_number(p['value'])}" for name, p in curve["parameters"].items())
    lines = [title, f"  law {curve['law']}" + (f": {values}" if values else "")]
    lines.append(f"  {'threads':>7} {'predicted':>12} {'90 % interval':>25} {'observed':>12} {'error':>8}")
    lines += [_prediction(p) for p in curve["predictions"]]
    lines += [f"  warning: {warning}" for warning in curve["warnings"]]
    return "\n".join([*lines, ""])


def _prediction(p: dict[str, Any]) -> str:
    interval = f"{fmt_time(p['low_s'])} – {fmt_time(p['high_s'])}"
    observed, error = "–", "–"
    if p["observed_s"] is not None:
        observed = fmt_time(p["observed_s"])
        error = f"{(p['time_s'] / p['observed_s'] - 1) * 100:+.1f} %"
    return f"  {p['threads']:>7} {fmt_time(p['time_s']):>12} {interval:>25} {observed:>12} {error:>8}"


def scores(result: dict[str, Any]) -> str:
    """Return what `scores.score_folder` found, table by table."""
    lines = [f"fit: {result['split']['fit']} ({result['split']['fit_threads']})"]
    for table in result["tables"]:
        lines += ["", f"{table['table']}: {table['fitted']} of {table['curves']} curves"]
        lines += [f"  other threads   {score_line(table['threads'])}"] if table["threads"]["n"] else []
        lines += [f"  one size out    {score_line(table['sizes'])}"] if table["sizes"]["n"] else []
    lines += ["", f"all, other threads   {score_line(result['score'])}"]
    lines += [f"all, one size out    {score_line(result['sizes'])}"]
    lines += ["", f"Tables that the laws were learned from: {', '.join(result['designed_on'])}"]
    lines += ["--held-out machine scores them by laws that never saw the machine."]
    return "\n".join(lines + [f"no curves in {name}: {why}" for name, why in result["unreadable"].items()])


def held_out(result: dict[str, Any]) -> str:
    """Return what `scores.score_held_out` found, group by group."""
    split = result["split"]
    lines = [f"fit: {split['fit']} ({split['fit_threads']}); laws: {split['laws']}"]
    for fold in result["folds"]:
        lines += ["", f"{fold['name']}: {fold['curves']} curves"]
        lines += [f"  {kind}   {score_line(fold[kind])}" for kind in ("times", "rates") if fold[kind]["n"]]
    lines += ["", f"all times   {score_line(result['score'])}", f"all rates   {score_line(result['rates'])}"]
    return "\n".join(lines)
