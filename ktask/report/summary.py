"""The head of the report: three claims, each with number, interval, scope and figure, and one caveat."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

import pandas as pd
from markupsafe import Markup

from ktask.lab.measure import stats
from ktask.lab.measure.stats import NoiseFloor
from ktask.report import sentences as words
from ktask.report.tables import at_best, parallel


class Claim(NamedTuple):
    """One claim of the summary: what, for which scope, and where it is shown."""

    text: Markup
    scope: str
    figure: str  # key of the figure that shows it


def claims(scaling: pd.DataFrame, machine: str) -> list[Claim]:
    """Return up to three claims: one per workload, then on CPU cost and on where it starts to pay."""
    usable = scaling[scaling["n"] > 0]
    found = [_workload_claim(part, machine) for _, part in usable.groupby("workload", sort=False)]
    found += [_worst_claim(usable, machine), _cost_claim(usable, machine)]
    return [claim for claim in found if claim][:3]


NOISY = 0.2  # a noise floor above this is the caveat


def _scope(rows: pd.DataFrame, machine: str) -> str:
    threads = words.thread_range(rows["threads"])
    return f"{words.sizes_of(rows)}, {threads}, {words.n_range(rows)} per point; {machine}"


def _kernel_first(rows: pd.DataFrame) -> pd.DataFrame:
    kernel = rows[rows["backend"] == "kernel"]
    return kernel if len(kernel) else rows


def _workload_claim(part: pd.DataFrame, machine: str) -> Claim | None:
    name = words.workload_label(part["workload"].iloc[0])
    last = _kernel_first(at_best(part))
    if last["speedup"].isna().all():
        return _serial_claim(_kernel_first(part[part["baseline"]]), machine)
    best = last.sort_values("speedup", na_position="first").iloc[-1]
    kind = "kernel " if (last["backend"] == "kernel").all() else ""
    text = Markup("<b>{}:</b> with {}, {}. {}.").format(
        name, words.threads_of(last), words.tally(last, kind), words.extremes(last, with_serial=True)
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
    worse = scaling[(scaling["verdict"] == "slower") & (scaling["threads"] > 1)]
    if worse.empty:
        return None
    worst = worse.sort_values("speedup").iloc[0]
    what = f"{words.path_label(worst)} at {words.size_label(worst)} runs at {words.value(worst, 'speedup')}"
    times = f"{words.wall(worst, 'base_wall')} serial, {words.wall(worst)}"
    text = Markup("<b>Where it gets worse:</b> {} of the serial speed ({}).").format(what, times)
    return Claim(text, _scope(worse.loc[[worst.name]], machine), words.CROSSOVER_KEY)


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


def caveat(
    scaling: pd.DataFrame,
    floors: dict[str, NoiseFloor],
    findings: Sequence[dict[str, Any]],
    skipped: int,
    facts: dict[str, Any] | None = None,
    missing: int = 0,
) -> str:
    """Return the one caveat that matters most for the claims."""
    checks = chain(_of_the_run(scaling, findings, skipped, missing), _of_the_numbers(scaling, floors))
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


def _of_the_numbers(scaling: pd.DataFrame, floors: dict[str, NoiseFloor]) -> Iterator[tuple[bool, str]]:
    """Give each reason to doubt what was measured, the most severe first, and whether it holds."""
    cold, kept = int(scaling["n_cold"].sum()), int(scaling["n"].sum())
    yield cold > 0.1 * (cold + kept), f"{cold} of {cold + kept} repetitions were cold and are in no rate."
    yield not floors, "No A/A comparison was measured, so the noise of this machine is unknown."
    unequal = sum(floor.unequal for floor in floors.values())
    pairs = words.count(unequal, "A/A comparison")
    is_unequal = unequal > 0.2 * sum(floor.cells for floor in floors.values())
    yield is_unequal, f"{pairs} differed; small effects may be drift."
    few = words.count(int(scaling["n"].min()), "repetition")
    yield scaling["n"].min() < stats.ENOUGH, f"Some points rest on {few} only: no verdict there."
    loudest, floor = max(((name, one.floor) for name, one in floors.items()), key=lambda one: one[1])
    yield (
        floor > NOISY,
        f"The machine is noisy: equal calls of {words.workload_label(loudest).lower()} differ by up to "
        f"{words.percent(floor)}, and smaller effects are not seen.",
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
    several = parallel(scaling)
    slower, same = (int((several["verdict"] == name).sum()) for name in ("slower", "no change"))
    if not slower + same:
        return ""
    parts = [f"{slower} slower"] * bool(slower) + [f"{same} undecided"] * bool(same)
    total = words.count(len(several), "point")
    head = f"Threads do not help at {slower + same} of {total}"
    if slower + same == len(several):
        head = f"Threads help at none of {total}"
    return f"{head}: {words.listed(parts)}. "
