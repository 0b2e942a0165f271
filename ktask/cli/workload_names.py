"""Names of all workloads, their methods and options, read from their source.

For `ktask run --help`: importing the workloads takes half a second, reading their files a tenth of that.
"""

from __future__ import annotations

import ast
from functools import lru_cache
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "workloads"


def workload_names(folder: Path = FOLDER) -> dict[str, list[str]]:
    """Return the methods of each workload, in the order of `ktask.workloads.registry`."""
    trees = _trees(folder)
    return {name: _texts(trees[stem], "Method") for name, stem in _workloads(folder)}


def option_names(folder: Path = FOLDER) -> dict[str, list[str]]:
    """Return the options of each workload that has any, whichever of its methods know them."""
    trees = _trees(folder)
    found = {
        name: [text for file in _files(stem, trees) for text in _texts(trees[file], "Option")]
        for name, stem in _workloads(folder)
    }
    return {name: list(dict.fromkeys(options)) for name, options in found.items() if options}


@lru_cache(maxsize=1)
def _trees(folder: Path) -> dict[str, ast.Module]:
    """Return the source of each module by its name."""
    paths = sorted(path for path in folder.rglob("*.py") if path.stem != "__init__")
    return {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in paths}


@lru_cache(maxsize=1)
def _workloads(folder: Path) -> list[tuple[str, str]]:
    """Return name and module of each workload, in their order."""
    found = [(_order(tree), *_texts(tree, "Workload")[:1], stem) for stem, tree in _trees(folder).items()]
    return [(name, stem) for _, name, stem in sorted(row for row in found if len(row) == 3)]


def _files(stem: str, trees: dict[str, ast.Module]) -> list[str]:
    """Return a module and those of the same folder that it imports, and these in turn."""
    found = [stem]
    for file in found:
        imports = (node for node in trees[file].body if isinstance(node, ast.ImportFrom))
        names = [
            name for node in imports for name in (node.module.split(".")[-1], *(a.name for a in node.names))
        ]
        found += [name for name in dict.fromkeys(names) if name in trees and name not in found]
    return found


def _texts(tree: ast.Module, function: str) -> list[str]:
    """Return the names given to `function` in its calls outside of functions: first argument, or `name`."""
    outside = (node for node in tree.body if not isinstance(node, (ast.FunctionDef, ast.ClassDef)))
    calls = (node for part in outside for node in ast.walk(part) if isinstance(node, ast.Call))
    named = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == function]
    values = [
        next((k.value for k in call.keywords if k.arg == "name"), next(iter(call.args), None))
        for call in named
    ]
    return [value.value for value in values if isinstance(value, ast.Constant)]


def _order(tree: ast.Module) -> int:
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "ORDER":
            return node.value.value
    return 100
