"""Machines that are not here, described in YAML: what the simulator and the bandwidth roof need to know.

A description is flat. Bandwidths are bytes *of the task* per second, as the engine counts them: a page walk
over 1 GiB of mappings is a task of 1 GiB, whatever it reads. What differs from one kind of work to the next
stands under `work`, and `Machine.for_work` puts it in place of the general figure.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from decimal import Decimal
from pathlib import Path
from reprlib import Repr
from typing import Any, NamedTuple

import yaml

from ktask.common.files import write_text
from ktask.common.units import SIZE_SUFFIXES, fmt_number, fmt_rate, fmt_time
from ktask.engine import policy

SHIPPED = Path(__file__).parent / "described"
LARGEST_FILE_BYTES = 1 << 20
_REPR = Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother = 2, 60, 60
_short = _REPR.repr

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


@dataclass(frozen=True)
class Load:
    """Other threads on the machine while the task runs.

    Attributes
    ----------
    threads
        How many; spread over the CPUs as the workers of a task are.
    nice
        Their nice level.
    cpu_time_s
        CPU seconds that each needs; infinite for one that never ends.
    rounds
        In how many equal rounds it spends them. A thread sleeps after its round until all are done with it.
    pause_s
        CPU seconds that one of them works alone after each round, such as freeing the memory of all.
    start_s
        When they start; the task starts at 0, and one that started earlier has a negative time.
    busy
        Share of its turn that a thread really computes; the rest, it waits, and low-priority threads that
        wait for the same CPU run instead.
    bandwidth
        Bytes per second that each takes from the memory of its node when it has a CPU to itself.
    """

    threads: int
    nice: int = 0
    cpu_time_s: float = math.inf
    start_s: float = 0.0
    busy: float = 1.0
    bandwidth: float = 0.0
    rounds: int = 1
    pause_s: float = 0.0


_IN_HEAD = ("name", "about", "source", "nodes", "cores_per_node", "smt")


def _told(name: str, value: Any) -> str:
    """Return a figure of a description with its unit, for a person."""
    if name.endswith("_bandwidth"):
        return fmt_rate(value, "byte")
    if isinstance(value, float):
        return fmt_time(value) if name.endswith("_s") else fmt_number(value)
    return ", ".join(value) if isinstance(value, Mapping) else str(value)


@dataclass(frozen=True)
class Machine:
    """A described machine.

    Attributes
    ----------
    name, about, source
        For people; `source` says where the figures come from.
    nodes, cores_per_node, smt
        Layout: nodes, cores of each, hardware threads of each core.
    smt_gain
        Work of a core with all of its hardware threads busy, over that with one.
    core_bandwidth
        Bytes of the task per second that a thread gets through that has its memory to itself, on its own
        node.
    node_bandwidth
        Bytes per second that the memory of one node delivers to all threads together; infinite if unknown.
    remote_penalty
        How many times longer a chunk takes whose memory lies on another node.
    slow_start
        How many times longer than at `core_bandwidth` a task takes that has one thread only. More than 1
        where starts are superlinear: one thread reaches across nodes, or has the cache of one core.
    contention
        Share by which each further thread of the task, while it runs, slows every thread down (shared cache
        lines, locks too short to queue for).
    neighbour_contention, neighbour_span
        Share by which another thread slows one in addition while both are within the same `neighbour_span`
        bytes of the task, which one lock guards: a table of page-table entries is one for 2 MiB of 4 KiB
        pages, or for 1 GiB of huge ones. Concurrent chunks are neighbours, so small ones meet more often.
    task_start_s
        Seconds before the first chunk, whatever the size.
    helper_queue_s, helper_start_s
        Seconds that the caller spends on queueing one helper, and from there to the helper's first chunk.
    chunk_cost_s, chunk_flush_s
        Seconds per chunk besides its work: in any case, and for each other thread of the task that runs (it
        has to be told to forget translations).
    claim_s
        Part of taking a chunk during which nobody else can take one.
    lock_share
        Share of a chunk's work that is done under one lock of the whole machine.
    noise
        Standard deviation of the logarithm of a chunk's time.
    run_queue
        `"cpu"`: threads stay on the CPU they were put on. `"node"`: the scheduler balances perfectly over the
        CPUs of a node.
    caller_nice, helper_nice
        Nice levels; helpers run at theirs only under a policy of low priority.
    load
        Other threads.
    work
        Figures that differ for a kind of work, by its name.
    """

    name: str
    nodes: int = 1
    cores_per_node: int = 1
    smt: int = 1
    smt_gain: float = 1.0
    core_bandwidth: float = 1e9
    node_bandwidth: float = math.inf
    remote_penalty: float = 1.0
    slow_start: float = 1.0
    contention: float = 0.0
    neighbour_contention: float = 0.0
    neighbour_span: float = 0.0
    task_start_s: float = 0.0
    helper_queue_s: float = 0.0
    helper_start_s: float = 0.0
    chunk_cost_s: float = 0.0
    chunk_flush_s: float = 0.0
    claim_s: float = 0.0
    lock_share: float = 0.0
    noise: float = 0.0
    run_queue: str = "cpu"
    caller_nice: int = 0
    helper_nice: int = 19
    load: tuple[Load, ...] = ()
    work: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    about: str = ""
    source: str = ""

    def _repr_html_(self) -> str:
        from ktask.common.views import fact_table  # noqa: PLC0415  (not needed to simulate anything)

        layout = f"{self.nodes} nodes of {self.cores_per_node} cores, {self.smt} threads each"
        given = (one for one in fields(self) if one.name not in _IN_HEAD)
        rows = ((one.name, getattr(self, one.name), one.default) for one in given)
        told = [(name, _told(name, value)) for name, value, usual in rows if value and value != usual]
        return fact_table(
            self.name, [("layout", layout), *told, ("about", self.about), ("source", self.source)]
        )

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
        return replace(self, **self.work[name], work={})


# --- what a value may be -----------------------------------------------------------------------------------

_TIMES = {"": "1", "s": "1", "ms": "1e-3", "us": "1e-6", "µs": "1e-6", "ns": "1e-9", "min": "60"}
_RATES = {"": "1", **{name.lower(): str(factor) for name, factor in SIZE_SUFFIXES.items()}}


class Rule(NamedTuple):
    """What a key may hold: units by suffix if any, bounds, whole numbers only, and the words for all that."""

    low: float
    high: float
    allowed: str
    units: Mapping[str, str] = {"": "1"}
    whole: bool = False

    def read(self, value: Any) -> float | int:
        """Return the number; ValueError if it is none or out of bounds."""
        number = self._number(value)
        if not self.low <= number <= self.high or (self.whole and number != int(number)):
            raise ValueError
        return int(number) if self.whole else number

    def _number(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise ValueError
        match = re.fullmatch(r"\s*([+-]?[\d.]+(?:e[+-]?\d+)?)\s*([a-zµ]*)\s*", str(value).lower())
        if not match or match[2] not in self.units:
            raise ValueError
        try:
            return float(Decimal(match[1]) * Decimal(self.units[match[2]]))
        except ArithmeticError:
            raise ValueError from None


def _rate(low: float) -> Rule:
    more = "more than 0" if low else "0 or more"
    return Rule(low, 1e18, f"bytes per second, {more} and at most 1e18, such as 8.6GiB", _RATES)


def _time(low: float = 0.0) -> Rule:
    least = "0 or more" if low == 0 else f"at least {low:g}"
    return Rule(low, 1e9, f"seconds, {least} and at most 1e9, or with ns, us, ms or s, such as 50us", _TIMES)


def _count(most: int) -> Rule:
    return Rule(1, most, f"a whole number from 1 to {most}", whole=True)


_NICE = Rule(-20, 19, "a whole number from -20 to 19", whole=True)
RULES: dict[str, Rule] = {
    "nodes": _count(1024),
    "cores_per_node": _count(policy.MOST_CPUS),
    "smt": _count(16),
    "smt_gain": Rule(0.1, 16, "a number from 0.1 to 16"),
    "core_bandwidth": _rate(1e-6),
    "node_bandwidth": _rate(1e-6),
    "remote_penalty": Rule(1, 100, "a number from 1 to 100"),
    "slow_start": Rule(1, 10, "a number from 1 to 10"),
    "contention": Rule(0, 1, "a number from 0 to 1"),
    "neighbour_contention": Rule(0, 10, "a number from 0 to 10"),
    "neighbour_span": Rule(0, 1e18, "bytes, 0 or more and at most 1e18, such as 1GiB", _RATES),
    "task_start": _time(),
    "helper_queue": _time(),
    "helper_start": _time(),
    "chunk_cost": _time(),
    "chunk_flush": _time(),
    "claim": _time(),
    "lock_share": Rule(0, 1, "a number from 0 to 1"),
    "noise": Rule(0, 2, "a number from 0 to 2"),
    "caller_nice": _NICE,
    "helper_nice": _NICE,
}
LOAD_RULES: dict[str, Rule] = {
    "threads": Rule(0, policy.MOST_CPUS, f"a whole number from 0 to {policy.MOST_CPUS}", whole=True),
    "nice": _NICE,
    "cpu_time": _time(1e-9),
    "start": _time(-1e9),
    "busy": Rule(0.01, 1, "a number from 0.01 to 1"),
    "bandwidth": _rate(0),
    "rounds": _count(1_000_000),
    "pause": _time(),
}
_OF_THE_MACHINE = ("nodes", "cores_per_node", "smt", "caller_nice", "helper_nice")
WORK_KEYS = tuple(key for key in RULES if key not in _OF_THE_MACHINE)  # what may differ for a kind of work
_TEXTS = ("name", "about", "source")
_RUN_QUEUES = ("cpu", "node")
KEYS = (*_TEXTS, *RULES, "run_queue", "load", "work")
NEEDED = ("nodes", "cores_per_node")
_IN_SECONDS = {key for key, rule in (RULES | LOAD_RULES).items() if rule.units is _TIMES}


def _attribute(key: str) -> str:
    """Return the attribute that a key of the file fills: times carry their unit in Python."""
    return f"{key}_s" if key in _IN_SECONDS else key


# --- reading -------------------------------------------------------------------------------------------


def shipped() -> dict[str, Path]:
    """Return the descriptions that come with the project, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.yaml"))}


def load_machine(name: str | Path) -> Machine:
    """Return the machine called `name`: one that comes with the project, or a YAML file.

    Raises
    ------
    ValueError
        If there is no such description, or it says something impossible: the message names file, line, key,
        value and what is allowed.
    """
    path = shipped().get(str(name), Path(name))
    try:
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise ValueError(f"machine {name}: larger than 1 MiB, which no description is")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        known = ", ".join(shipped())
        raise ValueError(f"machine {str(name)!r} is neither a file nor one of {known}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"machine {name}: cannot be read: {error}") from None
    return parse_machine(text, str(name), path.stem)


def parse_machine(text: str, where: str = "machine", name: str = "machine") -> Machine:
    """Return the machine that the text of a YAML file describes; `where` starts every message."""
    try:
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        top = _Table(tree, where, "the description", KEYS)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{where}: not YAML: {' '.join(str(error).split())}") from None
    for key in NEEDED:
        if key not in top.nodes:
            raise ValueError(f"{where}: key {key} is missing; give {RULES[key].allowed}")
    values = top.numbers(RULES) | {key: top.text(key) for key in _TEXTS if key in top.nodes}
    if "run_queue" in top.nodes:
        values["run_queue"] = top.choice("run_queue", _RUN_QUEUES)
    if values["nodes"] * values["cores_per_node"] * values.get("smt", 1) > policy.MOST_CPUS:
        raise top.error("nodes", f"nodes × cores_per_node × smt within {policy.MOST_CPUS} CPUs")
    _check_smt(top, values)
    loads = tuple(Load(**_load(table)) for table in top.tables("load", LOAD_RULES, "an entry of load"))
    works = {name: table.numbers(RULES) for name, table in top.named_tables("work", WORK_KEYS)}
    return Machine(**{"name": name, **values, "load": loads, "work": works})


def _check_smt(top: _Table, values: Mapping[str, Any]) -> None:
    if values.get("smt_gain", 1.0) > values.get("smt", 1):
        raise top.error("smt_gain", f"at most smt={values.get('smt', 1)}, the hardware threads of a core")


def _load(table: _Table) -> dict[str, Any]:
    if "threads" not in table.nodes:
        raise table.complaint(table.line, "key threads", "is missing", LOAD_RULES["threads"].allowed)
    return table.numbers(LOAD_RULES)


def _listed(keys: tuple[str, ...] | None) -> str:
    return ", ".join(keys or ())


class _Table:
    """One mapping of the file, with the line of every key, so that a message can say where."""

    def __init__(self, node: yaml.Node | None, where: str, what: str, keys: tuple[str, ...] | None):
        self.where, self.what, self.line = where, what, node.start_mark.line + 1 if node else 1
        self.nodes: dict[str, yaml.Node] = {}
        if not isinstance(node, yaml.MappingNode):
            raise self.complaint(self.line, what, "is no mapping", f"the keys {_listed(keys)}")
        for key_node, value in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode) or (keys is not None and key not in keys):
                raise self.complaint(
                    line, f"key {_short(key)} of {what}", "is unknown", ", ".join(keys or ())
                )
            if key in self.nodes:
                raise self.complaint(line, f"key {key} of {what}", "appears twice", "it once")
            self.nodes[key] = value

    def complaint(self, line: int, subject: str, problem: str, allowed: str) -> ValueError:
        return ValueError(f"{self.where}, line {line}: {subject} {problem}; use {allowed}")

    def error(self, key: str, allowed: str) -> ValueError:
        """Return the complaint about the value of `key`."""
        node = self.nodes.get(key)
        line = node.start_mark.line + 1 if node else self.line
        shown = node.value if isinstance(node, yaml.ScalarNode) else "a list or mapping"
        return self.complaint(line, f"{key}={_short(shown).strip(chr(39))}", "is not allowed", allowed)

    def value(self, key: str) -> Any:
        """Return the value of `key` if it is a single one, else None."""
        node = self.nodes[key]
        if not isinstance(node, yaml.ScalarNode):
            return None
        return yaml.SafeLoader("").construct_object(node)

    def numbers(self, rules: Mapping[str, Rule]) -> dict[str, Any]:
        """Return the numbers of every key that has a rule, by attribute."""
        found = {}
        for key in self.nodes:
            if key not in rules:
                continue
            try:
                found[_attribute(key)] = rules[key].read(self.value(key))
            except (ValueError, OverflowError):
                raise self.error(key, rules[key].allowed) from None
        return found

    def text(self, key: str) -> str:
        node = self.nodes[key]
        if not isinstance(node, yaml.ScalarNode):
            raise self.error(key, "a text")
        return str(node.value)

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        text = self.text(key)
        if text not in allowed:
            raise self.error(key, " or ".join(allowed))
        return text

    def tables(self, key: str, rules: Mapping[str, Rule], what: str) -> list[_Table]:
        """Return the mappings that `key` lists."""
        node = self.nodes.get(key)
        if node is None:
            return []
        if not isinstance(node, yaml.SequenceNode):
            raise self.error(key, f"a list of mappings with the keys {', '.join(rules)}")
        return [_Table(item, self.where, what, tuple(rules)) for item in node.value]

    def named_tables(self, key: str, keys: tuple[str, ...]) -> list[tuple[str, _Table]]:
        """Return the mappings that `key` holds by name."""
        if key not in self.nodes:
            return []
        names = _Table(self.nodes[key], self.where, key, None)
        return [(name, _Table(node, self.where, f"work {name}", keys)) for name, node in names.nodes.items()]


# --- writing -------------------------------------------------------------------------------------------


def as_yaml(machine: Machine) -> str:
    """Return the description of a machine as YAML, without what is at its default."""
    return yaml.safe_dump(_plain(machine), sort_keys=False, allow_unicode=True, width=100)


def write_machine(machine: Machine, path: Path | str) -> None:
    """Write the description of a machine, whole or not at all."""
    write_text(path, as_yaml(machine))


def _plain(machine: Machine) -> dict[str, Any]:
    defaults = Machine("")
    keys = {_attribute(key): key for key in KEYS}
    plain = {}
    for key in KEYS:
        value = getattr(machine, _attribute(key))
        if key not in ("load", "work") and (key in NEEDED or value != getattr(defaults, _attribute(key))):
            plain[key] = value
    if machine.load:
        plain["load"] = [_plain_load(load) for load in machine.load]
    if machine.work:
        plain["work"] = {
            name: {keys[a]: v for a, v in values.items()} for name, values in machine.work.items()
        }
    return plain


def _plain_load(load: Load) -> dict[str, Any]:
    names = {_attribute(key): key for key in LOAD_RULES}
    default = {f.name: f.default for f in fields(Load)}
    return {names[a]: v for a, v in asdict(load).items() if v != default[a]}
