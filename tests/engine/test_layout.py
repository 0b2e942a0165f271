"""The layout of the shared state: no overlap, nothing shared that should not be."""

from itertools import pairwise

import numpy as np
import pytest

from ktask.engine import layout
from ktask.engine.layout import HEADER, LINE, PAGE, PAIR, PART, WORKER, State

ROWS = {
    "header": (layout.HEADER_ROW, HEADER),
    "part": (layout.PART_ROW, PART),
    "worker": (layout.WORKER_ROW, WORKER),
    "trace": (layout.TRACE_ROW, layout.TRACE),
}


@pytest.mark.parametrize("name", ROWS)
def test_fields_do_not_overlap_and_offsets_are_those_of_the_record(name):
    row, offsets = ROWS[name]
    spans = sorted((row.fields[field][1], row.fields[field][0].itemsize) for field in row.names)
    assert all(start + size <= after for (start, size), (after, _) in pairwise(spans))
    assert sum(spans[-1]) <= row.itemsize
    assert offsets._asdict() == {f: row.fields[f][1] for f in row.names} | {"n_bytes": row.itemsize}


def test_rows_are_pairs_of_lines():
    assert all(row.itemsize % PAIR == 0 for row, _ in ROWS.values() if row is not layout.TRACE_ROW)


def test_what_every_chunk_reads_is_on_no_line_that_every_chunk_writes():
    assert [name for name in layout.PART_ROW.names if getattr(PART, name) >= LINE] == ["next_chunk"]
    assert HEADER.stop // PAIR > max(HEADER.function, HEADER.interrupt, HEADER.bounds) // PAIR
    assert WORKER.over // LINE > WORKER.done // LINE


@pytest.mark.parametrize(("n_parts", "n_workers"), [(1, 0), (1, 1), (3, 64)])
def test_a_state_begins_at_a_page_and_lies_as_compiled_code_reads_it(n_parts, n_workers):
    state = State(n_parts, n_workers)
    assert state.address % PAGE == 0
    state.header["t1"], state.parts["next_chunk"] = 7, range(n_parts)
    state.workers["over"] = np.arange(n_workers) + 100
    words = np.frombuffer(state._room, np.int64)[(state.address - _start(state)) // 8 :]
    assert words[HEADER.t1 // 8] == 7
    parts = [HEADER.n_bytes + PART.n_bytes * k + PART.next_chunk for k in range(n_parts)]
    assert [words[at // 8] for at in parts] == list(range(n_parts))
    first = HEADER.n_bytes + PART.n_bytes * n_parts + WORKER.over
    assert [words[(first + WORKER.n_bytes * w) // 8] for w in range(n_workers)] == [
        100 + w for w in range(n_workers)
    ]


def _start(state):
    return np.frombuffer(state._room, np.uint8).ctypes.data


def test_a_copy_has_the_content_and_memory_of_its_own():
    state = State(2, 3)
    state.workers["tid"] = 1, 2, 3
    made = state.copy()
    made.parts["end"] = 9
    assert made.workers["tid"].tolist() == [1, 2, 3]
    assert state.parts["end"].tolist() == [0, 0]


def test_more_fields_than_a_line_has_words_are_refused():
    with pytest.raises(ValueError, match="do not fit into a cache line"):
        layout._row("a b c d e f g h i")
