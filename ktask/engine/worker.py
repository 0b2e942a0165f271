"""The compiled half of the engine: workers that take chunks until there are none.

A worker takes the next chunk of its part with one atomic addition, works out the bounds in closed form, and
calls the thread function by address; so one compiled engine, kept on disk, serves every task. Everything it
needs lies in the state of the task (`layout.py`), whose address is `base` throughout.
"""

from numba import prange

from ktask.engine import native
from ktask.engine.compiled import compiled
from ktask.engine.layout import HEADER, PART, TRACE, WORD, WORKER
from ktask.engine.native import call_chunk, compare_swap, fetch_add, load, load_byte, load_plain, store

KIB = 1 << 10  # room for a mask of 8,192 CPUs, the most that Linux can have


@compiled
def part_at(base, index):
    """Return the address of the row of a part."""
    return base + HEADER.n_bytes + PART.n_bytes * index


@compiled
def worker_at(base, index):
    """Return the address of the row of a worker; worker 0 is the caller."""
    return part_at(base, load_plain(base + HEADER.n_parts)) + WORKER.n_bytes * index


# --- chunks --------------------------------------------------------------------------------------------


@compiled
def _has_chunks(part):
    return load(part + PART.next_chunk) < load_plain(part + PART.n_chunks)


@compiled
def _unfinished_parts(base):
    """Return the number of parts with chunks left."""
    count = 0
    for k in range(load_plain(base + HEADER.n_parts)):
        count += _has_chunks(part_at(base, k))
    return count


@compiled
def other_part(base, worker):
    """Return the index of a random part with chunks left, or -1 (ktask: uniform over unfinished parts)."""
    left = _unfinished_parts(base)
    if left == 0:
        return -1
    seed = load_plain(worker + WORKER.random)
    seed ^= (seed << 13) & 0x7FFFFFFFFFFFFFFF
    seed ^= seed >> 7
    seed ^= (seed << 17) & 0x7FFFFFFFFFFFFFFF
    store(worker + WORKER.random, seed)
    skip = seed % left
    for k in range(load_plain(base + HEADER.n_parts)):
        if _has_chunks(part_at(base, k)):
            if skip == 0:
                return k
            skip -= 1
    return 0  # drained in the meantime; the next look finds out


@compiled
def chunk_bounds(base, part, chunk):
    """Return start and end of a chunk of the part at `part`."""
    table = load_plain(base + HEADER.bounds)
    if table != 0:
        row = table + 2 * WORD * (load_plain(part + PART.first_row) + chunk)
        return load_plain(row), load_plain(row + WORD)
    size = load_plain(base + HEADER.chunk_size)
    start = load_plain(part + PART.origin) + chunk * size
    end = min(start + size, load_plain(part + PART.end))
    return max(start, load_plain(part + PART.start)), end


@compiled
def _call_traced(base, part, worker, worker_index, chunk, start, end):
    """Call the thread function and write one row of the trace."""
    row = load_plain(base + HEADER.trace)
    row += TRACE.n_bytes * (load_plain(part + PART.first_row) + chunk)
    t0 = native.clock_ns(native.CLOCK_MONOTONIC)
    code = call_chunk(load_plain(base + HEADER.function), start, end, load_plain(base + HEADER.args))
    store(row + TRACE.t1, native.clock_ns(native.CLOCK_MONOTONIC))
    store(row + TRACE.t0, t0)
    store(row + TRACE.part, load_plain(worker + WORKER.part))
    store(row + TRACE.helper, worker_index)
    store(row + TRACE.cpu, native.sched_getcpu())
    store(row + TRACE.start, start)
    store(row + TRACE.end, end)
    return code


@compiled
def take_chunks(base, worker_index):
    """Take and run chunks until there are none, one fails, or a signal arrives."""
    function, args = load_plain(base + HEADER.function), load_plain(base + HEADER.args)
    interrupt, traced = load_plain(base + HEADER.interrupt), load_plain(base + HEADER.trace) != 0
    worker = worker_at(base, worker_index)
    part_index, done = load_plain(worker + WORKER.part), load_plain(worker + WORKER.done)
    while load(base + HEADER.stop) == 0 and load_byte(interrupt) == 0:
        part = part_at(base, part_index)
        chunk = fetch_add(part + PART.next_chunk, 1)
        if chunk >= load_plain(part + PART.n_chunks):
            part_index = other_part(base, worker)
            if part_index < 0:
                break
            store(worker + WORKER.part, part_index)
            continue
        start, end = chunk_bounds(base, part, chunk)
        if traced:
            code = _call_traced(base, part, worker, worker_index, chunk, start, end)
        else:
            code = call_chunk(function, start, end, args)
        if code != 0:
            compare_swap(base + HEADER.error, 0, code)
            store(base + HEADER.stop, 1)
            store(worker + WORKER.failed_part, part_index)
            store(worker + WORKER.failed_chunk, chunk)
            break
        done += 1
    # Not after every chunk: on two threads a store per chunk, even to a line of the worker's own, took an
    # empty chunk from 12.8 to 22.3 ns.
    store(worker + WORKER.done, done)
    store(worker + WORKER.ended, native.clock_ns(native.CLOCK_MONOTONIC))
    store(worker + WORKER.cpu, native.sched_getcpu())


# --- the mode of a run: where threads sit, and at what priority -------------------------------------------


@compiled(parallel=True)
def _place_helpers(base, n_threads):
    """Put every helper on its CPU and note its thread. From here on it is awake, and spins for a while."""
    for w in prange(n_threads):
        if w > 0:
            n_bytes = load_plain(base + HEADER.mask_bytes)
            native.sched_setaffinity(0, n_bytes, load_plain(base + HEADER.helper_masks) + n_bytes * (w - 1))
            worker = worker_at(base, w)
            store(worker + WORKER.over, 0)
            store(worker + WORKER.tid, native.gettid())


@compiled
def _renice_helpers(base, nice):
    """Set the priority of every helper, if helpers have one of their own in this run."""
    if load_plain(base + HEADER.helper_nice) != load_plain(base + HEADER.caller_nice):
        for w in range(1, load_plain(base + HEADER.n_threads)):
            native.setpriority(0, load_plain(worker_at(base, w) + WORKER.tid), nice)


@compiled
def _same_cpus(mask, other, n_bytes):
    """Return whether a mask of 1 KiB has the CPUs of one of `n_bytes`."""
    for at in range(0, KIB, WORD):
        if load_plain(mask + at) != (load_plain(other + at) if at < n_bytes else 0):
            return False
    return True


@compiled
def _free_threads(base):
    """Let the caller run where it could before, and helpers wherever it may.

    A mask of just these CPUs would stay when the control group gets more, or when one comes back online. So
    it is one of all CPUs, unless that allows more than before.
    """
    n_bytes, mask = load_plain(base + HEADER.mask_bytes), load_plain(base + HEADER.own_mask)
    after, every, allowed = load_plain(base + HEADER.after_mask), native.stack_1k(), native.stack_1k()
    native.memset(every, 255, KIB)
    native.memset(allowed, 0, KIB)
    native.sched_setaffinity(0, KIB, every)
    native.sched_getaffinity(0, KIB, allowed)
    is_all = n_bytes < KIB and _same_cpus(allowed, mask, n_bytes)
    if after != mask or not is_all:
        native.sched_setaffinity(0, n_bytes, after)
    if is_all:
        n_bytes, mask = KIB, every
    for w in range(1, load_plain(base + HEADER.n_threads)):
        native.sched_setaffinity(load_plain(worker_at(base, w) + WORKER.tid), n_bytes, mask)


@compiled
def _hand_over(base):
    """Give the caller's priority to one unfinished helper at a time and wait for it, in order.

    So exactly one thread of the task runs at it: at least one for progress, at most one against excess
    ("workqueue, ktask: renice helper threads to prevent starvation", 2018-11-05).
    """
    for w in range(1, load_plain(base + HEADER.n_threads)):
        worker = worker_at(base, w)
        if load(worker + WORKER.over) == 0:
            native.setpriority(0, load_plain(worker + WORKER.tid), load_plain(base + HEADER.caller_nice))
            fetch_add(base + HEADER.hand_overs, 1)
            while load(worker + WORKER.over) == 0:
                native.sched_yield()


@compiled
def _add_usage(base, sign):
    """Add what threads and process have used so far, or take it away, so that a difference is left.

    CPU time is that of caller and helpers. The kernel keeps that of a process less well: it adds up what the
    last tick or switch left of the other threads. Of two threads that freed 1 GiB in 1.6 ms, at 250 ticks per
    second, half of the repetitions had used no CPU time but the caller's; and a helper that still spins after
    the task before adds to the next.
    """
    used_ns = native.clock_ns(native.CLOCK_THREAD_CPUTIME_ID)
    for w in range(1, load_plain(base + HEADER.n_threads)):
        helper_ns = native.thread_ns(load_plain(worker_at(base, w) + WORKER.tid))
        if helper_ns < 0:
            store(base + HEADER.not_all_known, 1)
        used_ns += helper_ns
    fetch_add(base + HEADER.used_ns, sign * used_ns)
    usage = native.stack_1k()
    native.process_usage(usage)
    user_us = load_plain(usage) * 1_000_000 + load_plain(usage + WORD)
    system_us = load_plain(usage + WORD * 2) * 1_000_000 + load_plain(usage + WORD * 3)
    fetch_add(base + HEADER.user_us, sign * user_us)
    fetch_add(base + HEADER.system_us, sign * system_us)
    fetch_add(base + HEADER.faults, sign * load_plain(usage + WORD * 8))  # ru_minflt
    fetch_add(base + HEADER.switches, sign * load_plain(usage + WORD * 17))  # ru_nivcsw


# --- a run ---------------------------------------------------------------------------------------------


@compiled
def _work(base, worker_index):
    """Take chunks; then, as a helper, say that it is over, or, as the caller, see to the other ones."""
    take_chunks(base, worker_index)
    if worker_index > 0:
        store(worker_at(base, worker_index) + WORKER.over, 1)
    elif load_plain(base + HEADER.hands_over) != 0:
        _hand_over(base)


@compiled(parallel=True)
def _region(base, n_threads):
    """Run every worker on a thread of its own; more workers than numba has threads take turns."""
    for w in prange(n_threads):
        _work(base, w)


@compiled
def work(base):
    """Carry out a task in the mode that its header names, and leave nothing of that mode behind.

    In compiled code from end to end, so that no Python signal handler can come in between. Returns whether it
    is over: all chunks are taken, or one has failed. If not, a signal has come in, and it can go on.
    """
    n_threads = load_plain(base + HEADER.n_threads)
    pinned = load_plain(base + HEADER.helper_masks) != 0
    if pinned:
        n_bytes, own = load_plain(base + HEADER.mask_bytes), load_plain(base + HEADER.own_mask)
        if own != load_plain(base + HEADER.after_mask):
            native.sched_setaffinity(0, n_bytes, own)  # threads that start now inherit it
        _place_helpers(base, n_threads)
        native.sched_setaffinity(0, n_bytes, load_plain(base + HEADER.caller_mask))
    _renice_helpers(base, load_plain(base + HEADER.helper_nice))
    _add_usage(base, -1)
    if load_plain(base + HEADER.t0) == 0:  # a task that paused for a signal goes on with its first start
        store(base + HEADER.t0, native.clock_ns(native.CLOCK_MONOTONIC))
    if n_threads == 1:
        take_chunks(base, 0)
    else:
        _region(base, n_threads)
    store(base + HEADER.t1, native.clock_ns(native.CLOCK_MONOTONIC))
    _add_usage(base, 1)
    _renice_helpers(base, load_plain(base + HEADER.caller_nice))
    if pinned:
        _free_threads(base)
    return load(base + HEADER.stop) != 0 or _unfinished_parts(base) == 0


@compiled
def call_once(function, start, end, args):
    """Call a thread function from Python's side; return its code."""
    return call_chunk(function, start, end, args)


@compiled
def current_cpu():
    """Return the CPU this thread runs on."""
    return native.sched_getcpu()
