"""The compiled half of the engine: workers that take chunks until there are none.

The whole state of a running task is one array of int64: a header, one row per node part, one row per worker.
A worker takes the next chunk of its part with one atomic addition, works out the bounds in closed form, and
calls the thread function by address; so one compiled engine, kept on disk, serves every task.
"""

from numba import njit, prange

from ktask import native
from ktask.native import call_chunk, compare_swap, fetch_add, load, load_byte, load_plain, store

# A row is two cache lines, so that no two workers or parts write to the same pair of lines.
ROW = 16
(FUNCTION, ARGS, N_THREADS, N_PARTS, CHUNK, BOUNDS, TRACE, INTERRUPT, T0, T1) = range(10)
(CALLER_MASK, OWN_MASK, MASK_BYTES) = range(10, 13)
(HELPER_NICE, CALLER_NICE) = range(13, 15)  # equal: priorities are left alone
SHORT = 15  # the task will be over before placement matters
USED_USER_US, USED_SYSTEM_US, USED_FAULTS, USED_SWITCHES = range(ROW + 4, ROW + 8)  # by the process
HAND_OVERS = ROW + 8
ERROR, STOP = ROW, ROW + 1  # written by workers, hence on lines of their own
SCRATCH = ROW + 2  # two words
USAGE = 2 * ROW  # room for getrusage: 18 words
HEADER = 4 * ROW
(P_START, P_END, P_CHUNKS, P_ORIGIN, P_OFFSET) = range(5)
P_NEXT = 8
(W_PART, W_DONE, W_FAILED_PART, W_FAILED_CHUNK, W_CPU, W_RANDOM, W_CLOCK) = range(7)
(W_TID, W_OVER) = range(8, 10)  # W_CLOCK takes two words
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


@njit(cache=True, nogil=True)
def _work(base, w):
    """Take and run chunks until there are none, one fails, or a signal arrives."""
    function, args = load_plain(base + WORD * FUNCTION), load_plain(base + WORD * ARGS)
    interrupt, traced = load_plain(base + WORD * INTERRUPT), load_plain(base + WORD * TRACE) != 0
    me = base + WORD * (HEADER + ROW * (load_plain(base + WORD * N_PARTS) + w))
    part = load_plain(me + WORD * W_PART)
    done = load_plain(me + WORD * W_DONE)
    while load(base + WORD * STOP) == 0 and load_byte(interrupt) == 0:
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
    _add_usage(base, -1)
    if load_plain(base + WORD * T0) == 0:  # a task that paused for a signal goes on with its first start
        store(base + WORD * T0, native.clock_ns(native.CLOCK_MONOTONIC, base + WORD * SCRATCH))


@njit(cache=True, nogil=True)
def _stop(base):
    """Stop the clock, read the counters, and give the caller its CPUs back."""
    store(base + WORD * T1, native.clock_ns(native.CLOCK_MONOTONIC, base + WORD * SCRATCH))
    _add_usage(base, 1)
    _restore_priorities(base)
    _keep_to(base, load_plain(base + WORD * OWN_MASK))


@njit(cache=True, parallel=True, nogil=True)
def parallel_work(state):
    """Run every worker on a thread of its own; worker 0 is the caller.

    More workers than numba has threads take turns; the chunks are the same.
    """
    base = state.ctypes.data
    _start(base)
    for w in prange(state[N_THREADS]):
        _work_at_priority(base, w)
    _stop(base)


@njit(cache=True, nogil=True)
def serial_work(state):
    """Run the caller alone, outside any parallel region."""
    base = state.ctypes.data
    _start(base)
    _work(base, 0)
    _stop(base)


@njit(cache=True, nogil=True)
def work_alone(state, w):
    """Run worker `w` in the calling thread, for whoever brings threads of its own."""
    _work(state.ctypes.data, w)


@njit(cache=True, parallel=True, nogil=True)
def settle(masks, codes):
    """Start the helpers if need be and put helper `w` on the CPUs of row `w` of `masks`.

    `codes[w]` becomes 0, or -1 if the kernel refused.
    """
    for w in prange(masks.shape[0]):
        if w > 0:
            row = masks.ctypes.data + w * masks.shape[1]
            codes[w] = native.sched_setaffinity(0, masks.shape[1], row)


@njit(cache=True, nogil=True)
def call_once(function, start, end, args):
    """Call a thread function from Python's side; return its code."""
    return call_chunk(function, start, end, args)


@njit(cache=True)
def current_cpu():
    """Return the CPU this thread runs on."""
    return native.sched_getcpu()
