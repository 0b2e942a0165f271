"""The compiled half of the engine: workers that take chunks until there are none.

The whole state of a running task is one array of int64: a header, one row per node part, one row per worker.
A worker takes the next chunk of its part with one atomic addition, works out the bounds in closed form, and
calls the thread function by address; so one compiled engine, kept on disk, serves every task.
"""

from ctypes import CFUNCTYPE, c_int64, c_void_p
from functools import lru_cache

from numba import cfunc, get_num_threads, int64, njit, prange

from ktask.engine import native
from ktask.engine.native import call_chunk, compare_swap, fetch_add, load, load_byte, load_plain, store
from ktask.engine.task import CPU_TIME_FROM_S

# A row is two cache lines, so that no two workers or parts write to the same pair of lines.
ROW = 16
(FUNCTION, ARGS, N_THREADS, N_PARTS, CHUNK, BOUNDS, TRACE, INTERRUPT, T0, T1) = range(10)
(CALLER_MASK, OWN_MASK, MASK_BYTES) = range(10, 13)
(HELPER_NICE, CALLER_NICE) = range(13, 15)  # equal: priorities are left alone
SHORT = 15  # the task will be over before placement matters
USED_USER_US, USED_SYSTEM_US, USED_FAULTS, USED_SWITCHES = range(ROW + 4, ROW + 8)  # by the process
USED_NS, NOT_ALL_KNOWN = 53, 54  # CPU time of caller and helpers, unless that of one was not to be had
HAND_OVERS = ROW + 8
ERROR, STOP = ROW, ROW + 1  # written by workers, hence on lines of their own
PAUSE = ROW + 9  # what INTERRUPT points at while nobody listens to signals; on the same lines
SCRATCH = ROW + 2  # two words
USAGE = 2 * ROW  # room for getrusage: 18 words
HELPER_TIDS = 55  # the address of the thread numbers of the helpers, the first for worker 1; 0 if not known
# The mask of CPUs that the caller is expected to have, if any; the nice level of helpers, unless the task is
# short; the units of the task, and the address of two words: how long the last run took, of how many.
HOME_MASK, HOME_BYTES, WANTED_NICE, UNITS, LAST = range(56, 61)
# The file of the helper slots, how many to lock there, and the address of `slots.requests` for them.
SLOTS_FD, N_SLOTS, SLOT_REQUESTS = range(61, 64)
HEADER = 4 * ROW
(P_START, P_END, P_CHUNKS, P_ORIGIN, P_OFFSET) = range(5)
# Apart from what is read for every chunk in whichever line the array starts (malloc aligns it to 16 bytes
# only): where both shared a line, an empty chunk on two threads took 7 to 15 % longer (three processes).
P_NEXT = 10
(W_PART, W_DONE, W_FAILED_PART, W_FAILED_CHUNK, W_CPU, W_RANDOM, W_CLOCK) = range(7)
(W_TID, W_OVER, W_PLACE, W_END) = range(8, 12)  # W_CLOCK takes two words; W_PLACE: its CPU, or -1
TRACE_ROW = 7
WORD = 8


@njit(cache=True, nogil=True)
def other_part(base, me):
    """Return a random part with chunks left, or -1 (ktask: uniform over unfinished parts)."""
    n_parts = load_plain(base + WORD * N_PARTS)
    left = 0
    for k in range(n_parts):
        row = base + WORD * (HEADER + ROW * k)
        left += load(row + WORD * P_NEXT) < load_plain(row + WORD * P_CHUNKS)
    if left == 0:
        return -1
    seed = load_plain(me + WORD * W_RANDOM)
    seed ^= (seed << 13) & 0x7FFFFFFFFFFFFFFF
    seed ^= seed >> 7
    seed ^= (seed << 17) & 0x7FFFFFFFFFFFFFFF
    store(me + WORD * W_RANDOM, seed)
    skip = seed % left
    for k in range(n_parts):
        row = base + WORD * (HEADER + ROW * k)
        if load(row + WORD * P_NEXT) < load_plain(row + WORD * P_CHUNKS):
            if skip == 0:
                return k
            skip -= 1
    return 0  # drained in the meantime; the next look finds out


@njit(cache=True, nogil=True)
def chunk_bounds(base, row, i):
    """Return start and end of chunk `i` of the part at `row`."""
    table = load_plain(base + WORD * BOUNDS)
    if table != 0:
        at = table + 2 * WORD * (load_plain(row + WORD * P_OFFSET) + i)
        return load_plain(at), load_plain(at + WORD)
    size = load_plain(base + WORD * CHUNK)
    start = load_plain(row + WORD * P_ORIGIN) + i * size
    end = min(start + size, load_plain(row + WORD * P_END))
    return max(start, load_plain(row + WORD * P_START)), end


@njit(cache=True, nogil=True)
def _call_traced(base, row, me, w, i, start, end):
    """Call the thread function and write one row of the trace."""
    at = load_plain(base + WORD * TRACE)
    at += WORD * TRACE_ROW * (load_plain(row + WORD * P_OFFSET) + i)
    scratch = me + WORD * W_CLOCK
    t0 = native.clock_ns(native.CLOCK_MONOTONIC, scratch)
    code = call_chunk(load_plain(base + WORD * FUNCTION), start, end, load_plain(base + WORD * ARGS))
    store(at + WORD * 6, native.clock_ns(native.CLOCK_MONOTONIC, scratch))
    store(at + WORD * 5, t0)
    store(at, load_plain(me + WORD * W_PART))
    store(at + WORD, w)
    store(at + WORD * 2, native.sched_getcpu())
    store(at + WORD * 3, start)
    store(at + WORD * 4, end)
    return code


# A task that takes less than about a time slice of the scheduler is short; one that is over before a person
# who presses Ctrl-C can tell is brief; if it is not over late, somebody should listen to signals after all.
SHORT_NS, BRIEF_NS, LATE_NS = 3_000_000, 15_000_000, 20_000_000
TINY_NS = round(CPU_TIME_FROM_S * 1e9)  # below, the CPU time is what the kernel happens to know


# The caller looks at the clock after 1, 2, 4 ... and then every so many chunks: that never more than doubles
# the time until it notices. After every chunk it cost 14 ns on top of the 6 of an empty one.
LOOK_WITHIN = 64


@njit(cache=True, nogil=True)
def _is_late(base, me):
    """Return whether a task that was to be brief takes so long that somebody should listen to signals."""
    now = native.clock_ns(native.CLOCK_MONOTONIC, me + WORD * W_CLOCK)
    return now - load_plain(base + WORD * T0) > LATE_NS


@njit(cache=True, nogil=True)
def _work(base, w):
    """Take and run chunks until there are none, one fails, or a signal arrives."""
    function, args = load_plain(base + WORD * FUNCTION), load_plain(base + WORD * ARGS)
    interrupt, traced = load_plain(base + WORD * INTERRUPT), load_plain(base + WORD * TRACE) != 0
    me = base + WORD * (HEADER + ROW * (load_plain(base + WORD * N_PARTS) + w))
    part = load_plain(me + WORD * W_PART)
    done = load_plain(me + WORD * W_DONE)
    look_at = done + 1 if w == 0 and interrupt == base + WORD * PAUSE else -1
    while load(base + WORD * STOP) == 0 and load_byte(interrupt) == 0:
        if done == look_at:
            if _is_late(base, me):
                store(interrupt, 1)
                break
            look_at += min(done, LOOK_WITHIN)
        row = base + WORD * (HEADER + ROW * part)
        i = fetch_add(row + WORD * P_NEXT, 1)
        if i >= load_plain(row + WORD * P_CHUNKS):
            part = other_part(base, me)
            if part < 0:
                break
            store(me + WORD * W_PART, part)
            continue
        start, end = chunk_bounds(base, row, i)
        if traced:
            code = _call_traced(base, row, me, w, i, start, end)
        else:
            code = call_chunk(function, start, end, args)
        if code != 0:
            compare_swap(base + WORD * ERROR, 0, code)
            store(base + WORD * STOP, 1)
            store(me + WORD * W_FAILED_PART, part)
            store(me + WORD * W_FAILED_CHUNK, i)
            break
        done += 1
    # Not after every chunk: on two threads a store per chunk, even to a line of the worker's own, took an
    # empty chunk from 12.8 to 22.3 ns.
    store(me + WORD * W_DONE, done)
    store(me + WORD * W_END, native.clock_ns(native.CLOCK_MONOTONIC, me + WORD * W_CLOCK))
    store(me + WORD * W_CPU, native.sched_getcpu())


@njit(cache=True, nogil=True)
def _work_at_priority(base, w):
    """Work as a helper at the priority of helpers, or as the caller, who lends out its own at the end."""
    helper_nice, caller_nice = load_plain(base + WORD * HELPER_NICE), load_plain(base + WORD * CALLER_NICE)
    if helper_nice == caller_nice:
        _work(base, w)
        return
    me = base + WORD * (HEADER + ROW * (load_plain(base + WORD * N_PARTS) + w))
    if w == 0:
        _work(base, w)
        _hand_over(base, caller_nice)
        return
    native.setpriority(0, 0, helper_nice)
    store(me + WORD * W_TID, native.gettid())
    _work(base, w)
    store(me + WORD * W_OVER, 1)


@njit(cache=True, nogil=True)
def _restore_priorities(base):
    """Give every helper that worked at low priority the caller's level back."""
    caller_nice = load_plain(base + WORD * CALLER_NICE)
    if load_plain(base + WORD * HELPER_NICE) == caller_nice:
        return
    first = base + WORD * (HEADER + ROW * load_plain(base + WORD * N_PARTS))
    for w in range(1, load_plain(base + WORD * N_THREADS)):
        tid = load(first + WORD * (ROW * w + W_TID))
        if tid != 0:
            native.setpriority(0, tid, caller_nice)


@njit(cache=True, nogil=True)
def _hand_over(base, caller_nice):
    """Give the caller's priority to one unfinished helper at a time and wait for it, in order.

    So exactly one thread of the task runs at it: at least one for progress, at most one against excess
    ("workqueue, ktask: renice helper threads to prevent starvation", 2018-11-05).
    """
    first = base + WORD * (HEADER + ROW * load_plain(base + WORD * N_PARTS))
    for w in range(1, load_plain(base + WORD * N_THREADS)):
        row = first + WORD * ROW * w
        # One that has not begun has nothing left to do. Waiting for it might not end: with fewer threads
        # than workers it would run on this very thread, after this.
        if load(row + WORD * W_TID) != 0 and load(row + WORD * W_OVER) == 0:
            native.setpriority(0, load(row + WORD * W_TID), caller_nice)
            fetch_add(base + WORD * HAND_OVERS, 1)
            while load(row + WORD * W_OVER) == 0:
                native.sched_yield()


@njit(cache=True, nogil=True)
def _keep_to(base, mask):
    """Keep the caller to the CPUs of a mask, if there is one."""
    if mask != 0:
        native.sched_setaffinity(0, load_plain(base + WORD * MASK_BYTES), mask)


@njit(cache=True, nogil=True)
def _add_usage(base, sign):
    """Add what the process has used so far, or take it away, so that a difference is left."""
    usage = base + WORD * USAGE
    native.process_usage(usage)
    user_us = load_plain(usage) * 1_000_000 + load_plain(usage + WORD)
    system_us = load_plain(usage + WORD * 2) * 1_000_000 + load_plain(usage + WORD * 3)
    fetch_add(base + WORD * USED_USER_US, sign * user_us)
    fetch_add(base + WORD * USED_SYSTEM_US, sign * system_us)
    fetch_add(base + WORD * USED_FAULTS, sign * load_plain(usage + WORD * 8))  # ru_minflt
    fetch_add(base + WORD * USED_SWITCHES, sign * load_plain(usage + WORD * 17))  # ru_nivcsw


@njit(cache=True, nogil=True)
def _add_threads(base, sign):
    """Add the CPU time of caller and helpers so far, or take it away, so that a difference is left.

    The kernel keeps that of a process less well: it adds up what the last tick or switch left of the other
    threads. Of two threads that freed 1 GiB in 1.6 ms, at 250 ticks per second, half of the repetitions had
    used no CPU time but the caller's; and a helper that still spins after the task before adds to the next.
    Asking for one thread takes 0.2 us, which a task of 6 us goes without.
    """
    tids, scratch = load_plain(base + WORD * HELPER_TIDS), base + WORD * SCRATCH
    used_ns = native.clock_ns(native.CLOCK_THREAD_CPUTIME_ID, scratch)
    for w in range(load_plain(base + WORD * N_THREADS) - 1):
        helper_ns = native.thread_ns(load_plain(tids + WORD * w), scratch) if tids != 0 else -1
        if helper_ns < 0:
            store(base + WORD * NOT_ALL_KNOWN, 1)
        used_ns += helper_ns
    fetch_add(base + WORD * USED_NS, sign * used_ns)


@njit(cache=True, nogil=True)
def _is_over_in(base, limit_ns):
    """Return whether the last run says that this one will take less.

    A short task is left without priorities, and without pinning a caller who is on a CPU of its own anyway;
    a brief one without listening to signals, which it does not outlast by much. With cold caches the first
    took 25 us, the second 50.
    """
    last, units = load_plain(base + WORD * LAST), load_plain(base + WORD * UNITS)
    return last != 0 and 0 < load(last) * units < limit_ns * load(last + WORD)


@njit(cache=True, nogil=True)
def _is_in(cpu, mask):
    """Return whether a CPU is in the mask at an address."""
    return (load_byte(mask + cpu // 8) >> (cpu % 8)) & 1 == 1


@njit(cache=True, nogil=True)
def _start(base):
    """Keep the caller off the helpers' CPUs, read the counters of the process, and start the clock."""
    mask = load_plain(base + WORD * CALLER_MASK)
    if mask != 0 and load_plain(base + WORD * SHORT) != 0 and _is_in(native.sched_getcpu(), mask):
        store(base + WORD * CALLER_MASK, 0)
        store(base + WORD * OWN_MASK, 0)
    _keep_to(base, load_plain(base + WORD * CALLER_MASK))
    if _is_over_in(base, TINY_NS):
        store(base + WORD * NOT_ALL_KNOWN, 1)
    else:
        _add_threads(base, -1)
    _add_usage(base, -1)
    if load_plain(base + WORD * T0) == 0:  # a task that paused for a signal goes on with its first start
        store(base + WORD * T0, native.clock_ns(native.CLOCK_MONOTONIC, base + WORD * SCRATCH))


@njit(cache=True, nogil=True)
def _stop(base):
    """Stop the clock, read the counters, and give the caller its CPUs back."""
    store(base + WORD * T1, native.clock_ns(native.CLOCK_MONOTONIC, base + WORD * SCRATCH))
    if load_plain(base + WORD * NOT_ALL_KNOWN) == 0:
        _add_threads(base, 1)
    _add_usage(base, 1)
    _restore_priorities(base)
    _keep_to(base, load_plain(base + WORD * OWN_MASK))


@njit(cache=True, parallel=True, nogil=True)
def _region(base, n_threads):
    """Run every worker on a thread of its own; worker 0 is the caller.

    More workers than numba has threads take turns; the chunks are the same.
    """
    _start(base)
    for w in prange(n_threads):
        _work_at_priority(base, w)
    _stop(base)


@njit(cache=True, nogil=True)
def _serial(base):
    """Run the caller alone, outside any parallel region."""
    _start(base)
    _work(base, 0)
    _stop(base)


@njit(cache=True, nogil=True)
def _is_elsewhere(base):
    """Return whether the caller may use other CPUs than expected, as far as a mask of 1 KiB tells."""
    mask, room = load_plain(base + WORD * HOME_MASK), native.stack_1k()
    if mask == 0:
        return False
    for k in range(128):
        store(room + WORD * k, 0)
    native.sched_getaffinity(0, 1024, room)
    for k in range(load_plain(base + WORD * HOME_BYTES) // WORD):
        if load_plain(room + WORD * k) != load_plain(mask + WORD * k):
            return True
    return False


_OFD_SETLK = 37  # <linux/fcntl.h>


@njit(cache=True, nogil=True)
def _lock_slots(base):
    """Lock the slots of the helpers in the file; return whether all could be had, else none is locked."""
    fd, requests = load_plain(base + WORD * SLOTS_FD), load_plain(base + WORD * SLOT_REQUESTS)
    for k in range(load_plain(base + WORD * N_SLOTS)):
        if native.fcntl(fd, _OFD_SETLK, requests + 8 * WORD * k) != 0:
            _unlock_slots(base, k)
            return False
    return True


@njit(cache=True, nogil=True)
def _unlock_slots(base, count):
    fd, requests = load_plain(base + WORD * SLOTS_FD), load_plain(base + WORD * SLOT_REQUESTS)
    for k in range(count):
        native.fcntl(fd, _OFD_SETLK, requests + 8 * WORD * k + 4 * WORD)


@njit(cache=True, nogil=True)
def _set_priorities(base):
    """Have helpers work at the priority of helpers, and the caller lend them its own at the end."""
    if load_plain(base + WORD * WANTED_NICE) != 0:
        store(base + WORD * HELPER_NICE, load_plain(base + WORD * WANTED_NICE))
        store(base + WORD * CALLER_NICE, native.getpriority(0, 0))


@njit(cache=True, nogil=True)
def _remember(base):
    """Keep how long it took, for the next time."""
    last = load_plain(base + WORD * LAST)
    if last != 0:
        store(last, load_plain(base + WORD * T1) - load_plain(base + WORD * T0))
        store(last + WORD, load_plain(base + WORD * UNITS))


@njit(cache=True, nogil=True)
def _is_clean(base, n_threads):
    """Return whether all was done without an error or a signal, every helper on its CPU."""
    if load(base + WORD * STOP) != 0 or load_byte(load_plain(base + WORD * INTERRUPT)) != 0:
        return False
    first = base + WORD * (HEADER + ROW * load_plain(base + WORD * N_PARTS))
    for w in range(1, n_threads):
        row = first + WORD * ROW * w
        place = load_plain(row + WORD * W_PLACE)
        if place >= 0 and place != load(row + WORD * W_CPU):
            return False
    return True


DONE, LOOK, MOVED, LISTEN = range(4)  # what `work` returns


@njit(cache=True, nogil=True)
def work(base, most_threads):
    """Run a task whose state is at `base`, and lock the slots of its helpers if that is left to it.

    Returns `DONE` if there is nothing more to see, `LOOK` if there is, with the slots still locked, `MOVED`
    if nothing has run because the CPUs or the slots that were expected could not be had, and `LISTEN` if
    nothing has run because it may take long, and `INTERRUPT` is not set.
    """
    n_threads = load_plain(base + WORD * N_THREADS)
    is_short = _is_over_in(base, SHORT_NS)
    if load_plain(base + WORD * INTERRUPT) == 0:
        if not _is_over_in(base, BRIEF_NS):
            return LISTEN
        store(base + WORD * INTERRUPT, base + WORD * PAUSE)
    if _is_elsewhere(base) or not _lock_slots(base):
        return MOVED
    if n_threads == 1:
        _serial(base)
    else:
        if is_short:
            store(base + WORD * SHORT, 1)
        else:
            _set_priorities(base)
        before, wanted = native.get_num_threads(), min(n_threads, most_threads)
        native.set_num_threads(wanted)
        _region(base, n_threads)
        native.set_num_threads(before)
    _remember(base)
    if not _is_clean(base, n_threads):
        return LOOK
    _unlock_slots(base, load_plain(base + WORD * N_SLOTS))
    return DONE


@lru_cache(maxsize=1)
def entry():
    """Return `work` as a function that ctypes calls, which is quicker than numba's look at the arguments.

    With cold caches that took 5 of the 10 us of a parallel region.
    """
    get_num_threads()  # starts numba's threads; compiled code calls what that brings

    @cfunc(int64(int64, int64), cache=True)
    def enter(base, most_threads):
        return work(base, most_threads)

    call = CFUNCTYPE(c_int64, c_void_p, c_int64)(enter.address)
    call.compiled = enter  # has to live as long
    return call


@njit(cache=True, nogil=True)
def work_alone(state, w):
    """Run worker `w` in the calling thread, for whoever brings threads of its own."""
    _work(state.ctypes.data, w)


@njit(cache=True, parallel=True, nogil=True)
def settle(masks, codes, tids):
    """Start the helpers if need be and put helper `w` on the CPUs of row `w` of `masks`.

    `codes[w]` becomes 0, or -1 if the kernel refused; `tids[w - 1]` the number of its thread.
    """
    for w in prange(masks.shape[0]):
        if w > 0:
            row = masks.ctypes.data + w * masks.shape[1]
            codes[w] = native.sched_setaffinity(0, masks.shape[1], row)
            tids[w - 1] = native.gettid()


@njit(cache=True, nogil=True)
def call_once(function, start, end, args):
    """Call a thread function from Python's side; return its code."""
    return call_chunk(function, start, end, args)


@njit(cache=True)
def current_cpu():
    """Return the CPU this thread runs on."""
    return native.sched_getcpu()
