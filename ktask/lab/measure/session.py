"""What the workload notebooks call: a case from plain parameters, its cell, a table and a figure."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ktask.common.units import NO_VALUE, fmt_number, fmt_rate, fmt_size, fmt_time, parse_size
from ktask.lab.measure import stats
from ktask.lab.measure.cell import CHUNKED, Cell, Protocol, Variant, is_of, measure, variants
from ktask.lab.records import write_records
from ktask.lab.traces import trace_table, write_traces
from ktask.workloads import Case, get


def case_of(
    workload: str,
    method: str,
    page_kind: str,
    size: str | int,
    min_chunk: str | int,
    policy: str,
    options: Mapping[str, Any] | None = None,
) -> Case:
    """Return the case that the parameters of a notebook describe; sizes are text such as "256MiB"."""
    chosen = get(workload).method(method).parse_options(options or {})
    return Case(workload, method, page_kind, parse_size(size), parse_size(min_chunk), policy, chosen)


def about(case: Case) -> str:
    """Return in a few lines what a case does and what ends its scaling."""
    workload = get(case.workload)
    method = workload.method(case.method)
    lines = [workload.about, f"{method.name} ({method.backend}): {method.about}."]
    return "\n".join(lines + ([f"What ends its scaling: {method.limit}"] if method.limit else []))


def run_cell(
    case: Case,
    threads: Sequence[int] | None = None,
    protocol: Mapping[str, Any] | None = None,
    save_as: str | None = None,
    labels: Mapping[str, str] | None = None,
) -> Cell:
    """Measure one case; with `save_as`, keep its records there under `labels` (run, host and cell).

    Shows a progress bar where a person is looking, which is where nothing is saved.
    """
    rules = Protocol(**(protocol or {}))
    with _progress(rules, quiet=save_as is not None) as on_round:
        cell = measure(case, threads, rules, on_round=on_round, trace=True)
    if save_as is not None:
        save_cell(cell, Path(save_as), labels or {})
    return cell


def save_cell(cell: Cell, path: Path, labels: Mapping[str, str]) -> None:
    """Keep the records of a cell as `path`, and its trace in the folder `traces` beside theirs."""
    traces = path.parent.parent / "traces"
    if cell.traced is not None and traces.is_dir():
        write_traces(traces / path.name, trace_table(cell.traced, cell.bytes_per_unit), labels)
    # Last, since a cell counts as done once its records are there.
    write_records(path, [dict(labels) | row for row in cell.rows])


@contextlib.contextmanager
def _progress(rules: Protocol, quiet: bool) -> Iterator[Any]:
    if quiet:
        yield None
        return
    from tqdm.auto import tqdm  # noqa: PLC0415

    with tqdm(total=rules.most, desc="rounds", leave=False, delay=1) as bar:
        yield lambda done: bar.update(done - bar.n)
        bar.total = bar.n  # enough, before the most: nothing that a notebook should paint red


def summary(cell: Cell) -> pd.DataFrame:
    """Return one row per variant: time, rate, speedup over the serial baseline, each with its interval."""
    found = variants({row["threads_requested"] for row in cell.rows})
    found.insert(2, Variant(CHUNKED, 1))
    serial = cell.walls(found[0])
    measured = [variant for variant in found if any(is_of(row, variant) for row in cell.rows)]
    return pd.DataFrame([_summary_row(cell, variant, serial) for variant in measured]).set_index("variant")


def _summary_row(cell: Cell, variant: Variant, serial) -> dict[str, Any]:
    walls = cell.walls(variant)
    row = next(r for r in cell.rows if is_of(r, variant))
    time, speedup = stats.estimate(walls), stats.ratio(serial, walls)
    return {
        "variant": "serial again (A/A)" if variant.is_aa else variant.name,
        "threads": row["threads"],
        "chunk": fmt_size(row["chunk_size"]),
        "median": fmt_time(time.median),
        "95 % interval": f"{fmt_time(time.low)} – {fmt_time(time.high)}",
        "rate": fmt_rate(row["operations"] / time.median, row["unit"]),
        "speedup": round(speedup.median, 3),
        "speedup low": round(speedup.low, 3),
        "speedup high": round(speedup.high, 3),
        "n": time.n,
    }


def shown(table: pd.DataFrame | None):
    """Return a table as people read it: three significant digits, `_bytes` as sizes; None for none.

    What ends with `_per_s` are entries per second.
    """
    if table is None:
        return None
    forms: dict[str, Any] = {name: fmt_number for name in table.select_dtypes("float")}
    forms |= {name: fmt_size for name in table.columns if str(name).endswith("_bytes")}
    forms |= {name: _entries for name in table.columns if str(name).endswith("_per_s")}
    style = table.style.format(forms, na_rep=NO_VALUE)
    return style.format_index(fmt_size) if str(table.index.name).endswith("_bytes") else style


def _entries(per_second: float) -> str:
    return fmt_rate(per_second, "entry")
