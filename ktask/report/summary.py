"""The head of the report: claims, each with number, interval, scope and figure, and one caveat."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import pandas as pd
from markupsafe import Markup

from ktask.lab.records import Run
from ktask.report import sentences as words
from ktask.report.paths import bottlenecks
from ktask.report.tables import PATH, at_best, parallel

NOISY = 0.2  # processes that differ by more than this in the median are the caveat
BY_HAND = "by-hand"  # the grid of a saved session, which no sweep can go on with


class Claim(NamedTuple):
    """One claim of the summary: what, for which scope, and where it is shown."""

    text: Markup
    scope: str
    figure: str  # key of the figure that shows it
    is_detail: bool = False  # shown on request


def claims(scaling: pd.DataFrame, machine: str) -> list[Claim]:
    """Return the claims: on kernel paths, all and by workload, on losses, CPU time and user stores."""
    usable = scaling[scaling["n"] > 0]
    is_kernel = usable["backend"] == "kernel"
    kernel, user = usable[is_kernel], usable[~is_kernel]
    workloads = [_workload_claim(part, machine) for _, part in kernel.groupby("workload", sort=False)]
    found = [_overall_claim(kernel, machine)] if len(workloads) > 1 else [*workloads]
    found += [_worst_claim(kernel, machine), _cost_claim(kernel, machine)]
    details = [*(workloads if len(workloads) > 1 else []), _user_claim(user, machine)]
    if not any(found):  # nothing of the kernel was measured
        return [claim for claim in details if claim]
    found += [claim and claim._replace(is_detail=True) for claim in details]
    return [claim for claim in found if claim]


def _scope(rows: pd.DataFrame, machine: str) -> str:
    threads = words.thread_range(rows["threads"])
    return f"{words.sizes_of(rows)}, {threads}, {words.n_range(rows)} per point; {machine}"


def _overall_claim(kernel: pd.DataFrame, machine: str) -> Claim | None:
    """Return how many kernel paths are faster, slower, the same and undecided, and which are undecided."""
    last = at_best(kernel)
    last = last[last["speedup"].notna()]
    if last.empty:
        return None
    open_ones = last[last["verdict"] == "undecided"]
    names = words.listed(words.each(open_ones, words.name_of)) if 0 < len(open_ones) < len(last) else ""
    text = Markup("<b>All kernel paths:</b> with {}, {}.{}").format(
        words.threads_of(last), words.tally(last, "kernel "), f" Undecided: {names}." if names else ""
    )
    return Claim(text, _scope(last, machine), words.CROSSOVER_KEY)


def _workload_claim(part: pd.DataFrame, machine: str) -> Claim | None:
    name = words.workload_label(part["workload"].iloc[0])
    last = at_best(part)
    if last["speedup"].isna().all():
        return _serial_claim(part[part["baseline"]], machine)
    best = last.sort_values("speedup", na_position="first").iloc[-1]
    text = Markup("<b>{}:</b> with {}, {}. {}.").format(
        name, words.threads_of(last), words.tally(last, "kernel "), words.extremes(last, with_serial=True)
    )
    return Claim(text, _scope(last, machine), words.figure_key("speedup", best["workload"]))


def _user_claim(user: pd.DataFrame, machine: str) -> Claim | None:
    """Return the same of code that runs in user space, which says nothing about the kernel."""
    last = at_best(user)
    if last["speedup"].isna().all():
        return _serial_claim(user[user["baseline"]], machine) if len(user) else None
    best = last.sort_values("speedup", na_position="first").iloc[-1]
    text = Markup("<b>In user space</b>, for comparison ({}): with {}, {}. {}.").format(
        words.listed([*map(words.workload_label, last["workload"].unique())]),
        words.threads_of(last),
        words.tally(last),
        words.extremes(last, with_serial=True),
    )
    return Claim(text, _scope(last, machine), words.figure_key("speedup", best["workload"]))


def _serial_claim(serial: pd.DataFrame, machine: str) -> Claim | None:
    if serial.empty:
        return None
    best = serial.sort_values(["size_bytes", "rate"]).iloc[-1]
    text = Markup("<b>{}:</b> one thread reaches {} ({}); more were not measured.").format(
        words.workload_label(best["workload"]), words.rate(best), words.path_label(best)
    )
    scope = _scope(serial.loc[[best.name]], machine)
    return Claim(text, scope, words.figure_key("throughput", best["workload"]))


def _worst_claim(scaling: pd.DataFrame, machine: str) -> Claim | None:
    """Return every path that is slower somewhere, each at its worst point, the worst first."""
    worse = scaling[(scaling["verdict"] == "slower") & (scaling["threads"] > 1)].sort_values("speedup")
    if worse.empty:
        return None
    worst = worse.drop_duplicates(PATH)
    parts = words.each(
        worst,
        lambda row: (
            f"{words.with_threads(row)} at {words.size_label(row)} {words.value(row, 'speedup')} "
            f"({words.wall(row, 'base_wall')} serial, {words.wall(row)}"
            f"{bottlenecks.chunks_alone(row, scaling)})"
        ),
    )
    text = Markup("<b>Slower than serial:</b> {}.").format(words.listed(parts))
    return Claim(text, _scope(worst, machine), words.CROSSOVER_KEY)


def _cost_claim(scaling: pd.DataFrame, machine: str) -> Claim | None:
    last = at_best(scaling)
    last = last[last["cpu_cost"].notna()].sort_values("cpu_cost")
    if last.empty:
        return None
    low, high = last.iloc[0], last.iloc[-1]
    text = Markup(
        "<b>CPU time:</b> the same work takes {} times the CPU time of the serial call ({})"
    ).format(words.value(high, "cpu_cost"), words.path_label(high))
    if len(last) > 1:
        text += Markup(", at best {} ({})").format(words.value(low, "cpu_cost"), words.path_label(low))
    return Claim(text + ".", _scope(last, machine), words.figure_key("speedup", high["workload"]))


def passes_known(run: Run, scaling: pd.DataFrame) -> list[str]:
    """Return what the intervals know of other processes and boots, where that is not plain."""
    known = scaling[scaling["n"] > 0]
    if known.empty:
        return []
    processes = known.groupby("cell_id")["processes"].max()
    few = int((processes < 2).sum())
    texts = []
    if few == len(processes):
        texts.append(
            f"One pass: each interval knows one process only, so every path is undecided. {_more(run, 5)}"
        )
    elif few:
        cells = words.count(few, "cell")
        most = int(processes.max())
        texts.append(
            f"{cells} of {len(processes)} had one process so far and stay undecided. {_more(run, most)}"
        )
    if known["boots"].max() > 1:
        texts.append(
            f"Measured in {known['boots'].max()} boots: where boots differ by more than their processes do, "
            "the interval is over boots."
        )
    return texts


def _more(run: Run, passes: int) -> str:
    """Return how to get more passes."""
    if suite := run.machine.get("imported_from"):
        return f"`ktask import {suite}` takes several folders of results, each a pass."
    grid = str(run.grid.get("name", ""))
    if grid in ("", BY_HAND):
        return f"`ktask.measure(..., passes={passes})` narrows it."
    return f"`ktask sweep {grid} --run {run.name} --resume --passes {passes}` narrows it."


def caveat(
    scaling: pd.DataFrame,
    aa: pd.DataFrame,
    findings: Sequence[dict[str, Any]],
    skipped: int,
    facts: dict[str, Any] | None = None,
    missing: int = 0,
) -> str:
    """Return the one caveat that matters most for the claims."""
    checks = chain(_of_the_run(scaling, findings, skipped, missing), _of_the_numbers(scaling, aa))
    return next((text for holds, text in checks if holds), f"{losses(scaling)}{_reach(scaling, facts or {})}")


def _of_the_run(
    scaling: pd.DataFrame, findings: Sequence[dict[str, Any]], skipped: int, missing: int
) -> Iterator[tuple[bool, str]]:
    """Give each reason why a run shows little, the most severe first, and whether it holds."""
    reason = f": {words.count(skipped, 'case')} skipped, with the reason in appendix B" if skipped else ""
    yield not len(scaling), f"Nothing was measured{reason}."
    problems = [str(one.get("name", "?")) for one in findings if one.get("level") == "blocker"]
    yield bool(problems), f"The machine check found a blocker before the run: {words.listed(problems)}."
    were = "was" if missing == 1 else "were"
    cells = words.count(missing, "cell")
    yield bool(missing), f"The run is not complete: {cells} of its grid {were} not measured."
    is_one = len(scaling) > 0 and scaling["threads"].max() == 1
    yield is_one, "Only one thread was measured: this says nothing about splitting."


def _of_the_numbers(scaling: pd.DataFrame, aa: pd.DataFrame) -> Iterator[tuple[bool, str]]:
    """Give each reason to doubt what was measured, the most severe first, and whether it holds."""
    cold, kept = int(scaling["n_cold"].sum()), int(scaling["n"].sum())
    yield cold > 0.1 * (cold + kept), f"{cold} of {cold + kept} repetitions were cold and are in no rate."
    yield aa.empty, "No A/A comparison was measured, so nothing shows that equal calls take equal times."
    unequal = int(aa["unequal"].sum())
    pairs = words.count(unequal, "A/A comparison")
    yield unequal > 0.2 * len(aa), f"{pairs} of {len(aa)} differed; small effects may be drift."
    spread = scaling["spread"].median()
    yield (
        bool(spread > NOISY),
        f"The machine is noisy: processes that measure the same differ by {words.percent(spread)} "
        "(standard deviation, median over cells).",
    )


def _reach(scaling: pd.DataFrame, facts: dict[str, Any]) -> str:
    """Return what the numbers of a good run do not show."""
    most = words.count(int(scaling["threads"].max()), "thread") if len(scaling) else "no thread"
    where = "in a virtual machine" if facts.get("virtualised") else "on one machine"
    return (
        f"At most {most} {where}, in one state of it: more threads or another machine may differ. These are "
        "single paths: no application gains this much by itself."
    )


def losses(scaling: pd.DataFrame) -> str:
    """Return at how many points threads do not help, with a blank after it; empty if they always do."""
    several = parallel(scaling[scaling["n"] > 0])
    counts = several["verdict"].value_counts()
    if not set(counts.index) - {"faster"}:
        return ""
    return f"With several threads, {words.verdict_counts(several)}. "
