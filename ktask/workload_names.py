"""Names of all workloads and methods, read from their source.

For `ktask run --help`: importing the workloads takes half a second, reading their files a tenth of that.
"""

from __future__ import annotations

import ast
from pathlib import Path

FOLDER = Path(__file__).parent / "workloads"


def workload_names(folder: Path = FOLDER) -> dict[str, list[str]]:
    """Return the methods of each workload, in the order of `ktask.workloads.registry`."""
    found = []
    for path in folder.glob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if path.stem != "__init__" and (names := _texts(tree, "Workload")):
            found.append((_order(tree), names[0], _texts(tree, "Method")))
    return {name: methods for _, name, methods in sorted(found)}


def _texts(tree: ast.Module, function: str) -> list[str]:
    """Return the names given to all calls of `function`: the first argument, or `name`."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
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
