"""Which address space is walked: one made for the case, or that of a process; and what that takes."""

from __future__ import annotations

from ktask.memory import layouts
from ktask.memory import region as memory
from ktask.memory.address_space import Process, parse_range
from ktask.memory.filled_space import FilledSpace, MemorySpace, ZeroSpace
from ktask.memory.layouts import AliasedSpace
from ktask.workloads import Case, Option, get
from ktask.workloads.populated import filling, no_other_cpu

Space = AliasedSpace | FilledSpace
FILLED = {"zero": ZeroSpace, "memory": MemorySpace}

LAYOUT = Option("layout", "where the pages lie", "dense", tuple(layouts.LAYOUTS))
PAGES_METHODS = "pagemap_scan", "pagemap", "mincore"  # smaps does not count zeros
PAGES = Option(
    "pages",
    "what the pages are: those of one small file mapped over and over, the kernel's page of zeros, or memory "
    "for each; auto is zero for a dense space, file for others",
    "auto",
    ("auto", "file", "zero", "memory"),
)
PID = Option("pid", "number of a process whose page table is walked as it is", "self", least=1)
RANGE = Option("range", "START-END in hexadecimal: these addresses only", "whole", form=parse_range)


def set_to(case: Case, name: str) -> str:
    """Return what an option is set to, and its default where the method does not have it."""
    known = {option.name for option in get(case.workload).method(case.method).options}
    return case.option(name) if name in known else {"pid": "self", "range": "whole"}[name]


def is_made(case: Case) -> bool:
    """Return whether the address space is made for the case, and not that of a process as it is."""
    return set_to(case, "pid") == "self" and set_to(case, "range") == "whole"


def open_space(case: Case) -> tuple[Process, Space | None]:
    """Return the process to look at, and the address space if it is made for the case."""
    process = Process(set_to(case, "pid"))
    try:
        return process, make_space(case) if is_made(case) else None
    except BaseException:
        process.close()
        raise


def made_of(case: Case) -> str:
    """Return what stands behind the pages of a space that is made: `file`, `zero` or `memory`."""
    wanted = case.option("pages") if case.method in PAGES_METHODS else "file"
    if wanted != "auto":
        return wanted
    return "zero" if case.option("layout") == "dense" else "file"


def make_space(case: Case) -> Space:
    """Return the address space of a case; one of a file is made by all CPUs."""
    if kind := FILLED.get(made_of(case)):
        with filling(case.option("fill")):
            return kind(case.size_bytes)
    return AliasedSpace(case.size_bytes, case.option("layout"))


def why_not(case: Case) -> str | None:
    """Return why the options of a case do not go together, or None."""
    pages = dict(case.options).get("pages")
    if pages in FILLED and (layout := case.option("layout")) != "dense":
        return f"pages={pages} is for layout=dense, not for {layout}; use pages=file"
    if "fill" in dict(case.options) and not (is_made(case) and made_of(case) in FILLED):
        return "fill is for pages=zero and pages=memory; leave it out"
    return no_other_cpu(case)


def bounds_of(case: Case, space: Space | None) -> tuple[int, int]:
    """Return the range of addresses to walk."""
    return (space.address, space.end) if space else parse_range(set_to(case, "range"))


def memory_need(case: Case) -> int:
    """Return what the address space of a case takes; next to nothing for one that is there already."""
    if not is_made(case):
        return memory.MIB
    if kind := FILLED.get(made_of(case)):
        return kind.memory_need(case.size_bytes)
    return layouts.memory_need(case.option("layout"), case.size_bytes)


def close(process: Process, space: Space | None) -> None:
    """Let go of both."""
    process.close()
    if space:
        space.unmap()


def either(low: int, high: int) -> str:
    """Return one number, or from where to where it may lie."""
    return f"{low}" if low == high else f"{low} to {high}"
