"""From the records of one run to tidy tables: what threads do to each path, and from which size on.

Every function takes a table or a run and returns a new table; nothing is drawn and nothing is worded here.
A *path* is one way through the code: workload, backend, method, page kind and policy. A *case* is a path at
one size.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from ktask.common import units
from ktask.engine.task import CPU_TIME_FROM_S
from ktask.lab.measure import stats
from ktask.lab.measure.stats import Estimate, NoiseFloor
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
    return Estimate(middle, low, high, float(row.get(f"{name}_best", np.nan)), int(row["n"]))


def _columns(name: str, one: Estimate) -> dict[str, float]:
    return {name: one.median, f"{name}_low": one.low, f"{name}_high": one.high, f"{name}_best": one.best}


def _mapped(one: Estimate, numerator: float) -> Estimate:
    """Return `numerator` over an estimate; the ends change places."""
    low, high, best = (numerator / part for part in (one.high, one.low, one.best))
    return Estimate(numerator / one.median, low, high, best, one.n)


def _scaled(one: Estimate, factor: float) -> Estimate:
    return Estimate(factor * one.median, factor * one.low, factor * one.high, factor * one.best, one.n)


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
    return table


def _samples(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that enter a rate, one after the other by cell and round."""
    return rows[rows["in_rates"]].set_index(["cell_id", "round"]).sort_index()


def ratio_of(base: pd.DataFrame, new: pd.DataFrame, column: str) -> Estimate:
    """Return base over new, paired where both sides have the same rounds."""
    first, second = base[column], new[column]
    if (first <= 0).any() or (second <= 0).any():
        return stats.NOTHING
    paired = first.index.is_unique and first.index.equals(second.index)
    return stats.ratio(first.to_numpy(), second.to_numpy(), paired=paired)


def aa_table(run: Run) -> pd.DataFrame:
    """Return one row per cell that measured its baseline twice: the ratio of the two, with interval."""
    names = ["cell_id", *PATH[:-1], "size_bytes"]
    table = repetitions(run)
    rows = []
    for key, part in table[table["baseline"]].groupby(names):
        if part["aa"].any():
            one = ratio_of(_samples(part[~part["aa"]]), _samples(part[part["aa"]]), "wall_s")
            rows.append(dict(zip(names, key, strict=True)) | _columns("ratio", one) | {"n": one.n})
    return sort_cases(pd.DataFrame(rows, columns=[*names, *_columns("ratio", stats.NOTHING), "n"]))


def noise_floors(aa: pd.DataFrame) -> dict[str, NoiseFloor]:
    """Return the noise floor of each workload that has an A/A comparison."""
    return {
        str(workload): stats.noise_floor([as_estimate(row, "ratio") for _, row in part.iterrows()])
        for workload, part in aa.groupby("workload", sort=False)
    }


def floor_of(floors: dict[str, NoiseFloor], workload: str) -> float:
    """Return the noise floor of a workload, else the worst of the others, else NaN."""
    if workload in floors:
        return floors[workload].floor
    known = [floor.floor for floor in floors.values() if np.isfinite(floor.floor)]
    return max(known, default=np.nan)


def sort_cases(table: pd.DataFrame) -> pd.DataFrame:
    """Return `table` in reading order: workload, backend, method, page kind, size, threads."""
    orders = {"workload": WORKLOAD_ORDER, "page_kind": PAGE_KIND_ORDER}

    def rank(column: pd.Series) -> pd.Series:
        known = {name: f"{i:02d}" for i, name in enumerate(orders.get(str(column.name), ()))}
        return column.map(lambda value: known.get(value, f"~{value}")) if known else column

    keys = [name for name in (*CASE, "baseline", "threads") if name in table.columns]
    directions = [name != "baseline" for name in keys]
    return table.sort_values(keys, key=rank, ascending=directions, kind="stable").reset_index(drop=True)


def scaling_table(run: Run, floors: dict[str, NoiseFloor] | None = None) -> pd.DataFrame:
    """Return one row per case and thread count.

    The row with `baseline` true is the serial call of one thread; all others are chunked. `policy` is empty
    if the run has only one. Estimates have columns for median, `_low`, `_high` and `_best`:

    * `wall`, `base_wall`: seconds; `rate`: operations, and `bandwidth`: bytes covered per second;
    * `speedup`: serial wall over wall; `efficiency`: speedup over threads; `vs_best`: speedup over the
      fastest serial call of any method for the same pages and size;
    * `cpu_cost`: CPU time over that of the serial call; `busy`: CPU time over wall time times threads. NaN
      for times below `NO_CPU_TIME_BELOW_S`, and where other processes do most of the work, as when they exit;
    * `imbalance`: share of the wall time from the first thread to end to the last; NaN for one thread.

    `n`, `n_cold` and `n_flagged` count repetitions: in the estimates, left out as cold, kept with another
    warning. `verdict` is against the noise floor of the workload, by default that of the run's own A/A
    comparisons.
    """
    table = repetitions(run)
    table = table[~table["aa"]].copy()
    known = noise_floors(aa_table(run)) if floors is None else floors
    table["policy"] = policy_labels(table)
    rows = [row for _, case in table.groupby(CASE) for row in _case_rows(case, known)]
    result = pd.DataFrame(rows, columns=None if rows else _SCALING_COLUMNS)
    return sort_cases(_against_best(result)) if rows else result


def policy_labels(table: pd.DataFrame) -> pd.Series | str:
    """Return the policy of each row, with the minimum chunk where it varies; empty if there is only one."""
    chunks = table.groupby([*CASE])["min_chunk_size"].nunique()
    labels = table["policy"]
    if (chunks > 1).any():
        labels = labels + ", chunks of " + table["min_chunk_size"].map(units.fmt_size)
    return labels if labels.nunique() > 1 else ""


def _case_rows(case: pd.DataFrame, floors: dict[str, NoiseFloor]) -> Iterable[dict[str, Any]]:
    """Yield the rows of one case: the serial call, then the chunked ones."""
    serial = case[case["baseline"]]
    base = _samples(serial)
    if len(serial):
        yield _row(serial, base, floors)
    for _, group in case[~case["baseline"]].groupby("threads"):
        yield _row(group, base, floors)


def _row(group: pd.DataFrame, base: pd.DataFrame, floors: dict[str, NoiseFloor]) -> dict[str, Any]:
    first = group.iloc[0]
    rows = _samples(group)
    threads = int(first["threads"])
    wall = stats.estimate(rows["wall_s"].to_numpy())
    baseline = bool(first["baseline"])
    same = Estimate(1.0, 1.0, 1.0, 1.0, len(base)) if len(base) else stats.NOTHING
    speedup = same if baseline else ratio_of(base, rows, "wall_s")
    has_cpu = (
        base["cpu_s"].sum() >= LEAST_CPU_SHARE * base["wall_s"].sum()
        and not wall.median < NO_CPU_TIME_BELOW_S
    )
    cpu_cost = same if baseline else ratio_of(rows, base, "cpu_s") if has_cpu else stats.NOTHING
    floor = floor_of(floors, str(first["workload"]))
    operations = float(group["operations"].median())
    shares = rows["cpu_s"] / (rows["wall_s"] * threads)
    busy = stats.estimate(shares.to_numpy()) if has_cpu else stats.NOTHING
    imbalance = rows["imbalance"].dropna().to_numpy() if threads > 1 else []
    return {
        **{name: first[name] for name in PATH},
        "size_bytes": int(first["size_bytes"]),
        "threads": threads,
        "baseline": baseline,
        "cell_id": first["cell_id"],
        "unit": first["unit"],
        "operations": operations,
        "n": wall.n,
        "n_base": len(base),
        "n_cold": int(group["cold"].sum()),
        "n_flagged": int((group["flagged"] & group["in_rates"]).sum()),
        "n_verified": int((group["verified"].astype(bool) & group["in_rates"]).sum()),
        **_columns("wall", wall),
        **_columns("base_wall", stats.estimate(base["wall_s"].to_numpy())),
        **_columns("rate", _mapped(wall, operations)),
        **_columns("bandwidth", _mapped(wall, float(first["size_bytes"]))),
        **_columns("speedup", speedup),
        **_columns("efficiency", _scaled(speedup, 1 / threads)),
        **_columns("cpu_cost", cpu_cost),
        **_columns("busy", busy),
        **_columns("imbalance", stats.estimate(imbalance)),
        "involuntary": float(rows["ctx_involuntary"].mean()) if len(rows) else np.nan,
        "noise_floor": floor,
        "verdict": "baseline" if baseline else stats.verdict(speedup, floor),
    }


def _against_best(table: pd.DataFrame) -> pd.DataFrame:
    """Add the speedup over the fastest serial call of any method that does the same work."""
    same_work = ["workload", "backend", "page_kind", "options", "size_bytes", "operations"]
    serial = table[table["baseline"] & (table["n"] > 0)]
    best = serial.sort_values("wall").drop_duplicates(same_work).set_index(same_work)
    rows = []
    for _, row in table.iterrows():
        key = tuple(row[name] for name in same_work)
        one = _quotient(as_estimate(best.loc[key], "wall"), row) if key in best.index else stats.NOTHING
        rows.append(_columns("vs_best", one))
    return table.join(pd.DataFrame(rows, index=table.index))


def _quotient(base: Estimate, row: pd.Series) -> Estimate:
    """Return base over the wall time of a row; intervals combined on a logarithmic scale."""
    wall = as_estimate(row, "wall")
    if wall.n == 0:
        return stats.NOTHING
    down = np.hypot(np.log(base.median / base.low), np.log(wall.high / wall.median))
    up = np.hypot(np.log(base.high / base.median), np.log(wall.median / wall.low))
    middle = base.median / wall.median
    return Estimate(
        middle, middle * np.exp(-down), middle * np.exp(up), base.best / wall.best, min(base.n, wall.n)
    )


_COUNTS = ("n", "n_base", "n_cold", "n_flagged", "n_verified")
_SCALING_COLUMNS = [
    *(*CASE, "threads", "baseline", "cell_id", "unit", "operations", *_COUNTS),
    *(column for name in ESTIMATES for column in _columns(name, stats.NOTHING)),
    *("involuntary", "noise_floor", "verdict"),
]


def crossover_table(scaling: pd.DataFrame) -> pd.DataFrame:
    """Return one row per path and thread count above one: the size from which these threads win.

    `from_size_bytes` is the smallest size at which, and at all larger ones, the verdict is "faster"; NaN if
    there is none. The speedup is that of the largest size with a verdict; `sizes` counts those. `price` is
    the overhead at the smallest size (`smallest_bytes`), in seconds.
    """
    rows = []
    for key, part in parallel(scaling).groupby([*PATH, "threads"]):
        ordered = part.sort_values("size_bytes")
        judged = ordered[ordered["verdict"] != "unknown"]
        largest = (judged if len(judged) else ordered).iloc[-1]
        sizes = {
            f"{verdict}_sizes": judged.loc[judged["verdict"] == verdict, "size_bytes"].tolist()
            for verdict in ("faster", "slower")
        }
        rows.append(
            dict(zip([*PATH, "threads"], key, strict=True))
            | {"from_size_bytes": _wins_from(judged), **sizes, "sizes": len(judged)}
            | {"largest_bytes": largest["size_bytes"], "n": largest["n"]}
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
    """Return the row with the fewest threads whose speedup reaches the interval of the best one."""
    best = rows.sort_values("speedup", na_position="first").iloc[-1]
    good = rows[rows["speedup_high"] >= best["speedup_low"]]
    return (good if len(good) else rows).sort_values("threads").iloc[0]


def at_best(scaling: pd.DataFrame) -> pd.DataFrame:
    """Return the row of each path that `pick_threads` picks at the largest size, of those with a verdict."""
    picked = []
    for _, part in parallel(scaling[scaling["n"] > 0]).groupby(PATH, sort=False):
        judged = part[part["verdict"] != "unknown"]
        usable = judged if len(judged) else part
        picked.append(pick_threads(usable[usable["size_bytes"] == usable["size_bytes"].max()]).name)
    return scaling.loc[picked]


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


def bimodal(values: np.ndarray) -> bool:
    """Return whether there are two groups with a gap wider than both, and than 5 % of the median.

    Each group needs three values and 15 % of them.
    """
    ordered = np.sort(np.asarray(values, dtype=float))
    least = max(3, int(np.ceil(0.15 * ordered.size)))
    if ordered.size < 2 * least:
        return False
    gaps = np.diff(ordered)[least - 1 : ordered.size - least]
    cut = int(np.argmax(gaps)) + least
    spread = max(np.ptp(ordered[:cut]), np.ptp(ordered[cut:]), 0.05 * float(np.median(ordered)))
    return bool(gaps.max() > spread)
