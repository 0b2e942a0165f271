"""What stands in for locks that cannot be seen: time off the CPU, by wait channels; never a named lock."""

import os
import threading
import time

import pytest

from ktask.host import perf
from ktask.host.perf import CLOCK, Event
from ktask.host.topology import cpu_count
from ktask.host.wait_channels import NAME, WaitChannels
from ktask.lab.evidence.proxy import ASLEEP, IN_THE_QUEUE, UNNAMED, proxies
from ktask.lab.measure.cell import measure_case
from ktask.lab.measure.measurement import Protocol
from ktask.workloads import Case

MIB = 1 << 20
COUNTERS = {"switches_voluntary": 3.0, "switches_involuntary": 1.0}


def _seen(tid: int, *channels: str) -> list[Event]:
    ran = Event(tid, 0, 1.0, CLOCK, "", ("f",))
    return [ran, *(Event(tid, 0, 1.0, NAME, channel, ()) for channel in channels)]


def test_time_asleep_is_shared_out_by_where_threads_slept():
    events = _seen(1, "do_mprotect_pkey", "do_mprotect_pkey", "do_mprotect_pkey", "pipe_read")
    idle = [Event(2, 1, 1.0, NAME, "ep_poll", ())]  # a thread that never ran is not of the task
    found = proxies(0.4, 0.1, COUNTERS, [events + idle, _seen(1)])
    assert [(one.kind, one.site, round(one.wait_s, 9)) for one in found] == [
        (ASLEEP, "do_mprotect_pkey", 0.3),
        (ASLEEP, "pipe_read", 0.1),
        (IN_THE_QUEUE, "?", 0.1),
    ]
    assert {one.lock for one in found} == {UNNAMED}
    assert all(one.source.startswith("proxy") for one in found)


def test_without_wait_channels_there_is_the_time_alone():
    slept, queued = proxies(0.4, 0.1, COUNTERS, [_seen(1), _seen(1)])
    assert (slept.site, slept.wait_s, slept.count) == ("?", 0.4, 6)
    assert (queued.wait_s, queued.count) == (0.1, 2)
    assert proxies(0.0, 0.0, {}, [[]]) == []


STAT = "7 (a) b) S " + " ".join(["0"] * 35) + " 5 0 0\n"


@pytest.mark.parametrize(
    ("stat", "channel", "found"),
    [
        (STAT, "futex_do_wait", [(5, "futex_do_wait")]),
        (STAT.replace(" S ", " R "), "futex_do_wait", []),
        (STAT, "0", []),  # not readable, or not asleep
        (STAT, "", []),
        ("damaged", "futex_do_wait", []),
        (STAT, "\x1b[31m; rm", []),
    ],
)
def test_a_thread_that_sleeps_has_a_channel(tmp_path, stat, channel, found):
    folder = tmp_path / "proc/self/task/7"
    folder.mkdir(parents=True)
    (folder / "stat").write_text(stat)
    (folder / "wchan").write_text(channel)
    channels = WaitChannels([7, 8], tmp_path)
    channels.look()
    assert [(event.cpu, event.detail) for event in channels.events] == found


def test_a_thread_of_this_process_is_seen_asleep():
    over, tids = threading.Event(), []
    sleeper = threading.Thread(target=lambda: (tids.append(threading.get_native_id()), over.wait(5)))
    sleeper.start()
    while not tids:
        time.sleep(0.001)
    with WaitChannels(tids) as channels:
        end = time.monotonic() + 3
        while not channels.events and time.monotonic() < end:
            time.sleep(0.01)
    over.set()
    sleeper.join()
    if not channels.events:
        pytest.skip("this kernel does not say where a thread sleeps")
    assert {event.tid for event in channels.events} == set(tids)
    assert os.sched_getaffinity(0) == os.sched_getaffinity(os.getpid())


@pytest.mark.skipif(perf.why_not() is not None, reason=perf.why_not() or "")
@pytest.mark.skipif(cpu_count() < 2, reason="there is one CPU")
def test_where_tracepoints_cannot_be_read_no_lock_has_a_name(monkeypatch):
    monkeypatch.setattr(perf, "may_see_locks", lambda: False)
    case = Case.of("protect", "mprotect", size=64 * MIB, page_kind="4KiB")
    seen = measure_case(case, [2], Protocol(least=1, most=1), evidence=True).evidence()
    if seen.is_unlike:
        pytest.skip("the machine is too busy")
    assert seen.skipped is None
    assert not seen.sees_locks
    assert sum(seen.stack.values()) == pytest.approx(1)
    assert {one.lock for one in seen.many.waits} <= {UNNAMED}
