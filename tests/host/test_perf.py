"""What `perf` sees, and what it may not: texts of `perf script`, and a recording where that is allowed."""

import os
import stat
import time
from pathlib import Path

import pytest

from ktask.host import perf, perf_process

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


ANSWERS = r"""
for word in "$@"; do case $word in
    --control=fd:*) fds=${word#--control=fd:}; from=${fds%,*}; to=${fds#*,};;
esac; done
exec 3</proc/self/fd/$from 4>/proc/self/fd/$to
while read what <&3; do printf 'ack\n' >&4; done
"""
RECORDS = f'test "$1" = script || {{ trap "exit 0" INT; {ANSWERS} exit 0; }}'


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Have a script of this text for `perf`, and little patience."""
    monkeypatch.setattr(perf, "why_not", lambda: None)
    monkeypatch.setattr(perf_process, "PATIENCE_S", 0.4)
    monkeypatch.setattr(perf, "SCRIPT_PATIENCE_S", 0.4)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return lambda script: _fake_perf(tmp_path, script)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo this kernel is too new >&2; exit 1", "perf ended at once: this kernel is too new"),
        ("echo Error: >&2; echo Access is limited. >&2; exit 255", "Access is limited."),
        ('echo "Error: unknown option \\`control\'" >&2; exit 129', "unknown option `control'"),
        (r"printf '\033[31m\000\377 garbage\n'; exit 1", "garbage"),
        ("exit 0", "it said nothing"),
        ("exec sleep 60", "did not answer within"),
        ("sleep 60", "did not answer within"),
        (f"trap '' INT; {ANSWERS} sleep 60", "did not end within"),
        (f"{RECORDS}; echo incompatible file format >&2; exit 1", "perf script failed: incompatible file"),
        (f"{RECORDS}; sleep 60", "perf script did not end within"),
        (f"{RECORDS}; exec >&-; sleep 60", "perf script did not end within"),
    ],
)
def test_a_perf_that_fails_is_a_line_and_leaves_nothing(fake, script, words):
    fake(script)
    before, files = time.monotonic(), len([*Path("/proc/self/fd").iterdir()])
    with pytest.raises(perf.UnavailableError) as caught, perf.Recording([os.getpid()]):
        pass
    assert words in str(caught.value)
    assert str(caught.value).isprintable()
    assert time.monotonic() - before < 5
    assert len([*Path("/proc/self/fd").iterdir()]) == files


@pytest.mark.parametrize("said", ["exit 0", "head -c 300000 /dev/urandom", "echo nothing of the kind"])
def test_a_perf_that_writes_garbage_has_seen_nothing(fake, said):
    fake(f"{RECORDS}; {said}")
    with perf.Recording([os.getpid()]) as recording:
        recording.on()
        recording.off()
    assert recording.events == []


def test_a_perf_that_writes_without_end_is_cut(fake, monkeypatch):
    monkeypatch.setattr(perf_process, "MOST_TEXT_BYTES", 1 << 20)
    fake(f"{RECORDS}; exec yes '1 [000] 1.0: cpu-clock:'")
    with perf.Recording([os.getpid()]) as recording:
        pass
    assert len(recording.events) < 2


def test_a_perf_without_tracepoints_still_samples(fake, monkeypatch):
    """One that is built without libtraceevent, or older than the tracepoints, refuses them."""
    monkeypatch.setattr(perf, "may_see_locks", lambda: True)
    no = 'case "$*" in *contention*) echo unknown tracepoint >&2; exit 1;; esac'
    fake(f"{no}; {RECORDS}; echo ' 7 [001] 5.5: cpu-clock:'")
    with perf.Recording([os.getpid()]) as recording:
        pass
    assert not recording.sees_locks
    assert [event.tid for event in recording.events] == [7]


@pytest.mark.parametrize(
    ("refused", "sees_locks", "samples"),
    [
        ("nothing", True, {perf.CLOCK, perf.CYCLES}),
        ("contention", False, {perf.CLOCK, perf.CYCLES}),
        ("cycles", True, {perf.CLOCK}),
        ("*contention*|*cycles", False, {perf.CLOCK}),
    ],
)
def test_cycles_are_sampled_where_the_hardware_counts_them(fake, monkeypatch, refused, sees_locks, samples):
    monkeypatch.setattr(perf, "may_see_locks", lambda: True)
    monkeypatch.setattr(perf, "has_pmu", lambda: True)
    no = f'case "$*" in *{refused}*) echo unknown event >&2; exit 1;; esac'
    keep = 'case "$*" in *freq=*name=cycles*) touch "$(dirname "$0")/cycles";; esac'
    cycles = 'test -e "$(dirname "$0")/cycles" && echo " 7 [001] 5.6:     cycles:"'
    fake(f"{no}; {keep}; {RECORDS}; echo ' 7 [001] 5.5: cpu-clock:'; echo; {cycles}; true")
    with perf.Recording([os.getpid()]) as recording:
        pass
    assert recording.sees_locks == sees_locks
    assert {event.name for event in recording.events} == samples


def test_a_missing_perf_is_said_at_its_start(monkeypatch, tmp_path):
    monkeypatch.setattr(perf, "why_not", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(perf.UnavailableError, match="cannot be started: No such file"):
        perf.Recording([os.getpid()])


def test_where_tracefs_is_not_mounted_locks_are_not_asked_for(tmp_path, monkeypatch):
    assert not perf.may_see_locks(tmp_path)
    monkeypatch.setattr(perf, "may_see_locks", lambda: False)
    if reason := perf.why_not():
        pytest.skip(reason)
    with perf.Recording([os.getpid()]) as recording:
        recording.on()
        _spin(0.1)
        recording.off()
    assert {event.name for event in recording.events} == {perf.CLOCK}


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


def test_tracepoints_are_recorded_each_time():
    """`-F` is for all events: most steps of waiting for a lock would be missed, and wrong ones paired."""
    words = perf._record([1], perf.LOCKS)
    assert "-F" not in words
    assert f"{perf.CLOCK}/freq={perf.SAMPLES_PER_S},name={perf.CLOCK}/" in words
    assert set(perf.LOCKS) <= set(words)
