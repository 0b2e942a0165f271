"""Registering with a GPU: by a library that stands for the driver's, as tests rarely have a GPU."""

import contextlib
import errno
import shutil
import subprocess
from dataclasses import replace

import pytest
from test_workloads import do_nothing

from ktask import workloads
from ktask.engine import run as engine
from ktask.memory.region import KIB, MIB
from ktask.workloads import Case, CheckError, gpu

CASE = Case("pin", "gpu", "4KiB", MIB, 64 * KIB)
FAKE = """
#include <pthread.h>
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct { char *at; unsigned long bytes; } ranges[64];
static int count, retained;
static __thread void *current;
int cuInit(unsigned flags) { return CUINIT; }
int cuDeviceGet(int *device, int number) { *device = 7; return number; }
int cuDevicePrimaryCtxRetain(void **context, int device)
{
    *context = &count;
    retained++;
    return device != 7;
}
int cuDevicePrimaryCtxRelease_v2(int device) { retained--; return device != 7; }
int cuCtxSetCurrent(void *context) { current = context; return context != &count; }
int cuMemHostRegister_v2(char *at, unsigned long bytes, unsigned flags)
{
    if (current != &count || flags != 1)
        return 201;
    if (bytes > MOST)
        return 2;
    pthread_mutex_lock(&lock);
    ranges[count].at = at, ranges[count++].bytes = bytes;
    pthread_mutex_unlock(&lock);
    return 0;
}
int cuMemHostUnregister(char *at)
{
    for (int k = 0; k < count; k++)
        if (ranges[k].at == at) {
            ranges[k] = ranges[--count];
            return 0;
        }
    return 713;
}
int cuMemHostGetDevicePointer_v2(unsigned long *seen, char *at, unsigned flags)
{
    for (int k = 0; k < count; k++)
        if (at >= ranges[k].at && at < ranges[k].at + ranges[k].bytes)
            return 0;
    return 1;
}
int left(void) { return 100 * count + retained; }
"""


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """Make a library that refuses what it is told to, and have it stand for the driver's."""
    if not shutil.which("gcc"):
        pytest.skip("there is no C compiler here")

    def make(init=0, most=1 << 40):
        (tmp_path / "fake.c").write_text(FAKE)
        library = tmp_path / f"libcuda-{init}-{most}.so"
        flags = f"-DCUINIT={init}", f"-DMOST={most}L", "-shared", "-fPIC", "-o", str(library)
        subprocess.run(["gcc", *flags, str(tmp_path / "fake.c")], check=True)
        monkeypatch.setattr(gpu, "LIBRARY", str(library))
        gpu.no_gpu.cache_clear()
        return gpu.ctypes.CDLL(str(library))

    yield make
    gpu.no_gpu.cache_clear()


@pytest.mark.parametrize("threads", [1, 2])
def test_every_thread_registers_its_chunks_and_all_is_given_back(driver, threads):
    library = driver()
    assert workloads.why_not(CASE) is None
    with contextlib.closing(workloads.get("pin").setup(CASE)) as state:
        state.ctl = replace(state.ctl, max_threads=threads)
        for _ in range(2):
            state.before()
            assert engine.run(0, state.size, state.ctl, "dynamic").error == 0
            state.check()
        state.before()
        engine.run(0, state.size - 16, state.ctl, "dynamic")
        with pytest.raises(CheckError, match="the GPU cannot reach 1 of 16 places"):
            state.check()
        state.before()
        engine.run(0, state.size, replace(state.ctl, thread_func=do_nothing))
        with pytest.raises(CheckError, match="16 of 16"):
            state.check()
    assert library.left() == 0


def test_memory_that_the_driver_does_not_have_is_an_error(driver):
    driver(most=32 * KIB)
    with contextlib.closing(workloads.get("pin").setup(CASE)) as state:
        assert engine.run(0, state.size, state.ctl, "dynamic").error == errno.ENOMEM


def test_a_driver_that_is_missing_or_refuses_is_a_reason(driver, monkeypatch):
    driver(init=100)
    assert workloads.why_not(CASE) == "the NVIDIA driver refuses cuInit (error 100)"
    monkeypatch.setattr(gpu, "LIBRARY", "libnone.so.1")
    gpu.no_gpu.cache_clear()
    assert workloads.why_not(CASE) == (
        "there is no NVIDIA driver here (libnone.so.1) to register memory with a GPU"
    )
