"""`ktask profile`: what was seen of a case in a run, as files for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ktask.cli.base import FOUND, AsJson, Base, emit, fail

if TYPE_CHECKING:
    from ktask.lab.evidence.store import CaseKey
    from ktask.lab.records import Run

MOST_NAMES = 40
EXAMPLES = (
    "ktask profile night protect-mprotect-4KiB-1GiB",
    "ktask profile night protect:mprotect --out /tmp/profile",
    "flamegraph.pl reports/night.profile/protect-mprotect-4KiB-1GiB.threads.folded > flame.svg",
)


def profile(
    run: Annotated[str, typer.Argument(help="Name of a run, or its directory.")],
    cell: Annotated[
        str, typer.Argument(help="The case, such as protect-mprotect-4KiB-1GiB, or how its name begins.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="The folder for the files; reports/<run>.profile by default.")
    ] = None,
    base: Base = None,
    as_json: AsJson = False,
) -> None:
    """Write the stacks of the kernel that perf saw in a case; print the paths of the files.

    One file of folded stacks for each way to run the case (serial, threads, and alone: one thread in their
    chunks), and one with all of them for https://www.speedscope.app. Exit 1 if nothing was seen, with the
    reason.
    """
    from ktask.common.resources import reports_folder, runs_folder  # noqa: PLC0415
    from ktask.lab.evidence.profiles import looks_of, write_profiles  # noqa: PLC0415
    from ktask.lab.records import load_run  # noqa: PLC0415
    from ktask.lab.runs import find_run  # noqa: PLC0415

    loaded = load_run(find_run(run, runs_folder(base)))
    key = chosen(loaded, cell)
    seen = loaded.evidence[key]
    if seen.skipped:
        fail(f"nothing was seen of {key.name}: {seen.skipped}", FOUND)
    files = write_profiles(out or reports_folder(base) / f"{loaded.name}.profile", key.name, seen)
    found = {"cell": key.name, "ways": [*looks_of(seen)], "files": [str(file) for file in files]}
    emit(found, as_json, lambda value: value["files"])


def chosen(run: Run, text: str) -> CaseKey:
    """Return the case called `text`, or the only one whose name begins so; ValueError lists them."""
    names = {key.name: key for key in run.evidence}
    if not names:
        raise ValueError(
            f"run {run.name} has no evidence; `ktask sweep` gives a run some, unless with --evidence off"
        )
    wanted = text.replace(":", "-")
    begin = [name for name in sorted(names) if name.startswith(wanted)]
    if wanted in names or len(begin) == 1:
        return names.get(wanted) or names[begin[0]]
    wrong, have = ("is not unique", begin) if begin else ("is unknown", sorted(names))
    more = f" and {len(have) - MOST_NAMES} more" if len(have) > MOST_NAMES else ""
    raise ValueError(f"cell {text!r} {wrong}; use one of {', '.join(have[:MOST_NAMES])}{more}")
