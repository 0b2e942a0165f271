"""What the small files of a run may hold: each is checked once, when the run is loaded.

A run may come from another version or another hand. An odd fact that only the report shows costs its line
there; what the code relies on is listed here, and refused by file and field.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Required, TypedDict

import msgspec
from msgspec import Meta

from ktask.common.files import read_json, read_text
from ktask.common.texts import readable, readable_tree
from ktask.common.yaml_files import load_plain

Count = Annotated[int, Meta(ge=1, le=1 << 40)]
MOST_BYTES = 4 << 20  # of a file; what it says takes some ten times as much in memory
Bytes = Annotated[int, Meta(ge=1, le=1 << 62)]  # of addresses, so more than any memory


class _Node(TypedDict, total=False):
    nid: Required[int]
    cpus: list[int]
    memory_bytes: int | None
    distances: list[int]


class _Resumption(TypedDict, total=False):
    kernel_release: str


class Machine(TypedDict, total=False):
    """Facts in machine.json; others may be anything."""

    host_id: str
    host_name: str
    kernel_release: str
    kernel_version: str
    nodes: list[_Node]
    resumed: list[_Resumption]


class _Cell(TypedDict, total=False):
    cell_id: str


class GridFile(TypedDict, total=False):
    """What grid.yaml says."""

    name: str
    threads: list[Count]
    protocol: dict[str, int | float]
    passes: Count
    cells: list[_Cell]


Skip = TypedDict(
    "Skip",
    {
        "cell_id": Required[str],
        "workload": Required[str],
        "backend": Required[str],
        "method": Required[str],
        "page_kind": Required[str],
        "size_bytes": Required[Bytes],
        "reason": Required[str],
        "failed": Required[bool],
        "options": str,
        "pass": Count,
    },
    total=False,
)


def read_machine(run: Path) -> dict[str, Any]:
    """Return the facts of the machine of the run in directory `run`; ValueError names file and field."""
    path = run / "machine.json"
    return _checked(path, read_json(path, MOST_BYTES), Machine)


def read_grid(run: Path) -> dict[str, Any]:
    """Return the grid of the run in directory `run`; one made before there were passes has one."""
    path = run / "grid.yaml"
    try:
        content = load_plain(read_text(path, MOST_BYTES))
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise ValueError(f"{path} cannot be read as YAML: {why}; take it from a copy") from error
    return {"passes": 1} | _checked(path, content, GridFile)


def read_skips(run: Path) -> list[dict[str, Any]]:
    """Return why cells of the run in directory `run` gave no records."""
    paths = sorted((run / "skipped").glob("*.json"))
    return [{"options": "", "pass": 1} | _checked(path, read_json(path, MOST_BYTES), Skip) for path in paths]


def _checked(path: Path, content: Any, kind: Any) -> dict[str, Any]:
    """Return the content of a file, a mapping, if its fields are as `kind` says, with texts one may show."""
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no mapping; take it from a copy, or measure again")
    try:
        msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise ValueError(f"{path}: {error}; take it from a copy, or measure again") from None
    return {readable(key): readable_tree(one) for key, one in content.items()}
