"""Parquet files of a run, which may come from another hand: what they hold has limits."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ktask.common.files import require_regular

MOST_ROWS = 1_000_000
MOST_BYTES = 256 << 20  # unpacked
LONGEST_TEXT = 20_000  # bytes
MOST_TEXT_BYTES = 256 << 20  # of a column


def read(path: Path) -> pa.Table:
    """Return the table of a file.

    A column of texts is read as a dictionary, because a small file can say one long text a million times.

    Raises
    ------
    pyarrow.ArrowException
        If the file is damaged, or holds more than any process of a sweep writes.
    OSError
        If it cannot be read.
    """
    try:
        require_regular(path)
    except ValueError as error:
        raise pa.ArrowInvalid(str(error)) from None
    about = pq.read_metadata(path)
    size = sum(about.row_group(k).total_byte_size for k in range(about.num_row_groups))
    for found, most, what in ((about.num_rows, MOST_ROWS, "rows"), (size, MOST_BYTES, "bytes, unpacked")):
        if found > most:
            raise pa.ArrowInvalid(f"it has {found} {what}, more than {most}")
    texts = [field.name for field in about.schema.to_arrow_schema() if _is_text(field.type)]
    table = pq.read_table(path, read_dictionary=texts, use_threads=False)
    for at, name in enumerate(table.column_names):
        if pa.types.is_dictionary(table.schema.field(at).type):
            table = table.set_column(at, name, _plain(name, table.column(at)))
    return table


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _plain(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column of texts without its dictionary, if they are not too long."""
    longest = size = 0
    for chunk in column.chunks:
        lengths = pc.binary_length(chunk.dictionary)
        longest = max(longest, pc.max(lengths).as_py() or 0)
        size += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    for found, most, what in ((longest, LONGEST_TEXT, "a text of"), (size, MOST_TEXT_BYTES, "texts of")):
        if found > most:
            raise pa.ArrowInvalid(f"column {name} has {what} {found} bytes, more than {most}")
    return column.cast(pa.string())
