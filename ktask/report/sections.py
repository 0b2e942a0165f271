"""Tables and paragraphs of the page, each made from one study."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup

from ktask.common import units
from ktask.host.counters import MEANINGS
from ktask.lab.measure.flags import flag_effects
from ktask.lab.measure.levels import PROCESS
from ktask.lab.records import Run, synthetic_note, time_measuring
from ktask.report import machine, tables
from ktask.report import sentences as words
from ktask.report.markup import Cell, join, paragraph, table, with_code
from ktask.report.study import Study
from ktask.report.tables import PATH

COMMIT_DIGITS = 12
SEVERE = ("blocker", "warning")


def identity(run: Run) -> dict[str, Any]:
    """Return what names a run: name, date, grid, seed, commit, hash of the environment."""
    started = run.records["started_at"].min() if len(run.records) else run.machine.get("collected_at")
    date = pd.to_datetime(started, utc=True, errors="coerce")
    commit = str(run.machine.get("git_commit") or machine.UNKNOWN)
    return {
        "name": run.name,
        "date": machine.UNKNOWN if pd.isna(date) else f"{date:%Y-%m-%d %H:%M} UTC",
        "host": str(run.machine.get("host_name") or machine.UNKNOWN),
        "processor": machine.scope(run.machine),
        "synthetic": synthetic_note(run.machine),
        "kernel": str(run.machine.get("kernel_release") or machine.UNKNOWN),
        "took": _took(run),
        "largest": units.fmt_size(int(run.records["size_bytes"].max())) if len(run.records) else "no bytes",
        "grid": str(run.grid.get("name") or machine.UNKNOWN),
        "passes": int(run.records["pass"].max()) if len(run.records) else 1,
        "seed": str(run.grid.get("seed", machine.UNKNOWN)),
        "commit": commit if commit == machine.UNKNOWN else commit[:COMMIT_DIGITS],
        "changed": bool(run.machine.get("git_changed")),
        "lock": str(run.machine.get("lock_sha256") or machine.UNKNOWN),
    }


def _took(run: Run) -> str:
    """Return the time from the first repetition of a run to its last."""
    started = pd.to_datetime(run.records["started_at"], utc=True, errors="coerce").dropna()
    return (
        words.duration((started.max() - started.min()).total_seconds()) if len(started) else machine.UNKNOWN
    )


def machines(studies: Sequence[Study], *, all_lines: bool = False) -> Markup:
    """Return the machine table, one column per machine: the lines that matter most, or all."""
    described = [dict(machine.describe(study.run.machine)) for study in studies]
    shown = [label for label in described[0] if all_lines or label in machine.IMPORTANT]
    rows = [(label, *(facts[label] for facts in described)) for label in shown]
    names = ("Property", *(study.label or "Value" for study in studies))
    columns: dict[str, Cell] = {name: i for i, name in enumerate(names)}
    key = "all-of-the-machine" if all_lines else "machine"
    return table(columns, rows, caption="The machine before the run.", key=key, text=columns)


def _severity(finding: dict[str, Any]) -> int:
    order = [*SEVERE, "note", "ok"]
    return order.index(finding["level"]) if finding.get("level") in order else 0


def _mark(level: str) -> Markup:
    texts = {"blocker": "✗ blocker", "warning": "! warning", "note": "note", "ok": "✓ ok"}
    kind = "bad" if level in SEVERE else "good"
    return Markup('<span class="{}">{}</span>').format(kind, texts.get(level, level))


def _advice(finding: dict[str, Any]) -> Markup:
    """Return what a finding means and its remedy; text between backticks becomes code."""
    return with_code(" ".join(str(finding[name]) for name in ("means", "remedy") if finding.get(name)))


FINDINGS: dict[str, Cell] = {
    "Checked": lambda one: one.get("name", "?"),
    "Result": lambda one: _mark(str(one.get("level", "?"))),
    "Value": lambda one: one.get("value", ""),
    "What it means, and the remedy": _advice,
}


def severe_findings(study: Study) -> Markup:
    """Return what the machine check found that would or may disturb a measurement."""
    if not study.findings:
        return paragraph(study.title, "The machine was not checked before this run.")
    severe = [one for one in study.findings if one.get("level") in SEVERE]
    number = f"{len(severe)} of {words.count(len(study.findings), 'finding')}"
    if not severe:
        return paragraph(study.title, f"The check of the machine: {number} disturb a measurement.")
    caption = Markup("{}Check of the machine: {} would or may disturb a measurement.").format(
        study.title, number
    )
    rows = sorted(severe, key=_severity)
    return table(FINDINGS, rows, caption=caption, key=study.key("checks"), text=FINDINGS)


def all_facts(study: Study) -> Markup:
    """Return every finding, every warning of a repetition and every fact of `machine.json`."""
    columns: dict[str, Cell] = {"Fact": 0, "Value": 1}
    caption = Markup("{}All recorded facts.").format(study.title)
    facts = machine.other_facts(study.run.machine)
    listing = table(columns, facts, caption=caption, key=study.key("facts"), text=columns)
    return join([_all_findings(study), flags(study), listing])


def _all_findings(study: Study) -> Markup:
    """Return the findings of the machine check, the worst first."""
    if not study.findings:
        return Markup("")
    caption = Markup("{}All findings of the machine check.").format(study.title)
    rows = sorted(study.findings, key=_severity)
    return table(FINDINGS, rows, caption=caption, key=study.key("all-checks"), text=FINDINGS)


def flags(study: Study) -> Markup:
    """Return how many repetitions were verified, and which warnings they carry."""
    flagged = tables.flags_table(study.run)
    number = len(study.repetitions)
    if not number:
        return Markup("")
    verified = int(study.repetitions["verified"].astype(bool).sum())
    checked = f"{verified} of {words.count(number, 'repetition')} were checked to have done their work."
    if flagged.empty:
        return paragraph(checked, "None carries a warning.")
    effects = flag_effects(study.run.records).set_index(["workload", "flag"])
    columns: dict[str, Cell] = {
        "Warning": lambda row: words.short(row["flag"]),
        "Workload": lambda row: words.workload_label(row["workload"]),
        "Repetitions": "repetitions",
        "Of": "of",
        "Times as long": lambda row: _effect(effects, row["workload"], row["flag"])[0],
        "Moves a median": lambda row: _effect(effects, row["workload"], row["flag"])[1],
        "Meaning": lambda row: FLAG_MEANINGS.get(row["flag"], "not described in this version"),
    }
    caption = Markup(
        "{}Warnings of repetitions. All but cold ones stay in the rates. Times as long: the median of "
        "the marked ones over that of the others of the same case and threads (smallest to largest). "
        "Moves a median: by how much at most the marked ones do, or would."
    ).format(study.title)
    text = ["Warning", "Workload", "Meaning"]
    listing = table(columns, flagged, caption=caption, key=study.key("flags"), text=text)
    return join([paragraph(checked, _cold_ones(study.repetitions)), listing])


def _cold_ones(rows: pd.DataFrame) -> str:
    """Return how many repetitions were cold with one thread and several, empty if none was cold."""
    if not rows["cold"].any():
        return ""
    several = rows["threads"] > 1
    if not several.any():
        return f"Cold were {int(rows['cold'].sum())}."
    parts = [f"{int(rows['cold'][mask].sum())} of {int(mask.sum())}" for mask in (several, ~several)]
    return f"Cold were {parts[0]} with several threads and {parts[1]} with one."


FLAG_MEANINGS = MEANINGS | {
    "cold_memory": f"{MEANINGS['cold_memory']}; in no rate",
    "involuntary": MEANINGS["preempted"],
}


def _effect(effects: pd.DataFrame, workload: str, flag: str) -> tuple[str, str]:
    """Return what flagged repetitions did, in words; a dash where all of a kind or none are flagged."""
    if (workload, flag) not in effects.index or pd.isna(effects.loc[(workload, flag), "slower"]):
        return "–", "–"
    one = effects.loc[(workload, flag)]
    middle, low, high = (units.fmt_number(one[name]) for name in ("slower", "slower_low", "slower_high"))
    return middle if low == high else f"{middle} ({low} to {high})", f"{100 * one['shift']:.1f} %"


def design(study: Study) -> Markup:
    """Return how often, in which order and with which seed this run measured."""
    rows = study.repetitions
    if rows.empty:
        return paragraph(study.title, "No repetition was recorded.")
    protocol = study.run.grid.get("protocol")
    seed = study.run.grid.get("seed", machine.UNKNOWN)
    rounds = rows.groupby(["cell_id", *PROCESS])["round"].nunique()
    passes = rounds.groupby("cell_id").size()
    texts = [
        Markup("Run {}: {}, each measured by {} with {} rounds, {} without warm-ups.").format(
            study.run.name,
            words.count(len(passes), "cell"),
            "one process" if passes.max() == 1 else f"{words.span(passes)} processes, one per pass,",
            words.span(rounds),
            words.count(len(rows), "repetition"),
        ),
        _spread(study.scaling),
        _time(study),
        Markup("The order within rounds was random, from seed {}.").format(seed),
        _stopping(protocol) if isinstance(protocol, dict) else "",
        Markup("Policy for threads and chunks: {}.").format(words.listed(sorted(set(rows["policy"])))),
    ]
    return paragraph(*texts)


def _spread(scaling: pd.DataFrame) -> str:
    """Return by how much processes of one cell differ; empty of one process."""
    known = scaling["spread"].dropna()
    if known.empty:
        return ""
    ends = words.reach(known, words.percent)
    return (
        f"The times of processes that measured the same differ by {words.percent(known.median())} in the "
        f"median over cells and threads ({ends}; standard deviation)."
    )


def _time(study: Study) -> str:
    inside_s, elapsed_s = time_measuring((study.whole or study.run).records)
    if "resumed" in study.run.machine or not 0 < inside_s <= elapsed_s:
        return ""
    share = inside_s / elapsed_s
    return f"Of {elapsed_s:.0f} s from first to last repetition, cells were measuring {words.percent(share)}."


def _stopping(protocol: dict[str, Any]) -> Markup:
    names = ("least", "most", "budget_s", "precision")
    if any(not isinstance(protocol.get(name), int | float) for name in names):
        return Markup("")
    least, most, budget_s, precision = (protocol[name] for name in names)
    return Markup(
        "A process stops after at least {} rounds once every interval is within {} % of its median, "
        "or {} have passed, and after {} rounds at the latest; later passes move time from decided cells to "
        "undecided ones."
    ).format(least, f"{100 * precision:g}", f"{budget_s:g} s", most)


def results(rows: pd.DataFrame, key: str) -> Markup:
    """Return times, rates and speedups of one workload at the largest size of each path."""
    last = tables.at_largest_size(tables.compared(rows[rows["n"] > 0]))
    columns: dict[str, Cell] = {
        "Path": words.path_label,
        "Size": words.size_label,
        "Threads": words.threads_label,
        "Wall time": words.wall,
        "Rate": words.rate,
        "Speedup": _speedup,
        "Verdict": "verdict",
    }
    note = words.above_note(last)
    caption = f"The largest size of each path; middle [95 % interval]. All sizes are in appendix B. {note}"
    return table(columns, last, caption=caption, key=key, text=["Verdict"]) if len(last) else Markup("")


def _speedup(row: pd.Series) -> str:
    return "1" if row["baseline"] else words.speedup(row)


def crossover(study: Study, crossover: pd.DataFrame) -> Markup:
    """Return from which size on threads win, per path and thread count."""

    def size(row: pd.Series) -> str:
        return units.fmt_size(row["from_size_bytes"]) if pd.notna(row["from_size_bytes"]) else "none"

    columns: dict[str, Cell] = {
        "Path": words.full_label,
        "Threads": "threads",
        "Faster from": size,
        "Slower at": _sizes("slower_sizes"),
        "Same at": _sizes("same_sizes"),
        "Undecided at": _sizes("undecided_sizes"),
        "Smallest": lambda row: units.fmt_size(row["smallest_bytes"]),
        "Overhead there": lambda row: words.value(row, "price", units.time_scale(abs(row["price"]))),
    }
    caption = Markup(
        "{}Crossover: the smallest size from which threads are faster at every larger one. "
        "Overhead there: wall time minus that of an ideal split, at the smallest size [95 % interval]."
    ).format(study.title)
    text = ["Slower at", "Same at", "Undecided at"]
    return table(columns, crossover, caption=caption, key=study.key("crossovers"), text=text)


def _sizes(name: str) -> Cell:
    return lambda row: ", ".join(map(units.fmt_size, row[name])) or "none"


NUMBERS: dict[str, Cell] = {
    "Path": words.path_label,
    "Size": words.size_label,
    "Threads": words.threads_label,
    "Processes": "processes",
    "n": "n",
    "Cold": "n_cold",
    "Flagged": "n_flagged",
    "Serial wall": lambda row: words.wall(row, "base_wall"),
    "Wall": words.wall,
    "Spread": lambda row: words.percent(row["spread"]),
    "Rate": words.rate,
    "Speedup": _speedup,
    "Efficiency": lambda row: "100 %" if row["baseline"] else words.value(row, "efficiency", units.PERCENT),
    "CPU time": lambda row: "1" if row["baseline"] else words.value(row, "cpu_cost"),
    "Against best serial": lambda row: words.value(row, "vs_best"),
    "Verdict": "verdict",
}


def all_numbers(study: Study) -> Markup:
    """Return every case and thread count, every chunk size, and everything that was skipped."""
    groups = study.scaling.groupby("workload", sort=False)
    numbers = [_numbers_of(study, str(workload), part) for workload, part in groups]
    return join([*numbers, _chunk_numbers(study), _skipped(study)])


def _numbers_of(study: Study, workload: str, part: pd.DataFrame) -> Markup:
    caption = Markup("{}{}: every case and thread count; middle [95 % interval]. {}").format(
        study.title, words.workload_label(workload), words.above_note(part)
    )
    key = study.key(words.figure_key("numbers", workload))
    return table(NUMBERS, part, caption=caption, key=key, text=["Verdict"])


CHUNK_NUMBERS: dict[str, Cell] = {
    "Path": words.full_label,
    "Size": words.size_label,
    "Threads": words.threads_label,
    "Chunk": lambda row: units.fmt_size(row["chunk_size"]),
    "Processes": "processes",
    "n": "n",
    "Wall": words.wall,
    "Speedup": _speedup,
    "Verdict": "verdict",
}


def _chunk_numbers(study: Study) -> Markup:
    rows = study.chunks[~study.chunks["baseline"].astype(bool)]
    if rows.empty:
        return Markup("")
    caption = Markup("{}Cases that were measured with several chunk sizes. {}").format(
        study.title, words.above_note(rows)
    )
    return table(CHUNK_NUMBERS, rows, caption=caption, key=study.key("chunk-numbers"), text=["Verdict"])


def _state(row: pd.Series) -> str:
    state = "missing" if row["missing"] else "failed" if row["failed"] else "skipped"
    if not row["passes_with"]:
        return state
    return f"{state} in {row['passes_without']} of {row['passes_without'] + row['passes_with']} passes"


SKIPPED: dict[str, Cell] = {
    "Workload": lambda row: words.workload_label(str(row["workload"])),
    "Path": lambda row: words.path_label({name: str(row[name]) for name in PATH[:-1]}),
    "Size": words.size_label,
    "State": _state,
    "Reason": lambda row: str(row["reason"]),
}


def _skipped(study: Study) -> Markup:
    skipped = tables.skipped_table(study.run)
    if skipped.empty:
        return paragraph(study.title, "No case of the grid was skipped.")
    caption = Markup("{}Cases of the grid that were not measured, or not in every pass.").format(study.title)
    text = ["Path", "State", "Reason"]
    return table(SKIPPED, skipped, caption=caption, key=study.key("skipped"), text=text)
