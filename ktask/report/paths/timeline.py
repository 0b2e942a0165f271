"""The timeline of chunks: one traced repetition per path, a lane per thread."""

import pandas as pd
from markupsafe import Markup

from ktask.common import figures as draw
from ktask.common import units
from ktask.report import sentences as words
from ktask.report.figure import Figure
from ktask.report.paths.bottlenecks import LOSSES, label
from ktask.report.tables import CASE, PATH

MOST_PANELS = 8
MOST_LANES = 16
LANE_IN = 0.17
LOSS_WORDS = {
    "start": "before the first chunk",
    "gaps": "between chunks",
    "end": "after the last chunk",
    "slower": "inside chunks, beyond what one thread needs for them",
    "chunking": "the chunking overhead, which one thread has too",
    "": "not visible",
    "odd": "not known",
}
COLUMNS = ["threads", "wall_s", "helper", "cpu", "start_bytes", "end_bytes", "t0_s", "t1_s"]


@draw.theme()
def timeline_figure(evidence: pd.DataFrame, traces: pd.DataFrame, workload: str, key: str) -> Figure | None:
    """Draw when each thread ran each chunk, one panel per path; None without a trace."""
    traced = evidence[(evidence["workload"] == workload) & evidence["traced_s"].notna()]
    drawn = traced.head(MOST_PANELS)
    # Times are since the release of the threads.
    data = drawn[[*CASE, "cell_id"]].merge(traces, on="cell_id")[[*CASE, *COLUMNS]]
    if data.empty:
        return None
    groups = [rows for _, rows in data.groupby(PATH, sort=False)]
    lanes = [min(int(rows["threads"].iloc[0]), MOST_LANES) for rows in groups]
    height = sum(lanes) * LANE_IN + 0.55 * len(groups) + 0.3
    drawing = draw.Drawing(figsize=(draw.FULL_WIDTH_IN, height), layout="constrained")
    axes = drawing.subplots(len(groups), 1, squeeze=False, height_ratios=[n + 1.4 for n in lanes]).flat
    for axis, rows, count in zip(axes, groups, lanes, strict=True):
        draw.chunk_lanes(axis, rows, rows["wall_s"].iloc[0], count)
        axis.set_title(f"{words.path_label(rows.iloc[0])}, {words.size_label(rows.iloc[0])}")
    axes[-1].set_xlabel("time since the release of the threads (ms)")
    return Figure(key, drawing, data, _caption(drawn, len(traced) - len(drawn)), _alt(drawn, workload))


def _largest_loss(row: pd.Series) -> str:
    if not row["typical"]:
        return "odd"
    name = row[list(LOSSES)].astype(float).idxmax()
    return name if row[name] > 0 else ""


def _caption(rows: pd.DataFrame, left_out: int) -> Markup:
    """Return where the thread time of each path went, and how typical its trace is."""
    parts = []
    for loss, mine in rows.groupby(rows.apply(_largest_loss, axis=1), sort=False):
        known = loss in LOSSES
        shares = [f" {words.percent(share)}" for share in mine[loss]] if known else [""] * len(mine)
        names = zip(words.each(mine, words.path_label), shares, strict=True)
        parts.append(f"{LOSS_WORDS[loss]} ({words.listed([f'{name}{share}' for name, share in names])})")
    typical = words.reach(rows["traced_s"] / rows["wall"], lambda ratio: units.fmt_number(ratio, 2))
    odd = words.listed(words.each(rows[~rows["typical"]], words.path_label))
    typical += f" (no try took a typical time: {odd})" if odd else ""
    more = f" {words.count(left_out, 'path')} with a trace not drawn." if left_out else ""
    return Markup(
        "The largest loss of thread time is {}. {} One extra repetition each, n = 1, hence no interval; it "
        "took {} times the median of those without a trace. Bars are chunks, the dotted line the "
        "end.{}"
    ).format("; ".join(parts), _imbalance(rows), typical, more)


def _imbalance(rows: pd.DataFrame) -> str:
    """Return the imbalance of the threads: over all repetitions, or in the trace alone."""
    known = rows[rows["imbalance"].notna()].sort_values("imbalance")
    if known.empty:
        reach = words.reach(rows["traced_imbalance"], words.percent)
        return f"Imbalance in the trace: {reach} of the wall time."
    ends = words.each(
        known.iloc[[0, -1]],
        lambda row: f"{words.value(row, 'imbalance', units.PERCENT)} ({words.path_label(row)})",
    )
    reach = " to ".join(dict.fromkeys(ends))
    return f"Imbalance over all repetitions ({words.n_range(known)}): {reach} of the wall time."


def _alt(rows: pd.DataFrame, workload: str) -> str:
    """Return the lanes in words."""
    parts = words.each(
        rows,
        lambda row: (
            f"{words.path_label(row)}: {int(row['threads'])} threads for {units.fmt_time(row['traced_s'])}, "
            f"{words.percent(row['chunks'])} of their time inside chunks, {label(row['bottleneck'])}"
        ),
    )
    return f"When each thread ran each chunk for {words.workload_label(workload)}. {'; '.join(parts)}."
