"""Compiled code on disk: what was compiled before a change of the layout is never used after it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import ktask
from ktask.engine import native, worker
from ktask.engine.compiled import sources_digest
from ktask.models.simulation import event_loop

PACKAGE = Path(ktask.__file__).parent
CODE = """
from ktask.engine import worker
from ktask.engine.layout import State
from ktask.models.simulation import event_loop

state = State(1, 1)
state.header["n_parts"], state.header["chunk_size"] = 1, 5
state.parts["start"], state.parts["end"], state.parts["n_chunks"] = 2, 7, 1
state.parts["origin"] = 2
part = worker.part_at(state.address, 0)
print(worker.chunk_bounds(state.address, part, 0), event_loop._take_chunk(state.address, 0))
print(sum(f.stats.cache_hits.total() for f in (worker.part_at, worker.chunk_bounds, event_loop._take_chunk)))
"""
EXPECTED = "(2, 7) (0, 2, 7)"


def outcome(folder):
    """Return what the code prints with the `ktask` of `folder`: chunk bounds, loads from disk."""
    environment = {k: v for k, v in os.environ.items() if k != "NUMBA_CACHE_DIR"} | {
        "PYTHONPATH": str(folder)
    }
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_code_from_before_a_change_of_the_layout_is_not_loaded(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "ktask", ignore=shutil.ignore_patterns("__pycache__"))
    assert outcome(tmp_path) == [EXPECTED, "0"]
    assert outcome(tmp_path) == [EXPECTED, "3"]
    layout = tmp_path / "ktask/engine/layout.py"
    layout.write_text(layout.read_text().replace('"start end n_chunks', '"end start n_chunks'))
    assert outcome(tmp_path) == [EXPECTED, "0"]


def test_all_code_of_engine_and_event_loop_goes_by_the_sources():
    for module in (native, worker, event_loop):
        functions = [f for f in vars(module).values() if hasattr(f, "py_func")]
        assert functions
        for function in functions:
            digest = sources_digest(Path(function.py_func.__code__.co_filename).parent)
            assert function._cache._cache_file._source_stamp == digest
