"""`ktask predict`: a table in, predictions and their score out; or the scores over a folder of tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ktask.models.scaling.laws import DESIGN_TABLES
from ktask.models.scaling.learn import Example, Learner, examples
from ktask.models.scaling.posterior import LEVEL
from ktask.models.scaling.predict import Options, Predicted, predict_curve, predict_sizes, predict_table
from ktask.models.scaling.table import Table, TableError, read_curves

HELD_OUT = ("machine", "workload", "table")
Progress = Callable[[Sequence[Any]], Iterable[Any]]


def score(predicted: Iterable[Predicted]) -> dict[str, Any]:
    """Return median and 90th percentile of the absolute error in percent, and coverage."""
    known = [p for curve in predicted for p in curve.predictions if p.observed_s is not None]
    if not known:
        return {"median_ape_pct": None, "p90_ape_pct": None, "coverage": None, "n": 0}
    errors = [p.ape_pct for p in known]
    return {
        "median_ape_pct": float(np.median(errors)),
        "p90_ape_pct": float(np.quantile(errors, 0.9)),
        "coverage": float(np.mean([p.covered for p in known])),
        "n": len(known),
    }


def _curve(one: Predicted) -> dict[str, Any]:
    """Return one curve as JSON: its group, law and parameters, the split, and the predictions."""
    record = {**one.curve.group, "size_bytes": one.curve.size_bytes, "law": None, "parameters": {}}
    if one.fit is not None:
        best = one.fit.best()
        record |= {"law": best.law.name, "parameters": best.parameters()}
        record |= {"laws": one.fit.probabilities(), "slow_start": one.fit.slow_start()}
    elif one.predictions:
        record["law"] = "sizes"
    record["fit"] = {"threads": list(one.fit_threads), "other_curves": one.pooled}
    names = ("threads", "time_s", "low_s", "high_s", "observed_s")
    record["predictions"] = [{name: getattr(p, name) for name in names} for p in one.predictions]
    record["warnings"] = list(one.warnings)
    return record if one.reason is None else record | {"reason": one.reason}


def _split(options: Options) -> dict[str, Any]:
    pooled = "; all rows of other sizes of the same work, these of other work on the machine"
    return {
        "fit_threads": list(options.fit_threads),
        "fit": "rows of the curve with these thread counts" + (pooled if options.pool else ""),
        "test": "rows of the curve with other thread counts",
    }


SPLIT_BY_SIZE = {"fit": "rows of the other sizes of the same work", "test": "all rows of the size itself"}


def predict_file(
    path: Path | str,
    options: Options = Options(),  # noqa: B008 (frozen)
    *,
    columns: Mapping[str, Any] | None = None,
    other_sizes: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the predictions for a table, as `ktask predict --json` prints them.

    Parameters
    ----------
    columns : mapping, optional
        Keyword arguments of `read_curves`.
    other_sizes : bool
        Predict each size from the other sizes of the same work on the same machine, from no row of its own.
    progress : callable, optional
        Wraps the sequence of curves while they are predicted.

    Raises
    ------
    TableError
        If the table cannot be read; the message names the line.
    """
    table = read_curves(path, **(columns or {}))
    predicted = predict_sizes(table, progress) if other_sizes else predict_table(table, options, progress)
    return {
        "table": str(table.path),
        "curves": [_curve(one) for one in predicted],
        "score": score(predicted),
        "split": SPLIT_BY_SIZE if other_sizes else _split(options),
        "interval": LEVEL,
        "machine": options.machine.name if options.machine else None,
        "columns": dict(table.columns),
        "notes": list(table.notes),
        "designed_on": list(DESIGN_TABLES),
        "used_for_design": table.path.stem in DESIGN_TABLES,
    }


def score_folder(
    folder: Path | str,
    options: Options = Options(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the scores over all tables of a folder: other thread counts, and one size left out.

    Returns
    -------
    dict
        `tables`: per readable table its two scores, `threads` and `sizes`; `unreadable`: why others have no
        curves; `score` over all predictions of other thread counts; `sizes` over those of a size left out.

    Raises
    ------
    ValueError
        If no file of the folder is a table with curves.
    """
    tables, unreadable = _read_all(Path(folder))
    by_threads = [predict_table(table, options, progress) for table in tables]
    by_size = [predict_sizes(table) for table in tables]
    return {
        "folder": str(folder),
        "tables": [
            {
                "table": table.path.name,
                "curves": len(threads),
                "fitted": sum(one.fit is not None for one in threads),
                "threads": score(threads),
                "sizes": score(sizes),
                "used_for_design": table.path.stem in DESIGN_TABLES,
            }
            for table, threads, sizes in zip(tables, by_threads, by_size, strict=True)
        ],
        "unreadable": unreadable,
        "score": score(one for predicted in by_threads for one in predicted),
        "sizes": score(one for predicted in by_size for one in predicted),
        "split": _split(options),
        "designed_on": list(DESIGN_TABLES),
    }


def _read_all(folder: Path) -> tuple[list[Table], dict[str, str]]:
    tables, unreadable = [], {}
    for path in sorted(folder.glob("*.csv")):
        try:
            tables.append(read_curves(path))
        except TableError as error:
            unreadable[path.name] = str(error).removeprefix(f"{path}, ")
    if not tables:
        raise ValueError(
            f"{folder} holds no table with scaling curves; a table has columns threads, size, time"
        )
    return tables, unreadable


def score_held_out(
    by: str,
    options: Options = Options(),  # noqa: B008 (frozen)
    progress: Progress | None = None,
    tables: Sequence[str] = DESIGN_TABLES,
) -> dict[str, Any]:
    """Return the scores on the published curves, each predicted by laws that were learned without its like.

    Parameters
    ----------
    by : {"machine", "workload", "table"}
        All curves of one are left out together, and the priors of the laws are learned anew from the others
        (`ktask.models.scaling.learn`).
    progress : callable, optional
        Wraps the sequence of the groups.
    tables : sequence of str
        Names of the published tables to learn from and to score on; by default all that were learned from.

    Returns
    -------
    dict
        `folds`: per group its `name`, how many `curves` could be predicted, the score of its `times`, and
        that of its `rates` (their inverse is a time); `score` and `rates` over all folds.
    """
    if by not in HELD_OUT:
        raise ValueError(f"held out {by!r} is not known; use {', '.join(HELD_OUT)}")
    found = [example for example in examples() if example.table in tables]
    learner = Learner(found)
    able = [e for e in found if np.isin(e.curve.threads, options.fit_threads).sum() > 1]
    folds: list[dict[str, Any]] = []
    everything: list[tuple[Example, Predicted]] = []
    for name in (progress or iter)(sorted({getattr(example, by) for example in able})):
        mine = [e for e in able if getattr(e, by) == name]
        others = replace(options, laws=learner.laws(**{by: name}))
        predicted = [(e, predict_curve(e.curve, others)) for e in mine]
        folds.append({"name": name, "curves": len(mine), **_by_kind(predicted)})
        everything += predicted
    scores = _by_kind(everything)
    return {
        "held_out": by,
        "folds": folds,
        "score": scores["times"],
        "rates": scores["rates"],
        "split": _split(options) | {"laws": f"learned from the curves of the other {by}s"},
        "designed_on": list(tables),
    }


def _by_kind(predicted: Sequence[tuple[Example, Predicted]]) -> dict[str, Any]:
    return {
        kind: score(one for example, one in predicted if example.is_rate is is_rate)
        for kind, is_rate in (("times", False), ("rates", True))
    }


def table_of(scores: dict[str, Any]) -> pd.DataFrame:
    """Return what `score_folder` or `score_held_out` found: a row per table or fold, and kind."""
    if "tables" in scores:
        kinds, parts = ("threads", "sizes"), [(one["table"], one) for one in scores["tables"]]
    else:
        kinds, parts = ("times", "rates"), [(one["name"], one) for one in scores["folds"]]
    parts.append(("all", {kinds[0]: scores["score"], kinds[1]: scores[kinds[1]]}))
    rows = [
        {"left out" if "folds" in scores else "table": name, "kind": kind, **one[kind]}
        for name, one in parts
        for kind in kinds
        if one[kind]["n"]
    ]
    return pd.DataFrame(rows)
