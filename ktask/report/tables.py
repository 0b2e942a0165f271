"""From the records of one run to tidy tables: what threads do to each path, and from which size on.

Every function takes a table or a run and returns a new table; nothing is drawn and nothing is worded here.
A *path* is one way through the code: workload, backend, method, page kind and policy. A *case* is a path at
one size.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from ktask.engine.task import CPU_TIME_FROM_S
from ktask.lab.measure import levels, stats
from ktask.lab.measure.flags import superlinear
from ktask.lab.measure.stats import Estimate
from ktask.lab.records import Run

PATH = ["workload", "backend", "method", "page_kind", "options", "policy"]
CASE = [*PATH, "size_bytes"]
WORKLOAD_ORDER = ("zeroing", "page_walk", "free")
PAGE_KIND_ORDER = ("4KiB", "THP", "2MiB", "1GiB")
LEAST_CPU_SHARE = 0.3  # of its wall time; below, other processes do the work of a serial call
NO_CPU_TIME_BELOW_S = 1.5 * CPU_TIME_FROM_S  # some repetitions have none
ESTIMATES = (
    *("wall", "base_wall", "rate", "bandwidth", "speedup", "efficiency", "cpu_cost", "vs_best"),
    *("busy", "imbalance"),
)


def case_of(key: Iterable[Any]) -> dict[str, Any]:
    """Return the names and values of a group key: a path, a case, or a case and threads."""
    return dict(zip([*CASE, "threads"], key, strict=False))


def parallel(scaling: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of several threads."""
    return scaling[~scaling["baseline"].astype(bool) & (scaling["threads"] > 1)]


def compared(rows: pd.DataFrame) -> pd.DataFrame:
    """Return serial calls and several threads; not the chunked call of one thread."""
    return rows[rows["baseline"].astype(bool) | (rows["threads"] > 1)]


def at_largest_size(rows: pd.DataFrame, among: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the rows at the largest size that each path has, or has `among` these rows."""
    path = [name for name in PATH if name in rows]
    largest = (rows if among is None else among).groupby(path)["size_bytes"].max().rename("largest")
    joined = rows.join(largest, on=path)
    return joined[joined["size_bytes"] == joined["largest"]].drop(columns="largest")


def as_estimate(row: pd.Series | dict[str, Any], name: str) -> Estimate:
    """Return the estimate in the columns `name`, `name`_low, `name`_high and maybe `name`_best of a row."""
    middle, low, high = (float(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
    best, processes = float(row.get(f"{name}_best", np.nan)), int(row["processes"])
    return Estimate(middle, low, high, best, int(row["n"]), processes)


def _columns(name: str, one: Estimate) -> dict[str, float]:
    return {name: one.median, f"{name}_low": one.low, f"{name}_high": one.high, f"{name}_best": one.best}


def _mapped(one: Estimate, numerator: float) -> Estimate:
    """Return `numerator` over an estimate; the ends change places."""
    low, high, best = (numerator / part for part in (one.high, one.low, one.best))
    return one._replace(median=numerator / one.median, low=low, high=high, best=best)


def _scaled(one: Estimate, factor: float) -> Estimate:
    ends = {name: factor * getattr(one, name) for name in ("median", "low", "high", "best")}
    return one._replace(**ends)


def has_flag(flags: pd.Series, flag: str) -> pd.Series:
    """Return which rows carry `flag`."""
    return pd.Series([flag in _as_list(one) for one in flags], index=flags.index, dtype=bool)


def _as_list(flags: Any) -> list[str]:
    return [] if flags is None or isinstance(flags, float) else [str(flag) for flag in flags]


def repetitions(run: Run) -> pd.DataFrame:
    """Return all repetitions but warm-ups, with columns `cold`, `aa`, `flagged`, `cpu_s` and `in_rates`.

    Only cold repetitions enter no rate (`in_rates`). `flagged` means any other warning.
    """
    table = run.records[~run.records["warmup"].astype(bool)].copy()
    table[PATH] = table[PATH].fillna("").astype(str)
    table["baseline"] = table["baseline"].astype(bool)
    table["aa"] = has_flag(table["flags"], "aa")
    table["cold"] = has_flag(table["flags"], "cold_memory")
    warnings = [bool(set(_as_list(flags)) - {"aa", "cold_memory"}) for flags in table["flags"]]
    table["flagged"] = pd.Series(warnings, index=table.index, dtype=bool)
    table["cpu_s"] = table["cpu_user_s"] + table["cpu_system_s"]
    table["in_rates"] = ~table["cold"] & (table["wall_s"] > 0)
    table["imbalance"] = table.get("apart_s", np.nan) / table["wall_s"]
    table["busy"] = table["cpu_s"] / (table["wall_s"] * table["threads"])
    return table


def usable(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that enter a rate."""
    return rows[rows["in_rates"]]


def share_of(rows: pd.DataFrame, column: str) -> Estimate:
    """Return the estimate of a share, which may be zero, over the processes that rows come from."""
    one = levels.across(*levels.within(rows[rows[column].notna()], column), scale="linear")
    return one._replace(low=max(one.low, 0.0)) if one.low < 0 else one


def aa_table(run: Run) -> pd.DataFrame:
    """Return one row per cell that measured its baseline twice: the ratio of the two, with interval.

    `unequal` says whether the interval excludes 1, as chance alone makes one in twenty do.
    """
    names = ["cell_id", *PATH[:-1], "size_bytes"]
    table = repetitions(run)
    rows = []
    for key, part in table[table["baseline"]].groupby(names):
        if part["aa"].any():
            one = levels.ratio_of(usable(part[~part["aa"]]), usable(part[part["aa"]]))
            unequal = one.n >= stats.ENOUGH and (one.low > 1 or one.high < 1)
            counts = {"n": one.n, "processes": one.processes, "unequal": unequal}
            rows.append(dict(zip(names, key, strict=True)) | _columns("ratio", one) | counts)
    columns = [*names, *_columns("ratio", stats.NOTHING), "n", "processes", "unequal"]
    return sort_cases(pd.DataFrame(rows, columns=columns))


def sort_cases(table: pd.DataFrame) -> pd.DataFrame:
    """Return `table` in reading order: workload, backend, method, page kind, size, threads."""
    orders = {"workload": WORKLOAD_ORDER, "page_kind": PAGE_KIND_ORDER}

    def rank(column: pd.Series) -> pd.Series:
        known = {name: f"{i:02d}" for i, name in enumerate(orders.get(str(column.name), ()))}
        return column.map(lambda value: known.get(value, f"~{value}")) if known else column

    keys = [name for name in (*CASE, "baseline", "threads") if name in table.columns]
    directions = [name != "baseline" for name in keys]
    return table.sort_values(keys, key=rank, ascending=directions, kind="stable").reset_index(drop=True)


def scaling_table(run: Run) -> pd.DataFrame:
    """Return one row per case and thread count.

    The row with `baseline` true is the serial call of one thread; all others are chunked. `policy` is empty
    if the run has only one. Of a case that was measured with several least chunks, the one of its path is
    here, and all are in `chunk_table`. Estimates are over processes, with columns for the middle, `_low`,
    `_high` and `_best`:

    * `wall`, `base_wall`: seconds; `rate`: operations, and `bandwidth`: bytes covered per second;
    * `speedup`: serial wall over wall; `efficiency`: speedup over threads; `vs_best`: speedup over the
      fastest serial call of any method for the same pages and size;
    * `cpu_cost`: CPU time over that of the serial call; `busy`: CPU time over wall time times threads. NaN
      for times below `NO_CPU_TIME_BELOW_S`, and where other processes do most of the work, as when they exit;
    * `imbalance`: share of the wall time from the first thread to end to the last; NaN for one thread.

    `n`, `n_cold` and `n_flagged` count repetitions: in the estimates, left out as cold, kept with another
    warning. `processes` and `boots` are what they come from, and `spread` is by how much processes differ:
    the standard deviation of the logarithm of `wall`. `verdict` is that of `levels.verdict`.
    """
    table = _without_second_baseline(run)
    return _estimates(table[is_of_path(table)])


def chunk_table(run: Run) -> pd.DataFrame:
    """Return the cases that were measured with several chunk sizes: one row per thread count and least chunk.

    The columns are those of `scaling_table`.
    """
    table = _without_second_baseline(run)
    return _estimates(table[_has_several_chunks(table)])


def in_varied_chunks(chunks: pd.DataFrame) -> pd.DataFrame:
    """Return the chunked rows of a `chunk_table` where the least chunk did change the chunks."""
    chunked = chunks[~chunks["baseline"].astype(bool) & (chunks["n"] > 0)]
    return chunked[chunked.groupby([*CASE, "threads"])["chunk_size"].transform("nunique") > 1]


def _without_second_baseline(run: Run) -> pd.DataFrame:
    table = repetitions(run)
    return table[~table["aa"]].copy()


def _has_several_chunks(table: pd.DataFrame) -> pd.Series:
    return table.groupby(CASE)["min_chunk_size"].transform("nunique") > 1


def is_of_path(table: pd.DataFrame) -> pd.Series:
    """Return which rows are not of a mere series of chunk sizes.

    Of a case with several least chunks, the one that most sizes of the path have belongs to the path; of
    equals, the smallest. A policy under which a path has nothing but such cases, while another has more, was
    there to set chunk sizes.
    """
    sizes = table.groupby([*PATH, "min_chunk_size"])["size_bytes"].transform("nunique")
    cases = table.assign(sizes=sizes)[[*CASE, "min_chunk_size", "sizes"]].drop_duplicates()
    ordered = cases.sort_values(["sizes", "min_chunk_size"], ascending=[False, True])
    usual = ordered.drop_duplicates(CASE).set_index(CASE)["min_chunk_size"]
    is_usual = usual.reindex(pd.MultiIndex.from_frame(table[CASE])).to_numpy() == table["min_chunk_size"]
    series = _has_several_chunks(table).groupby([table[name] for name in PATH]).transform("all")
    has_other = (~series).groupby([table[name] for name in PATH[:-1]]).transform("any")
    return is_usual & ~(series & has_other)


_USED = [
    *(*CASE, "min_chunk_size", "chunk_size", "threads", "baseline", "cell_id", "unit", "operations"),
    *("boot_id", "pass", "round", "wall_s", "cpu_s", "busy", "imbalance", "ctx_involuntary"),
    *("cold", "flagged", "verified", "in_rates"),
]


def _estimates(table: pd.DataFrame) -> pd.DataFrame:
    """Return one row per case, least chunk and thread count."""
    labelled = table.assign(policy=policy_labels(table))[_USED]
    cases = labelled.groupby([*CASE, "min_chunk_size"])
    rows = [row for _, case in cases for row in _case_rows(case)]
    return sort_cases(_against_best(pd.DataFrame(rows))) if rows else pd.DataFrame(columns=_SCALING_COLUMNS)


def policy_labels(table: pd.DataFrame) -> pd.Series | str:
    """Return the policy of each row; empty if there is only one."""
    return table["policy"] if table["policy"].nunique() > 1 else ""


def _case_rows(case: pd.DataFrame) -> Iterable[dict[str, Any]]:
    """Yield the rows of one case: the serial call, then the chunked ones."""
    serial = case[case["baseline"]]
    base = usable(serial)
    if len(serial):
        yield _row(serial, base)
    for _, group in case[~case["baseline"]].groupby("threads"):
        yield _row(group, base)


def _row(group: pd.DataFrame, base: pd.DataFrame) -> dict[str, Any]:
    first, rows = group.iloc[0], usable(group)
    threads, baseline = int(first["threads"]), bool(first["baseline"])
    wall = levels.time_of(rows)
    unity = Estimate(1.0, 1.0, 1.0, 1.0, wall.n, wall.processes) if len(base) else stats.NOTHING
    speedup = unity if baseline else levels.ratio_of(base, rows)
    has_cpu = _has_cpu_time(base, wall)
    cpu_cost = stats.NOTHING
    if has_cpu:
        cpu_cost = unity if baseline else levels.ratio_of(_with_cpu(rows), _with_cpu(base), "cpu_s")
    operations = float(group["operations"].median())
    return {
        **{name: first[name] for name in PATH},
        "size_bytes": int(first["size_bytes"]),
        "threads": threads,
        "baseline": baseline,
        "cell_id": first["cell_id"],
        "unit": first["unit"],
        "operations": operations,
        "min_chunk_size": int(first["min_chunk_size"]),
        "chunk_size": int(group["chunk_size"].median()),
        "processes": wall.processes,
        "boots": rows["boot_id"].nunique(),
        "spread": wall.spread,
        "n": wall.n,
        "n_base": len(base),
        "n_cold": int(group["cold"].sum()),
        "n_flagged": int(rows["flagged"].sum()),
        "n_verified": int(rows["verified"].astype(bool).sum()),
        **_columns("wall", wall),
        **_columns("base_wall", levels.time_of(base)),
        **_columns("rate", _mapped(wall, operations)),
        **_columns("bandwidth", _mapped(wall, float(first["size_bytes"]))),
        **_columns("speedup", speedup),
        **_columns("efficiency", _scaled(speedup, 1 / threads)),
        **_columns("cpu_cost", cpu_cost),
        **_columns("busy", share_of(rows, "busy") if has_cpu else stats.NOTHING),
        **_columns("imbalance", share_of(rows, "imbalance") if threads > 1 else stats.NOTHING),
        "involuntary": float(rows["ctx_involuntary"].mean()) if len(rows) else np.nan,
        "above_threads": not baseline and superlinear(speedup.low, threads),
        "verdict": "baseline" if baseline else levels.verdict(speedup),
    }


def _has_cpu_time(base: pd.DataFrame, wall: Estimate) -> bool:
    """Return whether the CPU time is known well enough, and is that of the work."""
    enough = base["cpu_s"].sum() >= LEAST_CPU_SHARE * base["wall_s"].sum()
    return bool(enough and not wall.median < NO_CPU_TIME_BELOW_S)


def _with_cpu(rows: pd.DataFrame) -> pd.DataFrame:
    return rows[rows["cpu_s"] > 0]


def _against_best(table: pd.DataFrame) -> pd.DataFrame:
    """Add the speedup over the fastest serial call of any method that does the same work."""
    same_work = ["workload", "backend", "page_kind", "options", "size_bytes", "operations"]
    serial = table[table["baseline"] & (table["n"] > 0)]
    best = serial.sort_values("wall").drop_duplicates(same_work).set_index(same_work)
    rows = []
    for _, row in table.iterrows():
        key = tuple(row[name] for name in same_work)
        one = quotient(as_estimate(best.loc[key], "wall"), row) if key in best.index else stats.NOTHING
        rows.append(_columns("vs_best", one))
    return table.join(pd.DataFrame(rows, index=table.index))


def quotient(base: Estimate, row: pd.Series) -> Estimate:
    """Return base over the wall time of a row; intervals combined on a logarithmic scale."""
    wall = as_estimate(row, "wall")
    if wall.n == 0:
        return stats.NOTHING
    down = np.hypot(np.log(base.median / base.low), np.log(wall.high / wall.median))
    up = np.hypot(np.log(base.high / base.median), np.log(wall.median / wall.low))
    middle = base.median / wall.median
    low, high = middle * np.exp(-down), middle * np.exp(up)
    return Estimate(middle, low, high, base.best / wall.best, min(base.n, wall.n), wall.processes)


_COUNTS = ("processes", "boots", "spread", "n", "n_base", "n_cold", "n_flagged", "n_verified")
_SCALING_COLUMNS = [
    *(*CASE, "threads", "baseline", "cell_id", "unit", "operations", "min_chunk_size", "chunk_size"),
    *_COUNTS,
    *(column for name in ESTIMATES for column in _columns(name, stats.NOTHING)),
    *("involuntary", "above_threads", "verdict"),
]


VERDICTS = ("faster", "slower", "same", "undecided")


def crossover_table(scaling: pd.DataFrame) -> pd.DataFrame:
    """Return one row per path and thread count above one: the size from which these threads win.

    `from_size_bytes` is the smallest size at which, and at all larger ones, the verdict is "faster"; NaN if
    there is none. `faster_sizes`, `slower_sizes`, `same_sizes` and `undecided_sizes` are the sizes of each
    verdict. The speedup is that of the largest size. `price` is the overhead at the smallest size
    (`smallest_bytes`), in seconds.
    """
    rows = []
    for key, part in parallel(scaling[scaling["speedup"].notna()]).groupby([*PATH, "threads"]):
        ordered = part.sort_values("size_bytes")
        largest = ordered.iloc[-1]
        sizes = {
            f"{verdict}_sizes": ordered.loc[ordered["verdict"] == verdict, "size_bytes"].tolist()
            for verdict in VERDICTS
        }
        rows.append(
            dict(zip([*PATH, "threads"], key, strict=True))
            | {"from_size_bytes": _wins_from(ordered), **sizes}
            | {"largest_bytes": largest["size_bytes"], "n": largest["n"], "processes": largest["processes"]}
            | {f"speedup{end}": largest[f"speedup{end}"] for end in ("", "_low", "_high", "_best")}
            | _price(ordered.iloc[0])
        )
    return sort_cases(pd.DataFrame(rows, columns=None if rows else [*PATH, "threads", "from_size_bytes"]))


def _price(row: pd.Series) -> dict[str, float]:
    """Return wall time minus that of an ideal split; their errors count as independent."""
    wall, ideal = as_estimate(row, "wall"), _scaled(as_estimate(row, "base_wall"), 1 / row["threads"])
    middle = wall.median - ideal.median
    below = np.hypot(wall.median - wall.low, ideal.high - ideal.median)
    above = np.hypot(wall.high - wall.median, ideal.median - ideal.low)
    ends = {"price": middle, "price_low": middle - below, "price_high": middle + above}
    return ends | {"smallest_bytes": row["size_bytes"]}


def _wins_from(judged: pd.DataFrame) -> float:
    """Return the start of the unbroken run of wins that reaches the largest size."""
    wins = (judged["verdict"] == "faster").to_numpy()[::-1]
    unbroken = int(np.argmin(wins)) if not wins.all() else len(wins)
    return float(judged["size_bytes"].iloc[-unbroken]) if unbroken else np.nan


def pick_threads(rows: pd.DataFrame) -> pd.Series:
    """Return the row with the fewest threads within noise of the fastest.

    Of those that are decided to be faster than the serial call, else of the undecided ones, else of all.
    """
    for verdict in ("faster", "undecided"):
        if (rows["verdict"] == verdict).any():
            rows = rows[rows["verdict"] == verdict]
            break
    best = rows.sort_values("speedup", na_position="first").iloc[-1]
    good = rows[rows["speedup_high"] >= best["speedup_low"]]
    return (good if len(good) else rows).sort_values("threads").iloc[0]


def at_best(scaling: pd.DataFrame) -> pd.DataFrame:
    """Return the row of each path that `pick_threads` picks at the largest size."""
    several = parallel(scaling[scaling["n"] > 0])
    picked = [pick_threads(part).name for _, part in at_largest_size(several).groupby(PATH, sort=False)]
    return scaling.loc[picked]


def typical_traces(traces: pd.DataFrame, scaling: pd.DataFrame) -> pd.DataFrame:
    """Return one trace of each cell: of the process whose traced time is nearest to that of the records."""
    known = scaling.set_index(["cell_id", "threads"])["wall"]
    known = known[~known.index.duplicated(keep="last")]  # one thread in chunks, not the serial call
    usual = known.reindex(pd.MultiIndex.from_frame(traces[["cell_id", "threads"]])).to_numpy(float)
    distance = np.log(traces["wall_s"] / usual).abs()
    rows = traces.assign(distance=distance).dropna(subset="distance")
    process = ["cell_id", "distance", "pass"]
    nearest = rows.sort_values(process, kind="stable").drop_duplicates("cell_id")[["cell_id", "pass"]]
    return traces.merge(nearest, on=["cell_id", "pass"])


def skipped_table(run: Run) -> pd.DataFrame:
    """Return one line per cell that some or all passes gave no records of, with the reasons.

    `passes_without` is how many passes those were, `passes_with` how many processes measured it.
    """
    processes = run.records.drop_duplicates(["cell_id", *levels.PROCESS]).groupby("cell_id").size()
    lines = run.skipped.groupby("cell_id", sort=False, as_index=False).first()
    groups = run.skipped.groupby("cell_id", sort=False)
    reasons = groups["reason"].agg(lambda texts: "; ".join(dict.fromkeys(map(str, texts))))
    return lines.assign(
        reason=reasons.to_numpy(),
        passes_without=groups.size().to_numpy(),
        passes_with=[int(processes.get(cell, 0)) for cell in lines["cell_id"]],
    )


def flags_table(run: Run) -> pd.DataFrame:
    """Return how many repetitions carry each warning, per workload; "aa" is no warning."""
    table = repetitions(run)
    rows = [
        {"workload": workload, "flag": flag, "repetitions": int(has_flag(part["flags"], flag).sum())}
        | {"of": len(part)}
        for workload, part in table.groupby("workload")
        for flag in sorted({flag for flags in part["flags"] for flag in _as_list(flags)} - {"aa"})
    ]
    return sort_cases(pd.DataFrame(rows, columns=["workload", "flag", "repetitions", "of"]))
