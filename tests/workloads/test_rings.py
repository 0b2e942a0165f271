"""Rings whose buffers are pinned: what older kernels do is refused in words."""

import pytest

from ktask.workloads import rings


@pytest.fixture
def probe():
    if reason := rings.no_io_uring():
        pytest.skip(reason)
    rings.no_unpinning.cache_clear()
    yield rings.no_unpinning
    rings.no_unpinning.cache_clear()


def test_a_kernel_that_unpins_later_is_refused(probe, monkeypatch):
    """As Linux 6.1 does: the page is still pinned when the call returns."""
    monkeypatch.setattr(rings, "unpin_slots", lambda *_: 0)
    assert probe().startswith("this kernel leaves it to a worker to unpin a buffer")


def test_the_probe_leaves_nothing_pinned(probe):
    before = rings.status_bytes("VmPin")
    probe()
    assert rings.status_bytes("VmPin") == before
