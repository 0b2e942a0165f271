"""The text of a C program, from the file of a method in `c`.

These files are C with a little Jinja in it. A method has a program if it has a file, which fills the blocks
of `skeleton.c` and names the headers that it needs.
"""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from ktask import workloads
from ktask.common.units import MIB, exact_size, fmt_size
from ktask.engine import placement
from ktask.engine import run as engine
from ktask.engine.policy import Plan
from ktask.engine.task import Ctl, Node
from ktask.host import topology
from ktask.lab.measure.rounds import prepared
from ktask.memory import layouts
from ktask.memory import region as memory
from ktask.workloads import Case, State
from ktask.workloads.mixed import PIECE
from ktask.workloads.page_walk import spaces
from ktask.workloads.pin import piece_bytes
from ktask.workloads.rings import BUFFER, n_rings
from ktask.workloads.umem import n_sockets

PARTS = Path(__file__).with_name("c")
COLUMNS = 80
ROUNDS = 15
# What the task counts where that is not bytes.
COUNTED = {
    "one_process": "FORKS",
    "many_processes": "FORKS",
    "fallocate_files": "FILES",
    "ftruncate": "FILES",
    "ftruncate_files": "FILES",
    "io_uring_unpin": "BUFFERS",
}
# That programs follow.
OPTIONS = {
    "free": ("fill",),
    "mixed": ("beside",),
    "page_walk": ("pages",),
    "reap": ("mappings",),
    "start": ("pin",),
    "zeroing": ("sharing",),
}
# By what one operation is: what a repetition does, in the unit of its rate, and that unit.
WORK = {"byte": ("(SIZE / 0x1p30)", "GiB"), "PTE": (f"(SIZE / {memory.BASE_PAGE} / 1e6)", "M PTE")}


def reproducer(case: Case, threads: int) -> str:
    """Return a C program that does what a case does, in the same chunks, and prints the same numbers.

    The case is set up here for a moment: its set-up says what there is to be chunked.

    Parameters
    ----------
    case
        What to do.
    threads
        Cap on the threads, the caller included.

    Raises
    ------
    ktask.memory.region.UnavailableError
        If there is no program for such a case, or this machine cannot run it.
    ktask.memory.region.BudgetError
        If this machine lacks the memory.
    """
    if reason := why_no_program(case):
        raise memory.UnavailableError(reason)
    with prepared(case) as state:
        ctl = replace(state.ctl, max_threads=threads)
        return program(case, state, engine.plan(Node(0, state.size), ctl, case.policy))


def why_no_program(case: Case) -> str | None:
    """Return why there is no C program for a case, or None."""
    what = f"{case.workload} {case.method} has no C program"
    methods = [path.stem for path in (PARTS / case.workload).glob("*.c") if path.stem in _methods(case)]
    if case.method not in methods:
        return f"{what}; methods of {case.workload} that have one: {', '.join(sorted(methods))}"
    followed = (*OPTIONS.get(case.workload, ()), "placement")
    if unknown := [f"{name}={value}" for name, value in case.options if name not in followed]:
        return f"{what} with {unknown[0]}; options that it follows: {', '.join(followed)}"
    return None


def _methods(case: Case) -> list[str]:
    return [method.name for method in workloads.get(case.workload).methods]


def program(case: Case, state: State, plan: Plan) -> str:
    """Return the program of a case that is set up, with the chunks of a plan."""
    files = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PARTS),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  (C, not HTML)
    )
    total = "STAGED" if case.method == "stages" else counted(case) or "SIZE"
    fillers = _fillers(case, _fill_plan(case, state))
    work, rate_name = WORK[workloads.get(case.workload).operation]
    text = files.get_template(f"{case.workload}/{case.method}.c").render(
        _mapping_of(case),
        total=total,
        guided=plan.shrinking,
        size="ends[i + 1] - at" if plan.shrinking else f"MIN(len, {total} - at)",
        end="ends[i + 1]" if plan.shrinking else f"MIN(at + len, {total})",
        most_threads="FILLERS" if fillers > plan.threads else "THREADS",
        threads_text=f"{plan.threads} thread{'s' * (plan.threads > 1)}".ljust(9),
        rate_name=rate_name,
    )
    body, headers = _without_headers(text)
    constants = _constants(case, state, plan) | {"WORK": work}
    used = set(re.findall(r"\b[A-Z_]+\b", f"{body} {work}"))
    return files.get_template("program.c").render(
        head=_head(case, state, plan),
        places=_places(max(plan.threads, fillers)),
        command=_command(case, plan.threads),
        headers=headers,
        constants={name: value for name, value in constants.items() if name in used},
        body=body,
    )


def counted(case: Case) -> str | None:
    """Return what the task counts if that is not bytes, as the name of a constant."""
    return "UNITS" if case.workload in ("mixed", "reap") else COUNTED.get(case.method)


def _without_headers(text: str) -> tuple[str, list[str]]:
    """Return the text of a program without what it includes, and with no two empty lines, and the headers."""
    headers = sorted(set(re.findall(r"^#include <(.+)>\n", text, re.MULTILINE)))
    body = re.sub(r"^#include <.+>\n", "", text, flags=re.MULTILINE)
    body = re.sub(r"\n{3,}", "\n\n", body).replace("{\n\n", "{\n")
    return re.sub(r"\n\n(\t*})", r"\n\1", body).strip(), headers


def _command(case: Case, threads: int) -> list[str]:
    """Return the lines of the `ktask run` for a case."""
    options: list[tuple[str, Any]] = [
        ("method", case.method),
        ("size", exact_size(case.size_bytes)),
        ("page-size", case.page_kind),
        ("threads", threads),
        ("policy", case.policy),
        ("min-chunk", exact_size(case.min_chunk_bytes)),
        *(("set", f"{name}={value}") for name, value in case.options),
    ]
    words = [f"ktask run {case.workload}", *(f"--{name} {value}" for name, value in options)]
    *lines, last = _wrapped(words, COLUMNS - 10, " " * 8)
    return [f"{line} \\" for line in lines] + [last]


def size_bytes(state: State) -> int:
    """Return how much memory a case covers."""
    return getattr(state, "size_bytes", state.size * state.bytes_per_unit)


def _wrapped(words: Iterable[str], columns: int, indent: str = "") -> list[str]:
    """Return lines of words that hold together, though there may be spaces in them; indents are tabs."""
    text = " ".join(word.replace(" ", "~") for word in words)
    lines = textwrap.wrap(text, columns, subsequent_indent=indent, break_on_hyphens=False)
    return [line.replace("~", " ").replace(indent or "~", "\t") for line in lines]


def _head(case: Case, state: State, plan: Plan) -> list[str]:
    """Return the lines that say what the program does."""
    about = workloads.get(case.workload).method(case.method).about
    size, chunk = fmt_size(size_bytes(state)), fmt_size(plan.chunk_size * state.bytes_per_unit)
    chunks = f"{plan.n_chunks} chunk{'s' * (plan.n_chunks != 1)} of {'up to ' * plan.shrinking}{chunk}"
    who = f"{plan.threads} thread{'s' * (plan.threads != 1)}"
    pages = f"{case.workload} {case.method}, of {case.page_kind} pages: {about}."
    words = [*pages.split(), "At once by one", "thread, in", chunks, "by", who, f"(policy {case.policy})."]
    words.insert(2, size)
    return _wrapped(words, COLUMNS - 3)


def _places(n_threads: int) -> str:
    """Return a CPU for each thread as OpenMP has it, the caller first: those that the engine would use."""
    return ",".join(_runs(placement.cpus_in_order()[:n_threads]))


def _runs(cpus: Sequence[int]) -> list[str]:
    """Return CPUs as places of OpenMP; three or more at one distance as START:COUNT:STEP."""
    if not cpus:
        return []
    steps = [after - before for before, after in itertools.pairwise(cpus)]
    same = sum(1 for _ in itertools.takewhile(lambda step: step == steps[0], steps))
    if same < 2:
        return [f"{{{cpus[0]}}}", *_runs(cpus[1:])]
    return [f"{{{cpus[0]}}}:{same + 1}:{steps[0]}", *_runs(cpus[same + 1 :])]


def _mapping_of(case: Case) -> dict[str, Any]:
    """Return what the files of a case are told: names of C for how its memory is mapped."""
    is_shared = case.method == "collapse_shared" or dict(case.options).get("sharing") == "shared"
    pages = spaces.made_of(case) if case.workload == "page_walk" else ""
    pool = case.page_kind in memory.HUGETLB_KINDS
    return {
        "method": case.method,
        "base_page": memory.BASE_PAGE,
        "page_kind": case.page_kind,
        "fill": dict(case.options).get("fill", "one"),
        "beside": dict(case.options).get("beside", "map"),
        "pin": dict(case.options).get("pin", "io_uring"),
        "pages": pages,
        "bytes": {"exit": "bytes", "one_process": "PIECE", "many_processes": "PIECE"}.get(
            case.method, "SIZE"
        ),
        "sharing": "MAP_SHARED" if is_shared else "MAP_PRIVATE",
        "log2": case.page_size.bit_length() - 1 if pool else 0,
        "protection": "PROT_READ" if pages == "zero" else "PROT_READ | PROT_WRITE",
        "zap": "MADV_REMOVE" if is_shared else "MADV_DONTNEED",
        "huge_field": "ShmemPmdMapped:" if is_shared else "AnonHugePages:",
    }


def _constants(case: Case, state: State, plan: Plan) -> dict[str, str]:
    """Return the numbers that a program may use, by name."""
    unit, is_counted, fill = state.bytes_per_unit, bool(counted(case)), _fill_plan(case, state)
    pieces = layouts.pieces_of("dense", state.size * unit, np.random.default_rng(1)).size
    per_chunk, task_unit = plan.min_chunk if plan.shrinking else plan.chunk_size, 1 if is_counted else unit
    sizes = {
        "SIZE": size_bytes(state),
        "STAGED": state.size * unit,  # three times the size
        "PAGE": case.page_size,
        "ALIGN": max(case.page_size, memory.THP_SIZE),
        "PIECE": unit,  # of a fork
        "FILE_SIZE": unit if is_counted else state.size * unit,
        "ALIAS": int(pieces[0]),
        "BUFFER": piece_bytes(case) if case.method == "io_uring_unpin" else max(BUFFER, case.page_size),
        "FILL_CHUNK": fill.chunk_size * unit,
        "ROOM": (len(pieces) + 200) * 2048,  # for the text of smaps
        "STEP": getattr(state, "step_bytes", 0),
        "MIXED": PIECE,
        "CHUNK": per_chunk * task_unit,
        "UNIT": task_unit,  # that chunks are multiples of
    }
    counts = {
        "FORKS": state.size,
        "FILES": state.size if is_counted else 1,
        "BUFFERS": state.size,
        "UNITS": state.size,
        "SOURCE": getattr(state, "source", 0),
        "TARGET": getattr(state, "target", 0),
        "MAPPINGS": int(dict(case.options).get("mappings", 1)),
        "RINGS": n_rings(),
        "SOCKETS": n_sockets(case),
        "FILLERS": _fillers(case, fill),
        "CHUNKS": plan.n_chunks,
        "THREADS": plan.threads,
        "ROUNDS": ROUNDS,
    }
    return {name: _in_c(size) for name, size in sizes.items()} | {
        n: str(count) for n, count in counts.items()
    }


def _fill_plan(case: Case, state: State) -> Plan:
    """Return the chunks in which all CPUs fill the range."""
    ctl = Ctl(None, (), case.min_chunk(state.bytes_per_unit), topology.cpu_count())
    return engine.plan(Node(0, state.size), ctl)


def _fillers(case: Case, fill: Plan) -> int:
    """Return how many threads fill the range: with `other` the second one does."""
    all_cpus = topology.cpu_count() if case.method == "exit" else fill.threads
    return {"one": 1, "each": all_cpus, "other": 2}[dict(case.options).get("fill", "one")]


def _in_c(number: int) -> str:
    """Return a size as C has it: in MiB, if it is a multiple of that."""
    return f"({number // MIB}L << 20)" if number % MIB == 0 else f"{number}L"
