"""The first screen: the answer in one sentence, at most three claims with their conditions, and one caveat.

Each sentence follows from rows of the run by a rule that stands here; where there are no such rows it is not
said.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from ktask.common import units
from ktask.lab.records import Run
from ktask.report import headline, tables
from ktask.report import sentences as words
from ktask.report.costs import neighbours
from ktask.report.paths import bottlenecks
from ktask.report.sentences import Row
from ktask.report.tables import PATH, parallel

if TYPE_CHECKING:
    from ktask.report.study import Study

MOST_CLAIMS = 3
MOST_NAMES = 5  # of more paths, their number is given
MOSTLY = 2 / 3  # of the paths
NOISY = 0.2  # processes that differ by more than this in the median are the caveat
BY_HAND = "by-hand"  # the grid of a saved session, which no sweep can go on with


class Claim(NamedTuple):
    """One claim: the finding with its number, the condition it holds under, and the figure that shows it."""

    text: str
    scope: str
    figure: str  # key of the figure


# --- the answer ----------------------------------------------------------------------------------------


def answer(study: Study) -> str:
    """Return whether splitting pays on this machine, in one sentence.

    "Yes" if every kernel path is faster, "mostly yes" from two thirds on; "no" and "mostly no" in the same
    way for paths that are decided not to be; "partly" for what lies between, if at least half is decided.
    """
    table = study.headline
    if table.empty:
        return _no_path(study)
    verdicts = table["verdict"].value_counts()
    total, faster, open_ = len(table), verdicts.get("faster", 0), verdicts.get("undecided", 0)
    if open_ == total:
        return _all_undecided(table)
    price = _price(table[table["verdict"] == "faster"])
    word = _word(total, int(faster), int(open_))
    tail = ""
    if open_ and word not in ("Yes", "Mostly yes"):
        tail = f"; {open_} {'is' if open_ == 1 else 'are'} undecided"
    return f"{word}{', at a price' * bool(price)}: {_faster(total, int(faster), table)}{price}{tail}."


def _word(total: int, faster: int, undecided: int) -> str:
    not_faster = total - faster - undecided
    for share, word in ((faster / total, "yes"), (not_faster / total, "no")):
        if share >= MOSTLY:
            return word.capitalize() if share == 1 else f"Mostly {word}"
    if 2 * undecided > total:
        return "Mostly undecided"
    return "Partly" if faster else "Mostly no"


def _faster(total: int, faster: int, table: pd.DataFrame) -> str:
    """Return how many kernel paths are faster, and with how many threads."""
    threads = words.thread_range(table["threads"])
    if total == 1:
        verb = words.VERDICT_WORDS[table["verdict"].iloc[0]].format("the serial call")
        return f"the one measured kernel path is {verb} with {threads}"
    are = "is" if faster == 1 else "are"
    subject = (
        f"all {total} kernel paths are" if faster == total else f"{faster} of {total} kernel paths {are}"
    )
    if not faster:
        subject = f"none of {total} kernel paths is"
    return f"{subject} faster with {threads}"


def _price(faster: pd.DataFrame) -> str:
    """Return what the faster paths are paid with, as far as it was measured."""
    waits = (faster["longer"] == "longer").any()
    burns = (faster["cpu_cost_low"] > headline.LEAST_COST).any()
    parts = ["neighbours wait longer"] * bool(waits) + ["some take more CPU time"] * bool(burns)
    return f", but {words.listed(parts)}" if parts else ""


def _no_path(study: Study) -> str:
    """Return why no kernel path has a speedup."""
    scaling = study.scaling
    if scaling.empty:
        return "Not known: nothing was measured."
    kernel = scaling[scaling["backend"] == "kernel"]
    if kernel.empty:
        return "Not known for the kernel: only code in user space was measured."
    if kernel["threads"].max() == 1:
        return f"Not known: {_only_one(study.run.machine)}."
    return "Not known: too few repetitions were warm."


def _only_one(facts: dict[str, Any]) -> str:
    if facts.get("threads") == 1:
        return "this machine has one CPU, so there is nothing to split work over"
    return "only one thread was measured"


def _all_undecided(table: pd.DataFrame) -> str:
    """Return that nothing is decided, and after how much."""
    paths = "the one measured kernel path is" if len(table) == 1 else f"all {len(table)} kernel paths are"
    processes = int(table["processes"].max())
    if processes < 2:
        return f"Not known yet: {paths} undecided after one pass."
    return f"Not known: {paths} undecided after {processes} passes."


# --- claims --------------------------------------------------------------------------------------------


def claims(study: Study) -> list[Claim]:
    """Return the largest gain, the largest loss and the surprises, three in all."""
    found = [_gain(study.headline), _loss(study), *surprises(study)]
    chosen = [claim for claim in found if claim][:MOST_CLAIMS]
    return chosen or _without_threads(study)


def _shown(row: Row) -> str:
    return words.figure_key("speedup", str(row["workload"]))


def _name(row: Row) -> str:
    return f"{words.workload_label(str(row['workload']))} by {words.path_label(row)}"


def _scope(row: Row) -> str:
    """Return the condition of a speedup: size, threads, and what it is over."""
    serial = units.fmt_time(row["base_wall"])
    return f"{words.size_label(row)}, {words.count(int(row['threads']), 'thread')}, {serial} serial"


def _gain(table: pd.DataFrame) -> Claim | None:
    """Return the path that is surest to gain most: by the lower end, so that noise does not choose it.

    One that gains more than its number of threads gains from something else as well, so others come first.
    """
    faster = table[table["verdict"] == "faster"]
    if faster.empty:
        return None
    by_threads = faster[faster["speedup"] <= faster["ideal"]]
    row = (faster if by_threads.empty else by_threads).sort_values("speedup_low").iloc[-1]
    return Claim(
        f"{_name(row)} is the surest gain: {words.speedup(row)} times as fast", _scope(row), _shown(row)
    )


def _loss(study: Study) -> Claim | None:
    """Return the path that loses most with its best number of threads, else the worst point anywhere."""
    kernel = study.scaling[study.scaling["backend"] == "kernel"]
    paths = study.best[(study.best["backend"] == "kernel") & (study.best["verdict"] == "slower")]
    slower = paths if len(paths) else parallel(kernel[kernel["verdict"] == "slower"])
    slower = slower.sort_values("speedup_high").drop_duplicates(PATH)
    if slower.empty:
        return None
    row = slower.iloc[0]
    where = "" if len(paths) else f" with {words.count(int(row['threads']), 'thread')}"
    text = f"{_name(row)}{where} loses most: {words.speedup(row)} times as fast{_losing_too(slower.iloc[1:])}"
    return Claim(text, f"{_scope(row)}{bottlenecks.chunks_alone(row, kernel)}", _shown(row))


def _losing_too(others: pd.DataFrame) -> str:
    if others.empty:
        return ""
    names = words.each(others, words.name_of)
    subject = words.listed(names) if len(names) <= MOST_NAMES else f"{len(names)} other paths"
    return f"; {subject} {'loses' if len(names) == 1 else 'lose'} too"


def surprises(study: Study) -> list[Claim]:
    """Return what a reader would not expect, the farthest first.

    Each is a ratio that ought to be 1: a neighbour's wait, the CPU time of a path that gains nothing, the
    best serial method over threads. The one whose interval stays farthest from 1 is the surprise.
    """
    found = [_neighbour(study), _cpu_for_nothing(study.headline), _better_serially(study.headline)]
    known = [one for one in found if one and one[0] >= headline.LEAST_COST]
    return [claim for _, claim in sorted(known, key=lambda one: -one[0])]


Found = tuple[float, Claim] | None


def _neighbour(study: Study) -> Found:
    """Return the neighbour that is surest to wait longest beside a kernel path."""
    if study.bystanders.empty:
        return None
    rows = neighbours.at_helpers(study.bystanders)
    rows = rows[(rows["backend"] == "kernel") & (rows["longer"] == "longer")]
    if rows.empty:
        return None
    row = rows.sort_values("p99_ratio_low").iloc[-1]
    process = "the same" if row["process"] == neighbours.SAME else "another"
    text = f"Neighbours pay: one {row['probe']} in a hundred takes {neighbours.ratio_text(row)} times as long"
    threads = words.count(int(row["threads"]), "thread")
    scope = f"p99 in {process} process on a helper's CPU, beside {threads} of {words.case_label(row)}"
    return row["p99_ratio_low"], Claim(text, scope, neighbours.BYSTANDERS_KEY)


def _cpu_for_nothing(table: pd.DataFrame) -> Found:
    """Return the path that takes most CPU time of those that are decided not to gain."""
    rows = table[table["verdict"].isin(["slower", "same"]) & table["cpu_cost"].notna()]
    if rows.empty:
        return None
    row = rows.sort_values("cpu_cost_low").iloc[-1]
    text = f"{_name(row)} takes {words.value(row, 'cpu_cost')} times the CPU time and gains nothing"
    return row["cpu_cost_low"], Claim(text, _scope(row), _shown(row))


def _better_serially(table: pd.DataFrame) -> Found:
    """Return the path that threads speed up, but not to the best serial method for the same pages."""
    rows = table[(table["verdict"] == "faster") & (table["vs_best_high"] < 1)]
    if rows.empty:
        return None
    row = rows.sort_values("vs_best_high").iloc[0]
    text = (
        f"{_name(row)} with threads is {words.value(row, 'vs_best')} times as fast as another method "
        "with one thread"
    )
    return 1 / row["vs_best_high"], Claim(text, _scope(row), _shown(row))


def _without_threads(study: Study) -> list[Claim]:
    """Return what is known where no claim about threads is: rates of one thread, or stores in user space."""
    known = study.scaling[study.scaling["n"] > 0]
    if known.empty:
        return []
    user = headline.user_reference(study.scaling)
    if user is not None and study.headline.empty:
        text = f"In user space, {words.path_label(user)} is {words.speedup(user)} times as fast"
        return [Claim(text, f"{_scope(user)}; it says nothing about kernel code", _shown(user))]
    if known["threads"].max() > 1:
        return []
    serial = (
        known[known["baseline"]].sort_values(["size_bytes", "rate"]).drop_duplicates("workload", keep="last")
    )
    return [_rate(row) for _, row in serial.head(MOST_CLAIMS).iterrows()]


def _rate(row: pd.Series) -> Claim:
    text = f"{_name(row)}: one thread reaches {words.rate(row)}; more were not measured"
    return Claim(text, words.size_label(row), words.figure_key("speedup", row["workload"]))


# --- passes and caveat ---------------------------------------------------------------------------------


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


def caveat(study: Study) -> str:
    """Return the one caveat that matters most for the claims."""
    scaling, facts = study.scaling, study.run.machine
    checks = chain(_of_the_run(study), _of_the_numbers(scaling, study.aa), _of_the_paths(study))
    return next((text for holds, text in checks if holds), f"{losses(scaling)}{_reach(scaling, facts)}")


def _of_the_run(study: Study) -> Iterator[tuple[bool, str]]:
    """Give each reason why a run shows little, the most severe first, and whether it holds."""
    skipped = int((tables.skipped_table(study.run)["passes_with"] == 0).sum())
    reason = f": {words.count(skipped, 'case')} skipped, with the reason in appendix B" if skipped else ""
    yield not len(study.scaling), f"Nothing was measured{reason}."
    yield bool(study.run.synthetic), "No machine was measured: a simulator made these numbers."
    problems = [str(one.get("name", "?")) for one in study.findings if one.get("level") == "blocker"]
    yield bool(problems), f"The machine check found a blocker before the run: {words.listed(problems)}."
    missing = int(study.run.skipped["missing"].sum())
    were = "was" if missing == 1 else "were"
    cells = words.count(missing, "cell")
    yield bool(missing), f"The run is not complete: {cells} of its grid {were} not measured."
    is_one = len(study.scaling) > 0 and study.scaling["threads"].max() == 1
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


def _of_the_paths(study: Study) -> Iterator[tuple[bool, str]]:
    """Give which paths have two states where the figure shows them: their middle hardly occurs."""
    states = study.states[study.states["two_states"].notna()]
    shown = set(map(tuple, study.headline[[*tables.CASE]].to_numpy()))
    split = states[[tuple(case) in shown for case in states[[*tables.CASE]].to_numpy()]].drop_duplicates(PATH)
    names = words.each(split, words.name_of)
    some = words.listed(names) if len(names) <= MOST_NAMES else f"{len(names)} paths"
    have = "has" if len(names) == 1 else "have"
    yield bool(names), f"{some[:1].upper()}{some[1:]} {have} two states: no time near the middle is typical."


def _reach(scaling: pd.DataFrame, facts: dict[str, Any]) -> str:
    """Return what the numbers of a good run do not show."""
    most = words.count(int(scaling["threads"].max()), "thread") if len(scaling) else "no thread"
    where = "in a virtual machine" if facts.get("virtualised") else "on one machine"
    return (
        f"At most {most} {where}, in one state of it: more threads or another machine may differ. These are "
        "single paths: no application gains this much by itself."
    )


def losses(scaling: pd.DataFrame) -> str:
    """Return at how many points of kernel paths threads do not help, and a blank; empty if always."""
    points = parallel(scaling[(scaling["n"] > 0) & (scaling["backend"] == "kernel")])
    missed = int((points["verdict"] != "faster").sum())
    if not missed:
        return ""
    verdicts = points.loc[points["verdict"] != "faster", "verdict"].unique()
    are = str(verdicts[0]) if len(verdicts) == 1 else "not known to be faster"
    if missed == len(points) > 1:
        return f"All {missed} points are {are}. "
    return f"{missed} of {words.count(len(points), 'point')} {'is' if missed == 1 else 'are'} {are}. "
