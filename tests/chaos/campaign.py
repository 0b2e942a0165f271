"""`make chaos`: tries to make ktask lose, leave or let in something, and says what held.

    python tests/chaos/campaign.py [--short] [--seconds N] [--only KIND[:SEED]] [--again]

Results are kept in `build/chaos`, so that a campaign that was stopped goes on where it was. What failed is
named as KIND:SEED, and `--only` tries it again alone. While there is a file that KTASK_CHAOS_PAUSE names, no
trial begins. KTASK_CHAOS_PATIENCE=5 waits five times as long, on a machine that is busy.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import faults
import fuzz
import kills
import peers
from trials import BrokenError, Kind, SkippedError

TREE = Path(__file__).resolve().parents[2]
OUT = TREE / "build/chaos"
KINDS = {
    one.name: one
    for one in (kills.KILLS, kills.RACES, *fuzz.IN_PROCESS, fuzz.BY_COMMAND, faults.KIND, peers.KIND)
}
IN_PROCESS = {kind.name for kind in fuzz.IN_PROCESS}
SLICE = 1000  # inputs in one process between two looks at the clock
MOST_KEPT = 50  # failures of a kind


def pause() -> None:
    """Wait while somebody wants the machine for himself."""
    while (file := os.environ.get("KTASK_CHAOS_PAUSE")) and Path(file).exists():
        time.sleep(1)


def attempts(kind: Kind, seeds: Iterable[int], folder: Path) -> Iterator[tuple[int, int, str, str]]:
    """Try some seeds of a kind; yield each, how many things it tried, what broke, and why it was skipped."""
    seeds = iter(seeds)
    if kind.name in IN_PROCESS:
        while some := list(islice(seeds, SLICE)):
            pause()
            yield from (
                (seed, 1, problem, "") for seed, problem in fuzz.in_process(kind.name, iter(some), folder)
            )
        return
    for seed in seeds:
        pause()
        yield (seed, *_attempt(kind, seed, folder))


def _attempt(kind: Kind, seed: int, folder: Path) -> tuple[int, str, str]:
    place = folder / f"{kind.name}.{seed}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        tried = kind.attempt(seed, place)
    except BrokenError as error:
        return 1, str(error), ""
    except SkippedError as error:
        tried, why = 0, str(error)
    else:
        why = ""
    shutil.rmtree(place, ignore_errors=True)  # what failed stays to be looked at
    return tried, "", why


def empty() -> dict[str, Any]:
    """Return the result of a kind that was not tried yet."""
    return {"next": 0, "tried": 0, "failed": 0, "skipped": {}, "failures": [], "seconds": 0.0}


def try_kind(kind: Kind, wanted: int, found: dict[str, Any], folder: Path, end: float) -> Iterator[None]:
    """Go on with a kind until `wanted` things were tried or it is late; keep what came of it in `found`."""
    began = time.monotonic()
    seeds = iter(range(found["next"], 1 << 62))
    rest = wanted - found["tried"] - sum(found["skipped"].values())
    if rest <= 0:
        return
    if kind.name in IN_PROCESS or kind is faults.KIND or kind is peers.KIND:
        seeds = islice(seeds, rest)
    for seed, tried, problem, why in attempts(kind, seeds, folder):
        found["next"] = seed + 1
        found["tried"] += tried
        if why:
            found["skipped"][why] = found["skipped"].get(why, 0) + 1
        if problem:
            found["failed"] += 1
            found["failures"] = [*found["failures"], {"trial": f"{kind.name}:{seed}", "problem": problem}][
                :MOST_KEPT
            ]
        found["seconds"] += time.monotonic() - began
        began = time.monotonic()
        yield
        if found["tried"] >= wanted or began > end:
            return


def table(kinds: dict[str, Any]) -> str:
    """Return what was tried, held and failed as a Markdown table, with a line for each failure below it."""
    lines = ["| trials | tried | held | failed | skipped | minutes |", "|---|---|---|---|---|---|"]
    for name, one in kinds.items():
        counts = (one["tried"], one["tried"] - one["failed"], one["failed"], sum(one["skipped"].values()))
        shown = " | ".join(f"{n:,}" for n in counts)
        lines.append(f"| `{name}`: {KINDS[name].about} | {shown} | {one['seconds'] / 60:.1f} |")
    lines.append("")
    for one in kinds.values():
        lines += [f"failed {row['trial']}: {row['problem']}" for row in one["failures"]]
        lines += [f"skipped {n}: {why}" for why, n in one["skipped"].items()]
    return "\n".join(lines)


def campaign(form: str, names: Iterable[str], first: int | None, seconds: float, out: Path) -> dict[str, Any]:
    """Run the kinds in turn until each has what the form asks for, or the time is over."""
    file = out / f"{form}.json"
    result = json.loads(file.read_text()) if file.exists() else {"kinds": {}, "commits": []}
    result |= {"machine": platform.platform(), "python": platform.python_version()}
    result["commits"] = [*dict.fromkeys([*result["commits"], _commit()])]
    end, folder = time.monotonic() + seconds, out / f"work.{os.getpid()}"
    for name in names:
        kind, found = KINDS[name], result["kinds"].setdefault(name, empty())
        wanted = {"short": kind.few, "long": kind.many, "alone": 1}[form]
        if first is not None:
            found["next"] = first
        for _ in try_kind(kind, wanted, found, folder, end):
            out.mkdir(parents=True, exist_ok=True)
            if found["tried"] % SLICE == 0 or name not in IN_PROCESS:
                file.write_text(json.dumps(result, indent=2))
        file.write_text(json.dumps(result, indent=2))
        sys.stderr.write(f"chaos: {name}: {found['tried']} tried, {found['failed']} failed\n")
    if not any(one["failed"] for one in result["kinds"].values()):
        shutil.rmtree(folder, ignore_errors=True)
    return result


def _commit() -> str:
    words = ["git", "-C", str(TREE), "describe", "--always", "--dirty=+"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def main() -> None:
    """Run the campaign as the command line says; exit 1 if something failed."""
    parser = argparse.ArgumentParser(prog="chaos", description=__doc__)
    parser.add_argument("--short", action="store_true", help="some of each kind, in half a minute")
    parser.add_argument(
        "--only", metavar="KIND[:SEED]", help=f"one of {', '.join(KINDS)}, or one trial of it"
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin nothing after so long")
    parser.add_argument("--again", action="store_true", help="forget what was tried before")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    name, _, seed = (given.only or "").partition(":")
    form = "alone" if seed else "short" if given.short else "long"
    if given.again or form != "long":
        (given.out / f"{form}.json").unlink(missing_ok=True)
    result = campaign(form, [name] if name else KINDS, int(seed) if seed else None, given.seconds, given.out)
    sys.stdout.write(f"{table(result['kinds'])}\nas JSON: {given.out / f'{form}.json'}\n")
    sys.exit(any(one["failed"] for one in result["kinds"].values()))


if __name__ == "__main__":
    main()
