"""What `perf` sees, and what it may not: texts of `perf script`, and a recording where that is allowed."""

import os
import stat
import time
from pathlib import Path

import pytest

from ktask.host import perf

SCRIPT = """\
 25408 [001] 26820.937827:   lock:contention_begin: 0xffff8881b9f20d38 (flags=WRITE)
\tffffffff821ffadf rwsem_down_write_slowpath
\tffffffff821fff0c down_write_killable
\tffffffff815f8dd7 do_mprotect_pkey.constprop.0
\t          101a37 __mprotect

 25407 [000] 26820.937901:          cpu-clock:
\tffffffff815f8dd7 change_pte_range.isra.0.part.1
\t          7f0000 [unknown]

 25407 [000] 26820.938000:          cpu-clock:

something else

"""


def test_text_becomes_events():
    first, second, third = perf.parse(SCRIPT)
    assert (first.tid, first.cpu, first.at_s, first.name) == (25408, 1, 26820.937827, perf.LOCKS[0])
    assert first.detail == "0xffff8881b9f20d38 (flags=WRITE)"
    assert first.frames[2:] == ("do_mprotect_pkey", "__mprotect")
    assert second.name == perf.CLOCK
    assert second.frames == ("change_pte_range", "?")
    assert third.frames == ()


@pytest.mark.parametrize("text", ["", "\n\n\n", "\x00garbage\n\tmore", "12 [x] 1.0: cpu-clock:\n"])
def test_garbage_is_no_event(text):
    assert [*perf.parse(text)] == []


def _tree(root: Path, paranoid: str | None = "1", symbols: str = "ffffffff81000000 T _stext\n") -> Path:
    (root / "proc/sys/kernel").mkdir(parents=True)
    (root / "proc/kallsyms").write_text(symbols)
    if paranoid is not None:
        (root / "proc/sys/kernel/perf_event_paranoid").write_text(paranoid)
    return root


@pytest.mark.parametrize(
    ("paranoid", "symbols", "words"),
    [
        ("4", "ffffffff81000000 T _stext\n", "perf_event_paranoid is 4; `sudo sysctl"),
        (None, "ffffffff81000000 T _stext\n", "kernel has no perf events"),
        ("1", "0000000000000000 T _stext\n", "kptr_restrict=0"),
        ("1", "", "kptr_restrict=0"),
        ("1", "ffffffff81000000 T _stext\n", None),
    ],
)
def test_what_is_missing_has_a_remedy(tmp_path, monkeypatch, paranoid, symbols, words):
    monkeypatch.setattr(perf, "_is_able", lambda: False)
    monkeypatch.setattr(perf.shutil, "which", lambda _: "/usr/bin/perf")
    found = perf.why_not(_tree(tmp_path, paranoid, symbols))
    assert found is None if words is None else words in found


def test_no_perf_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "not installed" in perf.why_not(_tree(tmp_path))


def _fake_perf(folder: Path, script: str) -> Path:
    (folder / "perf").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "perf").chmod(stat.S_IRWXU)
    return folder


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo this kernel is too new >&2; exit 1", "this kernel is too new"),
        ("exit 0", "it said nothing"),
        ("exec sleep 60", "did not answer within"),
    ],
)
def test_a_perf_that_fails_is_a_line(tmp_path, monkeypatch, script, words):
    monkeypatch.setattr(perf, "why_not", lambda: None)
    monkeypatch.setattr(perf, "PATIENCE_S", 0.5)
    monkeypatch.setenv("PATH", f"{_fake_perf(tmp_path, script)}:{os.environ['PATH']}")
    before, files = time.monotonic(), len([*Path("/proc/self/fd").iterdir()])
    with pytest.raises(perf.UnavailableError, match=words):
        perf.Recording([os.getpid()])
    assert time.monotonic() - before < 5
    assert len([*Path("/proc/self/fd").iterdir()]) == files  # nothing stays open


def test_a_recording_sees_only_what_happens_while_it_is_on():
    if reason := perf.why_not():
        pytest.skip(reason)
    with perf.Recording([os.getpid()]) as recording:
        _spin(0.1)
        began = time.monotonic()
        recording.on()
        _spin(0.2)
        recording.off()
        ended = time.monotonic()
        _spin(0.1)
    samples = [event for event in recording.events if event.name == perf.CLOCK]
    assert samples
    assert [event.at_s for event in samples if not began < event.at_s < ended] == []


def _spin(seconds: float) -> None:
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass
