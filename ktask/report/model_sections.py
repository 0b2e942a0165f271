"""Words and tables on the fitted laws, the roof and what lies beyond the measured threads."""

import pandas as pd
from markupsafe import Markup

from ktask.common import units
from ktask.models.scaling.scores import score
from ktask.report import markup
from ktask.report import sentences as words
from ktask.report.bottlenecks import Roof
from ktask.report.model import ABOUT, LEVEL_PERCENT, SPLIT_FROM, Fitted
from ktask.report.study import Study
from ktask.report.tables import at_best

NOTHING = "No path was measured with several thread counts, so there is nothing to fit."


def roof_sentence(scaling: pd.DataFrame, roof: Roof | None) -> Markup:
    """Return how near kernel zeroing comes to the highest user-space rate of the run."""
    if roof is None:
        return markup.paragraph(
            "No rate of user code that zeroes memory is known of this run, and so no roof of the memory."
        )
    rate = _rate(roof.bytes_per_s)
    head = f"The roof, the highest rate of user code that zeroes memory at the largest size, is {rate}"
    best = at_best(scaling)
    kernel = best[(best["workload"] == "zeroing") & (best["backend"] == "kernel")]
    if kernel.empty:
        return markup.paragraph(f"{head} ({roof.label}).")
    near = kernel.sort_values("bandwidth").iloc[-1]
    return markup.paragraph(
        f"{head} ({roof.label}). The highest median rate of the kernel is "
        f"{words.value(near, 'bandwidth', units.rate_scale(near['bandwidth'], 'byte'))} with "
        f"{words.path_label(near)}, {words.percent(near['bandwidth'] / roof.bytes_per_s)} of it."
    )


def choice_sentence(scaling: pd.DataFrame) -> Markup:
    """Return how far `auto` is from the best single kind; nothing without both.

    Compared are rates at the same size, pages and number of threads.
    """
    user = scaling[(scaling["workload"] == "zeroing") & (scaling["backend"] == "user") & (scaling["n"] > 0)]
    user = user[user["baseline"] | (user["threads"] > 1)]
    parts = []
    for (size_bytes, _, threads), rows in user.groupby(["size_bytes", "page_kind", "threads"]):
        ours, others = rows[rows["method"] == "auto"], rows[rows["method"] != "auto"]
        if len(ours) and len(others):
            best = others.loc[others["bandwidth"].idxmax()]
            share = ours["bandwidth"].iloc[0] / best["bandwidth"]
            where = f"{words.count(int(threads), 'thread')}, {units.fmt_size(size_bytes)}"
            parts.append(f"{words.percent(share)} of {best['method']} ({_rate(best['bandwidth'])}; {where})")
    reached = f"Of the best single kind of store, auto reaches {words.listed(parts)}." if parts else ""
    return markup.paragraph(reached)


def _rate(bytes_per_s: float) -> str:
    return units.fmt_rate(bytes_per_s, "byte")


def fit_table(study: Study) -> Markup:
    """Return law, parameters with intervals and largest residual per path."""
    if not study.fits:
        return markup.paragraph(study.title, NOTHING)
    rows = [_fit_row(one) for one in study.fits]
    columns = ("Path", "Size", "Fitted on", "Law", "Probability", "Parameters", "What the times determine")
    columns = (*columns, "Largest residual")
    numeric = (columns[1], columns[4], columns[7])
    caption = Markup("{}Fitted laws, and the threads each was fitted on; median [{} % interval].").format(
        study.title, LEVEL_PERCENT
    )
    if len({row[2] for row in rows}) == 1:  # said once
        caption = Markup("{}Fitted laws, each on {} threads; median [{} % interval].").format(
            study.title, rows[0][2], LEVEL_PERCENT
        )
        rows, columns = [row[:2] + row[3:] for row in rows], columns[:2] + columns[3:]
    laws = dict.fromkeys(one.law for one in study.fits)
    meanings = Markup("; ").join(Markup("the law <i>{}</i> is {}").format(law, ABOUT[law]) for law in laws)
    few = ""
    if min(len(one.fit_threads) for one in study.fits) < SPLIT_FROM - 1:
        few = (
            "Two thread counts do not determine a law: what they leave open comes from the prior, that is, "
            "from published curves, and the intervals say how much that is."
        )
    listing = markup.table(columns, rows, caption=caption, key=study.key("fits"), numeric=numeric)
    return markup.join([markup.paragraph(meanings[:1].upper() + meanings[1:] + ".", few), listing])


def _fit_row(one: Fitted) -> tuple[object, ...]:
    known = one.predicted.fit.best().parameters()
    parameters = [f"{name.replace('_', ' ')} {_parameter(ends)}" for name, ends in known.items()]
    return (
        f"{words.workload_label(str(one.case['workload']))}: {words.path_label(one.case)}",
        units.fmt_size(one.case["size_bytes"]),
        ", ".join(map(str, one.fit_threads)),
        one.law,
        words.percent(one.probability),
        "; ".join(parameters),
        one.says,
        f"{units.fmt_number(100 * one.curve['residual'].abs().max(), 2)} %",
    )


def _parameter(ends: dict[str, float]) -> str:
    value, low, high = (units.fmt_number(ends[name], 2) for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def prediction_table(study: Study) -> Markup:
    """Return what the laws say beyond the thread counts they were fitted on, with warnings."""
    if not study.fits:
        return markup.paragraph(study.title, NOTHING)
    data = study.larger.table
    ahead = data[~data["fitted"]]
    rows = [_prediction_row(row) for _, row in ahead.iterrows()]
    columns = ("Path", "Threads", "Law: time", "Law: speedup", "Simulated", "Measured", "Warning")
    caption = Markup("{}Predictions; law as median [{} % interval], simulation as a speedup.").format(
        study.title, LEVEL_PERCENT
    )
    listing = markup.table(columns, rows, caption=caption, key=study.key("predictions"), numeric=columns[1:6])
    return markup.join([_score_sentence(study), listing])


def _prediction_row(row: pd.Series) -> tuple[object, ...]:
    measured = units.fmt_time(row["measured_s"]) if pd.notna(row["measured_s"]) else units.NO_VALUE
    scale = units.time_scale(row["time_s"])
    time = f"{units.fmt_number(row['time_s'] / scale.factor)} [{_ends(row, '_s', scale)}] {scale.suffix}"
    speedup = f"{units.fmt_number(row['speedup'])} [{_ends(row, 'speedup', units.RATIO)}]"
    warning = Markup('<span class="bad">beyond 2×</span>') if row["beyond"] else ""
    label = f"{words.workload_label(row['workload'])}: {words.path_label(row)}"
    simulated = units.fmt_number(row["simulated_speedup"])
    return label, int(row["threads"]), time, speedup, simulated, measured, warning


def _ends(row: pd.Series, name: str, scale: units.Scale) -> str:
    names = ("low_s", "high_s") if name == "_s" else ("speedup_low", "speedup_high")
    return ", ".join(units.fmt_number(row[one] / scale.factor) for one in names)


def _score_sentence(study: Study) -> Markup:
    """Return how well the predictions met what was measured, where they could be tested."""
    found = score(one.predicted for one in study.fits)
    warning = (
        "A prediction beyond twice the range of the fit is a guess and marked so; so is any beyond the CPUs "
        "of this machine, which stands for a larger one of the same kind."
    )
    if not found["n"]:
        return markup.paragraph("No thread count was left to test the laws on.", warning)
    tested = (
        f"On {words.count(found['n'], 'point')} that the laws had not seen, they were off by "
        f"{found['median_ape_pct']:.1f} % in the median; "
        f"{words.percent(found['coverage'])} lie within the intervals."
    )
    return markup.paragraph(study.title, tested, warning)
