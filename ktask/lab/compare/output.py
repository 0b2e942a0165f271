"""Comparisons as JSON and as tidy tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from ktask.lab.compare.kernels import Kernels, Step
from ktask.lab.compare.rows import WORK, Comparison, Row
from ktask.lab.measure.stats import Estimate


def to_json(found: Comparison) -> dict[str, Any]:
    """Return a comparison ready for JSON."""
    return {
        "old": found.old.name,
        "new": found.new.name,
        "threshold": found.threshold,
        "judged": found.judged,
        "reason": found.reason,
        "regressions": len(found.regressions),
        "too_noisy": len(found.blind),
        "overall": _ratio(found.overall) | {"verdict": found.overall_verdict},
        "rows": [_row(row) for row in found.rows],
        "only_in_old": list(found.only_old),
        "only_in_new": list(found.only_new),
        "differences": [asdict(one) for one in found.differences],
    }


def _row(row: Row) -> dict[str, Any]:
    times = {"old_s": row.old.median, "new_s": row.new.median}
    passes = {"old_passes": row.old.processes, "new_passes": row.new.processes}
    judged = {"verdict": row.verdict, "p_value": row.p_value, "passes_needed": row.passes_needed}
    return _case(row) | times | _ratio(row.ratio) | judged | passes


def _case(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in (*WORK, "threads", "baseline", "host_id")}


def _ratio(one: Estimate) -> dict[str, float | None]:
    return _plain({"ratio": one.median, "low": one.low, "high": one.high})


def _plain(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if np.isfinite(value) else None for name, value in values.items()}


def to_table(found: Comparison) -> pd.DataFrame:
    """Return one row per variant, with the intervals of both runs."""
    return pd.DataFrame([_row(row) | _side("old", row.old) | _side("new", row.new) for row in found.rows])


def _side(name: str, one: Estimate) -> dict[str, float | None]:
    ends = {f"{name}_low_s": one.low, f"{name}_high_s": one.high, f"{name}_spread": one.spread}
    return _plain(ends)


def kernels_to_json(found: Kernels) -> dict[str, Any]:
    """Return a comparison of kernels ready for JSON."""
    return {
        "by": "kernel",
        "kernels": [
            {"kernel": k, "runs": list(runs)} for k, runs in zip(found.names, found.runs, strict=True)
        ],
        "threshold": found.to_base[0].threshold,
        "judged": found.judged,
        "reason": found.reason,
        "rows": [
            _case(steps[0].row)
            | {"base_s": steps[0].row.old.median}
            | {"kernels": [_of_kernel(step) for step in steps]}
            for steps in found.cases().values()
        ],
        "differences": {
            kernel: [asdict(one) for one in pair.differences]
            for kernel, pair in zip(found.names[1:], found.to_base, strict=True)
        },
    }


def _of_kernel(step: Step) -> dict[str, Any]:
    row = step.row
    judged = {"verdict": row.verdict, "step": step.step or None}
    return {"kernel": step.kernel, "time_s": row.new.median} | _ratio(row.ratio) | judged


def kernels_to_table(found: Kernels) -> pd.DataFrame:
    """Return one row per variant and kernel after the first."""
    return pd.DataFrame(
        [
            _case(step.row) | {"base": found.names[0], "base_s": step.row.old.median} | _of_kernel(step)
            for steps in found.cases().values()
            for step in steps
        ]
    )
