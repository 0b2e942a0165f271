"""Memory for packets of AF_XDP sockets: pinned as a whole, let go of, and refused in words."""

import errno
import re
import resource
from dataclasses import replace

import pytest

from ktask import workloads
from ktask.engine import run as engine
from ktask.memory.region import KIB, MIB
from ktask.workloads import Case, CheckError, umem

CASE = Case("pin", "xdp", "4KiB", 4 * MIB, 64 * KIB)
needs_xdp = pytest.mark.skipif(umem.no_xdp() is not None, reason=str(umem.no_xdp()))


@pytest.fixture
def state():
    state = umem.Umem(CASE)
    yield state
    state.close()


def run(state, threads=2):
    state.ctl = replace(state.ctl, max_threads=threads)
    state.before()
    return engine.run(0, state.size, state.ctl).error


@needs_xdp
def test_every_page_is_pinned_and_then_let_go_of(state):
    assert run(state) == 0
    state.check()
    released = umem.pins()[1]
    state._let_go()
    assert umem.pins()[1] - released >= 4 * MIB // 4096 - umem.unseen()
    with pytest.raises(CheckError, match="sockets have pinned 0 of 4194304 bytes"):
        state.check()


@needs_xdp
def test_a_piece_that_no_socket_has_is_an_error(state):
    assert run(state) == 0
    state._sockets[0].close()
    state._sockets[0] = umem.open_socket()
    with pytest.raises(CheckError, match="sockets have memory"):
        state.check()


@needs_xdp
def test_pins_that_the_kernel_does_not_count_are_an_error(state, monkeypatch):
    assert run(state) == 0
    monkeypatch.setattr(umem, "unseen", lambda: 0)
    monkeypatch.setattr(umem, "pins", lambda: (state._pins_before, 0))
    with pytest.raises(CheckError, match="0 pages were pinned"):
        state.check()


@needs_xdp
def test_more_chunks_than_sockets_is_an_error_of_the_task(state):
    state.before()
    state.ctl = replace(state.ctl, min_chunk_size=1, max_threads=1)
    assert engine.run(0, state.size, state.ctl, "dynamic").error == errno.ENOSPC


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EPERM, "no"), "CAP_NET_RAW; run as root"),
        (OSError(errno.EAFNOSUPPORT, "not supported"), r"\(Linux 4.18, CONFIG_XDP_SOCKETS\) are refused"),
    ],
)
def test_what_refuses_the_sockets_is_named(monkeypatch, error, words):
    def refuse():
        raise error

    monkeypatch.setattr(umem, "open_socket", refuse)
    umem.no_xdp.cache_clear()
    try:
        assert re.search(words, umem.no_xdp())
    finally:
        umem.no_xdp.cache_clear()


@needs_xdp
def test_more_sockets_than_open_files_are_refused(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (150, 150))
    reason = workloads.why_not(CASE)
    assert "sockets are more than the 150 open files of this process; raise the minimum chunk" in reason
