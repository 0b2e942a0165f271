"""New lines in the log of the kernel: which count, made printable, and where none may be read."""

import os

import pytest

from ktask.host import kernel_log
from ktask.host.counters import event_flags, sample_events
from ktask.host.kernel_log import KernelLog, line_of


@pytest.mark.parametrize(
    ("record", "line"),
    [
        (
            "4,1234,567890,-;mce: [Hardware Error]: CPU 3\n SUBSYSTEM=cpu\n",
            "mce: [Hardware Error]: CPU 3",
        ),
        ("6,1,2,-,caller=T1;perf: interrupt took too long\n", "perf: interrupt took too long"),
        ("12,1,2,-;systemd[1]: Started\n", ""),  # a program wrote it
        ("3,1,2,-;\x1b[31mred\x00\u202e\n", "[31mred"),
        ("3,1,2,-;" + "x" * 500, "x" * kernel_log.MOST_LETTERS),
        ("", ""),
        ("garbage", ""),
    ],
)
def test_a_record_is_one_printable_line_of_the_kernel(record, line):
    assert line_of(record) == line


class Device:
    """Stands for /dev/kmsg: a record per read, then nothing more for now."""

    def __init__(self, *answers):
        self.answers = [*answers]

    def read(self, fd, size):
        answer = self.answers.pop(0) if self.answers else BlockingIOError()
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def log(tmp_path, monkeypatch):
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kmsg").write_bytes(b"6,1,1,-;before\n")
    found = kernel_log.kernel_log(tmp_path)

    def writes(*answers):
        monkeypatch.setattr(kernel_log.os, "read", Device(*answers).read)
        return found

    return writes


def test_lines_that_were_there_before_are_not_new(log):
    assert (log().read(), log().since(0)) == (0, [])


def test_a_new_line_raises_the_flag_once(log, tmp_path):
    log()
    before = sample_events(tmp_path)
    log(b"3,2,1,-;EDAC MC0: 1 CE\n")
    after = sample_events(tmp_path)
    log()
    assert event_flags(before, after) == ["kernel_log"]
    assert event_flags(after, sample_events(tmp_path)) == []
    assert log().since(before["kernel_log"]) == ["EDAC MC0: 1 CE"]


def test_lines_that_were_overwritten_are_passed_over(log):
    found = log(BrokenPipeError(), b"3,9,1,-;later\n")
    assert (found.read(), found.since(0)) == (1, ["later"])


def test_a_kernel_that_never_stops_writing_ends_after_some_lines(log, monkeypatch):
    found = log()
    monkeypatch.setattr(kernel_log.os, "read", lambda fd, size: b"3,1,1,-;again\n")
    assert found.read() == kernel_log.MOST_AT_ONCE
    assert len(found.lines) == kernel_log.MOST_LINES


def test_a_log_that_may_not_be_read_raises_nothing(tmp_path):
    assert "kernel_log" not in sample_events(tmp_path)
    assert KernelLog(tmp_path / "dev/kmsg").read() == 0


@pytest.mark.skipif(not os.access("/dev/kmsg", os.R_OK), reason="/dev/kmsg may not be read")
def test_the_log_of_this_machine_is_read_without_waiting():
    found = KernelLog(kernel_log.ROOT / "dev/kmsg")
    assert found.read() >= 0
    assert len(found.since(0)) <= kernel_log.MOST_LINES
