"""Grids: which cells a run measures, read from a small YAML file."""

from __future__ import annotations

import itertools
import math
import re
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct, structs

from ktask import workloads
from ktask.common.units import exact_size, parse_size
from ktask.common.yaml_files import Document, named_files, read_named
from ktask.host import available_memory, topology
from ktask.host.cpus import format_cpu_list, parse_cpu_list
from ktask.host.node_memory import usable_nodes
from ktask.lab.measure.measurement import MOST_PASSES, Protocol
from ktask.lab.measure.threads import default_threads
from ktask.memory import region as memory
from ktask.workloads import Case
from ktask.workloads.conditions import NAMES as CONDITIONS

FOLDER = Path(__file__).parent / "grids"
MOST_CELLS = 10_000
MOST_MEASUREMENTS = 1_000_000  # cells, each in its thread counts and passes
LIMIT_S = 600.0
BYSTANDERS_S = 2.0
AUTO = "auto"  # thread counts that follow from the machine


@dataclass(frozen=True)
class Grid:
    """What a run measures.

    Attributes
    ----------
    name, about
        For people.
    seed
        Of the order of the cells and of the variants within each round.
    threads
        Thread counts of every cell.
    protocol
        How often to measure.
    cases
        One cell each.
    limit_s
        Longest time that a cell may take before it is given up.
    passes
        How often the grid is measured, each cell in a fresh process each time.
    refined
        Whether later passes add thread counts around the knee of a cell: where the file names none.
    cpus
        The CPUs to use, such as "0-15,32"; None for all that the process may use.
    bystanders_s
        Seconds of a pass, on average, in which neighbours may probe.
    """

    name: str
    about: str
    seed: int
    threads: tuple[int, ...]
    protocol: Protocol
    cases: tuple[Case, ...]
    limit_s: float = LIMIT_S
    passes: int = 1
    refined: bool = False
    cpus: str | None = None
    bystanders_s: float = BYSTANDERS_S

    def __post_init__(self) -> None:
        """Refuse what would never end."""
        if len(self.cases) * len(self.threads) * self.passes > MOST_MEASUREMENTS:
            raise ValueError(
                f"grid {self.name}: {len(self.cases)} cells at {len(self.threads)} thread counts in "
                f"{self.passes} passes are too many; use at most {MOST_MEASUREMENTS} together"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the grid with everything spelled out, as kept in the run."""
        return {
            "name": self.name,
            "about": self.about,
            "seed": self.seed,
            "threads": list(self.threads),
            "protocol": asdict(self.protocol),
            "limit_s": self.limit_s,
            "passes": self.passes,
            **({} if self.cpus is None else {"cpus": self.cpus}),
            "cells": [{"cell_id": cell_id(c), **asdict(c), "options": dict(c.options)} for c in self.cases],
        }


def cell_id(case: Case) -> str:
    """Return the name of a cell: a file name, the same for the same case and no other."""
    parts = [case.workload, case.method, case.page_kind, exact_size(case.size_bytes)]
    extra = [] if case.policy == "ktask-v4" else [case.policy.replace(".", "_")]
    if case.min_chunk_bytes != 2 * memory.MIB:
        extra.append(f"min{exact_size(case.min_chunk_bytes)}")
    extra += [f"{name}={value.translate(_PLAIN)}" for name, value in case.options]
    return "-".join(parts + extra)


_PLAIN = str.maketrans({":": ".", "%": "pct", "/": "p"})  # memory:2:8GiB/s, as a file name has it


# --- files -------------------------------------------------------------------------------------------------

Count = Annotated[int, Meta(ge=1, extra={"allowed": "a positive whole number"})]
Positive = Annotated[float, Meta(gt=0, le=1e9, extra={"allowed": "a positive number up to 1e9"})]
ProtocolFile = msgspec.defstruct(
    "ProtocolFile",
    [
        (one.name, Count if isinstance(one.default, int) else Positive, one.default)
        for one in fields(Protocol)
        if one.name != "seed"
    ],
    frozen=True,
)


class Work(Struct, frozen=True):
    """An entry of `work`: every combination of its values is a cell, on a machine with `nodes` nodes."""

    workload: Annotated[Any, Meta(extra={"allowed": "the name of a workload"})]
    size: Annotated[Any, Meta(extra={"allowed": "a size such as 512MiB or 1GiB..25%, or a list of them"})]
    method: Any = None
    page_kind: Any = None
    min_chunk: Any = None
    policy: Any = None
    placement: Any = None
    load: Any = None
    quota: Any = None
    nice: Any = None
    options: Annotated[dict[str, Any], Meta(extra={"allowed": "a mapping such as {layout: sparse}"})] = {}
    nodes: Count = 1


class GridFile(Struct, frozen=True):
    """What a file may say."""

    work: tuple[Work, ...]
    about: str = ""
    seed: Annotated[int, Meta(ge=0, extra={"allowed": "a whole number of at least 0"})] = 1
    threads: Any = AUTO
    min_chunk: Any = "2MiB"
    policy: Any = "ktask-v4"
    placement: Any = None
    cpus: Any = None
    protocol: ProtocolFile = ProtocolFile()  # type: ignore[valid-type]
    limit_s: Positive = LIMIT_S
    bystanders_s: Positive = BYSTANDERS_S
    passes: Annotated[int, Meta(ge=1, le=MOST_PASSES, extra={"allowed": f"1 to {MOST_PASSES}"})] = 1

    def __post_init__(self) -> None:
        """Refuse a grid of nothing, and rounds that cannot be."""
        if not self.work:
            raise ValueError("work=[] is not allowed; use a list of entries with workload and size")
        protocol: Any = self.protocol
        most, least = protocol.most, protocol.least
        if most < least:
            raise ValueError(f"protocol most={most} is below least={least}; raise one or lower the other")


def shipped() -> dict[str, Path]:
    """Return the grids that come with the project, by name."""
    return named_files(FOLDER)


def load_grid(name: str, **instead: Any) -> Grid:
    """Return the grid called `name`, shipped or a file, as it is on this machine.

    `instead` holds values of the file that these take the place of: cpus, placement.

    Raises
    ------
    ValueError
        If there is no such grid, or the file says something that is not understood: the message names the
        file, the line, the key and what is allowed.
    """
    return parse_grid(*read_grid(name), f"grid {name}", **instead)


def read_grid(name: str) -> tuple[str, str]:
    """Return the text of the file of a grid, not yet looked at, and the grid's name."""
    return read_named("grid", name, FOLDER)


def parse_grid(text: str, name: str, where: str = "grid", nodes: int | None = None, **instead: Any) -> Grid:
    """Return the grid that a YAML text describes; ValueError says what is wrong, `where` in front.

    Entries that need more memory nodes than `nodes` are left out; by default, than this process may use.
    """
    document = Document(text, where)
    file = document.read(GridFile, "the grid")
    cpus = _cpus(instead.get("cpus") or file.cpus)
    placement = instead.get("placement") or file.placement
    with document.at(file), topology.narrowed_to(cpus):
        threads = _threads(file.threads)
    cases: dict[Case, None] = {}
    have = len(usable_nodes()) if nodes is None else nodes
    made = 0
    for work in file.work:
        with document.at(work):
            found = _cases(work, file, placement, made)  # so that what is wrong is said on every machine
        made += len(found)
        cases |= dict.fromkeys(found if work.nodes <= max(have, 1) else ())
    if not cases:
        needed = min(work.nodes for work in file.work)
        raise ValueError(
            f"{where} needs memory on {needed} nodes, this process may use {have}; use another grid"
        )
    protocol = Protocol(**structs.asdict(file.protocol), seed=file.seed)
    rules = {"limit_s": file.limit_s, "passes": file.passes, "refined": file.threads == AUTO, "cpus": cpus}
    rules["bystanders_s"] = file.bystanders_s
    return Grid(name, file.about, file.seed, threads, protocol, tuple(cases), **rules)


def _cpus(value: Any) -> str | None:
    """Return CPUs, a list or text, as a kernel list."""
    if value is None:
        return None
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return format_cpu_list(parse_cpu_list(text))


def _threads(value: Any) -> tuple[int, ...]:
    if value == AUTO:
        return default_threads()
    counts = value if isinstance(value, list) else [value]
    if not counts:
        raise ValueError("threads=[] is not allowed; use auto or a list such as [1, 2, 4]")
    for count in counts:
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ValueError(f"threads={count!r} is not allowed; use a whole number of at least 1")
    return tuple(sorted({*counts, 1}))


def _cases(work: Work, file: GridFile, usual_placement: Any, before: int) -> list[Case]:
    workload = workloads.get(str(work.workload))
    methods = [workload.method(str(name)) for name in _values("method", work.method)] or workload.methods
    min_chunks = _values("min_chunk", work.min_chunk) or [file.min_chunk]
    policy = str(work.policy or file.policy)
    kinds, total = _values("page_kind", work.page_kind), available_memory.memory_total_bytes()
    sizes = [size for value in _values("size", work.size) for size in sizes_of(value, total)]
    placements = _values("placement", work.placement or usual_placement) or [None]
    given = {name: value for name in CONDITIONS if (value := getattr(work, name)) is not None}
    options = {name: _values(f"option {name}", value) for name, value in (given | work.options).items()}
    each = math.prod(map(len, (sizes, min_chunks, placements, *options.values())))
    if (n := before + each * sum(len(kinds or method.page_kinds) for method in methods)) > MOST_CELLS:
        raise ValueError(f"{n} cells up to here are too many; use at most {MOST_CELLS}")
    return [
        Case.of(
            workload.name,
            method.name,
            size=size,
            page_kind=kind,
            min_chunk=min_chunk,
            policy=policy,
            placement=placement,
            options=dict(zip(options, chosen, strict=True)),
        )
        for method in methods
        for kind, size, min_chunk, placement, chosen in itertools.product(
            kinds or method.page_kinds, sizes, min_chunks, placements, itertools.product(*options.values())
        )
    ]


_SCALED = re.compile(r"(?:(.{1,20})\.\.)?([0-9]{1,3})%")
STEP = 4  # from a size to the next


def sizes_of(value: Any, memory_bytes: int) -> list[Any]:
    """Return the sizes that one of a grid stands for on a machine with so much memory.

    "25%" is the power of two below a quarter of the memory, "1GiB..25%" the sizes up to it in steps of four.

    Examples
    --------
    >>> [size >> 30 for size in sizes_of("1GiB..25%", 2 << 40)]
    [1, 4, 16, 64, 256, 512]
    """
    match = _SCALED.fullmatch(str(value))
    if not match:
        return [value]
    share = int(match[2])
    if not 1 <= share <= 50 or not memory_bytes:
        raise ValueError(f"size {value!r} is not allowed; use a share of the memory from 1% to 50%")
    end = 1 << (memory_bytes * share // 100).bit_length() - 1
    start = parse_size(match[1]) if match[1] else end
    steps = itertools.takewhile(lambda size: size < end, (start * STEP**k for k in itertools.count()))
    return [*steps, end] if start <= end else [start]


def _values(name: str, value: Any) -> list[Any]:
    """Return what one value or a list holds; nothing if the file does not have it."""
    if value == []:
        raise ValueError(f"{name}=[] is not allowed; use one value or a list of them")
    return [] if value is None else value if isinstance(value, list) else [value]
