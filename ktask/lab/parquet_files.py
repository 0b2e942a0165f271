"""Parquet files of a run, which may come from another hand: what they hold has limits."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ktask.common.files import require_regular
from ktask.common.texts import STEERING

MOST_ROWS = 1_000_000
MOST_BYTES = 256 << 20  # unpacked
LONGEST_TEXT = 20_000  # bytes
MOST_TEXT_BYTES = 256 << 20  # of a column
READERS = 2  # half of reading a small file is Python, of which one thread runs at a time
T = TypeVar("T")


def read_each(read_one: Callable[[Path], T], folder: Path) -> list[T]:
    """Return what `read_one` makes of each file in a folder, in the order of their names."""
    with ThreadPoolExecutor(READERS) as pool:
        return list(pool.map(read_one, sorted(folder.glob("*.parquet"))))


def read(path: Path) -> pa.Table:
    """Return the table of a file.

    A column of texts is read as a dictionary, because a small file can say one long text a million times.
    What would steer a terminal is left out of them.

    Raises
    ------
    pyarrow.ArrowException
        If the file is damaged, or holds more than any process of a sweep writes.
    OSError
        If it cannot be read.
    MemoryError
        If memory has run out, which is no damage.
    """
    try:
        require_regular(path)
        return _read(path)
    except pa.ArrowMemoryError as error:
        raise MemoryError(str(error)) from None
    except ValueError as error:
        raise pa.ArrowInvalid(str(error)) from None


def _read(path: Path) -> pa.Table:
    about = pq.read_metadata(path)
    size = sum(about.row_group(k).total_byte_size for k in range(about.num_row_groups))
    for found, most, what in ((about.num_rows, MOST_ROWS, "rows"), (size, MOST_BYTES, "bytes, unpacked")):
        if found > most:
            raise pa.ArrowInvalid(f"it has {found} {what}, more than {most}")
    leaves = [about.schema.column(k) for k in range(len(about.schema))]
    texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
    with pq.ParquetFile(path, metadata=about, read_dictionary=texts) as file:
        table = file.read(use_threads=False)
    for at, field in enumerate(table.schema):
        kind = field.type
        if pa.types.is_dictionary(kind):
            words = _plain(field.name, table.column(at), pa.string())
            table = table.set_column(at, field.name, pc.replace_substring_regex(words, STEERING, ""))
        elif pa.types.is_list(kind) and pa.types.is_dictionary(kind.value_type):
            table = table.set_column(
                at, field.name, _plain(field.name, table.column(at), pa.list_(pa.string()))
            )
    return table


def _plain(name: str, column: pa.ChunkedArray, kind: pa.DataType) -> pa.ChunkedArray:
    """Return a column of texts, or of lists of them, without its dictionary, if they are not too long."""
    longest = size = 0
    for chunk in column.chunks:
        words = chunk.flatten() if pa.types.is_list(chunk.type) else chunk
        lengths = pc.binary_length(words.dictionary)
        longest = max(longest, pc.max(lengths).as_py() or 0)
        size += pc.sum(lengths.take(words.indices)).as_py() or 0
    for found, most, what in ((longest, LONGEST_TEXT, "a text of"), (size, MOST_TEXT_BYTES, "texts of")):
        if found > most:
            raise pa.ArrowInvalid(f"column {name} has {what} {found} bytes, more than {most}")
    return column.cast(kind)
