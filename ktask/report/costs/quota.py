"""A task under a CPU quota: time, throttling, and whether a cap on helpers by the quota is right."""

from __future__ import annotations

import math

import pandas as pd
from markupsafe import Markup

from ktask.common import units
from ktask.lab.conditions.quota import PERIOD_US
from ktask.lab.measure import levels
from ktask.lab.records import Run
from ktask.report import markup
from ktask.report import sentences as words
from ktask.report.costs import conditioned
from ktask.report.costs.conditioned import WORK, columns, is_known, over
from ktask.workloads.conditions import NO_LOAD, NO_QUOTA, parse_quota

TABLE_KEY = "quota"
MANY_PERIODS = 5


@conditioned.once_per_run
def quota_table(run: Run) -> pd.DataFrame:
    """Return one row per case, quota and thread count.

    Beside the columns of `condition_table`: `cpus` that the quota allows; `speedup` over the serial call
    under the same quota, with its interval and `verdict`; and `capped`, whether the cap of the padata series
    of 2022 (whole CPUs of the quota; below one, the caller alone) would have refused so many threads.
    """
    found = conditioned.condition_table(run)
    found = found[(found["quota"] != NO_QUOTA) & (found["load"] == NO_LOAD)]
    parts = []
    for (*_, text), part in found.groupby([*WORK, "nice", "quota"], sort=False):
        serial = part[part["baseline"]]
        cpus = parse_quota(text) or math.nan
        parts += [_row(row, serial.iloc[0], cpus) for _, row in part.iterrows() if len(serial)]
    names = [*found.columns, "cpus", *columns("speedup", levels.NOTHING), "verdict", "capped"]
    table = pd.DataFrame(parts, columns=names)
    return table.sort_values([*WORK, "cpus", "threads"], kind="stable").reset_index(drop=True)


def _row(row: pd.Series, serial: pd.Series, cpus: float) -> pd.Series:
    speedup = over(serial, row)
    verdict = "baseline" if row["baseline"] else levels.verdict(speedup)
    capped = int(row["threads"]) > max(1, int(cpus))
    more = {"cpus": cpus, **columns("speedup", speedup), "verdict": verdict, "capped": capped}
    return pd.concat([row, pd.Series(more)])


COLUMNS: dict[str, markup.Cell] = {
    "Work": lambda row: f"{row['workload']} {row['method']} ({words.kind_label(row['page_kind'])})",
    "Size": words.size_label,
    "Quota": "quota",
    "Threads": words.threads_label,
    "Wall": words.wall,
    "Speedup": lambda row: "1" if row["baseline"] else words.value(row, "speedup"),
    "Throttled, CPUs": lambda row: words.value(row, "throttled") if is_known(row["throttled"]) else "–",
    "Cap of 2022": lambda row: "refuses" if row["capped"] else "allows",
}


def cap_sentence(table: pd.DataFrame) -> str:
    """Return whether capping helpers by the quota is right: what the threads gain that it would refuse."""
    refused = table[table["capped"]]
    if refused.empty:
        return ""
    several = int((~table["baseline"].astype(bool)).sum())
    said = [
        f"{name}: {words.value(row, 'speedup')} with {row['threads']} threads at {_where(row, table)}{rest}."
        for name, verdicts in _SAID.items()
        for row, rest in _largest(refused[refused["verdict"].isin(verdicts)])
    ]
    return (
        "A cap on threads at the whole CPUs of the quota, as in the padata series of 2022, refuses "
        f"{len(refused)} of {words.count(several, 'row')} with threads. {' '.join(said)} {_reach(refused)}"
    )


def _largest(rows: pd.DataFrame) -> list[tuple[pd.Series, str]]:
    """Return the row with the largest speedup, and how many more there are; nothing without rows."""
    if rows.empty:
        return []
    more = len(rows) - 1
    return [(rows.loc[rows["speedup"].idxmax()], f", and {words.count(more, 'row')} more" if more else "")]


def _where(row: pd.Series, table: pd.DataFrame) -> str:
    """Return the quota of a row, with the size where the table has several."""
    return f"{row['quota']}, {words.size_label(row)}" if table["size_bytes"].nunique() > 1 else row["quota"]


def _reach(refused: pd.DataFrame) -> str:
    """Return of which tasks that says something: in the long run, nothing gets more than its quota."""
    longest_s = float(refused["wall"].max())
    head = f"Each repetition begins with the quota of a period of {PERIOD_US // 1000} ms"
    took = f"the longest took {units.fmt_time(longest_s)} with the threads"
    if longest_s >= MANY_PERIODS * PERIOD_US / 1e6:
        return f"{head}, so short tasks gain most; {took}."
    return f"{head}, and {took}: of a task of many periods this says nothing."


_SAID = {
    "Wrongly, as threads are faster": ("faster",),
    "Rightly, as threads gain nothing": ("same", "slower"),
    "Undecided": ("undecided",),
}


def throttling_sentence(table: pd.DataFrame) -> str:
    """Return how much time the quota took from the most threads, and whose account helpers are on."""
    several = table[~table["baseline"] & table["throttled"].notna()]
    if several.empty:
        return ""
    row = several.loc[several[several["threads"] == several["threads"].max()]["throttled"].idxmax()]
    return (
        "Helpers here are threads of the process, so their time is on the caller's account, and the quota "
        f"stops the caller, too. On average it took away at most {words.value(row, 'throttled')} CPUs, at "
        f"{_where(row, table)}."
    )


def section(run: Run, key: str = TABLE_KEY) -> Markup:
    """Return findings and table of tasks under a quota; why there is none where it was not permitted."""
    table = quota_table(run)
    if table.empty:
        return _why_not(run)
    caption = (
        "Under a CPU quota, in periods of 100 ms. Each repetition begins with the quota of a period. "
        "Throttled: CPU seconds per second that the quota took away [95 % interval over processes]."
    )
    listing = markup.table(COLUMNS, table, caption=caption, key=key, text=["Quota", "Cap of 2022"])
    said = filter(None, (cap_sentence(table), throttling_sentence(table)))
    return markup.join([markup.paragraph(*said), listing])


def _why_not(run: Run) -> Markup:
    is_under_quota = run.skipped["options"].fillna("").astype(str).str.contains("quota=").astype(bool)
    reasons = run.skipped[is_under_quota]["reason"]
    if reasons.empty:
        return Markup("")
    return markup.paragraph(f"Under a quota nothing was measured: {reasons.iloc[0]}.")
