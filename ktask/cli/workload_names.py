"""Names of all workloads, their methods and options, read from their source.

For `ktask run --help`: importing the workloads takes half a second, reading their files a tenth of that.
"""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "workloads"


def workload_names(folder: Path = FOLDER) -> dict[str, list[str]]:
    """Return the methods of each workload, in the order of `ktask.workloads.registry`."""
    sources = _sources(folder)
    return {name: _named("Method", sources[stem]) for name, stem in _workloads(folder)}


def option_names(folder: Path = FOLDER) -> dict[str, list[str]]:
    """Return the options of each workload that has any, whichever of its methods know them."""
    sources = _sources(folder)
    found = {
        name: _options("\n".join(sources[file] for file in _files(stem, sources)))
        for name, stem in _workloads(folder)
    }
    return {name: list(dict.fromkeys(options)) for name, options in found.items() if options}


def _options(source: str) -> list[str]:
    """Return the options in some source; one that has a name there counts if the name is used."""
    found = re.findall(r'(?:^(\w+) = )?\bOption\(\s*(?:name=)?"(\w+)"', source, re.MULTILINE)
    uses = {
        name: len(re.findall(rf"^(?!from ).*\b{name}\b", source, re.MULTILINE)) for name, _ in found if name
    }
    return [option for name, option in found if uses.get(name, 2) > 1]


@lru_cache(maxsize=1)
def _sources(folder: Path) -> dict[str, str]:
    """Return the source of each module by its name."""
    paths = sorted(path for path in folder.rglob("*.py") if path.stem not in ("__init__", "base"))
    return {path.stem: path.read_text(encoding="utf-8") for path in paths}


def _workloads(folder: Path) -> list[tuple[str, str]]:
    """Return name and module of each workload, in their order."""
    found = []
    for stem, source in _sources(folder).items():
        order = re.search(r"^ORDER = (\d+)", source, re.MULTILINE)
        found += [(int(order[1]) if order else 100, name, stem) for name in _named("Workload", source)]
    return [(name, stem) for _, name, stem in sorted(found)]


def _files(stem: str, sources: dict[str, str]) -> list[str]:
    """Return a module and those of the workloads that it imports, and these in turn."""
    found = [stem]
    for file in found:
        imports = re.findall(r"^from ktask\.workloads(\S*) import (.+)", sources[file], re.MULTILINE)
        words = re.findall(r"\w+", " ".join(f"{module} {names}" for module, names in imports))
        found += [word for word in dict.fromkeys(words) if word in sources and word not in found]
    return found


def _named(function: str, source: str) -> list[str]:
    """Return the names given to `function` in its calls: first argument, or `name`."""
    return re.findall(rf'\b{function}\(\s*(?:name=)?"(\w+)"', source)
