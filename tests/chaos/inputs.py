"""Hostile inputs by a grammar: what is right is taken apart, changed in some places, and put together again.

Everything follows from a seed.
"""

from __future__ import annotations

import contextlib
import copy
import csv
import functools
import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from ktask.common.resources import PUBLISHED, SAMPLE
from ktask.lab.sweep import cells as cells_of_a_run
from ktask.lab.sweep import grid
from ktask.models.simulation import machines

VECTORS = Path(__file__).parents[1] / "data/ktask-vectors.csv"
MOST_ROWS = 40
NUMBERS = (0, -1, 1, 2, 3, 7, 255, 256, 1 << 31, 1 << 63, 1 << 64, 10**30, -(1 << 63), 0.0, -0.0, 0.5)
NUMBERS += (1e-300, 1e308, -1e308, float("nan"), float("inf"), float("-inf"))
HOSTILE = """
    0 1 -1 nan inf 1e400 0x10 1_000 1:30 ١٢ ½ 1GiB 2MiB 4KiB 0GiB -1MiB 99999999TiB 1e9GiB auto all none null
    yes ~ 2001-99-99 2026-01-01 0-3 0-999999999 3-1 , a=b a,b ../../etc/passwd /dev/zero \x1b[31m \u202e
    \ud7ff é <script>alert(1)</script> {{7*7}} %s%n `id` $(id)
"""
WORDS = tuple(HOSTILE.split())
LONG = ("", " ", "\0", "1 EiB", "x" * 300, "x" * 20_000, "!!python/object/apply:os.system [id]")
NESTED = ([], {}, [[]], [1, 2], [None], {"a": 1}, {"": None}, ["a"] * 50, [[[[[[[[[[1]]]]]]]]]])
NASTY: tuple[Any, ...] = (None, True, False, *NUMBERS, *WORDS, *LONG, *NESTED)
TEXTS = tuple(one for one in NASTY if isinstance(one, str))


def hostile_value(chance: Random) -> Any:
    """Return a value that is seldom right."""
    if chance.random() < 0.7:
        return copy.deepcopy(chance.choice(NASTY))
    number = chance.choice((chance.randrange(-9, 100), 2 ** chance.randrange(70), chance.uniform(-1, 2)))
    return chance.choice(
        (number, str(number), f"{number}{chance.choice(('', 'KiB', 'MiB', 'GiB', 'ms', 'us', '%'))}")
    )


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Return every place in a tree of lists and mappings: what holds it, and its key there."""
    keys = tree.keys() if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    return [place for key in keys for place in ((tree, key), *places(tree[key]))]


def changed_tree(chance: Random, tree: Any) -> Any:
    """Return a copy of a tree with some places changed, left out, doubled or renamed."""
    tree = copy.deepcopy(tree)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 2, 3, 6))):
        if not (found := places(tree)):
            return hostile_value(chance)
        within, key = chance.choice(found)
        what = chance.random()
        if what < 0.6:
            within[key] = hostile_value(chance)
        elif what < 0.75:
            del within[key]
        elif what < 0.9 and isinstance(within, dict):
            within[str(chance.choice((*within, *TEXTS)))] = within.pop(key)
        else:
            other_within, other_key = chance.choice(found)
            within[key] = copy.deepcopy(other_within[other_key]) if other_key in _keys(other_within) else None
    return tree


def _keys(within: Any) -> Sequence[Any]:
    return list(within) if isinstance(within, dict) else range(len(within))


def changed_bytes(chance: Random, data: bytes) -> bytes:
    """Return some bytes, mostly as they are, else with a few changed, or in another encoding."""
    what = chance.random()
    at, end = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    if what < 0.7:
        return data
    if what < 0.78:
        return data[:at] + bytes(chance.randrange(256) for _ in range(chance.randrange(1, 9))) + data[at:]
    if what < 0.86:
        return data[:at] + data[end:]
    if what < 0.9:
        return data[:at] + data[at:end] * chance.choice((2, 3, 50)) + data[end:]
    if what < 0.94:
        return data[:at]
    if what < 0.97:
        token = chance.choice(
            (
                "\t",
                "[" * 40,
                "{" * 40,
                "&a ",
                "*a",
                "? ",
                "- " * 30,
                "---\n",
                "\r",
                "%",
                "!!set ",
                "<<: ",
                "|",
                "\\",
            )
        )
        return data[:at] + token.encode() + data[at:]
    how = chance.choice(("utf-16", "utf-8-sig", "latin-1", "utf-32"))
    return data.decode("utf-8", "replace").encode(how, "replace")


@functools.cache
def _trees(folder: Path) -> list[Any]:
    return [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.yaml"))]


def yaml_file(chance: Random, folder: Path) -> bytes:
    """Return a changed copy of one of the YAML files of a folder."""
    tree = chance.choice(_trees(folder))
    if isinstance(work := tree.get("work"), list):  # of a grid: few entries, as each takes some milliseconds
        tree = tree | {"work": chance.sample(work, min(len(work), chance.randrange(1, 4)))}
    tree = changed_tree(chance, tree)
    flow = chance.choice((None, None, True, False))
    text = (
        json.dumps(tree)
        if chance.random() < 0.1
        else yaml.safe_dump(tree, default_flow_style=flow, allow_unicode=True)
    )
    return changed_bytes(chance, text.encode("utf-8", "surrogatepass"))


def table_file(chance: Random, paths: Sequence[Path]) -> bytes:
    """Return a changed part of one of the CSV tables."""
    with chance.choice(paths).open(encoding="utf-8", newline="") as file:
        head, *rows = csv.reader(file)
    first = chance.randrange(max(1, len(rows) - MOST_ROWS))
    table = [head, *copy.deepcopy(rows[first : first + chance.randrange(1, MOST_ROWS)])]
    for _ in range(chance.choice((0, 1, 1, 2, 3, 8))):
        row = chance.choice(table)
        at = chance.randrange(len(row)) if row else 0
        what = chance.random()
        if what < 0.7 and row:
            row[at] = _cell(hostile_value(chance))
        elif what < 0.8 and row:
            del row[at]
        elif what < 0.9:
            row.insert(at, _cell(hostile_value(chance)))
        else:
            table.insert(chance.randrange(len(table)), list(row))
    out = io.StringIO()
    csv.writer(out, delimiter=chance.choice(",,,,,,,;\t|")).writerows(table)
    return changed_bytes(chance, out.getvalue().encode("utf-8", "surrogatepass"))


def _cell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def table_paths() -> list[Path]:
    """Return the published tables that are not large."""
    return [path for path in sorted(PUBLISHED.glob("*.csv")) if path.stat().st_size < 1 << 17]


# --- runs -------------------------------------------------------------------------------------------------


def small_run(folder: Path, cells: int = 2, passes: int = 2) -> Path:
    """Make a run of some cells and passes of the sample in `folder`, once, and return its directory."""
    path = folder / "run"
    if not path.exists():
        begun = folder / f"run.{os.getpid()}"
        begun.mkdir(parents=True)
        for name in ("machine.json", "datapackage.json"):
            shutil.copy(SAMPLE / name, begun)
        names = sorted({file.name.partition(".")[0] for file in (SAMPLE / "records").iterdir()})[:cells]
        plan = yaml.safe_load((SAMPLE / "grid.yaml").read_text(encoding="utf-8"))
        plan["cells"] = [cell for cell in plan["cells"] if cell["cell_id"] in names]
        (begun / "grid.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
        stems = {name + end for name in names for end in ("", *(f".pass{k}" for k in range(2, passes + 1)))}
        for part in cells_of_a_run.FOLDERS:
            (begun / part).mkdir()
            for file in (SAMPLE / part).glob("*.*"):
                if file.stem in stems:
                    shutil.copy(file, begun / part)
        begun.rename(path)
    return path


def damaged_run(chance: Random, source: Path, out: Path) -> Path:
    """Copy a run and damage some of its files."""
    shutil.copytree(source, out)
    for _ in range(chance.choice((0, 1, 1, 1, 2, 4))):
        files = sorted(path for path in out.rglob("*") if path.is_file() and not path.is_symlink())
        if files:
            chance.choice(WAYS)(chance, chance.choice(files))
    return out


def _change_content(chance: Random, path: Path) -> None:
    """Change what a file says; one that is damaged already stays as it is."""
    with contextlib.suppress(pa.ArrowException, OSError, ValueError, yaml.YAMLError):
        if path.suffix == ".parquet":
            _change_columns(chance, path)
        else:
            read, write = (
                (json.loads, json.dumps) if path.suffix == ".json" else (yaml.safe_load, yaml.safe_dump)
            )
            path.write_text(
                write(changed_tree(chance, read(path.read_text(encoding="utf-8")))), encoding="utf-8"
            )


def _change_columns(chance: Random, path: Path) -> None:
    """Change a column of a Parquet file: its values, its type, its name, or that it is there."""
    table = pq.read_table(path)
    if not table.num_columns:
        return
    at = chance.randrange(table.num_columns)
    name, column, what = table.column_names[at], table.column(at).to_pylist(), chance.random()
    if what < 0.15:
        table = table.drop_columns([name])
    elif what < 0.3:
        table = table.rename_columns({name: chance.choice((*TEXTS[:5], "wall_s", "threads"))})
    elif what < 0.4:
        table = table.slice(0, chance.choice((0, 1)))
    else:
        value = hostile_value(chance)
        values = [value if chance.random() < 0.3 else one for one in column]
        try:
            made = pa.array(values, table.schema.field(at).type if what < 0.8 else None, from_pandas=False)
        except (pa.ArrowException, TypeError, ValueError, OverflowError):
            made = pa.array([json.dumps(value, default=str)] * len(values))
        table = table.set_column(at, name, made)
    pq.write_table(table, path)


def _change_bytes(chance: Random, path: Path) -> None:
    before = data = path.read_bytes()
    for _ in range(20):
        if (data := changed_bytes(chance, before)) != before:
            break
    path.write_bytes(data)


def _replace(chance: Random, path: Path) -> None:
    """Put something else in the place of a file: nothing, a directory, a pipe, a link."""
    path.unlink()
    what = chance.randrange(6)
    if what == 1:
        path.mkdir()
    elif what == 2:
        os.mkfifo(path)
    elif what == 3:
        path.symlink_to(chance.choice(("/etc/passwd", "/dev/zero", "/nowhere", path.name)))
    elif what == 4:
        path.touch()
    elif what == 5:
        path.write_bytes(b"PAR1" + b"\0" * 100 + b"PAR1")


WAYS: tuple[Callable[[Random, Path], None], ...] = (_change_content, _change_content, _change_bytes, _replace)


# --- command lines ----------------------------------------------------------------------------------------

OF_A_CASE = (
    "zeroing free --size --threads --method --page-size --policy --min-chunk --set --placement --backend"
)
VERBS = {
    "run": f"{OF_A_CASE} page_walk --repetitions --passes --cpus --trace --json",
    "reproducer": OF_A_CASE,
    "sweep": "tiny quick --run --passes --resume --retry --cpus --placement --evidence --json",
    "simulate": "xeon-e7-8895v3 --size --threads --policy --min-chunk --memory --load --work --json",
    "predict": "--fit-threads --threads --pool --machine --by --time-column --size-column --json",
    "compare": "sample --threshold --by --only --format --json",
    "vectors": "--json",
    "report": "--out --json",
    "profile": "--json",
}
ALWAYS = {"sweep": ["--dry-run"], "run": ["--size", "1MiB", "--passes", "1", "--repetitions", "1"]}


def command_line(chance: Random) -> list[str]:
    """Return the words of a command that is mostly refused, and is short work if it is not."""
    verb = chance.choice(list(VERBS))
    words = [verb, *ALWAYS.get(verb, [])]
    if verb == "run":
        words.insert(1, chance.choice(("zeroing", "free", "page_walk", "nothing", "")))
        words += ["--threads", str(hostile_value(chance)).replace("\0", "0")]
    for _ in range(chance.randrange(5)):
        words.append(chance.choice((*VERBS[verb].split(), "--no-such", "--", "-", "-h")))
        if chance.random() < 0.7:
            words.append(str(hostile_value(chance)).replace("\0", "0").encode("utf-8", "replace").decode())
    return [word for word in words if len(word) < 100_000]


GRIDS, MACHINES = grid.FOLDER, machines.FOLDER
