"""The only place with LLVM intrinsics and libc entry points.

Everything here is called from numba's nopython code. libc functions are external symbols, not addresses, so
that compiled code stays valid on disk; memory is reached through integer addresses, because a chunk of a
kernel path is a range of addresses and nothing else.
"""

import errno

from llvmlite import binding, ir
from numba import int32, int64, types
from numba.core import cgutils
from numba.extending import intrinsic

from ktask.engine.compiled import compiled

binding.initialize_native_asmparser()  # numba itself has no use for inline assembly

_I64 = ir.IntType(64)

CLOCK_MONOTONIC, CLOCK_THREAD_CPUTIME_ID = 1, 3
EINTR, EAGAIN = errno.EINTR, errno.EAGAIN

# Linux calls that numba code makes. `syscall` and `fcntl` are variadic in C; on x86-64 and aarch64 integer
# arguments of a variadic call travel in the same registers as those of an ordinary one.
madvise = types.ExternalFunction("madvise", int32(int64, int64, int32))
mmap = types.ExternalFunction("mmap", int64(int64, int64, int32, int32, int32, int64))
munmap = types.ExternalFunction("munmap", int32(int64, int64))
pread = types.ExternalFunction("pread", int64(int32, int64, int64, int64))
ioctl = types.ExternalFunction("ioctl", int32(int32, int64, int64))
kill = types.ExternalFunction("kill", int32(int32, int32))
waitpid = types.ExternalFunction("waitpid", int32(int32, int64, int32))
mincore = types.ExternalFunction("mincore", int32(int64, int64, int64))
memset = types.ExternalFunction("memset", int64(int64, int32, int64))
mprotect = types.ExternalFunction("mprotect", int32(int64, int64, int32))
mlock = types.ExternalFunction("mlock", int32(int64, int64))
munlock = types.ExternalFunction("munlock", int32(int64, int64))
fallocate = types.ExternalFunction("fallocate", int32(int32, int32, int64, int64))
ftruncate = types.ExternalFunction("ftruncate", int32(int32, int64))
fcntl = types.ExternalFunction("fcntl", int32(int32, int32, int64))
read = types.ExternalFunction("read", int64(int32, int64, int64))
write = types.ExternalFunction("write", int64(int32, int64, int64))
getpid = types.ExternalFunction("getpid", int32())
getppid = types.ExternalFunction("getppid", int32())
usleep = types.ExternalFunction("usleep", int32(int32))
pause = types.ExternalFunction("pause", int32())
prctl = types.ExternalFunction("prctl", int32(int32, int64, int64, int64, int64))
exit_now = types.ExternalFunction("_exit", types.void(int32))
syscall4 = types.ExternalFunction("syscall", int64(int64, int64, int64, int64, int64))
syscall5 = types.ExternalFunction("syscall", int64(int64, int64, int64, int64, int64, int64))
syscall6 = types.ExternalFunction("syscall", int64(*[int64] * 7))
sched_getcpu = types.ExternalFunction("sched_getcpu", int32())
sched_setaffinity = types.ExternalFunction("sched_setaffinity", int32(int32, int64, int64))
sched_getaffinity = types.ExternalFunction("sched_getaffinity", int32(int32, int64, int64))
gettid = types.ExternalFunction("gettid", int32())
setpriority = types.ExternalFunction("setpriority", int32(int32, int64, int32))
sched_yield = types.ExternalFunction("sched_yield", int32())
_getrusage = types.ExternalFunction("getrusage", int32(int32, int64))
_clock_nanosleep = types.ExternalFunction("clock_nanosleep", int32(int32, int32, int64, int64))
_clock_gettime = types.ExternalFunction("clock_gettime", int32(int32, int64))
_errno_location = types.ExternalFunction("__errno_location", int64())


def _word(builder, address):
    return builder.inttoptr(address, _I64.as_pointer())


@intrinsic
def load(typingctx, address):
    """Return the int64 at `address`, read anew at every call (acquire)."""

    def codegen(context, builder, signature, args):
        return builder.load_atomic(_word(builder, args[0]), "acquire", 8)

    return int64(int64), codegen


@intrinsic
def store(typingctx, address, value):
    """Write the int64 `value` to `address` (release)."""

    def codegen(context, builder, signature, args):
        builder.store_atomic(args[1], _word(builder, args[0]), "release", 8)
        return context.get_dummy_value()

    return types.void(int64, int64), codegen


@intrinsic
def load_plain(typingctx, address):
    """Return the int64 at `address`; the compiler may vectorise and reorder it."""

    def codegen(context, builder, signature, args):
        return builder.load(_word(builder, args[0]))

    return int64(int64), codegen


@intrinsic
def load_byte(typingctx, address):
    """Return the byte at `address` as int64, read anew at every call."""

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        return builder.zext(builder.load_atomic(pointer, "monotonic", 1), _I64)

    return int64(int64), codegen


@intrinsic
def store_byte(typingctx, address, value):
    """Write the low byte of `value` to `address`."""

    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(8).as_pointer())
        builder.store_atomic(builder.trunc(args[1], ir.IntType(8)), pointer, "monotonic", 1)
        return context.get_dummy_value()

    return types.void(int64, int64), codegen


@intrinsic
def fetch_add(typingctx, address, value):
    """Add `value` to the int64 at `address` in one atomic step; return what was there before."""

    def codegen(context, builder, signature, args):
        return builder.atomic_rmw("add", _word(builder, args[0]), args[1], "acq_rel")

    return int64(int64, int64), codegen


@intrinsic
def compare_swap(typingctx, address, expected, value):
    """Put `value` at `address` if `expected` is there, in one atomic step; return what was there before."""

    def codegen(context, builder, signature, args):
        pair = builder.cmpxchg(_word(builder, args[0]), args[1], args[2], "acq_rel", "acquire")
        return builder.extract_value(pair, 0)

    return int64(int64, int64, int64), codegen


@intrinsic
def call_chunk(typingctx, function, start, end, args):
    """Call the thread function at address `function` with (start, end, address of its arguments)."""

    def codegen(context, builder, signature, values):
        kind = ir.FunctionType(_I64, [_I64, _I64, _I64]).as_pointer()
        return builder.call(builder.inttoptr(values[0], kind), values[1:])

    return int64(int64, int64, int64, int64), codegen


def _stack_room(n_words: int):
    """Return an intrinsic that returns the address of so many words on the stack of the calling function.

    Not from the heap: a thread's first allocation maps an arena, and mapping waits for the very lock that
    the other threads' chunks hold. Only the first word is cleared.
    """

    @intrinsic
    def room(typingctx):
        def codegen(context, builder, signature, args):
            words = cgutils.alloca_once(builder, _I64, n_words)  # of an array, numba would clear each word
            return builder.ptrtoint(words, _I64)

        return int64(), codegen

    return room


stack_64k, stack_1k, _stack_2_words = _stack_room(8192), _stack_room(128), _stack_room(2)


@compiled
def process_usage(room):
    """Write getrusage of the whole process to the 18 words at `room` (<bits/types/struct_rusage.h>)."""
    _getrusage(0, room)


@compiled
def thread_faults():
    """Return how many page faults without a disk the calling thread has had."""
    room = stack_1k()
    _getrusage(1, room)
    return load_plain(room + 64)


@compiled
def sleep_until(at_ns):
    """Sleep until the monotonic clock shows `at_ns`, also if signals arrive meanwhile."""
    room = _stack_2_words()
    store(room, at_ns // 1_000_000_000)
    store(room + 8, at_ns % 1_000_000_000)
    while _clock_nanosleep(CLOCK_MONOTONIC, 1, room, 0) == EINTR:
        pass


@compiled
def clock_ns(clock):
    """Return `clock` in nanoseconds."""
    room = _stack_2_words()
    _clock_gettime(clock, room)
    return load_plain(room) * 1_000_000_000 + load_plain(room + 8)


@compiled
def thread_ns(tid):
    """Return the CPU time of a thread of this process in nanoseconds, -1 if there is none of that number.

    The clock of a thread by its number is made as in glibc's pthread_getcpuclockid (CPUCLOCK_SCHED and
    PERTHREAD_MASK of <linux/posix-timers.h>).
    """
    room = _stack_2_words()
    if tid == 0 or _clock_gettime((~tid << 3) | 6, room) != 0:
        return -1
    return load_plain(room) * 1_000_000_000 + load_plain(room + 8)


@intrinsic
def _keep(typingctx, value):
    """Have the compiler believe that `value` is needed, and changed."""

    def codegen(context, builder, signature, args):
        kind = ir.FunctionType(_I64, [_I64])
        return builder.asm(kind, "", "=r,0", args, side_effect=True)

    return int64(int64), codegen


@compiled
def spend(steps):
    """Spend about a cycle per step, in registers only."""
    value = steps
    for _ in range(steps):
        value = _keep(value * 3 + 1)


@intrinsic
def _load_int32(typingctx, address):
    def codegen(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(32).as_pointer())
        return builder.load(pointer)

    return int32(int64), codegen


@compiled
def last_errno():
    """Return errno of this thread's last libc call that failed."""
    return int64(_load_int32(_errno_location()))
