"""The options that describe one case, for the verbs that take one: `run` and `reproducer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ktask.cli.base import whole_number
from ktask.cli.workload_names import option_names, workload_names
from ktask.engine.cpu_order import PLACEMENTS

if TYPE_CHECKING:
    from ktask.workloads import Case

NAMES = workload_names()
METHODS, OPTIONS = (
    "; ".join(f"{name}: {', '.join(texts)}" for name, texts in names.items())
    for names in (NAMES, option_names())
)

Workload = Annotated[str, typer.Argument(help=f"One of {', '.join(NAMES)}.")]
Size = Annotated[str, typer.Option(help="Memory to cover, such as 512MiB; bare numbers are bytes.")]
Threads = Annotated[
    int | None,
    typer.Option(
        help="Threads, the caller included; by default as many as a task gets: helpers on four fifths of "
        "the CPUs, and the caller.",
        parser=whole_number,
        metavar="INT",
    ),
]
PageSize = Annotated[
    str | None, typer.Option(help="4KiB, THP, 2MiB or 1GiB; the last two need a hugetlb pool.")
]
Method = Annotated[str | None, typer.Option(help=f"How to do the work. {METHODS}.")]
Backend = Annotated[str | None, typer.Option(help="kernel or user; picks the first method of it.")]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help=f"An option of the method, by default none; may be given again. {OPTIONS}. A wrong value is "
        "answered by those allowed.",
    ),
]
Policy = Annotated[str, typer.Option(help="Rule for threads and chunks.")]
Placement = Annotated[
    str | None,
    typer.Option(
        metavar="|".join(PLACEMENTS),
        help="The order in which threads take CPUs. "
        + " ".join(f"{name}: {about}." for name, about in PLACEMENTS.items())
        + " By default cores.",
    ),
]
Cpus = Annotated[
    str | None,
    typer.Option(
        metavar="LIST", help="The CPUs to use, such as 0-15,32; all that this process may use by default."
    ),
]
Load = Annotated[
    str | None,
    typer.Option(
        metavar="KIND[:COUNT][:AMOUNT]",
        help="What runs beside it: generators of load of a kind (spin, memory, cache, fault, mmap or fork). "
        "COUNT is a number, half or all of the CPUs; AMOUNT is N% of a CPU each, or NGiB/s in all for "
        "memory. At the end :same makes them threads of the measured process, and :pinned keeps each to a "
        "CPU. By default none.",
    ),
]
Quota = Annotated[
    str | None,
    typer.Option(
        metavar="N%",
        help="CPU time that the process may use, in percent of one CPU, by a control group of its own.",
    ),
]
Nice = Annotated[
    str | None,
    typer.Option(
        metavar="N",
        help="Nice level of the helpers, 0 to 19; the caller hands its own over to them at the end, but not "
        "with N:no-hand-over. By default as the policy says.",
    ),
]
MinChunk = Annotated[str, typer.Option(help="The least that a helper is started for.")]


def case_of(
    workload: str,
    method: str | None,
    *,
    size: str,
    page_size: str | None,
    backend: str | None,
    min_chunk: str,
    policy: str,
    placement: str | None,
    settings: list[str] | None,
    **conditions: str | None,
) -> Case:
    """Return the case that the options describe; ValueError says what is allowed."""
    from ktask.workloads import Case, require_options  # noqa: PLC0415

    options = dict(map(_setting, settings or ()))
    case = Case.of(
        workload,
        method,
        size=size,
        page_kind=page_size,
        backend=backend,
        min_chunk=min_chunk,
        policy=policy,
        placement=placement,
        options=options,
        **conditions,
    )
    require_options(case)
    return case


def _setting(text: str) -> tuple[str, str]:
    """Return name and value of a setting."""
    name, is_there, value = text.partition("=")
    if not is_there:
        raise ValueError(f"setting {text!r} is not understood; use name=value, such as layout=sparse")
    return name.strip(), value.strip()


def thread_count(threads: int | None) -> int:
    """Return how many threads to use, as many as there may be if nothing is said.

    Raises
    ------
    ValueError
        For more threads than CPUs, or fewer than one.
    """
    from ktask.engine.policy import Machine  # noqa: PLC0415
    from ktask.host import topology  # noqa: PLC0415

    most = topology.cpu_count()
    if threads is None:
        return Machine(most).limit + 1
    if not 1 <= threads <= most:
        why = topology.why_so_many_cpus()
        raise ValueError(f"threads={threads} is not allowed; use 1 to {most}, {why}")
    return threads
