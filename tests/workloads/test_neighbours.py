"""Protect, pin, truncate, fork: what their limits, errors and processes leave behind."""

import contextlib
import errno
import os
import signal
from dataclasses import replace

import psutil
import pytest
from conftest import run_python, wait_for
from test_workloads import mapped_kib, open_files, set_up

import ktask
from ktask import workloads
from ktask.engine import run as engine
from ktask.host.counters import sample_state
from ktask.host.kernel_log import kernel_log
from ktask.lab.measure.cell import measure_case
from ktask.lab.measure.measurement import Protocol
from ktask.memory.region import KIB, MIB
from ktask.workloads import Case, CheckError, locked, pin


def test_locking_more_than_allowed_is_a_reason(monkeypatch):
    monkeypatch.setattr(locked.resource, "getrlimit", lambda _: (MIB, MIB))
    monkeypatch.setattr(locked, "may_lock_beyond_limit", lambda: False)
    case = Case("pin", "mlock", "4KiB", 2 * MIB)
    assert workloads.why_not(case).startswith("this process may lock 1.00 MiB (RLIMIT_MEMLOCK, `ulimit -l`)")
    assert workloads.why_not(replace(case, size_bytes=MIB)) is None
    rings = pin.n_rings() * pin.RING_BYTES
    case = Case("pin", "io_uring", "4KiB", MIB - rings)
    assert workloads.why_not(case) is None
    assert f"needs {1 + 4096 / MIB:.2f} MiB" in workloads.why_not(
        replace(case, size_bytes=MIB - rings + 4096)
    )
    monkeypatch.setattr(pin, "status_bytes", lambda name: {"VmLck": 4096, "VmPin": 4096}[name])
    assert workloads.why_not(case).startswith("this process may lock")
    assert workloads.why_not(Case("pin", "mlock", "4KiB", MIB)).startswith("this process may lock")


LOCK_LITTLE = """
import ctypes, resource
from ktask.engine import run as engine
from ktask import workloads
from ktask.workloads import Case, pin
libc, head, data = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
assert not libc.capget(head, data)
data[0] &= ~(1 << 14)  # CAP_IPC_LOCK, of the effective ones
assert not libc.capset(head, data)
resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))
for method in ("mlock", "io_uring"):
    for size in (1 << 19, 1 << 21):
        case = Case("pin", method, "4KiB", size)
        if pin.WORKLOAD.method(method).probe():
            print("allowed allowed" if size < 1 << 20 else "refused refused")
            continue
        state = pin.WORKLOAD.setup(case)
        state.before()
        error = engine.run(0, state.size, state.ctl).error
        if not error:
            state.check()
        state.close()
        print("refused" if pin.why_not(case) else "allowed", "refused" if error else "allowed")
"""


def test_what_may_be_locked_is_what_the_kernel_lets_be_locked():
    done = run_python(LOCK_LITTLE, check=True)
    assert done.stdout.splitlines() == ["allowed allowed", "refused refused"] * 2


@ktask.thread_func
def fail_at_the_end(start, end, size, code):
    return code if end == size else 0


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOMEM, errno.EPERM], ids=errno.errorcode.get)
@pytest.mark.parametrize("name", ["zeroing", "protect", "pin", "truncate", "fork"])
def test_an_error_in_the_middle_is_a_reason_and_leaves_nothing(monkeypatch, name, code):
    workload = workloads.get(name)
    case = Case(name, workload.methods[0].name, "4KiB", 8 * MIB, 64 * KIB)
    with contextlib.closing(set_up(case)) as state:  # what the engine and the first samples open stays
        engine.run(0, 1, state.ctl)
    sample_state()
    kernel_log()
    files, mapped = open_files(), mapped_kib()
    setup = workload.setup

    def failing(case):
        state = setup(case)
        state.ctl = replace(state.ctl, thread_func=fail_at_the_end, args=(state.size, code))
        return state

    monkeypatch.setitem(workloads.registry(), name, replace(workload, setup=failing))
    with pytest.raises(CheckError, match=os.strerror(code)):
        measure_case(case, [2], Protocol(least=1, most=1, warmup_s=0))
    assert open_files() == files
    assert mapped_kib() - mapped < 4096  # of the 8 MiB; the rest is what compiling takes
    assert psutil.Process().children() == []


def test_processes_to_be_forked_end_with_the_one_that_holds_them():
    code = (
        "from ktask import workloads; from ktask.engine import run as engine; import os, signal, psutil\n"
        "s = workloads.get('fork').setup(workloads.Case('fork', 'many_processes', '4KiB', 1 << 20))\n"
        "engine.run(0, s.size, s.ctl)\n"
        "print(*[p.pid for p in psutil.Process().children(recursive=True)], flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = run_python(code)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 32
    wait_for(lambda: not any(psutil.pid_exists(pid) for pid in pids), "the end of all processes")


def test_processes_to_be_forked_do_not_complain_about_ctrl_c(capfd):
    state = workloads.get("fork").setup(Case("fork", "many_processes", "4KiB", 4 * KIB))
    with contextlib.closing(state):
        (holder,) = state._holders
        holder.send_signal(signal.SIGINT)
        assert holder.stdout.read() == b""  # it has ended
    assert capfd.readouterr() == ("", "")
