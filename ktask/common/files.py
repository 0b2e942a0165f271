"""Small files: written whole or not at all, read with an error that names the file."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def atomic_write(path: Path | str, ending: str = ".tmp") -> Iterator[Path]:
    """Give a path to write to, which becomes `path` once the block ends well and the disk has it.

    A reader sees the old file or the new one, never a part; after an error the old one is still there. The
    partial file lies in the same directory, because a rename is atomic only inside one file system. Its name
    has an `ending` that no reader looks for; some writers insist on another one.
    """
    path = Path(path)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}{ending}")
    try:
        yield partial
        with partial.open("rb+") as file:
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> None:
    """Write `text` as UTF-8, whole or not at all."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path | str, obj: Any) -> None:
    """Write `obj` as JSON so that a reader sees the old file or the new one, never a part.

    Raises
    ------
    TypeError, ValueError
        If `obj` has no JSON form (a NaN counts as such); the file stays as it was.
    OSError
        If the directory is missing or full; the file stays as it was.
    """
    write_text(path, json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


LARGEST_BYTES = 64 << 20  # of any file that is read whole


def require_regular(path: Path | str, most_bytes: int = LARGEST_BYTES) -> None:
    """Refuse what is no regular file, and what is larger than `most_bytes`.

    A pipe may never end, and a device is endless.

    Raises
    ------
    ValueError
        The message names the file and what is allowed.
    OSError
        If it is not there.
    """
    found = Path(path).stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is not a regular file; save what it holds as one")
    if found.st_size > most_bytes:
        raise ValueError(f"{path} has {found.st_size} bytes, more than {most_bytes} bytes are not read")


def read_text(path: Path | str, most_bytes: int = LARGEST_BYTES) -> str:
    """Return the text of a regular file of at most `most_bytes`.

    Raises
    ------
    ValueError
        If it is something else, too large, or not UTF-8.
    OSError
        If the file cannot be read.
    """
    require_regular(path, most_bytes)
    with Path(path).open("rb") as file:
        return file.read(most_bytes).decode("utf-8")


def read_json(path: Path | str, most_bytes: int = LARGEST_BYTES) -> Any:
    """Return the content of a JSON file of at most `most_bytes`.

    Raises
    ------
    ValueError
        If the file is damaged; the message names it.
    OSError
        If the file cannot be read.
    """
    path = Path(path)
    try:
        return json.loads(read_text(path, most_bytes), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        message = (
            f"{path} is not a JSON file ({error}); delete it and measure again, or restore it from a copy"
        )
        raise ValueError(message) from error


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")
