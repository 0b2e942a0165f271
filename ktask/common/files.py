"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: Path | str, ending: str = ".tmp") -> Iterator[Path]:
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
    with whole(path) as partial:
        partial.write_text(text, encoding="utf-8")
