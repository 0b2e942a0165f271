"""What neighbours of several processes found: a row per probe, with intervals over the processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from ktask.common.units import fmt_number, fmt_time
from ktask.lab.bystanders.collect import AFTER, DURING, IDLE, SERIAL, THREADS, WAYS
from ktask.lab.bystanders.store import CASE, TIMES
from ktask.lab.measure import levels
from ktask.lab.measure.levels import PROCESS
from ktask.lab.measure.stats import NOTHING, Estimate

PROBE = ["probe", "process", "place", "phase"]
QUANTILES = ("p50", "p99")
ENDS = ("", "_low", "_high")
Process = tuple[str, int, str]  # boot, pass and cell


def over_processes(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what each probe found beside each case, over the processes that probed.

    Returns
    -------
    pandas.DataFrame
        One row per case and probe (`CASE`, `PROBE`, `threads`). For each of the ways `idle`, `serial` and
        `threads`: `p50_<way>_s` and `p99_<way>_s` with `_low` and `_high`, `max_<way>_s`, the longest of all
        processes, and `n_<way>`, the samples. `p50_ratio` and `p99_ratio` (with ends) are the latency beside
        several threads over that beside the serial call, each within a process; `processes` have both.
    """
    probed = rows[rows["skipped"] == ""] if len(rows) else rows
    groups = probed.groupby([*CASE, *PROBE], sort=False)
    found = [dict(zip([*CASE, *PROBE], key, strict=True)) | _row(part) for key, part in groups]
    return pd.DataFrame(found, columns=COLUMNS)


def _named(name: str) -> list[str]:
    return [f"{name}{end}" for end in ENDS]


COLUMNS = [*CASE, *PROBE, "cpu", "threads", "processes"]
COLUMNS += [f"{name}{end}" for way in WAYS for q in QUANTILES for name in (f"{q}_{way}_s",) for end in ENDS]
COLUMNS += [f"{name}_{way}{'_s' * (name == 'max')}" for way in WAYS for name in ("max", "n")]
COLUMNS += [column for q in QUANTILES for column in _named(f"{q}_ratio")]


def _row(part: pd.DataFrame) -> dict[str, Any]:
    """Return the estimates of one probe beside one case."""
    found: dict[str, Any] = {"cpu": int(part["cpu"].iloc[-1]), "threads": int(part["threads_most"].max())}
    seen: dict[str, dict[Process, dict[str, Any]]] = {way: {} for way in WAYS}
    for row in part.to_dict("records"):
        seen[row["way"]][row["boot_id"], row["pass"], row["cell_id"]] = row
    for way, rows in seen.items():
        longest = pd.Series([row["max_s"] for row in rows.values()], dtype=float).max()
        found |= {f"max_{way}_s": longest, f"n_{way}": sum(int(row["n"]) for row in rows.values())}
        for quantile in QUANTILES:
            values = {process: row[f"{quantile}_s"] for process, row in rows.items()}
            found |= _columns(f"{quantile}_{way}_s", _over(values))
    serial = seen[SERIAL]
    for quantile in QUANTILES:
        name = f"{quantile}_s"
        both = {at: row[name] / serial[at][name] for at, row in seen[THREADS].items() if at in serial}
        ratio = _over(both)
        found |= _columns(f"{quantile}_ratio", ratio)
        found["processes"] = max(found.get("processes", 0), ratio.processes)
    return found


def _over(values: Mapping[Process, float]) -> Estimate:
    """Return the estimate over processes of one value each; NaN are left out."""
    known = {process: value for process, value in values.items() if not np.isnan(value)}
    each = [Estimate(value, np.nan, np.nan, value, 1) for value in known.values()]
    return levels.across(each, [boot for boot, _, _ in known], drift=levels.RATIO_DRIFT)


def _columns(name: str, one: Estimate) -> dict[str, float]:
    return dict(zip(_named(name), (one.median, one.low, one.high), strict=True))


class Beside:
    """What others waited for beside a case; shows as a table.

    Attributes
    ----------
    table
        The rows of `over_processes`.
    skipped
        Why there are none.
    """

    def __init__(self, rows: pd.DataFrame):
        self.table = over_processes(rows)
        reasons = [one for one in rows["skipped"] if one] if len(rows) else ["no neighbour probed"]
        self.skipped = reasons[0] if reasons and self.table.empty else None

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values, ready for JSON."""
        return {"probes": [_plain(row) for _, row in self.table.iterrows()], "skipped": self.skipped}

    def lines(self) -> Iterator[tuple[str, ...]]:
        """Yield the cells of each row as people read them, without the case."""
        for _, row in self.table.iterrows():
            yield text_of(_plain(row))

    def __str__(self) -> str:
        """Return the table as text."""
        return f"no bystanders: {self.skipped}" if self.skipped else self._formatted().to_string(index=False)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f"<p>{escape(str(self))}</p>" if self.skipped else self._formatted().to_html(index=False)

    def _formatted(self) -> pd.DataFrame:
        return pd.DataFrame(self.lines(), columns=TITLES)


TITLES = ("neighbour", "idle", "serial call", "threads", "longest", "p99 against serial", "samples")


def text_of(one: Mapping[str, Any]) -> tuple[str, ...]:
    """Return one probe of `as_dict` as cells: median and 99th percentile of each way, longest, ratio, n."""
    ways = [one[f"beside_{way}"] for way in WAYS]
    both = (", ".join(_known(way[time], fmt_time) for time in ("p50_s", "p99_s")) for way in ways)
    ratio = one["p99_ratio"]
    against = _known(ratio["median"], fmt_number)
    if ratio["low"] is not None:
        against += f" [{fmt_number(ratio['low'])}, {fmt_number(ratio['high'])}]"
    return one["neighbour"], *both, _known(ways[-1]["max_s"], fmt_time), against, str(ways[-1]["n"])


def _known(value: float | None, form: Callable[[float], str]) -> str:
    return "–" if value is None else form(value)


def name_of(row: pd.Series | dict[str, Any]) -> str:
    """Return what the neighbour does and where: "page fault, same process, CPU of a helper"."""
    after = " after it" if row["phase"] != DURING else ""
    where = "CPU of a helper" if row["place"] == "helper" else "another CPU"
    return f"{row['probe']}{after}, {row['process']} process, {where}"


def _plain(row: pd.Series) -> dict[str, Any]:
    """Return one probe for JSON: an object per way, and the ratios."""
    found: dict[str, Any] = {"neighbour": name_of(row)}
    found |= {name: row[name] for name in (*PROBE, "cpu", "threads", "processes")}
    for way in WAYS:
        names = {time: time.removesuffix("_s") for time in TIMES}
        found[f"beside_{way}"] = {time: _number(row[f"{name}_{way}_s"]) for time, name in names.items()} | {
            "n": int(row[f"n_{way}"])
        }
    for quantile in QUANTILES:
        values = (_number(row[name]) for name in _named(f"{quantile}_ratio"))
        found[f"{quantile}_ratio"] = dict(zip(("median", "low", "high"), values, strict=True))
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in found.items()}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


BESIDE_AND_AFTER = {
    "beside_serial": (SERIAL, DURING),
    "after_serial": (SERIAL, AFTER),
    "beside_threads": (THREADS, DURING),
    "after_threads": (THREADS, AFTER),
}


def ratios_to_idle(rows: pd.DataFrame) -> pd.DataFrame:
    """Return medians over those beside nothing, each within a process, over the processes.

    Returns
    -------
    pandas.DataFrame
        One row per case, probe, process and place, with `threads`, `processes`, and the columns of
        `BESIDE_AND_AFTER` with `_low` and `_high`.
    """
    probed = rows[rows["skipped"] == ""]
    names = [*CASE, *PROBE[:-1]]
    found = []
    for key, part in probed.groupby(names, sort=False):
        medians = part.pivot_table(
            index=[*PROCESS, "cell_id"], columns=["way", "phase"], values="p50_s", aggfunc="first"
        )
        row = dict(zip(names, key, strict=True)) | {"threads": int(part["threads_most"].max())}
        for name, column in BESIDE_AND_AFTER.items():
            known = {column, (IDLE, DURING)} <= set(medians.columns)
            one = _over((medians[column] / medians[IDLE, DURING]).to_dict()) if known else NOTHING
            row |= _columns(name, one) | {"processes": max(row.get("processes", 0), one.processes)}
        found.append(row)
    columns = [*names, "threads", "processes", *(c for name in BESIDE_AND_AFTER for c in _named(name))]
    return pd.DataFrame(found, columns=columns)
