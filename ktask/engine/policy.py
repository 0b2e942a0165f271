"""How many threads, which chunks: the arithmetic of every ktask and padata version.

Whole numbers in, whole numbers out. Nothing here runs a task, looks at a machine or imports more than the
standard library. The road from a task to its plan:

1. `want_threads`: what the size of the task asks for;
2. `grant`: what the limits of the machine leave of it, and where each helper starts;
3. `chunk_size`: the size of a chunk for that many threads;
4. `make_plan`: all three in one `Plan`, which knows every chunk in closed form.

Sizes and positions count units of the task. `T` is its size, `n` its threads with the caller, `helpers` are
`n - 1`, and node -1 is "any node". Sources are named by patch and date; where a posted patch is known to be
wrong, the rule its author intended is used and the docstring says so.
"""

from __future__ import annotations

import operator
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import cycle, islice
from typing import Any, Literal, NamedTuple

ANY_NODE = -1
_DERIVED: Any = None  # a figure of `Machine` that follows from its CPUs unless given
MOST_CPUS = 1 << 16  # far above any kernel; bounds the helpers that a wild input can ask for
LOAD_BALANCE = 4  # chunks per thread that every version aims at (KTASK_LOAD_BAL_SHIFT = 2)


@dataclass(frozen=True)
class Policy:
    """How one version differs from the others.

    Attributes
    ----------
    source
        Where the rule comes from.
    chunking
        Rule of the chunk size; `"padata"` also stands for padata's thread count and direct call.
    limit
        What caps the helpers: 4/5 of the CPUs of the machine and of each node, a pool of work items, or a
        count of threads in use, callers included.
    default_cap
        Cap on the threads when a task names none; padata has no default, so 0.
    per_task_cap
        Whether a task may name a cap.
    any_node
        Whether node -1 means any node; if not, it means the node of the caller.
    absolute
        Whether chunks end at multiples of the chunk size, not at multiples from the start of the part.
    align_cuts_threads
        Whether the thread count looks at the alignment too; a least chunk of 0 is allowed then.
    numa_aware
        Whether a task may ask for its helpers to be dealt out to the nodes in turn.
    low_priority
        Whether helpers run at the lowest nice level, with hand-over of the caller's at the end.
    """

    source: str
    chunking: Literal["ktask", "padata", "static", "dynamic", "guided"] = "ktask"
    limit: Literal["none", "four-fifths", "pool", "in-use"] = "none"
    default_cap: int = 4
    per_task_cap: bool = True
    any_node: bool = True
    absolute: bool = False
    align_cuts_threads: bool = False
    numa_aware: bool = False
    low_priority: bool = False

    @property
    def is_padata(self) -> bool:
        """Whether padata's thread count, direct call and alignment apply."""
        return self.chunking == "padata"


def _padata(source: str, limit: Literal["pool", "in-use"], **more: bool) -> Policy:
    return Policy(source, chunking="padata", limit=limit, default_cap=0, absolute=True, **more)


POLICIES: dict[str, Policy] = {
    "ktask-v1": Policy("ktask v1 core patch, 2017-07-14", per_task_cap=False, any_node=False),
    "ktask-v2": Policy("ktask v2 core patch, 2017-08-24", any_node=False),
    "ktask-v3": Policy("ktask v3 core patch, 2017-12-05", limit="four-fifths"),
    "ktask-v4": Policy("ktask v4 core patch, 2018-11-05", limit="four-fifths", low_priority=True),
    "ktask-uek": Policy(
        "Oracle linux-uek kernel/ktask.c, 2019", limit="four-fifths", default_cap=16, absolute=True
    ),
    "padata-5.8": _padata("kernel/padata.c at commit 004ed42638f4, 2020", "pool"),
    "padata-rfc2022": _padata(
        "padata multithreaded VFIO page pinning RFC, 2022-01-05", "in-use", low_priority=True
    ),
    "padata-cur": _padata("kernel/padata.c, mid-2026", "pool", align_cuts_threads=True, numa_aware=True),
    "static": Policy("OpenMP schedule(static)", chunking="static", default_cap=MOST_CPUS),
    "dynamic": Policy("OpenMP schedule(dynamic, min_chunk)", chunking="dynamic", default_cap=MOST_CPUS),
    "guided": Policy("OpenMP schedule(guided, min_chunk)", chunking="guided", default_cap=MOST_CPUS),
}


def whole_number(name: str, value: Any, least: int = 0, most: int | None = None) -> int:
    """Return `value` as a plain int within its bounds, or say what is allowed."""
    allowed = f"use a whole number of at least {least}" + ("" if most is None else f" and at most {most}")
    try:
        number = int(operator.index(value))
    except TypeError:
        raise TypeError(f"{name}={value!r} is not a whole number; {allowed}") from None
    if number < least or (most is not None and number > most):
        raise ValueError(f"{name}={number} is not allowed; {allowed}")
    return number


def _integers(name: str, values: Mapping[int, int]) -> dict[int, int]:
    """Return a node-to-count mapping as plain ints, in order of the nodes."""
    pairs = ((whole_number(f"{name} node", k), whole_number(f"{name}[{k}]", v)) for k, v in values.items())
    return dict(sorted(pairs))


def policy_named(name: str) -> Policy:
    """Return the policy called `name`; raises ValueError with the known names otherwise."""
    try:
        return POLICIES[name]
    except (KeyError, TypeError):
        raise ValueError(f"policy {name!r} is not known; use one of {', '.join(POLICIES)}") from None


@dataclass(frozen=True)
class Part:
    """One node part of a task: `size` units from position `start`, best handled on node `nid`."""

    start: int
    size: int
    nid: int = ANY_NODE

    def __post_init__(self) -> None:
        for name, least in (("start", 0), ("size", 0), ("nid", ANY_NODE)):
            object.__setattr__(self, name, whole_number(name, getattr(self, name), least))

    @property
    def end(self) -> int:
        """Position just after the last unit."""
        return self.start + self.size


@dataclass(frozen=True)
class Machine:
    """The facts about a machine that a policy may look at.

    Parameters
    ----------
    cpus
        Online CPUs, or those this process may use.
    cpus_per_node
        CPUs of each node, 0 for a node of memory only; one node with every CPU if left out.
    limit, node_limits
        Most helpers at a time, in all and per node; 4/5 of the CPUs, rounded down, where left out (ktask v3
        core patch, 2017-12-05).
    caller_nid
        Node of the calling CPU (ktask v1 and v2 put any-node work there).
    pool
        Work items of padata, one per possible CPU; `cpus` if left out.
    cpus_allowed
        CPUs in the affinity mask of the caller; `cpus` if left out (padata RFC, 2022-01-05).
    quota_us, period_us
        CPU time per period of the caller's group, in microseconds; None for no quota (padata RFC).
    """

    cpus: int
    cpus_per_node: Mapping[int, int] = field(default_factory=dict)
    limit: int = _DERIVED
    node_limits: Mapping[int, int] = _DERIVED
    caller_nid: int = 0
    pool: int = _DERIVED
    cpus_allowed: int = _DERIVED
    quota_us: int | None = None
    period_us: int = 100_000

    def __post_init__(self) -> None:
        cpus = whole_number("cpus", self.cpus, 1, MOST_CPUS)
        per_node = _integers("cpus_per_node", self.cpus_per_node) or {0: cpus}
        if not any(per_node.values()):
            raise ValueError(f"cpus_per_node={per_node} has no CPU; give at least one node some CPUs")
        limits = _integers("node_limits", self.node_limits or {})
        resolved = {
            "cpus": cpus,
            "cpus_per_node": per_node,
            "limit": self._or("limit", 4 * cpus // 5),
            "node_limits": {nid: limits.get(nid, 4 * c // 5) for nid, c in per_node.items()},
            "pool": self._or("pool", cpus),
            "cpus_allowed": self._or("cpus_allowed", cpus),
            "quota_us": None if self.quota_us is None else whole_number("quota_us", self.quota_us),
            "period_us": whole_number("period_us", self.period_us, 1),
        }
        for name, value in resolved.items():
            object.__setattr__(self, name, value)

    def _or(self, name: str, default: int) -> int:
        value = getattr(self, name)
        return default if value is None else whole_number(name, value, 0, MOST_CPUS)

    def check_nid(self, nid: int) -> None:
        """Raise ValueError unless `nid` is a node of this machine or -1."""
        if nid != ANY_NODE and nid not in self.cpus_per_node:
            nodes = ", ".join(map(str, self.cpus_per_node))
            raise ValueError(f"nid={nid} is not a node of this machine; use one of {nodes}, or -1 for any")


@dataclass(frozen=True)
class Usage:
    """What is taken at one moment.

    `total` counts helpers in use by all tasks (pool items of padata; threads with their callers in the
    padata RFC), `per_node` those queued on a node, and `last_nid` is where padata queued its last helper.
    """

    total: int = 0
    per_node: Mapping[int, int] = field(default_factory=dict)
    last_nid: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", whole_number("total", self.total))
        object.__setattr__(self, "per_node", _integers("per_node", self.per_node))
        object.__setattr__(self, "last_nid", whole_number("last_nid", self.last_nid))


IDLE = Usage()


class Helper(NamedTuple):
    """The part a helper starts on, and the node it is queued on."""

    start_index: int
    queue_nid: int


class Grant(NamedTuple):
    """The helpers of one task, in order, and the usage while it runs."""

    helpers: tuple[Helper, ...]
    usage_during: Usage


def _ceil_div(number: int, divisor: int) -> int:
    return -(-number // divisor)


def _checked(policy: str, min_chunk: int, align: int) -> tuple[Policy, int, int]:
    """Return the rule of `policy`, with a least chunk and an alignment that make sense for it.

    The posted code divides by zero instead (ktask: every version; padata: until August 2024).
    """
    rule = policy_named(policy)
    min_chunk = whole_number(f"min_chunk of {policy}", min_chunk, 0 if rule.align_cuts_threads else 1)
    align = whole_number("align", align, 1)
    if align != 1 and not rule.is_padata:
        others = ", ".join(name for name, other in POLICIES.items() if other.is_padata)
        raise ValueError(f"align={align} is not allowed with {policy}; use 1, or one of {others}")
    return rule, min_chunk, align


def want_threads(
    policy: str,
    size: int,
    min_chunk: int,
    max_threads: int = 0,
    *,
    machine: Machine,
    align: int = 1,
    default_max_threads: int | None = None,
) -> int:
    """Return the threads that a task of `size` units asks for, the caller included, before any limit.

    ktask: `min(ceil(T / min_chunk), online CPUs, cap)`, where the cap is `max_threads`, or else the system
    default (ktask v4 core patch, 2018-11-05; v1 knows the default only). padata: `max(T div min_chunk, 1)`
    up to `max_threads` (commit 004ed42638f4), where `min_chunk` is at least `align` since 2023-02-22, and up
    to affinity mask and quota in the RFC of 2022-01-05. An empty task asks for 0 threads. padata may ask for
    0 as well, if its cap is 0 or the quota is below one CPU: the caller then works alone.

    Raises
    ------
    ValueError, TypeError
        For an unknown policy, or a number that is out of its range or not whole.
    """
    rule, min_chunk, align = _checked(policy, min_chunk, align)
    size, max_threads = whole_number("size", size), whole_number("max_threads", max_threads)
    default = rule.default_cap
    if default_max_threads is not None:
        default = whole_number("default_max_threads", default_max_threads, 1)
    if size == 0:
        return 0
    cap = (max_threads if rule.per_task_cap else 0) or default
    if not rule.is_padata:
        return min(_ceil_div(size, min_chunk), machine.cpus, cap)
    least = max(min_chunk, align) if rule.align_cuts_threads else min_chunk
    want = min(max(size // least, 1), cap)
    if rule.limit != "in-use":
        return want
    quota = MOST_CPUS if machine.quota_us is None else machine.quota_us // machine.period_us
    return min(want, machine.cpus_allowed, quota)


def wished_helpers(
    policy: str,
    count: int,
    parts: Sequence[Part],
    machine: Machine,
    usage: Usage = IDLE,
    *,
    numa_aware: bool = False,
) -> tuple[Helper, ...]:
    """Return where `count` helpers would be put if no node were full.

    Helper `i = 1, 2, ...` starts on part `i mod parts`, on the node of that part (ktask v3 core patch,
    2017-12-05). padata lets the scheduler choose, or, `numa_aware`, deals helpers out to the nodes with CPUs
    in turn, beginning after the last node used (padata: dispatch works on different nodes, 2024-01-18).
    """
    rule = policy_named(policy)
    for part in parts:
        machine.check_nid(part.nid)
    if numa_aware and not rule.numa_aware:
        others = ", ".join(name for name, other in POLICIES.items() if other.numa_aware)
        raise ValueError(f"numa_aware=True is not allowed with {policy}; leave it out, or use {others}")
    starts = [i % len(parts) for i in range(1, count + 1)]
    if rule.is_padata:
        nids = _nodes_in_turn(count, machine, usage) if numa_aware else [ANY_NODE] * count
    else:
        any_node = ANY_NODE if rule.any_node else machine.caller_nid
        nids = [any_node if parts[k].nid == ANY_NODE else parts[k].nid for k in starts]
    return tuple(map(Helper, starts, nids))


def _nodes_in_turn(count: int, machine: Machine, usage: Usage) -> list[int]:
    nodes = [nid for nid, cpus in machine.cpus_per_node.items() if cpus]
    after = bisect_right(nodes, usage.last_nid)
    return list(islice(cycle(nodes[after:] + nodes[:after]), count))


def grant(
    policy: str,
    want: int,
    parts: Sequence[Part],
    machine: Machine,
    usage: Usage = IDLE,
    *,
    numa_aware: bool = False,
) -> Grant:
    """Return the helpers a task gets when `usage` is taken by others; nothing waits for more.

    ktask v3 and later: up to the limit of the machine; a helper whose node is full is started anywhere
    (ktask v3 core patch, 2017-12-05). v1, v2 and the OpenMP schedules have no limit. padata: one item of the
    pool per helper (commit 004ed42638f4), or threads in use up to the online CPUs, where the caller counts
    (RFC of 2022-01-05). An empty task, and a direct call of padata, take nothing.
    """
    rule, want = policy_named(policy), whole_number("want", want)
    takes_none = _is_direct(rule, want) or not any(part.size for part in parts)
    limits = {"four-fifths": machine.limit, "pool": machine.pool, "in-use": machine.cpus - 1}
    free = limits[rule.limit] - usage.total if rule.limit != "none" else MOST_CPUS
    count = 0 if takes_none else max(min(want - 1, free), 0)
    wished = wished_helpers(policy, count, parts, machine, usage, numa_aware=numa_aware)
    if takes_none or rule.limit == "none":
        return Grant(wished, usage)
    if rule.limit == "four-fifths":
        return _spill(wished, machine, usage)
    last_nid = wished[-1].queue_nid if numa_aware and wished else usage.last_nid
    total = usage.total + count + (rule.limit == "in-use")
    return Grant(wished, Usage(total, usage.per_node, last_nid))


def _is_direct(rule: Policy, want: int) -> bool:
    """Return whether padata calls the thread function once, itself (exactly one thread wanted)."""
    return rule.is_padata and want == 1


def _spill(wished: Iterable[Helper], machine: Machine, usage: Usage) -> Grant:
    """Queue each helper on its node while that has room, else anywhere."""
    per_node = dict(usage.per_node)
    helpers = tuple(Helper(start, enter_node(nid, machine, per_node)) for start, nid in wished)
    return Grant(helpers, Usage(usage.total + len(helpers), per_node, usage.last_nid))


def enter_node(nid: int, machine: Machine, per_node: dict[int, int]) -> int:
    """Take a place on node `nid` if it has room, noted in `per_node`; return the node to queue on."""
    taken = per_node.get(nid, 0)
    if nid == ANY_NODE or taken >= machine.node_limits[nid]:
        return ANY_NODE
    per_node[nid] = taken + 1
    return nid


def chunk_size(policy: str, size: int, threads: int, min_chunk: int, align: int = 1) -> int:
    """Return the units per chunk for `threads` granted threads; 0 for an empty task.

    ktask: everything for one thread; else a quarter of a thread's share, down to a multiple of `min_chunk`
    and at least that (ktask v4 core patch, 2018-11-05). padata: a quarter of a thread's share, at least
    `min_chunk` and 1, up to a multiple of `align` (kernel/padata.c since August 2024). static: one chunk per
    thread; dynamic: `min_chunk`; guided: its first and largest chunk.
    """
    rule, min_chunk, align = _checked(policy, min_chunk, align)
    size, threads = whole_number("size", size), whole_number("threads", threads)
    if size == 0 or threads == 0:
        return 0
    if rule.is_padata:
        return _ceil_div(max(size // (LOAD_BALANCE * threads), min_chunk, 1), align) * align
    if rule.chunking == "dynamic":
        return min_chunk
    if rule.chunking in ("static", "guided"):
        return max(_ceil_div(size, threads), min_chunk)
    if threads == 1:
        return size
    share = size // threads // LOAD_BALANCE
    return max(share - share % min_chunk, min_chunk)


@lru_cache(maxsize=64)
def _shrinking_ends(start: int, size: int, threads: int, min_chunk: int) -> tuple[int, ...]:
    """Return where chunks end when each takes a `threads`-th of what remains, but at least `min_chunk`."""
    ends, position, end = [], start, start + size
    while position < end:
        position = min(position + max(_ceil_div(end - position, threads), min_chunk), end)
        ends.append(position)
    return tuple(ends)


@dataclass(frozen=True)
class Plan:
    """Threads and chunks of one task; every chunk is known in closed form, none is stored.

    Chunk `i` of a part is `[origin + i c, origin + (i + 1) c)`, clipped to the part, where `c` is the chunk
    size; only `shrinking` plans (guided) follow a sequence instead.

    Attributes
    ----------
    policy, parts, min_chunk
        As asked for.
    want, threads
        Threads wanted and granted, the caller included; 0 for an empty task.
    chunk_size
        Units per chunk; the last one of a part may be shorter.
    absolute
        Chunks end at multiples of `chunk_size`, not at multiples from the start of the part.
    direct
        One call per part, made by the caller without further ado (padata with one thread).
    shrinking
        Chunks get smaller towards the end of a part.
    helpers
        Start part and queue node of each helper.
    usage_during
        What is taken while the task runs.
    """

    policy: str
    parts: tuple[Part, ...]
    threads: int
    chunk_size: int
    min_chunk: int = 1
    want: int = 0
    absolute: bool = False
    direct: bool = False
    shrinking: bool = False
    helpers: tuple[Helper, ...] = ()
    usage_during: Usage = IDLE

    def _repr_html_(self) -> str:
        from ktask.common.views import plan_html  # noqa: PLC0415  (not needed to plan anything)

        return plan_html(self)

    @property
    def helper_start_index(self) -> tuple[int, ...]:
        """The part each helper starts on."""
        return tuple(helper.start_index for helper in self.helpers)

    @property
    def helper_queue_nid(self) -> tuple[int, ...]:
        """The node each helper is queued on, -1 for any."""
        return tuple(helper.queue_nid for helper in self.helpers)

    @property
    def n_chunks(self) -> int:
        """Calls of the thread function when nothing fails."""
        return sum(self.part_chunks(k) for k in range(len(self.parts)))

    def origin(self, part_index: int) -> int:
        """Return the position that the chunks of a part are counted from."""
        start = self.parts[part_index].start
        return start - start % self.chunk_size if self.absolute and self.chunk_size else start

    def part_chunks(self, part_index: int) -> int:
        """Return the number of chunks of a part."""
        part = self.parts[part_index]
        if part.size == 0:
            return 0
        if self.shrinking:
            return len(self._ends(part))
        return _ceil_div(part.end - self.origin(part_index), self.chunk_size)

    def chunk_bounds(self, part_index: int, i: int) -> tuple[int, int]:
        """Return start and end of chunk `i` of a part; IndexError if there is no such chunk."""
        n_chunks = self.part_chunks(part_index)
        if not 0 <= i < n_chunks:
            raise IndexError(f"chunk {i} of part {part_index} does not exist; the part has {n_chunks} chunks")
        part = self.parts[part_index]
        if self.shrinking:
            ends = self._ends(part)
            return (ends[i - 1] if i else part.start), ends[i]
        start = self.origin(part_index) + i * self.chunk_size
        return max(start, part.start), min(start + self.chunk_size, part.end)

    def chunks_of(self, part_index: int) -> Iterator[tuple[int, int]]:
        """Yield start and end of every chunk of a part, in order."""
        return (self.chunk_bounds(part_index, i) for i in range(self.part_chunks(part_index)))

    def chunks(self) -> list[list[tuple[int, int]]]:
        """Return all chunks, one list per part; mind `n_chunks` first."""
        return [list(self.chunks_of(k)) for k in range(len(self.parts))]

    def _ends(self, part: Part) -> tuple[int, ...]:
        return _shrinking_ends(part.start, part.size, self.threads, self.min_chunk)


def make_plan(
    policy: str,
    parts: Iterable[Part],
    min_chunk: int,
    max_threads: int = 0,
    *,
    machine: Machine,
    usage: Usage = IDLE,
    align: int = 1,
    numa_aware: bool = False,
    default_max_threads: int | None = None,
    helpers: int | None = None,
) -> Plan:
    """Return the plan of a task under `policy`.

    Parameters
    ----------
    policy
        A name of `POLICIES`.
    parts
        The node parts. padata itself knows one only; several are chunked as ktask would, with one chunk size
        from the total and no chunk across two parts.
    min_chunk, align
        Least units per chunk, and what chunk boundaries are multiples of (padata only).
    max_threads
        Cap on the threads, caller included; 0 for `default_max_threads`, or else that of the policy.
    machine, usage
        The machine, and what others have taken of it.
    numa_aware
        Deal the helpers out to the nodes in turn (padata-cur only).
    helpers
        Helpers really granted, by whoever keeps the slots of the machine; takes the place of `grant`, and
        `usage_during` is then `usage`.

    Raises
    ------
    ValueError, TypeError
        For an unknown policy or node, or a number that is out of its range or not whole.
    """
    parts = tuple(parts)
    rule, size = policy_named(policy), sum(part.size for part in parts)
    want = want_threads(
        policy,
        size,
        min_chunk,
        max_threads,
        machine=machine,
        align=align,
        default_max_threads=default_max_threads,
    )
    if helpers is None:
        granted = grant(policy, want, parts, machine, usage, numa_aware=numa_aware)
    else:
        count = whole_number("helpers", helpers, 0, max(want - 1, 0))
        granted = Grant(wished_helpers(policy, count, parts, machine, usage, numa_aware=numa_aware), usage)
    threads = 1 + len(granted.helpers) if size else 0
    direct = size > 0 and _is_direct(rule, want)
    return Plan(
        policy,
        parts,
        threads,
        size if direct else chunk_size(policy, size, threads, min_chunk, align),
        min_chunk=operator.index(min_chunk),
        want=want,
        absolute=rule.absolute and not direct,
        direct=direct,
        shrinking=rule.chunking == "guided",
        helpers=granted.helpers,
        usage_during=granted.usage_during,
    )
