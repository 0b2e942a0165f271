"""Small files of the kernel below ``proc`` and ``sys``: text, numbers, lists of CPUs, numbered folders.

Every reader takes a path. Callers take ``root``, the directory that holds ``proc`` and ``sys``; tests pass
the captured tree of a foreign machine. A file that is missing or damaged means a missing value, never an
exception. Only the standard library is used, so that the import costs next to nothing.
"""

import re
from itertools import islice
from pathlib import Path

from ktask.host.cpus import parse_cpu_list

ROOT = Path("/")
READ_BYTES = 64 << 10
MAX_PIECES = 256  # 16 MiB; the mounts of a machine full of containers fit


def read_text(path: Path) -> str | None:
    """Return the stripped text of a small file, or None if it cannot be read."""
    try:
        with path.open("rb") as file:
            # In pieces, because files below /proc/sys answer a read of 4 MiB with "out of memory".
            pieces = iter(lambda: file.read(READ_BYTES), b"")
            text = b"".join(islice(pieces, MAX_PIECES))
    except (OSError, ValueError):  # ValueError: a path with a null byte in it
        return None
    return text.decode(errors="replace").strip()


def status_field(name: str, path: Path = ROOT / "proc/self/status") -> str | None:
    """Return a field of a file such as ``/proc/PID/status``; None if it is not there."""
    match = re.search(rf"^{name}:\s*(.*)$", read_text(path) or "", re.MULTILINE)
    return match[1] if match else None


def status_bytes(name: str, pid: int | str = "self", file: str = "status") -> int:
    """Return a size from ``/proc/PID/status``, or another file there, in bytes; 0 if it is not there."""
    match = re.fullmatch(r"([0-9]{1,18}) kB", status_field(name, ROOT / f"proc/{pid}/{file}") or "")
    return int(match[1]) << 10 if match else 0


def read_int(path: Path) -> int | None:
    """Return the integer in a file, or None if there is none."""
    return parse_int(read_text(path))


def parse_int(text: str | None) -> int | None:
    """Return a text as an integer, or None if it is none."""
    # The length bound is that of a 64-bit counter: longer digits are damage, and slow to convert.
    return int(text) if text and re.fullmatch(r"-?[0-9]{1,20}", text) else None


def numbered(directory: Path, prefix: str, suffix: str = "") -> list[tuple[int, Path]]:
    """Return number and path of the entries ``<prefix><number><suffix>`` of a directory, by number."""
    try:
        names = [path.name for path in directory.iterdir()]
    except OSError:
        return []
    found = (re.fullmatch(rf"{prefix}([0-9]{{1,9}}){suffix}", name) for name in names)
    return sorted((int(match[1]), directory / match[0]) for match in found if match)


def read_cpu_list(path: Path) -> tuple[int, ...]:
    """Return the CPUs listed in a file; empty if it is missing or damaged."""
    return cpus_if_valid(read_text(path) or "")


def cpus_if_valid(text: str) -> tuple[int, ...]:
    """Return the CPUs of a kernel list; empty if it is damaged."""
    try:
        return parse_cpu_list(text)
    except ValueError:
        return ()


def bracketed(path: Path) -> str | None:
    """Return the chosen word of a kernel setting such as ``always [madvise] never``."""
    match = re.search(r"\[([\w+-]+)\]", read_text(path) or "")
    return match[1] if match else None
