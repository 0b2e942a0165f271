"""Reading and writing the small files of a run: whole or not at all."""

import json
from pathlib import Path
from typing import Any

from ktask.common.files import write_text


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


def read_json(path: Path | str) -> Any:
    """Return the content of a JSON file.

    Raises
    ------
    ValueError
        If the file is damaged; the message names it.
    OSError
        If the file cannot be read.
    """
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        message = (
            f"{path} is not a JSON file ({error}); delete it and measure again, or restore it from a copy"
        )
        raise ValueError(message) from error
