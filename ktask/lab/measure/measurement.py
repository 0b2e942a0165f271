"""What was measured of one case: how, every repetition, and what follows from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ktask.common.units import fmt_number, fmt_rate, fmt_size
from ktask.engine.task import Result
from ktask.lab.measure import flags, levels, stats
from ktask.lab.measure.rounds import SEED
from ktask.lab.measure.states import States, find
from ktask.lab.measure.stats import Estimate
from ktask.workloads import Case

if TYPE_CHECKING:
    import pandas as pd

    from ktask.lab.bystanders import Bystanders
    from ktask.lab.bystanders.summary import Beside
    from ktask.lab.evidence import Evidence

CHUNKED = "1 thread in chunks"


MOST_PASSES = 1000


def check_passes(passes: int | None) -> None:
    """Refuse a number of passes that cannot be."""
    if passes is not None and not 1 <= passes <= MOST_PASSES:
        raise ValueError(f"passes={passes} is not allowed; use 1 to {MOST_PASSES}, 5 to judge by")


@dataclass(frozen=True)
class Protocol:
    """How often to measure, and when enough is enough.

    Attributes
    ----------
    least, most
        Rounds in any case, and at the very most.
    budget_s
        Past this time no further round starts once every variant has `least` repetitions that may enter a
        rate; past `PATIENCE` times this time, once `least` rounds are done.
    precision
        Stop once the interval of every variant is at most this far from its median.
    warmup_s
        Longest time spent on warm-ups.
    seed
        Of the order within rounds.
    sample_s
        Least time of a repetition. What is shorter is called as often as it takes, at most `MOST_CALLS` times
        in a row and for `LONGEST_S`, each time prepared and checked; the mean counts.
    """

    least: int = 7
    most: int = 31
    budget_s: float = 3.0
    precision: float = 0.01
    warmup_s: float = 8.0
    seed: int = SEED
    sample_s: float = 0.001

    def __post_init__(self) -> None:
        """Refuse rounds that cannot be."""
        if self.least < 1:
            raise ValueError(f"least={self.least} is not allowed; use 1 or more")
        if self.most < self.least:
            raise ValueError(f"most={self.most} is below least={self.least}; raise one or lower the other")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Protocol:
        """Return the protocol with these values, the others at their defaults."""
        names = [one.name for one in fields(cls)]
        if unknown := values.keys() - set(names):
            raise ValueError(f"protocol {min(unknown)!r} is unknown; use {', '.join(names)}")
        return cls(**values)


class Variant(NamedTuple):
    """What differs between the repetitions of a round."""

    name: str
    threads: int
    baseline: bool = False
    chunk_size: int = 0  # units per chunk; 0: those of the policy

    @property
    def is_aa(self) -> bool:
        """Whether this is the second baseline."""
        return self.baseline and self.name == "aa"


SERIAL = Variant("serial", 1, baseline=True)


class Granted(NamedTuple):
    """How many threads a count gives, and why it is another number; empty if it is not."""

    threads: int
    why: str = ""

    def note(self, asked: int) -> str:
        """Return in words that a count of `asked` gave another number of threads."""
        return f"{asked} threads asked for, {self.threads} granted: {self.why}"


def variants(threads: Iterable[int] | Mapping[int, int]) -> list[Variant]:
    """Return the variants of a round for these thread counts, or counts with the threads that each gives."""
    given = threads if isinstance(threads, Mapping) else {n: n for n in threads}
    return [
        SERIAL,
        Variant("aa", 1, baseline=True),
        *(Variant(_several(given[n]), n) for n in sorted(given) if n > 1),
    ]


def _several(threads: int) -> str:
    return f"{threads} thread{'s' * (threads != 1)}"


def is_of(row: Mapping[str, Any], variant: Variant) -> bool:
    """Return whether a row, not of a warm-up, is a repetition of `variant`."""
    same = row["threads_requested"] == variant.threads and row["baseline"] == variant.baseline
    return same and not row["warmup"] and (("aa" in row["flags"]) == variant.is_aa)


def _walls(rows: Iterable[Mapping[str, Any]], variant: Variant) -> np.ndarray:
    return np.array([r["wall_s"] for r in rows if is_of(r, variant) and "cold_memory" not in r["flags"]])


def _variant_name(row: Mapping[str, Any]) -> str:
    if row["baseline"]:
        return SERIAL.name
    return CHUNKED if row["threads_requested"] == 1 else _several(row["threads"])


def cold_note(name: str, cold: Mapping[str, Any]) -> str:
    """Return in words what `Measurement.cold` says of the variant `name`."""
    return (
        f"left out as cold: {cold['serial']} serial, {cold['threads']} with {name}; "
        f"the speedup of the means of all is {fmt_number(cold['speedup_of_all'])}"
    )


def _medians(rows: Sequence[Mapping[str, Any]], variant: Variant) -> dict[str, float | None]:
    """Return what one process found: median times in seconds, and their ratio."""
    base, walls = (stats.estimate(_walls(rows, one)).median for one in (SERIAL, variant))
    found = {"wall_s": walls, "baseline_wall_s": base, "speedup": base / walls}
    return {name: None if np.isnan(value) else value for name, value in found.items()}


def _parts(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names}


@dataclass
class Measurement:
    """The repetitions of one case; shows as a table with units.

    Attributes
    ----------
    case, protocol
        What was measured, and how.
    rows
        One per repetition, as the schema of the records has it.
    traced
        One more repetition with the times of its chunks, if asked for, and the bytes of a unit in it.
    seen
        What untimed repetitions showed, if asked for.
    beside
        What neighbours found beside others, by the process (`pass`) that had them, if asked for.
    grants
        The thread counts that were asked for and gave another number of threads, with the reason.
    kernel_log
        What the kernel wrote to its log meanwhile, where that may be read; the last lines of each process.
    """

    case: Case
    protocol: Protocol
    rows: list[dict[str, Any]] = field(default_factory=list)
    traced: Result | None = None
    seen: Evidence | None = None
    beside: dict[int, Bystanders] = field(default_factory=dict)
    bytes_per_unit: int = 1
    grants: dict[int, Granted] = field(default_factory=dict)
    kernel_log: list[str] = field(default_factory=list)

    def walls(self, variant: Variant) -> np.ndarray:
        """Return the wall times (seconds) of a variant that may enter a rate."""
        return _walls(self.rows, variant)

    @property
    def processes(self) -> list[list[dict[str, Any]]]:
        """The rows of each process that measured the case."""
        found: dict[Any, list[dict[str, Any]]] = {}
        for row in self.rows:
            found.setdefault(row["pass"], []).append(row)
        return [*found.values()]

    def time(self, variant: Variant) -> Estimate:
        """Return the wall time (seconds) of a variant over the processes."""
        found = [stats.estimate(_walls(rows, variant)) for rows in self.processes]
        return levels.across(found, drift=levels.TIME_DRIFT)

    def speedup(self, variant: Variant) -> Estimate:
        """Return the speedup of a variant over the serial call, in each process and over them."""
        found = [stats.ratio(_walls(rows, SERIAL), _walls(rows, variant)) for rows in self.processes]
        return levels.across(found, best="high", drift=levels.RATIO_DRIFT)

    def rate(self, variant: Variant) -> Estimate:
        """Return the operations per second of a variant over the processes."""
        operations = self.rows[0]["operations"]
        found = [stats.estimate(operations / _walls(rows, variant), "high") for rows in self.processes]
        return levels.across(found, best="high", drift=levels.TIME_DRIFT)

    @property
    def states(self) -> dict[str, States]:
        """Two states, drift and settling, by variant; both serial calls together, as they are the same."""
        found: dict[str, States] = {}
        for rows in flags.by_variant([row for row in self.rows if not row["warmup"]]):
            kept = [row for row in rows if "cold_memory" not in row["flags"]]
            columns = ([row[name] for row in kept] for name in ("wall_s", "round", "pass"))
            if one := find(*columns):
                found[_variant_name(rows[0])] = one
        return found

    def cold(self, variant: Variant) -> dict[str, Any] | None:
        """Return what was left out as cold, and the speedup with it; None if nothing was.

        The speedup of means: a median hides a few cold repetitions, and who uses the memory pays for them.
        """
        both = [[row for row in self.rows if is_of(row, one)] for one in (SERIAL, variant)]
        counts = [sum("cold_memory" in row["flags"] for row in rows) for rows in both]
        if not any(counts):
            return None
        serial_s, wall_s = (float(np.mean([row["wall_s"] for row in rows])) for rows in both)
        return {"serial": counts[0], "threads": counts[1], "speedup_of_all": serial_s / wall_s}

    @property
    def notes(self) -> list[str]:
        """Thread counts that gave fewer, the kernel's log, and what a median hides: states, and cold ones."""
        notes = [one.note(asked) for asked, one in self.grants.items()]
        notes += [f"kernel log: {line}" for line in self.kernel_log]
        notes += [f"{name}: {found}" for name, found in self.states.items()]
        several = variants(self._given)[2:]
        return notes + [cold_note(v.name, cold) for v in several if (cold := self.cold(v))]

    @property
    def _given(self) -> dict[int, int]:
        """The threads that each count gave, by the count; of several numbers, the usual one."""
        found: dict[int, Counter[int]] = {}
        for row in self.rows:
            if not row["baseline"]:
                found.setdefault(row["threads_requested"], Counter())[row["threads"]] += 1
        return {asked: counts.most_common(1)[0][0] for asked, counts in found.items()}

    @property
    def records(self) -> pd.DataFrame:
        """All repetitions, with the columns of the records."""
        import pandas as pd  # noqa: PLC0415  (not needed to measure)

        return pd.DataFrame(self.rows)

    @property
    def table(self) -> pd.DataFrame:
        """One row per variant: time, rate, speedup over the serial baseline, each with its 95 % interval."""
        import pandas as pd  # noqa: PLC0415  (not needed to measure)

        found = variants(self._given)
        found.insert(2, Variant(CHUNKED, 1))
        measured = [variant for variant in found if any(is_of(row, variant) for row in self.rows)]
        return pd.DataFrame(map(self._row, measured)).set_index("variant")

    def _row(self, variant: Variant) -> dict[str, Any]:
        row = next(r for r in self.rows if is_of(r, variant))
        time, speedup = self.time(variant), self.speedup(variant)
        return {
            "variant": "serial again (A/A)" if variant.is_aa else variant.name,
            "threads": row["threads"],
            "chunk_bytes": row["chunk_size"],
            "time_s": time.median,
            "low_s": time.low,
            "high_s": time.high,
            "rate_per_s": self.rate(variant).median,
            "speedup": speedup.median,
            "low": speedup.low,
            "high": speedup.high,
            "verdict": "baseline" if variant.baseline else levels.verdict(speedup),
            "n": time.n,
            "processes": time.processes,
        }

    def _formatted(self) -> pd.DataFrame:
        from ktask.common.views import formatted  # noqa: PLC0415  (not needed to measure)

        return formatted(self.table, rate_per_s=partial(fmt_rate, unit=self.rows[0]["unit"]))

    def __str__(self) -> str:
        """Return the table as text, with what was measured above it."""
        case = self.case
        what = f"{case.workload} {case.method}, {fmt_size(case.size_bytes)} of {case.page_kind} pages"
        return "\n".join([what, self._formatted().to_string(), *self.notes])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return self._formatted().to_html() + "".join(f"<p>{escape(note)}</p>" for note in self.notes)

    def plot(self):
        """Return a figure: the speedup by threads with its interval, and every repetition."""
        from ktask.lab import figures  # noqa: PLC0415  (not needed to measure)

        return figures.measured(self)

    def evidence(self) -> Evidence:
        """Return where the time of the most threads goes; looks at a fresh process unless that was done."""
        if self.seen is None:
            from ktask.lab.measure.processes import look_at  # noqa: PLC0415

            self.seen = look_at(self.case, max(row["threads_requested"] for row in self.rows))
        return self.seen

    def bystanders(self) -> Beside:
        """Return what others wait for beside it; probes in fresh processes unless that was done."""
        from ktask.lab.bystanders.summary import Beside  # noqa: PLC0415  (not needed to measure)

        if not self.beside:
            from ktask.lab.measure.processes import probe  # noqa: PLC0415

            self.beside = probe(self.case, max(row["threads_requested"] for row in self.rows))
        return Beside(self._bystander_rows())

    def _bystander_rows(self) -> pd.DataFrame:
        import pandas as pd  # noqa: PLC0415  (not needed to measure)

        from ktask.lab.bystanders import store  # noqa: PLC0415

        key, none = store.key_of(self.rows), {"run_id": "", "host_id": "", "cell_id": ""}
        tables = [store.table_of(one, key, {**none, "pass": number}) for number, one in self.beside.items()]
        return pd.concat([table.to_pandas() for table in tables], ignore_index=True)

    def as_dict(self, threads: int) -> dict[str, Any]:
        """Return one thread count, as asked for, against the baseline as plain values, ready for JSON."""
        _, again, *others = variants({threads: self._given.get(threads, threads)})
        variant = others[0] if others else again
        row = next(r for r in reversed(self.rows) if r["threads_requested"] == threads)
        counted = Counter(f for r in self.rows if not r["warmup"] for f in r["flags"] if f != "aa")
        time, speedup = self.time(variant), self.speedup(variant)
        if flags.superlinear(speedup.low, threads):
            counted["above_threads"] = time.n
        found = {
            **_parts(row, "workload", "backend", "method"),
            "page_size": row["page_kind"],
            **_parts(row, "size_bytes", "policy", "threads", "chunk_size", "n_chunks", "unit"),
            "threads_requested": threads,
            "threads_note": self.grants[threads].note(threads) if threads in self.grants else None,
            "wall_s": time.as_dict(),
            "baseline_wall_s": self.time(SERIAL).as_dict(),
            "rate": self.rate(variant).as_dict(),
            "speedup": speedup.as_dict(),
            "verdict": levels.verdict(speedup),
            "passes": [_medians(rows, variant) for rows in self.processes],
            "between_processes_pct": None if np.isnan(time.spread) else 100 * float(np.expm1(time.spread)),
            "verified": all(r["verified"] for r in self.rows),
            "cpus": [int(cpu) for cpu in row["cpus"].split(",") if cpu],
            "nodes": [int(nid) for nid in row["nodes"].split(",") if nid],
            "shared_cores": row["shared_cores"],
            "placement": self.case.option("placement"),
            "flags": dict(counted),
            "kernel_log": self.kernel_log,
            "states": {
                name: found.as_dict()
                for name, found in self.states.items()
                if name in (SERIAL.name, variant.name)
            },
            "cold": self.cold(variant),
            "options": dict(self.case.options),
            "conditions": self._conditions(variant),
            "seed": self.protocol.seed,
        }
        found |= {"evidence": self.seen.as_dict()} if self.seen else {}
        return found | ({"bystanders": self.bystanders().as_dict()} if self.beside else {})

    def _conditions(self, variant: Variant) -> dict[str, Any]:
        """Return the conditions as they are in options, and what was found of them on each side."""
        names = ("load", "quota", "nice", "placement")
        found: dict[str, Any] = {name: self.case.option(name) for name in names}
        for name in ("load_alone_rate", "load_rate", "load_cpu_s", "throttled_s", "huge_share"):
            sides = {"serial": SERIAL, "threads": variant}
            medians = {side: self._median(one, name) for side, one in sides.items()}
            if medians["serial"] is not None:
                found[name] = medians["serial"] if name == "load_alone_rate" else medians
        return found

    def _median(self, variant: Variant, name: str) -> float | None:
        """Return the median of a column over the repetitions of a variant; None if none has it."""
        known = [row[name] for row in self.rows if is_of(row, variant) and row[name] is not None]
        return float(np.median(known)) if known else None

    def save(self, name: str, root: Path | None = None) -> Path:
        """Keep this as the run `name`, for `ktask report` and `ktask compare`; return its directory."""
        from ktask.lab.sweep.saved_session import save_run  # noqa: PLC0415  (not needed to measure)

        return save_run([self], name, root)

    def save_processes(self, folder: Path, labels: Mapping[str, Any]) -> None:
        """Keep the repetitions in `folder`, one file per process, named by the cell and the pass."""
        from ktask.lab.records import process_name  # noqa: PLC0415  (not needed to measure)

        for rows in self.processes:
            number = rows[0]["pass"]
            one = replace(self, rows=rows, traced=self.traced if number == 1 else None)
            path = folder / f"{process_name(labels['cell_id'], number)}.parquet"
            one.save_records(path, {**labels, "pass": number})

    def save_evidence(self, folder: Path | str, labels: Mapping[str, Any]) -> None:
        """Keep what was seen in `folder`, as the file of its cell.

        `labels` are the values of the columns run_id, host_id and cell_id.
        """
        from ktask.lab.evidence import store  # noqa: PLC0415  (not needed to measure)

        if self.seen is not None:
            store.save(Path(folder), store.key_of(self.rows), self.seen, labels)

    def save_bystanders(self, folder: Path | str, labels: Mapping[str, Any]) -> None:
        """Keep what neighbours found in `folder`, a file for each process that had them.

        `labels` are the values of the columns run_id, host_id and cell_id, and pass if there is one process.
        """
        from ktask.lab.bystanders import store  # noqa: PLC0415  (not needed to measure)
        from ktask.lab.records import process_name  # noqa: PLC0415

        for number, one in self.beside.items():
            of_process = {"pass": number} | dict(labels)
            name = process_name(labels["cell_id"], of_process["pass"])
            store.save(Path(folder) / f"{name}.parquet", one, store.key_of(self.rows), of_process)

    def save_records(self, path: Path | str, labels: Mapping[str, Any]) -> None:
        """Keep the repetitions as `path`, and the trace in the folder `traces` beside that of the records.

        `labels` are the values of the columns run_id, host_id, cell_id and pass.
        """
        from ktask.lab.records import process_name, write_records  # noqa: PLC0415  (not needed to measure)
        from ktask.lab.traces import trace_table, write_traces  # noqa: PLC0415  (not needed to measure)

        path = Path(path)
        traces = path.parent.parent / "traces"
        if self.traced is not None and traces.is_dir():
            chunks = trace_table(self.traced, self.bytes_per_unit)
            name = process_name(labels["cell_id"], labels.get("pass", 1))
            write_traces(traces / f"{name}.parquet", chunks, labels)
        write_records(path, [row | dict(labels) for row in self.rows])
