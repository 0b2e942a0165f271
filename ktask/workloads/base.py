"""Workloads: a sentence, what one operation is, set-up, a thread function, a check.

Every module of this package that defines `WORKLOAD` is one workload; nothing else has to be edited to add
one. `docs/workloads.md` shows how.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

from ktask.common.units import parse_size
from ktask.engine import cpu_order, placement
from ktask.engine.policy import policy_named
from ktask.engine.task import Ctl
from ktask.memory import region as memory
from ktask.workloads import conditions


class CheckError(AssertionError):
    """The work did not happen, or not as claimed; no number may come of it."""


@dataclass(frozen=True)
class Case:
    """One workload in one variant on one size.

    Attributes
    ----------
    workload, method
        Names of a workload and of one of its methods.
    page_kind
        One of `ktask.memory.region.PAGE_KINDS`.
    size_bytes
        How much memory the task covers.
    min_chunk_bytes
        The least chunk, rounded up to whole pages.
    policy
        One of `ktask.engine.policy.POLICIES`.
    options
        What is set apart from its default, by name, from `Method.parse_options`.
    """

    workload: str
    method: str
    page_kind: str
    size_bytes: int
    min_chunk_bytes: int = 2 * memory.MIB
    policy: str = "ktask-v4"
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(
        cls,
        workload: str,
        method: str | None = None,
        *,
        size: str | int,
        page_kind: str | None = None,
        backend: str | None = None,
        min_chunk: str | int = 2 * memory.MIB,
        policy: str = "ktask-v4",
        placement: str | None = None,
        load: str | None = None,
        quota: str | None = None,
        nice: str | int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Case:
        """Return the case that these words describe; what is left out is filled in.

        Parameters
        ----------
        workload, method, options
            As above; the first method (of the backend) if left out, and options at their defaults.
        size, min_chunk
            Bytes, or text such as "256MiB".
        page_kind
            THP if left out, or what the method can do.
        backend
            `kernel`, `user` or `model`.
        placement
            One of `ktask.engine.cpu_order.PLACEMENTS`; short for an option of that name.
        load, quota, nice
            The conditions, such as "memory:2", "150%" and 19; short for options of these names
            (`ktask.workloads.conditions`).

        Raises
        ------
        ValueError
            If one names nothing that exists; the message says what does.
        """
        found = get(workload)
        policy_named(policy)
        given = {"placement": placement, "load": load, "quota": quota, "nice": nice}
        settings = {**(options or {}), **{name: one for name, one in given.items() if one is not None}}
        chosen = found.method(method) if method else found.first_method(backend)
        if backend and chosen.backend != backend:
            raise ValueError(f"{workload} {chosen.name} has backend {chosen.backend}, not {backend!r}")
        return cls(
            found.name,
            chosen.name,
            known_page_kind(chosen.usual_page_kind if page_kind is None else page_kind),
            parse_size(size),
            parse_size(min_chunk),
            policy,
            chosen.parse_options(settings),
        )

    def _repr_html_(self) -> str:
        from ktask.common.views import case_html  # noqa: PLC0415  (not needed to run anything)

        return case_html(self)

    def option(self, name: str) -> str:
        """Return what the option `name` of the method is set to; its default if it is not."""
        return dict(self.options).get(name, get(self.workload).method(self.method).named_option(name).default)

    @property
    def options_text(self) -> str:
        """The options that are set, as in "layout=sparse,pid=17"; empty if all have their defaults."""
        return ",".join(f"{name}={value}" for name, value in self.options)

    @property
    def is_conditioned(self) -> bool:
        """Whether it is measured under a load, a quota or another nice level than the policy's."""
        return conditions.are_in(dict(self.options))

    @property
    def about(self) -> str:
        """What the case does, and what its source says about locks, in a few lines."""
        workload = get(self.workload)
        method = workload.method(self.method)
        lines = [workload.about, f"{method.name} ({method.backend}): {method.about}."]
        return "\n".join(lines + ([method.origin + method.by_source] if method.by_source else []))

    @property
    def page_size(self) -> int:
        """Bytes in one page of the case's kind."""
        return memory.PAGE_KINDS[self.page_kind]

    @property
    def min_chunk_pages(self) -> int:
        """The least chunk in pages, at least one."""
        return self.min_chunk(self.page_size)

    def min_chunk(self, unit_bytes: int) -> int:
        """Return the least chunk in units of some bytes, at least one."""
        return max(1, -(-self.min_chunk_bytes // unit_bytes))


class State(Protocol):
    """One case set up: what the measuring code calls, in this order, per repetition."""

    # Of the task, in units of `bytes_per_unit`. `parts`, if a state has them, say near which nodes they lie.
    size: int
    bytes_per_unit: int
    operations: int  # per repetition
    ctl: Ctl  # its cap on threads is set by the caller

    def before(self) -> None:
        """Bring about the state to start from; not timed."""

    def check(self) -> None:
        """Raise CheckError if the work did not happen; not timed."""

    def close(self) -> None:
        """Give everything back."""


_VALUE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+:%/-]{0,39}")


@dataclass(frozen=True)
class Option:
    """One thing about a case that only some methods know, such as how an address space is laid out.

    Attributes
    ----------
    name, about
        The name in grids and records, and a sentence for `ktask run --help`.
    default
        What it is set to if nothing is said; such a case is named as if the option were not there.
    values
        The values allowed; empty for a whole number of at least `least`.
    least
        The smallest number allowed.
    form
        For texts of a form of their own: raises ValueError, with what is allowed, if a text does not have it.
    why_not
        Returns why this machine cannot have a value, or None.
    """

    name: str
    about: str
    default: str
    values: tuple[str, ...] = ()
    least: int = 0
    form: Callable[[str], Any] | None = None
    why_not: Callable[[str], str | None] = lambda text: None

    def parse(self, value: Any) -> str:
        """Return `value` as text; ValueError if it is not allowed."""
        text = str(value)
        if self.values and text not in self.values:
            raise ValueError(f"{self.name}={text!r} is not allowed; use one of {', '.join(self.values)}")
        if self.form:
            self.form(text)
        elif not self.values and text != self.default and not (text.isdecimal() and int(text) >= self.least):
            least = f"a whole number of at least {self.least}"
            raise ValueError(f"{self.name}={text!r} is not allowed; use {least}")
        if not _VALUE.fullmatch(text):
            raise ValueError(f"{self.name}={text[:50]!r} is not allowed; use up to 40 letters and digits")
        return text


def _no_placement(text: str) -> str | None:
    """Return why this machine cannot place threads so, or None."""
    try:
        cpu_order.require(placement.site().topo, text)
    except ValueError as error:
        return str(error)
    return None


PLACEMENT = Option(
    "placement",
    "the order in which threads take CPUs",
    cpu_order.DEFAULT,
    tuple(cpu_order.PLACEMENTS),
    why_not=_no_placement,
)
CONDITIONS = (
    Option(
        "load",
        f"what runs beside it: {conditions.HOW_LOAD}",
        conditions.NO_LOAD,
        form=conditions.parse_load,
        why_not=conditions.why_no_load,
    ),
    Option(
        "quota",
        "the CPU time that the process may use, in percent of one CPU",
        conditions.NO_QUOTA,
        form=conditions.parse_quota,
        why_not=conditions.why_no_quota,
    ),
    Option(
        "nice",
        "nice level of helpers: 0 to 19, to which the caller, once out of chunks, hands its own over; "
        f"with :{conditions.NO_HAND_OVER} it does not",
        conditions.OF_POLICY,
        form=conditions.parse_nice,
        why_not=conditions.why_no_nice,
    ),
)
OF_EVERY_METHOD = (PLACEMENT, *CONDITIONS)


@dataclass(frozen=True)
class Method:
    """One way of doing the work.

    Attributes
    ----------
    name, about
        The name in grids and records, and a sentence for the report.
    backend
        `kernel` if a path of the kernel does the work, `user` if code of ours does.
    page_kinds
        The kinds of pages it works on.
    probe
        Returns why the method is not available here, or None.
    allocates
        Whether the timed part takes memory from the kernel, so that memory which the host has taken away
        ("cold") would be measured with it.
    options
        What else can be set, by `ktask run --set name=value` or by `options:` in a grid; each method has
        `OF_EVERY_METHOD`, too.
    by_source
        What follows from reading the source of the kernel (of our code, for a model), and nothing that was
        measured: the report shows it as that.
    locks
        Locks that threads wait for by that, by the names that `ktask.lab.evidence` gives them: where a run
        could see locks, the report says whether threads waited for these.
    """

    name: str
    about: str
    backend: str = "kernel"
    page_kinds: tuple[str, ...] = tuple(memory.PAGE_KINDS)
    probe: Callable[[], str | None] = lambda: None
    allocates: bool = False
    options: tuple[Option, ...] = ()
    by_source: str = ""
    locks: tuple[str, ...] = ()

    @property
    def origin(self) -> str:
        """What stands before `by_source` wherever it is shown."""
        return "By its source: " if self.backend == "model" else "By the kernel's source: "

    @property
    def usual_page_kind(self) -> str:
        """The kind of pages that a case has if none is named."""
        return next((kind for kind in ("THP", "4KiB") if kind in self.page_kinds), self.page_kinds[0])

    def named_option(self, name: str) -> Option:
        """Return the option called `name`, of this method or of all; ValueError lists the others."""
        options = (*self.options, *OF_EVERY_METHOD)
        for option in options:
            if option.name == name:
                return option
        known = ", ".join(option.name for option in options)
        raise ValueError(f"method {self.name} has no option {name!r}; use {known}")

    def parse_options(self, values: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
        """Return what `Case.options` keeps: names and values by name, defaults left out.

        Raises
        ------
        ValueError
            If the method has no such option, or a value is not allowed.
        """
        texts = {name: self.named_option(name).parse(value) for name, value in sorted(values.items())}
        return tuple((name, text) for name, text in texts.items() if text != self.named_option(name).default)


@dataclass(frozen=True)
class Workload:
    """A workload: its methods, and how to set a case up."""

    name: str
    about: str
    operation: str
    methods: tuple[Method, ...]
    setup: Callable[[Case], State]
    memory_need: Callable[[Case], int] = lambda case: memory.region_need(case.size_bytes, case.page_kind)
    why_not: Callable[[Case], str | None] = lambda case: None  # beyond page kind and method
    nodes: Callable[[Case], Sequence[int]] = lambda case: ()  # that the memory has to lie on, if any

    def method(self, name: str) -> Method:
        """Return the method called `name`; ValueError lists the others."""
        for method in self.methods:
            if method.name == name:
                return method
        known = ", ".join(m.name for m in self.methods)
        raise ValueError(f"workload {self.name} has no method {name!r}; use one of {known}")

    def first_method(self, backend: str | None = None) -> Method:
        """Return the first method, or the first of a backend; ValueError lists the backends."""
        for method in self.methods:
            if backend in (None, method.backend):
                return method
        known = ", ".join(sorted({m.backend for m in self.methods}))
        raise ValueError(f"backend {backend!r} of {self.name} is unknown; use one of {known}")


@lru_cache(maxsize=1)
def registry() -> dict[str, Workload]:
    """Return all workloads by name, in the order of their `ORDER`."""
    found: list[tuple[int, Workload]] = []
    package: Any = importlib.import_module("ktask.workloads")
    for info in pkgutil.iter_modules(package.__path__):
        module: Any = importlib.import_module(f"{package.__name__}.{info.name}")
        if workload := getattr(module, "WORKLOAD", None):
            found.append((getattr(module, "ORDER", 100), workload))
    return {w.name: w for _, w in sorted(found, key=lambda pair: (pair[0], pair[1].name))}


def get(name: str) -> Workload:
    """Return the workload called `name`; ValueError lists the others."""
    try:
        return registry()[name]
    except KeyError:
        raise ValueError(f"workload {name!r} is unknown; use one of {', '.join(registry())}") from None


def known_page_kind(kind: Any) -> str:
    """Return the name of a kind of pages; ValueError lists those that exist."""
    if kind not in memory.PAGE_KINDS:
        raise ValueError(f"page kind {kind!r} is unknown; use one of {', '.join(memory.PAGE_KINDS)}")
    return kind


def require_memory(case: Case) -> None:
    """Raise `memory.BudgetError` if the case needs more than its share of memory, a pool or a node."""
    what, workload = f"{case.workload} {case.method}", get(case.workload)
    memory.require_budget(workload.memory_need(case), what)
    memory.require_pool(case.size_bytes, case.page_kind, what)
    memory.require_room_on(workload.nodes(case), case.size_bytes, case.page_kind, what)


def why_not(case: Case) -> str | None:
    """Return why this machine cannot do `case`, memory apart, or None.

    Raises
    ------
    ValueError
        If the case names something that does not exist anywhere.
    """
    method = get(case.workload).method(case.method)
    known_page_kind(case.page_kind)
    if case.page_kind not in method.page_kinds:
        kinds = ", ".join(method.page_kinds)
        return f"{case.workload} {method.name} works on {kinds} pages, not on {case.page_kind}"
    is_small = case.page_kind == "4KiB" or "4KiB" not in method.page_kinds  # else it begins with small ones
    if not is_small and (folio := dict(case.options).get("folio")):
        return f"folio={folio} is for pages of 4KiB, not of {case.page_kind}"
    reasons = (method.named_option(name).why_not(value) for name, value in case.options)
    reason = next(filter(None, reasons), None) or conditions.why_no_group(case.option("quota"))
    reason = reason or method.probe() or get(case.workload).why_not(case)
    return reason or memory.why_not(case.page_kind, case.size_bytes)


def require_options(case: Case) -> None:
    """Raise ValueError if an option asks for what this machine does not have: a node, a placement."""
    method = get(case.workload).method(case.method)
    for name, value in case.options:
        if reason := method.named_option(name).why_not(value):
            raise ValueError(reason)


def expect(condition: bool, message: str) -> None:
    """Raise CheckError with `message` unless `condition` holds."""
    if not condition:
        raise CheckError(message)


POOL_PATIENCE_S = 2.0


def expect_pool_pages(page_kind: str, pages: int) -> None:
    """Raise CheckError unless the hugetlb pool of `page_kind` has `pages` free pages again.

    Nothing for kinds without a pool. Another process that takes pages at the same time is given two seconds.
    """
    end = time.monotonic() + POOL_PATIENCE_S
    while page_kind in memory.HUGETLB_KINDS and (free := memory.free_pool_pages(page_kind)) < pages:
        expect(time.monotonic() < end, f"the pool of {page_kind} pages has {free} free, {pages} were to be")
        time.sleep(0.01)
