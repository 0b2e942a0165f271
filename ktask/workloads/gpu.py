"""Host memory registered with a GPU, by the NVIDIA driver's own library: no CUDA toolkit is needed."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import numpy as np

from ktask.engine import native
from ktask.engine.task import Ctl
from ktask.engine.thread_functions import thread_func
from ktask.memory import region as memory
from ktask.workloads.base import Case, expect
from ktask.workloads.populated import Mapped, no_populate

LIBRARY = "libcuda.so.1"
_PORTABLE = 1  # CU_MEMHOSTREGISTER_PORTABLE
_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY
_ENOMEM, _EIO = 12, 5


@thread_func(cache=True)
def register_with_gpu(start, end, base, page_size, context, set_current, register, taken):
    """Register pages `start` to `end` in one call; `taken` counts the calls, and then has their addresses.

    A context belongs to a thread, so each call makes it the thread's own first.
    """
    at, size_bytes = base + start * page_size, (end - start) * page_size
    code = native.call_chunk(set_current, context, 0, 0) & 0xFFFFFFFF
    if code == 0:
        code = native.call_chunk(register, at, size_bytes, _PORTABLE) & 0xFFFFFFFF
    if code != 0:
        return _ENOMEM if code == _OUT_OF_MEMORY else _EIO
    native.store(taken + 8 + 8 * native.fetch_add(taken, 1), at)
    return 0


class Gpu:
    """The first GPU's primary context, which programs share with what else uses the GPU in their process."""

    def __init__(self) -> None:
        try:
            self._library = ctypes.CDLL(LIBRARY)
        except OSError:
            raise memory.UnavailableError(
                f"there is no NVIDIA driver here ({LIBRARY}) to register memory with a GPU"
            ) from None
        self._device, context = ctypes.c_int(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDeviceGet", ctypes.byref(self._device), 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self.context = context.value or 0
        self._call("cuCtxSetCurrent", context)
        names = ("cuCtxSetCurrent", "cuMemHostRegister_v2")
        functions = (ctypes.cast(getattr(self._library, name), ctypes.c_void_p).value for name in names)
        self.args = (self.context, *(address or 0 for address in functions))

    def _call(self, name: str, *args: object) -> None:
        try:
            code = getattr(self._library, name)(*args)
        except AttributeError:
            raise memory.UnavailableError(f"{LIBRARY} has no {name}; update the NVIDIA driver") from None
        if code:
            raise memory.UnavailableError(f"the NVIDIA driver refuses {name} (error {code})")

    def unregister(self, address: int) -> None:
        """Undo what was registered from `address` on."""
        self._call("cuMemHostUnregister", ctypes.c_void_p(address))

    def sees(self, address: int) -> bool:
        """Return whether the GPU could reach the memory at `address`."""
        seen = ctypes.c_uint64()
        function = self._library.cuMemHostGetDevicePointer_v2
        return function(ctypes.byref(seen), ctypes.c_void_p(address), 0) == 0

    def close(self) -> None:
        """Let go of the context."""
        self._call("cuDevicePrimaryCtxRelease_v2", self._device)


class OnGpu(Mapped):
    """A populated region that is registered with a GPU by a repetition, and not before it."""

    def __init__(self, case: Case):
        super().__init__(case)
        self.region.populate()
        try:
            self.gpu = Gpu()
        except BaseException:
            self.region.unmap()
            raise
        self._taken = np.zeros(1 + self.size, dtype=np.int64)
        args = *self.gpu.args, self._taken.ctypes.data
        self.ctl: Ctl = self.task(register_with_gpu, *args)

    def before(self) -> None:
        for address in self._taken[1 : 1 + self._taken[0]].tolist():
            self.gpu.unregister(address)
        self._taken[:] = 0

    def check(self) -> None:
        step = max(self.case.page_size, min(self.case.min_chunk_bytes, memory.THP_SIZE))
        places = range(self.region.address, self.region.address + self.region.size_bytes, step)
        missing = sum(not self.gpu.sees(address) for address in places)
        expect(missing == 0, f"the GPU cannot reach {missing} of {len(places)} places of the range")

    def close(self) -> None:
        self.before()
        self.gpu.close()
        super().close()


@lru_cache(maxsize=1)
def no_gpu() -> str | None:
    """Return why memory cannot be registered with a GPU here, or None; tried as far as the context."""
    try:
        Gpu().close()
    except memory.UnavailableError as error:
        return str(error)
    return no_populate()
