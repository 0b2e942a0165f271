"""Machines that are not here, described in YAML: what the simulator and the bandwidth roof need to know.

A description is flat. Bandwidths are bytes *of the task* per second, as the engine counts them: a page walk
over 1 GiB of mappings is a task of 1 GiB, whatever it reads. What differs from one kind of work to the next
stands under `work`, and `Machine.for_work` puts it in place of the general figure.

A parameter is one field of `Figures` (or of `Machine`, if it is the same for every kind of work): default,
unit, bounds and meaning. Reading, writing, display, the event loop's `Costs` and the table in
docs/simulator.md follow from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import UNSET, Meta, Struct, structs

from ktask.common.files import write_text
from ktask.common.units import SIZE_SUFFIXES, fmt_number, fmt_rate, fmt_time
from ktask.common.yaml_files import Document, allowed, meaning_of, named_files, read_named
from ktask.engine import policy

FOLDER = Path(__file__).parent / "described"
MOST_ROUNDS = 100_000  # of all threads of load together; each is an event to simulate

# Weights of the nice levels from -20 to 19: sched_prio_to_weight of kernel/sched/core.c, CFS and EEVDF alike.
# fmt: off
NICE_WEIGHTS = (
    88761, 71755, 56483, 46273, 36291, 29154, 23254, 18705, 14949, 11916,
    9548, 7620, 6100, 4904, 3906, 3121, 2501, 1991, 1586, 1277,
    1024, 820, 655, 526, 423, 335, 272, 215, 172, 137,
    110, 87, 70, 56, 45, 36, 29, 23, 18, 15,
)
# fmt: on


def nice_weight(nice: int) -> int:
    """Return the weight that the Linux scheduler gives to a nice level."""
    return NICE_WEIGHTS[nice + 20]


_TIMES = {"": "1", "s": "1", "ms": "1e-3", "us": "1e-6", "µs": "1e-6", "ns": "1e-9", "min": "60"}
_SIZES = {"": "1", **{name.lower(): str(factor) for name, factor in SIZE_SUFFIXES.items()}}
_RATE = {"units": _SIZES, "noun": "bytes per second", "example": "8.6GiB"}
_TIME = {"units": _TIMES, "noun": "seconds", "example": "50us"}
_SIZE = {"units": _SIZES, "noun": "bytes", "example": "1GiB"}

Rate = Annotated[float, Meta(ge=1e-6, le=1e18, extra=_RATE)]
Seconds = Annotated[float, Meta(ge=0, le=1e9, extra=_TIME)]
Share = Annotated[float, Meta(ge=0, le=1)]
Nice = Annotated[int, Meta(ge=-20, le=19)]


def means(text: str, low: float | None = None, high: float | None = None, extra: Any = None) -> Meta:
    """Return what a field means, its bounds and its unit."""
    return Meta(description=text, ge=low, le=high, extra=extra)


Nodes = Annotated[int, means("NUMA nodes", 1, 1024)]
Cores = Annotated[int, means("cores of each node", 1, policy.MOST_CPUS)]


def _key(name: str) -> str:
    """Return the key in a file of an attribute: times carry their unit in Python only."""
    return name.removesuffix("_s")


class Load(Struct, frozen=True, omit_defaults=True, rename=_key):
    """Other threads on the machine while the task runs."""

    threads: Annotated[int, means("how many, spread over the CPUs as workers are", 0, policy.MOST_CPUS)]
    nice: Annotated[Nice, means("their nice level")] = 0
    cpu_time_s: Annotated[float, means("CPU time that each needs; inf: endless", 1e-9, 1e9, _TIME)] = math.inf
    start_s: Annotated[float, means("when they start; the task starts at 0", -1e9, 1e9, _TIME)] = 0.0
    busy: Annotated[
        float,
        means(
            "share of its turn that a thread computes; else it waits, and low-priority threads that wait for "
            "the same CPU run instead",
            *(0.01, 1),
        ),
    ] = 1.0
    bandwidth: Annotated[
        float, means("what each takes from its node on a CPU of its own", 0, 1e18, _RATE)
    ] = 0.0
    rounds: Annotated[
        int, means("equal parts of its CPU time; a thread sleeps after each until all are done", 1, 1_000_000)
    ] = 1
    pause_s: Annotated[
        Seconds, means("CPU time of one of them alone after each round, such as freeing the memory of all")
    ] = 0.0


class Figures(Struct, frozen=True, kw_only=True, omit_defaults=True, rename=_key):
    """What may differ from one kind of work to the next."""

    smt_gain: Annotated[
        float, means("work of a core with all hardware threads busy, over that with one", 0.1, 16)
    ] = 1.0
    core_bandwidth: Annotated[Rate, means("of a thread that has the memory of its node to itself")] = 1e9
    node_bandwidth: Annotated[Rate, means("of the memory of a node, all threads together")] = math.inf
    remote_penalty: Annotated[
        float, means("times longer that a chunk takes whose memory lies on another node", 1, 100)
    ] = 1.0
    slow_start: Annotated[
        float,
        means(
            "times longer than at `core_bandwidth` that a task with one thread takes: it reaches across "
            "nodes, or has the cache of one core",
            *(1, 10),
        ),
    ] = 1.0
    contention: Annotated[
        Share,
        means(
            "share by which each further running thread of the task slows all: shared cache lines, locks too "
            "short to queue for"
        ),
    ] = 0.0
    neighbour_contention: Annotated[
        float, means("the same, between threads within one `neighbour_span` of the task", 0, 10)
    ] = 0.0
    neighbour_span: Annotated[
        float,
        means(
            "what one lock guards: a table of page-table entries is one for 2 MiB of 4 KiB pages, or for 1 "
            "GiB of huge ones",
            *(0, 1e18, _SIZE),
        ),
    ] = 0.0
    task_start_s: Annotated[Seconds, means("before the first chunk, whatever the size")] = 0.0
    helper_queue_s: Annotated[Seconds, means("what queueing one helper costs the caller")] = 0.0
    helper_start_s: Annotated[Seconds, means("from there to the helper's first chunk")] = 0.0
    chunk_cost_s: Annotated[Seconds, means("per chunk, besides its work")] = 0.0
    chunk_flush_s: Annotated[
        Seconds, means("per chunk and other running thread of the task, which has to forget translations")
    ] = 0.0
    claim_s: Annotated[Seconds, means("part of taking a chunk during which nobody else can take one")] = 0.0
    lock_share: Annotated[Share, means("share of a chunk's work under one lock of the whole machine")] = 0.0
    noise: Annotated[float, means("standard deviation of the logarithm of a chunk's time", 0, 2)] = 0.0


FIGURES = {field.name: field for field in structs.fields(Figures)}
_Work = msgspec.defstruct(
    "_Work", [(name, field.type, UNSET) for name, field in FIGURES.items()], frozen=True, rename=_key
)


class Machine(Figures, frozen=True, omit_defaults=True, rename=_key):
    """A described machine: its layout, other load, and `Figures` for any work and for kinds of work."""

    name: str
    about: Annotated[str, means("for people")] = ""
    source: Annotated[str, means("where the figures come from")] = ""
    nodes: Nodes = 1
    cores_per_node: Cores = 1
    smt: Annotated[int, means("hardware threads of each core", 1, 16)] = 1
    run_queue: Annotated[
        Literal["cpu", "node"],
        means(
            "cpu: threads stay on their CPU, but for load when another goes idle; "
            "node: they are balanced over their node"
        ),
    ] = "cpu"
    caller_nice: Annotated[Nice, means("nice level of the caller")] = 0
    helper_nice: Annotated[Nice, means("of helpers, under a policy of low priority only")] = 19
    load: tuple[Load, ...] = ()
    work: dict[str, dict[str, float]] = {}

    def __post_init__(self) -> None:
        """Refuse figures that contradict each other."""
        if self.cpus > policy.MOST_CPUS:
            use = f"nodes × cores_per_node × smt within {policy.MOST_CPUS} CPUs"
            raise ValueError(f"nodes={self.nodes} is not allowed; use {use}")
        if sum(load.threads for load in self.load) > policy.MOST_CPUS:
            raise ValueError(
                f"load=... is not allowed; use at most {policy.MOST_CPUS} threads in all entries"
            )
        if sum(load.threads * load.rounds for load in self.load if load.rounds > 1) > MOST_ROUNDS:
            raise ValueError(f"load=... is not allowed; use at most {MOST_ROUNDS} rounds times threads")
        if self.smt_gain > self.smt:
            use = f"at most smt={self.smt}, the hardware threads of a core"
            raise ValueError(f"smt_gain={self.smt_gain:g} is not allowed; use {use}")

    def _repr_html_(self) -> str:
        from ktask.common.views import fact_table  # noqa: PLC0415  (not needed to simulate anything)

        layout = f"{self.nodes} nodes of {self.cores_per_node} cores, {self.smt} threads each"
        given = ((field.name, getattr(self, field.name), field.default) for field in structs.fields(self))
        rows = [
            (name, _formatted(name, value))
            for name, value, default in given
            if name not in _IN_HEAD and value and value != default
        ]
        about = (("about", self.about), ("source", self.source))
        return fact_table(self.name, [("layout", layout), *rows, *about])

    @property
    def cpus_per_node(self) -> int:
        """Hardware threads of one node."""
        return self.cores_per_node * self.smt

    @property
    def cpus(self) -> int:
        """Hardware threads of the machine."""
        return self.nodes * self.cpus_per_node

    @property
    def bandwidth(self) -> float:
        """Bytes per second that all nodes deliver together."""
        return self.nodes * self.node_bandwidth

    def for_policy(self, **facts: Any) -> policy.Machine:
        """Return what a policy may know of this machine; `facts` are further fields of `policy.Machine`."""
        return policy.Machine(self.cpus, dict.fromkeys(range(self.nodes), self.cpus_per_node), **facts)

    def for_work(self, name: str) -> Machine:
        """Return the machine with the figures of one kind of work.

        Raises
        ------
        ValueError
            If the description does not have it.
        """
        if name not in self.work:
            known = ", ".join(self.work) or "none; its figures stand for any work"
            raise ValueError(f"work {name!r} is not described for {self.name}; use one of {known}")
        return structs.replace(self, **self.work[name], work={})


_IN_HEAD = ("name", "about", "source", "nodes", "cores_per_node", "smt")


def _formatted(name: str, value: Any) -> str:
    """Return a figure of a description with its unit, for a person."""
    if name.endswith("_bandwidth"):
        return fmt_rate(value, "byte")
    if isinstance(value, float):
        return fmt_time(value) if name.endswith("_s") else fmt_number(value)
    return ", ".join(value) if isinstance(value, Mapping) else str(value)


def parameter_table() -> str:
    """Return every figure of a description as a Markdown table: default, what is allowed, meaning."""
    rows = ["| key | default | allowed | meaning |", "|---|---|---|---|"]
    for title, struct in (("", Machine), ("load: ", Load)):
        for field in structs.fields(struct):
            if meaning := meaning_of(field.type):
                default = "" if field.required else field.default
                default = f"{default:g}" if isinstance(default, float) else default
                rows.append(
                    f"| `{title}{field.encode_name}` | {default} | {allowed(field.type)} | {meaning} |"
                )
    return "\n".join(rows) + "\n"


# --- files -------------------------------------------------------------------------------------------------


class _File(Machine, frozen=True, kw_only=True, rename=_key):
    """A machine as a file has it: its layout has to be given, and kinds of work are checked."""

    name: str = ""
    nodes: Nodes
    cores_per_node: Cores
    work: dict[str, _Work] = {}  # type: ignore[valid-type]


def shipped() -> dict[str, Path]:
    """Return the descriptions that come with the project, by name."""
    return named_files(FOLDER)


def load_machine(name: str | Path) -> Machine:
    """Return the machine called `name`: one that comes with the project, or a YAML file.

    Raises
    ------
    ValueError
        If there is no such description, or it says something impossible: the message names file, line, key,
        value and what is allowed.
    """
    text, stem = read_named("machine", name, FOLDER)
    return parse_machine(text, str(name), stem)


def parse_machine(text: str, where: str = "machine", name: str = "machine") -> Machine:
    """Return the machine that the text of a YAML file describes; `where` starts every message."""
    found = structs.asdict(Document(text, where).read(_File, "the description"))
    work = {
        kind: {key: value for key, value in structs.asdict(figures).items() if value is not UNSET}
        for kind, figures in found["work"].items()
    }
    return Machine(**found | {"name": found["name"] or name, "work": work})


def as_yaml(machine: Machine) -> str:
    """Return the description of a machine as YAML, without what is at its default."""
    first = ("name", "about", "source", "nodes", "cores_per_node")
    plain = {name: value for name in first if (value := getattr(machine, name))}
    plain |= msgspec.to_builtins(machine)
    if work := plain.pop("work", {}):
        plain["work"] = {
            kind: {_key(name): x for name, x in figures.items()} for kind, figures in work.items()
        }
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100)


def write_machine(machine: Machine, path: Path | str) -> None:
    """Write the description of a machine, whole or not at all."""
    write_text(path, as_yaml(machine))
