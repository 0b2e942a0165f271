"""Grids: which cells a run measures, read from a small YAML file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from reprlib import Repr
from typing import Any

import yaml

from ktask import workloads
from ktask.common.units import SIZE_SUFFIXES, parse_size
from ktask.engine import policy
from ktask.lab.measure.cell import Protocol, default_threads
from ktask.memory import region as memory
from ktask.workloads import Case

SHIPPED = Path(__file__).parent / "grids"
_KEYS = ("about", "seed", "threads", "min_chunk", "policy", "protocol", "limit_s", "work")
_WORK_KEYS = ("workload", "method", "page_kind", "size", "min_chunk", "policy", "options")
MOST_CELLS = 10_000
LIMIT_S = 600.0
_REPR = Repr()
_REPR.maxlevel = 2  # a small file can hold a value of any size, by aliases of aliases
_short = _REPR.repr


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
    """

    name: str
    about: str
    seed: int
    threads: tuple[int, ...]
    protocol: Protocol
    cases: tuple[Case, ...]
    limit_s: float = LIMIT_S

    def as_dict(self) -> dict[str, Any]:
        """Return the grid with everything spelled out, as kept in the run."""
        return {
            "name": self.name,
            "about": self.about,
            "seed": self.seed,
            "threads": list(self.threads),
            "protocol": asdict(self.protocol),
            "limit_s": self.limit_s,
            "cells": [{"cell_id": cell_id(c), **asdict(c), "options": dict(c.options)} for c in self.cases],
        }


def cell_id(case: Case) -> str:
    """Return the name of a cell: a file name, the same for the same case and no other."""
    parts = [case.workload, case.method, case.page_kind, _exact_size(case.size_bytes)]
    extra = [] if case.policy == "ktask-v4" else [case.policy.replace(".", "_")]
    if case.min_chunk_bytes != 2 * memory.MIB:
        extra.append(f"min{_exact_size(case.min_chunk_bytes)}")
    extra += [f"{name}={value}" for name, value in case.options]
    return "-".join(parts + extra)


def _exact_size(size_bytes: int) -> str:
    """Return a size in the largest unit that it is a multiple of: 1536MiB, not 1.50GiB."""
    name, factor = next((n, f) for n, f in reversed(SIZE_SUFFIXES.items()) if size_bytes % f == 0)
    return f"{size_bytes // factor}{name}"


def shipped() -> dict[str, Path]:
    """Return the grids that come with the project, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}


def load_grid(name: str) -> Grid:
    """Return the grid called `name`, shipped or a file, as it is on this machine.

    Raises
    ------
    ValueError
        If there is no such grid, or the file says something that is not understood: the message names the
        file, the key and what is allowed.
    """
    data, stem = read_grid(name)
    try:
        return parse_grid(data, stem)
    except (ValueError, TypeError) as error:
        raise ValueError(f"grid {name}: {error}") from None


def read_grid(name: str) -> tuple[Any, str]:
    """Return the content of the file of a grid, not yet looked at, and the grid's name."""
    path = shipped().get(name, Path(name))
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")), path.stem
    except FileNotFoundError:
        known = ", ".join(shipped())
        raise ValueError(f"grid {name!r} is neither a file nor one of {known}") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"grid {name}: cannot be read: {' '.join(str(error).split())}") from None


def parse_grid(data: Any, name: str) -> Grid:
    """Return the grid that the content of a YAML file describes; ValueError tells what is wrong."""
    grid = _mapping(data, _KEYS, "the grid")
    defaults = {k: grid[k] for k in ("min_chunk", "policy") if k in grid}
    seed = _whole(grid.get("seed", 1), "seed", 0)
    work = grid.get("work")
    if not isinstance(work, list) or not work:
        example = "{workload: zeroing, size: 1GiB}"
        raise ValueError(f"work={_short(work)} is not allowed; use a list of entries such as {example}")
    cases = tuple(dict.fromkeys(case for entry in work for case in _cases(entry, defaults)))
    if len(cases) > MOST_CELLS:
        raise ValueError(f"{len(cases)} cells are too many; use at most {MOST_CELLS}")
    return Grid(
        name=name,
        about=str(grid.get("about", "")),
        seed=seed,
        threads=_threads(grid.get("threads", "auto")),
        protocol=_protocol(grid.get("protocol", {}), seed),
        cases=cases,
        limit_s=_positive(grid.get("limit_s", LIMIT_S), "limit_s"),
    )


def _mapping(data: Any, keys: Sequence[str], what: str) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"{what} is {_short(data)}; it must be a mapping with the keys {', '.join(keys)}")
    for key in data:
        if key not in keys:
            raise ValueError(f"key {_short(key)} of {what} is unknown; use {', '.join(keys)}")
    return data


def _whole(value: Any, name: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name}={_short(value)} is not allowed; use a whole number of at least {least}")
    return value


def _positive(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"{name}={_short(value)} is not allowed; use a positive number")
    return float(value)


def _threads(value: Any) -> tuple[int, ...]:
    if value == "auto":
        return tuple(default_threads())
    counts = value if isinstance(value, list) else [value]
    if not counts:
        raise ValueError("threads=[] is not allowed; use auto or a list such as [1, 2, 4]")
    return tuple(sorted({_whole(n, "threads", 1) for n in counts} | {1}))


def _protocol(data: Any, seed: int) -> Protocol:
    keys = [f.name for f in fields(Protocol) if f.name != "seed"]
    values = dict(_mapping(data, keys, "protocol"))
    for key, value in values.items():
        _positive(value, f"protocol {key}")
        if key in ("least", "most"):
            _whole(value, f"protocol {key}", 1)
    protocol = Protocol(**values, seed=seed)
    if protocol.most < protocol.least:
        raise ValueError(
            f"protocol most={protocol.most} is below least={protocol.least}; raise one or lower the other"
        )
    return protocol


def _cases(entry: Any, defaults: Mapping[str, Any]) -> list[Case]:
    work = defaults | dict(_mapping(entry, _WORK_KEYS, "an entry of work"))
    if "workload" not in work or "size" not in work:
        raise ValueError(f"entry {_short(entry)} of work needs the keys workload and size")
    workload = workloads.get(str(work["workload"]))
    names = _list("method", work.get("method", [m.name for m in workload.methods]))
    methods = [workload.method(str(name)) for name in names]
    policy_name = str(work.get("policy", "ktask-v4"))
    policy.policy_named(policy_name)
    min_chunk = parse_size(work.get("min_chunk", 2 * memory.MIB))
    settings = _settings(work.get("options", {}))
    cases = []
    for method in methods:
        options = list(dict.fromkeys(method.parse_options(setting) for setting in settings))
        kinds = _list("page_kind", work.get("page_kind", list(method.page_kinds)))
        sizes = [parse_size(size) for size in _list("size", work["size"])]
        for kind, size, chosen in itertools.product(map(_page_kind, kinds), sizes, options):
            cases.append(Case(workload.name, method.name, kind, size, min_chunk, policy_name, chosen))
    return cases


def _settings(options: Any) -> list[dict[str, Any]]:
    """Return every combination of the values of `options`, each of which is one value or a list."""
    if not isinstance(options, dict):
        raise ValueError(
            f"options={_short(options)} is not allowed; use a mapping such as {{layout: sparse}}"
        )
    values = [_list(f"option {_short(name)}", value) for name, value in options.items()]
    return [dict(zip(map(str, options), chosen, strict=True)) for chosen in itertools.product(*values)]


def _list(name: str, value: Any) -> list[Any]:
    if value == []:
        raise ValueError(f"{name}=[] is not allowed; use one value or a list of them")
    return value if isinstance(value, list) else [value]


def _page_kind(kind: Any) -> str:
    if kind not in memory.PAGE_KINDS:
        raise ValueError(f"page_kind={_short(kind)} is unknown; use one of {', '.join(memory.PAGE_KINDS)}")
    return kind
