"""Published results beside those of a run: how much of the ideal speedup with how many threads."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from markupsafe import Markup

from ktask.common import figures as draw
from ktask.common import hover, units
from ktask.models import published
from ktask.report import markup
from ktask.report import sentences as words
from ktask.report.figure import Figure
from ktask.report.machine import plain_model
from ktask.report.study import Study
from ktask.report.tables import at_largest_size, compared

PUBLISHED_KEY = "published"
# Which published tables are about the path of a workload; for the others nothing was found.
TABLES = {
    "ktask_clear_gigantic_page": "zeroing",
    "ktask_hugetlbfs_fallocate": "zeroing",
    "parallel_free_exit": "free",
}
CURVE = [name for name in (*published.SAME, "source_author", "source_date") if name != "threads"]
HERE = "this run"


def published_speedups() -> pd.DataFrame:
    """Return published speedups against one thread of the same curve.

    Columns: `workload` (ours), `what`, `machine`, `size_bytes`, `source`, `threads`, `speedup`. Of a
    table that was posted several times, the last version counts; curves without one thread are left out.
    """
    table = published.load()
    times = table[table["file"].isin(TABLES) & table["new_measurement"] & (table["threads"] >= 1)]
    times = times[times["time_s"] > 0].assign(ours=times["file"].map(TABLES))
    parts = [part for _, rows in times.groupby(CURVE, dropna=False, sort=False) if len(part := _curve(rows))]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _curve(rows: pd.DataFrame) -> pd.DataFrame:
    by_threads = rows.groupby("threads")["time_s"].median()
    if 1 not in by_threads.index or len(by_threads) < 2:
        return pd.DataFrame()
    first = rows.iloc[0]
    return pd.DataFrame(
        {
            "workload": first["ours"],
            "what": first["workload"],
            "machine": plain_model(str(first["machine"])),
            "size_bytes": first["size_bytes"],
            "source": f"{str(first['source_author']).split()[-1]}, {first['source_date']}",
            "threads": by_threads.index.astype(int),
            "speedup": (by_threads[1] / by_threads).to_numpy(),
        }
    )


def own_speedups(studies: Sequence[Study]) -> pd.DataFrame:
    """Return the speedups of kernel paths of the runs, at the largest size of each, in the same columns."""
    parts = []
    for study in studies:
        kernel = study.scaling[(study.scaling["backend"] == "kernel") & study.scaling["speedup"].notna()]
        rows = at_largest_size(compared(kernel), kernel[kernel["threads"] > 1])
        what = words.each(rows, words.path_label)
        names = ["workload", "size_bytes", "threads", "speedup", "speedup_low", "speedup_high"]
        parts.append(rows[names].assign(what=what, machine=study.label or HERE, source=HERE))
    return pd.concat(parts, ignore_index=True)


def comparison(studies: Sequence[Study]) -> pd.DataFrame:
    """Return published and own speedups of the workloads that both have."""
    theirs, ours = published_speedups(), own_speedups(studies)
    common = set(ours["workload"]) & set(theirs["workload"] if len(theirs) else [])
    both = pd.concat([theirs, ours], ignore_index=True)
    return both[both["workload"].isin(common)].reset_index(drop=True)


@draw.theme()
def published_figure(studies: Sequence[Study], key: str = PUBLISHED_KEY) -> Figure | None:
    """Draw the published curves and those of the run, one panel per workload."""
    data = comparison(studies)
    if data.empty:
        return None
    drawn = data.assign(
        kind=np.where(data["source"] == HERE, HERE, "published"),
        curve=data.groupby(["source", "what", "machine", "size_bytes"], dropna=False).ngroup(),
    )
    look = draw.looks(["published", HERE]) | {"style_order": ["published", HERE], "estimator": None}
    groups = list(drawn.groupby("workload", sort=False))
    drawing, axes = draw.panels(len(groups), 2.4, sharex=True, sharey=True)
    for axis, (workload, rows) in zip(axes, groups, strict=True):
        sns.lineplot(rows, x="threads", y="speedup", hue="kind", style="kind", units="curve", ax=axis, **look)
        hover.points(axis, rows, "threads", "speedup", words.each(rows, _said))
        draw.ideal(axis, data["threads"])
        axis.set_title(words.workload_label(str(workload)))
    draw.label_left(axes, "speedup")
    draw.thread_axis(axes, data["threads"], log=True)
    draw.legend(drawing, axes)
    return Figure(key, drawing, data, finding(data), _alt(data))


def _said(row: pd.Series) -> str:
    """Return what a point says: whose it is, on which machine, and its value."""
    who = ", ".join(dict.fromkeys(str(row[name]) for name in ("source", "machine", "what")))
    return f"{who}, {words.count(int(row['threads']), 'thread')}: speedup {units.fmt_number(row['speedup'])}"


def at_common_threads(data: pd.DataFrame) -> pd.DataFrame:
    """Return the rows at the most threads that the run and a published curve of the workload both have."""
    kept = []
    for _, rows in data.groupby("workload", sort=False):
        ours, theirs = rows[rows["source"] == HERE], rows[rows["source"] != HERE]
        common = set(ours["threads"]) & set(theirs["threads"]) - {1}
        if common:
            kept.append(rows[rows["threads"] == max(common)])
    return pd.concat(kept, ignore_index=True) if kept else data.iloc[:0]


def finding(data: pd.DataFrame) -> Markup:
    """Return the range of published speedups and of the run's, at the same thread counts, in words."""
    parts = []
    for (workload, threads), rows in at_common_threads(data).groupby(["workload", "threads"], sort=False):
        own = rows["source"] == HERE
        parts.append(
            f"{words.workload_label(str(workload))} with {words.count(int(threads), 'thread')}: published "
            f"{_range(rows[~own])}, here {_range(rows[own])}"
        )
    text = "; ".join(parts) or "No thread count is common to this run and a published curve"
    return Markup(
        "{}. Both axes are logarithmic. Published curves give no interval; n is that of their mails."
    ).format(text)


def _range(rows: pd.DataFrame) -> str:
    return f"{words.reach(rows['speedup'])} ({words.count(len(rows), 'curve')})"


def _alt(data: pd.DataFrame) -> str:
    most = data.sort_values("threads").groupby(["workload", "source"], sort=False).tail(1)
    parts = words.each(
        most,
        lambda row: (
            f"{row['workload']}, {row['source']}: {units.fmt_number(row['speedup'])} with "
            f"{words.count(int(row['threads']), 'thread')}"
        ),
    )
    return f"Published and own speedups against threads. {'; '.join(parts)}."


def table(studies: Sequence[Study]) -> Markup:
    """Return published and own speedups at the thread counts that both have."""
    data = at_common_threads(comparison(studies))
    names = dict.fromkeys(one for study in studies for one in study.workloads)
    if not any((study.scaling["threads"] > 1).any() for study in studies if len(study.scaling)):
        return markup.paragraph("Nothing was measured with several threads, so there is nothing to compare.")
    missing = [words.workload_label(one).lower() for one in names if one not in set(data["workload"])]
    silent = "No published times with one thread and with several were found for {}."
    silent = silent.format(words.listed(missing)) if missing else ""
    if data.empty:
        return markup.paragraph(silent)
    columns: dict[str, markup.Cell] = {
        "Path": lambda row: f"{words.workload_label(row['workload'])}: {row['what']}",
        "Machine": "machine",
        "Size": lambda row: words.size_label(row) if pd.notna(row["size_bytes"]) else units.NO_VALUE,
        "Threads": lambda row: int(row["threads"]),
        "Speedup": _speedup,
        "Of ideal": lambda row: words.percent(row["speedup"] / row["threads"]),
        "Source": lambda row: Markup('<span class="nowrap">{}</span>').format(row["source"]),
    }
    caption = "Published speedups, and those of this report, at the most threads that both have."
    text = ["Machine", "Source"]
    listing = markup.table(columns, data, caption=caption, key="published-speedups", text=text)
    return markup.join([listing, markup.paragraph(silent)])


def _speedup(row: pd.Series) -> str:
    middle, low, high = (units.fmt_number(row[f"speedup{end}"]) for end in ("", "_low", "_high"))
    return f"{middle} [{low}, {high}]" if row["source"] == HERE else middle
