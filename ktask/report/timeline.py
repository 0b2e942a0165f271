"""The timeline of chunks: one traced repetition per path, a lane per thread."""

import pandas as pd
from markupsafe import Markup

from ktask.common import figures as draw
from ktask.common import units
from ktask.report import sentences as words
from ktask.report.bottlenecks import LIMIT_LABELS, LOSSES
from ktask.report.figure import Figure
from ktask.report.tables import PATH

MOST_PANELS = 8
MOST_LANES = 16
LANE_IN = 0.17
LOSS_WORDS = {
    "start": "before the first chunk",
    "gaps": "between chunks",
    "end": "after the last chunk",
    "slower": "inside chunks, beyond what the serial call needs",
}


def timeline_data(limits: pd.DataFrame, traces: pd.DataFrame) -> pd.DataFrame:
    """Return the chunks of the paths in `limits` that have a trace; times are since the release."""
    traced = limits[limits["traced_s"].notna()].head(MOST_PANELS)
    names = [*PATH, "size_bytes", "cell_id"]
    joined = traced[names].merge(traces.drop(columns=["run_id", "host_id"]), on="cell_id", how="inner")
    columns = [
        *PATH,
        "size_bytes",
        "threads",
        "wall_s",
        "helper",
        "cpu",
        "start_bytes",
        "end_bytes",
        "t0_s",
        "t1_s",
    ]
    return joined[columns]


@draw.theme()
def timeline_figure(limits: pd.DataFrame, traces: pd.DataFrame, workload: str, key: str) -> Figure | None:
    """Draw when each thread ran each chunk, one panel per path; None without a trace."""
    mine = limits[limits["workload"] == workload]
    data = timeline_data(mine, traces)
    if data.empty:
        return None
    groups = list(data.groupby(PATH, sort=False))
    lanes = [min(int(rows["threads"].iloc[0]), MOST_LANES) for _, rows in groups]
    height = sum(lanes) * LANE_IN + 0.55 * len(groups) + 0.3
    drawing = draw.Drawing(figsize=(draw.FULL_WIDTH_IN, height), layout="constrained")
    axes = drawing.subplots(len(groups), 1, squeeze=False, height_ratios=[n + 1.4 for n in lanes]).flat
    for axis, (path, rows), count in zip(axes, groups, lanes, strict=True):
        draw.chunk_lanes(axis, rows, rows["wall_s"].iloc[0], count)
        title = words.path_label(dict(zip(PATH, path, strict=True)))
        axis.set_title(f"{title}, {units.fmt_size(rows['size_bytes'].iloc[0])}")
    axes[-1].set_xlabel("time since the release of the threads (ms)")
    traced = mine[mine["traced_s"].notna()]
    shown = traced.head(MOST_PANELS)
    return Figure(key, drawing, data, caption(shown, len(traced) - len(shown)), alternative(shown, workload))


def _largest_loss(row: pd.Series) -> str:
    losses = {name: row[name] for name in LOSSES}
    name = max(losses, key=lambda one: losses[one])
    return name if losses[name] > 0 else ""


def caption(rows: pd.DataFrame, left_out: int = 0) -> Markup:
    """Return where the thread time of each path went, and how typical its trace is."""
    parts = []
    for loss, mine in rows.groupby(rows.apply(_largest_loss, axis=1), sort=False):
        names = [words.path_label(row) for _, row in mine.iterrows()]
        shares = [words.percent(row[loss]) if loss else "" for _, row in mine.iterrows()]
        paths = words.listed([f"{name} {share}".strip() for name, share in zip(names, shares, strict=True)])
        parts.append(f"{LOSS_WORDS[loss]} ({paths})" if loss else f"not visible ({paths})")
    ratios = rows["traced_s"] / rows["wall"]
    ends = dict.fromkeys(units.fmt_number(one, 2) for one in (ratios.min(), ratios.max()))
    more = f" {words.count(left_out, 'path')} with a trace not drawn." if left_out else ""
    return Markup(
        "The largest loss of thread time is {}. {} One extra repetition each, n = 1, hence no interval; it "
        "took {} times the median of the repetitions without a trace. Bars are chunks, the dotted line the "
        "end.{}"
    ).format("; ".join(parts), _imbalance(rows), " to ".join(ends), more)


def _imbalance(rows: pd.DataFrame) -> str:
    """Return the imbalance of the threads: over all repetitions, or in the trace alone."""
    known = rows[rows["imbalance"].notna()].sort_values("imbalance")
    if len(known):
        ends = [
            f"{words.value(row, 'imbalance', units.PERCENT)} ({words.path_label(row)})"
            for _, row in known.iterrows()
        ]
        reach = " to ".join(dict.fromkeys([ends[0], ends[-1]]))
        return f"Imbalance over all repetitions ({words.n_range(known)}): {reach} of the wall time."
    traced = rows["traced_imbalance"]
    ends = dict.fromkeys(words.percent(one) for one in (traced.min(), traced.max()))
    return f"Imbalance in the trace: {' to '.join(ends)} of the wall time."


def alternative(rows: pd.DataFrame, workload: str) -> str:
    """Return the lanes in words."""
    parts = [
        f"{words.path_label(row)}: {int(row['threads'])} threads for {units.fmt_time(row['traced_s'])}, "
        f"{words.percent(row['chunks'])} of their time inside chunks, {LIMIT_LABELS[row['limit']]}"
        for _, row in rows.iterrows()
    ]
    return f"When each thread ran each chunk for {words.workload_label(workload)}. {'; '.join(parts)}."
