"""Check the policies, and an engine if given, against a table of worked cases.

The table is a CSV file with one case per row, of one of three kinds: `plan` (threads, helpers and chunks of a
task), `undo` (what is undone after a failure) and `migrate` (a helper goes on to another node). An empty cell
means "not applicable". Lists in a cell are joined by a bar; node tables read `node:count`, parts
`node:start:size`, chunks `start-end`, and the two `extra` columns `key=value; key=value`.
"""

from __future__ import annotations

import csv
import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ktask.common.files import require_regular
from ktask.engine.policy import (
    ANY_NODE,
    Machine,
    Part,
    Plan,
    Policy,
    Usage,
    enter_node,
    make_plan,
    policy_named,
    whole_number,
)
from ktask.engine.undo import undo_ranges

# fmt: off
COLUMNS = (
    "case_id", "kind", "policy", "nodes", "task_size", "min_chunk", "max_threads", "default_max_threads",
    "align", "numa_aware", "cpus_online", "cpus_per_node", "rlim_max", "rlim_cur_before", "rlim_node_max",
    "rlim_node_cur_before", "pool_free_before", "extra_in", "threads", "helpers", "helper_start_index",
    "helper_queue_nid", "rlim_cur_during", "rlim_node_cur_during", "pool_free_during", "chunk_size",
    "n_chunks", "chunks", "first_chunk", "last_chunk", "extra_out",
)
# fmt: on
MOST_ROWS = 100_000
MOST_CHUNKS_RUN = 10_000  # a plan with more is not handed to an engine
MOST_CHUNKS_SHOWN = 24  # as in the table

Parse = Callable[[str], Any]
Output = tuple[str, Parse, Any]  # column, how to read it, what we get
RunPlan = Callable[[Plan], Sequence[Iterable[tuple[int, int]]]]
RunUndo = Callable[..., tuple[Iterable[tuple[int, int]], int]]


class Mismatch(NamedTuple):
    """One output that differs; `expected` and `got` are text as in the table."""

    column: str
    expected: str
    got: str


def check_vectors(
    path: str | Path, run_undo: RunUndo | None = None, run_plan: RunPlan | None = None
) -> dict[str, Any]:
    """Check every row of the table at `path`.

    Parameters
    ----------
    path
        A CSV file with the columns `COLUMNS`; more columns are ignored.
    run_undo
        `(parts, chunk_size, claimed_per_part, failed, first_error) -> (undone ranges, returned code)`, to
        check a real engine. `failed` holds pairs of part and chunk index. If left out, and for policies with
        absolute chunk boundaries, `undo.undo_ranges` answers.
    run_plan
        `(plan) -> for each part the (start, end) of the chunks that really ran`; nothing is run if left out,
        or if the plan has more than `MOST_CHUNKS_RUN` chunks.

    Returns
    -------
    dict
        `rows` and `passed` (counts), and `mismatches`: a list of dicts with case_id, column, expected, got.

    Raises
    ------
    ValueError
        If the table cannot be understood; names file, line, case, column and value.
    OSError
        If the file cannot be read.
    """
    checks = {
        "plan": lambda row: _check_plan(row, run_plan),
        "undo": lambda row: _check_undo(row, run_undo),
        "migrate": _check_migrate,
    }
    rows = _read_rows(Path(path))
    found = [row.checked_by(checks) for row in rows]
    return {
        "rows": len(rows),
        "passed": found.count([]),
        "mismatches": [
            {"case_id": row.case_id, **m._asdict()} for row, ms in zip(rows, found, strict=True) for m in ms
        ],
    }


def _read_rows(path: Path) -> list[_Row]:
    require_regular(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            _check_header(path, reader.fieldnames or ())
            rows = [_row(path, reader.line_num, cells) for cells in itertools.islice(reader, MOST_ROWS + 1)]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a CSV file in UTF-8: {error}") from None
    if not rows:
        raise ValueError(f"{path}: no rows below the header; give at least one case")
    if len(rows) > MOST_ROWS:
        raise ValueError(f"{path}: too many rows; use at most {MOST_ROWS}")
    return rows


def _check_header(path: Path, header: Sequence[str]) -> None:
    for column in COLUMNS:
        if header.count(column) != 1:
            problem = "appears twice" if column in header else "is missing"
            raise ValueError(f"{path}: column {column!r} {problem}; the header needs {','.join(COLUMNS)}")


def _row(path: Path, line: int, cells: dict[str, str]) -> _Row:
    """Return a row whose items of `extra_in` and `extra_out` are cells `extra_in.key` of their own."""
    if None in cells or None in cells.values():
        more = "more" if None in cells else "fewer"
        raise ValueError(f"{path}, line {line}: {more} cells than the header has columns")
    extras = {}
    for column in ("extra_in", "extra_out"):
        for item in cells[column].split(";"):
            key, _, value = item.partition("=")
            extras[f"{column}.{key.strip()}"] = value
    return _Row(path, line, {**cells, **extras})


@dataclass
class _Row:
    """One row of the table; what is wrong with a cell is said with its place."""

    path: Path
    line: int
    cells: dict[str, str]

    @property
    def case_id(self) -> str:
        return self.cells["case_id"].strip() or f"line {self.line}"

    def error(self, column: str, problem: object) -> ValueError:
        place = f"{self.path}, line {self.line}, case {self.case_id!r}, column {column!r}"
        return ValueError(f"{place}: {problem}")

    def checked_by(self, checks: Mapping[str, Callable[[Any], list[Mismatch]]]) -> list[Mismatch]:
        kind = self.cells["kind"].strip()
        if kind not in checks:
            raise self.error("kind", f"{kind!r} is not known; use one of {', '.join(checks)}")
        return checks[kind](self)

    def read(self, column: str, parse: Parse, default: Any = None) -> Any:
        """Return the parsed cell, or `default` if it is empty."""
        text = self.cells.get(column, "").strip()
        if not text:
            return default
        try:
            return parse(text)
        except ValueError as error:
            raise self.error(column, error) from None

    def need(self, column: str, parse: Parse) -> Any:
        """Return the parsed cell, which must not be empty."""
        value = self.read(column, parse)
        if value is None:
            raise self.error(column, "'' is empty; this row needs a value here")
        return value

    def compute(self, function: Callable, *args: Any, column: str | None = None, **kwargs: Any) -> Any:
        """Return `function(...)`; an input that it refuses is an error of its column."""
        try:
            return function(*args, **kwargs)
        except ValueError as error:
            name = re.split(r"\W", str(error))[0]
            name = {"cpus": "cpus_online", "pool": "pool_free_before", "nid": "nodes"}.get(name, name)
            raise self.error(column or (name if name in COLUMNS else "extra_in"), error) from None

    def differences(self, outputs: Iterable[Output]) -> Iterator[Mismatch]:
        """Yield a mismatch for each filled-in output cell that differs from what we get."""
        for column, parse, got in outputs:
            expected = self.read(column, parse)
            if expected is not None and expected != got:
                name, _, key = column.partition(".")
                prefix = f"{key}=" if key else ""
                yield Mismatch(name, prefix + self.cells[column].strip(), prefix + _text(got))


# What a cell may hold: each parser takes its text and raises ValueError with what is allowed.


class Range(NamedTuple):
    """A half-open range of positions."""

    start: int
    end: int

    def __str__(self) -> str:
        return f"{self.start}-{self.end}"


def _integer(text: str) -> int:
    if not re.fullmatch("-?[0-9]{1,30}", text.strip()):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def _count(text: str) -> int:
    if not re.fullmatch("[0-9]{1,30}", text.strip()):
        raise ValueError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError(f"{text!r} is not allowed; use 0 or 1")
    return text == "1"


def _fields(form: str, *parsers: Parse) -> Parse:
    """Return a parser of several numbers in one item such as "0:1:2", given its form in words."""

    def parse(text: str) -> tuple[int, ...]:
        fields = re.split("[:#]" if "-" not in form else "-", text.strip())
        if len(fields) != len(parsers):
            raise ValueError(f"{text!r} is not of the form {form}")
        return tuple(parser(field) for parser, field in zip(parsers, fields, strict=True))

    return parse


def _listed_by_bars(parse: Parse, make: Callable[[Iterable], Any] = tuple) -> Parse:
    """Return a parser of a list in one cell: "1|2|3"."""
    return lambda text: make(parse(item) for item in text.split("|"))


def _node_table(text: str) -> dict[int, int]:
    pairs = _listed_by_bars(_fields("node:count", _count, _count))(text)
    if len(dict(pairs)) != len(pairs):
        raise ValueError(f"{text!r} names a node twice")
    return dict(pairs)


def _part(text: str) -> Part:
    nid, start, size = _fields("node:start:size", _integer, _count, _count)(text)
    return Part(start, size, nid)


def _range(text: str) -> Range:
    return Range(*_fields("start-end", _count, _count)(text))


def _chunk_lists(text: str) -> list[tuple[Range, ...]]:
    """Return the chunks of each part that has any."""
    return [_ranges(part) for part in text.split(";") if part.strip()]


def _migration(text: str) -> tuple[int, dict[int, int]]:
    match = re.fullmatch(r"(\S+) \(([^()]*)\)", text)
    if not match:
        raise ValueError(f"{text!r} is not of the form queue_nid (node:count|...)")
    return _integer(match[1]), _node_table(match[2])


_integers, _counts, _parts, _ranges = map(_listed_by_bars, (_integer, _count, _part, _range))
_failed_chunks = _listed_by_bars(_fields("part#chunk", _count, _count), frozenset)


def _text(value: Any) -> str:
    """Return `value` as the table writes it."""
    if isinstance(value, dict):
        return "|".join(f"{k}:{v}" for k, v in value.items())
    if isinstance(value, list):
        return " ; ".join(map(_text, value))
    if isinstance(value, tuple) and not isinstance(value, Range):
        return "|".join(map(str, value))
    return str(value)


# plan rows


def _check_plan(row: _Row, run_plan: RunPlan | None) -> list[Mismatch]:
    rule = row.compute(policy_named, row.cells["policy"].strip(), column="policy")
    machine = _machine(row, rule)
    plan = _plan(row, rule, machine)
    found = [*row.differences(_plan_outputs(plan, machine)), *_compare_chunks(row, plan)]
    found += _compare_extra_out(row, plan)
    if run_plan is not None and plan.n_chunks <= MOST_CHUNKS_RUN:
        found += _compare_executed(plan, run_plan(plan))
    return found


def _machine(row: _Row, rule: Policy) -> Machine:
    has_pool = rule.limit == "pool"
    cpu_nodes = row.read("extra_in.nodes_with_cpus", _counts, ())
    return row.compute(
        Machine,
        cpus=row.read("cpus_online", _count, 1) if has_pool else row.need("cpus_online", _count),
        cpus_per_node=row.read("cpus_per_node", _node_table, dict.fromkeys(cpu_nodes, 1)),
        pool=row.need("pool_free_before", _count) if has_pool else None,
        cpus_allowed=row.read("extra_in.nr_cpus_allowed", _count),
        quota_us=row.read("extra_in.quota_us", _count),
        period_us=row.read("extra_in.period_us", _count, 100_000),
    )


def _usage(row: _Row) -> Usage:
    return Usage(
        total=row.read("rlim_cur_before", _count, row.read("extra_in.inuse_before", _count, 0)),
        per_node=row.read("rlim_node_cur_before", _node_table, {}),
        last_nid=row.read("extra_in.last_used_nid", _count, 0),
    )


def _plan(row: _Row, rule: Policy, machine: Machine) -> Plan:
    max_threads = row.need("max_threads", _count) if rule.is_padata else row.read("max_threads", _count, 0)
    return row.compute(
        make_plan,
        row.cells["policy"].strip(),
        row.need("nodes", _parts),
        row.need("min_chunk", _count),
        max_threads,
        machine=machine,
        usage=_usage(row),
        align=row.read("align", _count, 1),
        numa_aware=row.read("numa_aware", _flag, False),
        default_max_threads=row.read("default_max_threads", _count),
    )


def _plan_outputs(plan: Plan, machine: Machine) -> list[Output]:
    """Return every output of a plan, chunks aside."""
    usage, limits = plan.usage_during, machine.node_limits or {}
    return [
        ("task_size", _integer, sum(part.size for part in plan.parts)),
        ("rlim_max", _integer, machine.limit),
        ("rlim_node_max", _node_table, limits),
        ("threads", _integer, plan.threads),
        ("helpers", _integer, len(plan.helpers)),
        ("helper_start_index", _integers, plan.helper_start_index),
        ("helper_queue_nid", _integers, plan.helper_queue_nid),
        ("rlim_cur_during", _integer, usage.total),
        ("rlim_node_cur_during", _node_table, {n: usage.per_node.get(n, 0) for n in limits}),
        ("pool_free_during", _integer, (machine.pool or 0) - usage.total),
        ("chunk_size", _integer, plan.chunk_size),
        ("extra_out.last_used_nid", _integer, usage.last_nid),
        ("extra_out.inuse_during", _integer, usage.total),
    ]


def _compare_chunks(row: _Row, plan: Plan) -> list[Mismatch]:
    """Compare number, ends and, where the table lists them, bounds of the chunks."""
    busy = [k for k, part in enumerate(plan.parts) if part.size]
    first = Range(*plan.chunk_bounds(busy[0], 0)) if busy else None
    last = Range(*plan.chunk_bounds(busy[-1], plan.part_chunks(busy[-1]) - 1)) if busy else None
    outputs: list[Output] = [
        ("n_chunks", _integer, plan.n_chunks),
        ("first_chunk", _range, first),
        ("last_chunk", _range, last),
    ]
    expected = row.read("chunks", _chunk_lists, [])
    if plan.n_chunks == sum(map(len, expected)):  # else listing ours could fill the memory
        outputs.append(("chunks", _chunk_lists, _listed(plan)))
    elif expected:
        outputs.append(("chunks", _chunk_lists, f"{plan.n_chunks} chunks"))
    return list(row.differences(outputs))


def _listed(plan: Plan) -> list[tuple[Range, ...]]:
    """Return the chunks of each part that has any, as `_chunk_lists` does."""
    return [tuple(Range(*bounds) for bounds in part) for part in plan.chunks() if part]


def _compare_extra_out(row: _Row, plan: Plan) -> Iterator[Mismatch]:
    """Compare the remarks of a plan; one that we cannot judge must not pass as checked."""
    judged = ("extra_out.", "extra_out.last_used_nid", "extra_out.inuse_during")
    for column in row.cells:
        name, _, key = column.partition(".")
        if name != "extra_out" or column in ("extra_out", *judged):
            continue
        if key != "direct call":
            yield Mismatch(name, key, "not a known output of a plan")
        elif not plan.direct:
            yield Mismatch(name, key, "no direct call")


def _compare_executed(plan: Plan, executed: Sequence[Iterable[tuple[int, int]]]) -> Iterator[Mismatch]:
    """Compare what an engine ran with the plan: chunks that are missing, and chunks too many."""
    for k, (planned, ran) in enumerate(zip(plan.chunks(), executed, strict=True)):
        wanted = Counter(Range(*bounds) for bounds in planned)
        got = Counter(Range(int(start), int(end)) for start, end in ran)
        if wanted != got:
            missing, surplus = sorted((wanted - got).elements()), sorted((got - wanted).elements())
            yield Mismatch(
                f"chunks run of part {k}",
                "missing: " + _text(tuple(missing[:MOST_CHUNKS_SHOWN])),
                "surplus: " + _text(tuple(surplus[:MOST_CHUNKS_SHOWN])),
            )


# undo rows


def _check_undo(row: _Row, run_undo: RunUndo | None) -> list[Mismatch]:
    name = row.cells["policy"].strip()
    rule = row.compute(policy_named, name, column="policy")
    parts, size = row.need("nodes", _parts), row.need("chunk_size", _count)
    if size == 0:
        raise row.error("chunk_size", "0 is not allowed; use at least 1")
    plan = Plan(name, parts, threads=1, chunk_size=size, absolute=rule.absolute)
    claimed = row.need("extra_in.claimed_per_node", _counts)
    failed = row.read("extra_in.failed", _failed_chunks, frozenset())
    error = row.read("extra_in.first_error", _integer, 0)
    ranges = row.compute(undo_ranges, plan, claimed, failed)
    undone, returned = (ranges if failed else []), error  # nothing is undone unless something failed
    if run_undo is not None and not plan.absolute:
        undone, returned = run_undo(parts, size, claimed, failed, error)
    undone = tuple(Range(int(start), int(end)) for start, end in undone)
    return [
        *row.differences([("task_size", _count, sum(part.size for part in parts))]),
        *_compare_chunks(row, plan),
        *_compare_undone(row, undone, int(returned)),
    ]


def _compare_undone(row: _Row, undone: tuple[Range, ...], returned: int) -> Iterator[Mismatch]:
    if "extra_out.undo_calls" not in row.cells:
        raise row.error("extra_out", f"{row.cells['extra_out']!r} has no undo_calls=; it may be empty")
    if row.read("extra_out.undo_calls", _ranges, ()) != undone:
        expected = row.cells["extra_out.undo_calls"]
        yield Mismatch("extra_out", f"undo_calls={expected}", f"undo_calls={_text(undone)}")
    yield from row.differences([("extra_out.returned", _integer, returned)])


# migrate rows


def migrate(old_queue_nid: int, new_nid: int, machine: Machine, usage: Usage) -> tuple[int, Usage]:
    """Return where a helper is queued that goes on to a part on another node, and the usage after it.

    It gives up its place on the old node and takes one on the new node if that has room; else it goes on
    as an any-node helper. The number of helpers stays. The posted patches (v3, v4) test the old node for
    room, so that a node can overrun its limit; the intended test is used here.
    """
    machine.check_nid(old_queue_nid)
    machine.check_nid(new_nid)
    per_node = dict(usage.per_node)
    if old_queue_nid != ANY_NODE:
        taken = whole_number(f"per_node[{old_queue_nid}]", per_node.get(old_queue_nid, 0), 1)
        per_node[old_queue_nid] = taken - 1
    queue_nid = enter_node(new_nid, machine, per_node)
    return queue_nid, Usage(usage.total, per_node, usage.last_nid)


def _check_migrate(row: _Row) -> list[Mismatch]:
    """Check the rule as intended; the result of the rule as posted is not ours to repeat."""
    _check_family(row)
    limits = row.need("rlim_node_max", _node_table)
    machine = row.compute(Machine, 1, dict.fromkeys(limits, 1), node_limits=limits, column="rlim_node_max")
    old, new = row.need("extra_in.old_queue_nid", _integer), row.need("extra_in.new_kn_nid", _integer)
    queue_nid, usage = row.compute(migrate, old, new, machine, _usage(row), column="extra_in")
    expected = row.need("extra_out.intended", _migration)
    got = queue_nid, {nid: usage.per_node.get(nid, 0) for nid in limits}
    if got == expected:
        return []
    text = row.cells["extra_out.intended"]
    return [Mismatch("extra_out", f"intended={text}", f"intended={got[0]} ({_text(got[1])})")]


def _check_family(row: _Row) -> None:
    """Accept one policy, or several of a family as in `ktask-v3/v4`."""
    first, *others = row.cells["policy"].strip().split("/")
    family = first.rpartition("-")[0]
    for name in (first, *(f"{family}-{other}" for other in others)):
        row.compute(policy_named, name, column="policy")
