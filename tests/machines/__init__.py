"""Captured ``/proc`` and ``/sys`` texts of foreign machines, one file each, planted as a tree for a test.

A section starts with ``==> path <==`` as ``tail`` prints it. To keep the files small, ``{0-3}`` in a path
stands for the numbers 0 to 3 (``{0-8:4}``: every fourth), and ``{n}``, ``{n+4}`` or ``{n-4}`` in the text for
the number itself, one above or one below it.
"""

import re
from pathlib import Path

HERE = Path(__file__).parent
NAMES = tuple(sorted(path.stem for path in HERE.glob("*.txt")))


def plant(name: str, root: Path) -> Path:
    """Write the tree of machine `name` below `root` and return `root`."""
    parts = re.split(r"^==> (.*) <==\n", (HERE / f"{name}.txt").read_text(), flags=re.MULTILINE)
    for path, text in zip(parts[1::2], parts[2::2], strict=True):
        for number in _numbers(path):
            file = root / re.sub(r"\{[0-9:-]+\}", str(number), path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(_fill(text.removesuffix("\n\n") + "\n", number))
    return root


def _numbers(path: str) -> range:
    match = re.search(r"\{([0-9]+)-([0-9]+)(?::([0-9]+))?\}", path)
    return range(int(match[1]), int(match[2]) + 1, int(match[3] or 1)) if match else range(1)


def _fill(text: str, number: int) -> str:
    return re.sub(r"\{n([+-][0-9]+)?\}", lambda match: str(number + int(match[1] or 0)), text)


def write(root, path, text):
    """Write one file of a machine, with the folders above it."""
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)
