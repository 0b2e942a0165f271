"""Words and tables on the fitted laws, the roof and what lies beyond the measured threads."""

import pandas as pd
from markupsafe import Markup

from ktask.common import units
from ktask.models.scaling.scores import score
from ktask.report import markup
from ktask.report import sentences as words
from ktask.report.paths.bottlenecks import Roof
from ktask.report.scaling.model import ABOUT, LEVEL_PERCENT, SPLIT_FROM, Fitted
from ktask.report.study import Study
from ktask.report.tables import at_best, compared

NOTHING = "No path was measured with several thread counts, so there is nothing to fit."


def roof_sentence(scaling: pd.DataFrame, roof: Roof | None) -> Markup:
    """Return how near kernel zeroing comes to the highest user-space rate of the run."""
    if roof is None:
        return markup.paragraph(
            "No rate of user code that zeroes memory is known of this run, and so no roof of the memory."
        )
    rate = units.fmt_rate(roof.bytes_per_s, "byte")
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
    parts = []
    for (size_bytes, _, threads), rows in compared(user).groupby(["size_bytes", "page_kind", "threads"]):
        ours, others = rows[rows["method"] == "auto"], rows[rows["method"] != "auto"]
        if len(ours) and len(others):
            best = others.loc[others["bandwidth"].idxmax()]
            share = words.percent(ours["bandwidth"].iloc[0] / best["bandwidth"])
            where = f"{words.count(int(threads), 'thread')}, {units.fmt_size(size_bytes)}"
            rate = units.fmt_rate(best["bandwidth"], "byte")
            parts.append(f"{share} of {best['method']} ({rate}; {where})")
    reached = f"Of the best single kind of store, auto reaches {words.listed(parts)}." if parts else ""
    return markup.paragraph(reached)


def fit_table(study: Study) -> Markup:
    """Return law, parameters with intervals and largest residual per path."""
    if not study.fits:
        return markup.paragraph(study.title, NOTHING)
    columns: dict[str, markup.Cell] = {
        "Path": lambda one: words.full_label(one.case),
        "Size": lambda one: words.size_label(one.case),
        "Fitted on": _fitted_on,
        "Law": lambda one: one.law,
        "Probability": lambda one: words.percent(one.fit.probabilities()[one.law]),
        "Parameters": _parameters,
        "What the times determine": lambda one: one.fit.says(),
        "Largest residual": lambda one: f"{units.fmt_number(100 * one.curve['residual'].abs().max(), 2)} %",
    }
    caption = f"Fitted laws, and the threads each was fitted on; median [{LEVEL_PERCENT} % interval]."
    if len({one.fit_threads for one in study.fits}) == 1:  # said once
        del columns["Fitted on"]
        threads = _fitted_on(study.fits[0])
        caption = f"Fitted laws, each on {threads} threads; median [{LEVEL_PERCENT} % interval]."
    text = ["Fitted on", "Law", "Parameters", "What the times determine"]
    listing = markup.table(
        columns, study.fits, caption=study.title + caption, key=study.key("fits"), text=text
    )
    return markup.join([markup.paragraph(*_meanings(study.fits)), listing])


def _meanings(fits: list[Fitted]) -> list[str | Markup]:
    """Return what the laws are, and how much two thread counts say about them."""
    laws = [Markup("the law <i>{}</i> is {}").format(law, ABOUT[law]) for law in {one.law: 0 for one in fits}]
    text = Markup("; ").join(laws)
    few = min(len(one.fit_threads) for one in fits) < SPLIT_FROM - 1
    said = (
        "Two thread counts do not determine a law: what they leave open comes from the prior, that is, "
        "from published curves, and the intervals say how much that is."
    )
    return [text[:1].upper() + text[1:] + ".", said if few else ""]


def _fitted_on(one: Fitted) -> str:
    return ", ".join(map(str, one.fit_threads))


def _parameters(one: Fitted) -> str:
    parts = []
    for name, ends in one.fit.best().parameters().items():
        value, low, high = (units.fmt_number(ends[end], 2) for end in ("value", "low", "high"))
        parts.append(f"{name.replace('_', ' ')} {value} [{low}, {high}]")
    return "; ".join(parts)


def prediction_table(study: Study) -> Markup:
    """Return what the laws say beyond the thread counts they were fitted on, with warnings."""
    if not study.fits:
        return markup.paragraph(study.title, NOTHING)
    ahead = study.larger.table[~study.larger.table["fitted"]]
    beyond = Markup('<span class="bad">beyond 2×</span>')
    columns: dict[str, markup.Cell] = {
        "Path": words.full_label,
        "Threads": lambda row: int(row["threads"]),
        "Law: time": _time,
        "Law: speedup": lambda row: _with_ends(row, "speedup", "speedup_low", "speedup_high"),
        "Simulated": lambda row: units.fmt_number(row["simulated_speedup"]),
        "Measured": lambda row: units.fmt_time(row["measured_s"]),
        "Warning": lambda row: beyond if row["beyond"] else "",
    }
    caption = Markup("{}Predictions; law as median [{} % interval], simulation as a speedup.").format(
        study.title, LEVEL_PERCENT
    )
    key = study.key("predictions")
    return markup.join(
        [_score_sentence(study), markup.table(columns, ahead, caption=caption, key=key, text=["Warning"])]
    )


def _time(row: pd.Series) -> str:
    scale = units.time_scale(row["time_s"])
    return f"{_with_ends(row, 'time_s', 'low_s', 'high_s', scale.factor)} {scale.suffix}"


def _with_ends(row: pd.Series, name: str, low: str, high: str, factor: float = 1.0) -> str:
    middle, *ends = (units.fmt_number(row[one] / factor) for one in (name, low, high))
    return f"{middle} [{', '.join(ends)}]"


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
