"""Evidence on a case as files for other tools: folded stacks for flame graphs, a profile for speedscope."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ktask.common.files import write_json, write_text
from ktask.host.perf import SAMPLES_PER_S
from ktask.lab.evidence.case import Evidence
from ktask.lab.evidence.collect import Look
from ktask.lab.evidence.store import BETWEEN, WAYS

SPEEDSCOPE = "https://www.speedscope.app/file-format-schema.json"


def write_profiles(folder: Path, name: str, evidence: Evidence) -> list[Path]:
    """Write what was seen of a case to `folder` and return the files, each whole or not at all.

    One file of folded stacks for each way to run it, and all of them in one for speedscope.
    """
    folder.mkdir(parents=True, exist_ok=True)
    looks = looks_of(evidence)
    name = re.sub(r"[^\w.=,+-]", "_", name).lstrip(".")  # it may come from a file of somebody else's
    paths = [folder / f"{name}.{way}.folded" for way in looks] + [folder / f"{name}.speedscope.json"]
    for path, look in zip(paths, looks.values(), strict=False):
        write_text(path, "".join(f"{line}\n" for line in folded(look)))
    write_json(paths[-1], speedscope(name, looks))
    return paths


def looks_of(evidence: Evidence) -> dict[str, Look]:
    """Return what was seen, by the way to run the case."""
    found = {way: getattr(evidence, place) for way, place in WAYS.items()}
    return {way: look for way, look in found.items() if look}


def _outermost_first(frames: Sequence[str]) -> list[str]:
    return [frame.replace(BETWEEN, ":") for frame in reversed(frames)] or ["?"]


def folded(look: Look) -> Iterator[str]:
    """Yield a line per stack as `stackcollapse` writes it: the outermost function first, and its samples."""
    for frames, seconds in look.stacks.items():
        if samples := round(seconds * SAMPLES_PER_S * look.repetitions):
            yield f"{BETWEEN.join(_outermost_first(frames))} {samples}"


def speedscope(name: str, looks: dict[str, Look]) -> dict[str, Any]:
    """Return a profile for speedscope: mean CPU seconds of a repetition, for each way to run the case."""
    frames: dict[str, int] = {}
    profiles = []
    for way, look in looks.items():
        names = map(_outermost_first, look.stacks)
        profiles.append(
            {
                "type": "sampled",
                "name": f"{way}, {look.threads} thread{'s' * (look.threads != 1)}",
                "unit": "seconds",
                "startValue": 0,
                "endValue": look.cpu_s,
                "samples": [[frames.setdefault(one, len(frames)) for one in stack] for stack in names],
                "weights": [*look.stacks.values()],
            }
        )
    shared = {"frames": [{"name": one} for one in frames]}
    return {"$schema": SPEEDSCOPE, "name": name, "exporter": "ktask", "shared": shared, "profiles": profiles}
