"""The simulator's compiled half: who finishes next, and what follows from it.

Agents share the machine: the workers of the task (0 is the caller) and the threads of other load. An agent
is absent, waiting for its moment, working, held up (by the lock, or by queueing helpers), asleep
between rounds of load, or over.

Work flows. How fast an agent works is its `speed`, in bytes per second (CPU seconds per second for load),
on a memory that has bandwidth to spare. Where the agents of one memory ask for more than it delivers, all
of them are slowed by the same factor. So each memory has a clock of its own, which runs at that factor: an
agent with `work` left is done when the clock of its memory has moved on by `work / speed`, whatever becomes
of the factor meanwhile. That is why one heap per memory, ordered by its own clock, stays in order, and a
chunk costs one push and one pop. Clock 0 is the wall clock, for moments, the lock, and work that touches no
memory.

Speeds themselves change only when an agent comes, goes or is reniced. That is rare, and `_rescale` then
works everything out anew.

Chunks come from the engine's own code on the engine's own state (`worker.other_part`,
`worker.chunk_bounds`), so the simulated task takes the chunks that the real one would.

On two CPUs a million chunks take 4,096 workers of 16 nodes 0.4 s, and 1.9 s where every worker that ends
changes the speed of all others. State as arrays of records and not as tuples of arrays: those took 4.7 s,
because every call counted references to each array anew.
"""

from collections import namedtuple

import numpy as np
from numba import njit

from ktask.engine.layout import PART, WORKER
from ktask.engine.native import fetch_add, load_plain, store
from ktask.engine.worker import chunk_bounds, other_part, part_at, worker_at
from ktask.models.simulation.machines import FIGURES

ABSENT, WAITING, WORKING, HELD, ASLEEP, OVER = range(6)
WALL = 0  # the clock of real time
TRACE_COLUMNS = 6  # part, worker, start, end, t0, t1


AGENT = np.dtype(
    [
        ("queue", np.int64),  # run queue it sits in
        ("node", np.int64),  # node of its CPU
        ("memory", np.int64),  # clock of the memory it works on
        ("phase", np.int64),
        ("row", np.int64),  # row of the trace, -1 for none yet
        ("weight", np.float64),  # of its nice level
        ("busy", np.float64),  # share of its turn that it computes
        ("traffic", np.float64),  # bytes that a unit of its work takes from memory
        ("work", np.float64),  # CPU seconds of a round of load, and of the caller before its first chunk
        ("entry", np.int64),  # entry of load that it belongs to
        ("rounds", np.int64),  # rounds of load that it has still to end
        ("pause", np.float64),  # CPU seconds of one thread of the entry after each round
        ("alone", np.int64),  # whether it is that thread now
        ("due", np.float64),  # when it is done, on the clock of its memory
        ("speed", np.float64),  # work per second, while its memory has bandwidth to spare
        ("share", np.float64),  # share of a CPU that it gets
        ("cpu", np.float64),  # the same, less what its sibling thread takes
        ("hold_s", np.float64),  # seconds that its chunk still needs the lock
        ("seen", np.float64),  # its clock at the last accounting
        ("booked_s", np.float64),  # moment of the last accounting
        ("done", np.float64),  # work done
        ("used_s", np.float64),  # CPU seconds used
        ("end_s", np.float64),  # when it was over
    ]
)
CLOCK = np.dtype(
    [
        ("value", np.float64),  # what it showed
        ("at_s", np.float64),  # at this moment
        ("pace", np.float64),  # how fast it runs
        ("demand", np.float64),  # bytes per second asked for
        ("bandwidth", np.float64),  # bytes per second there are
        ("next_s", np.float64),  # when its first agent is due
        ("agents", np.int64),  # on its heap
    ]
)
QUEUE = np.dtype(
    [
        ("first", np.int64),  # where its agents begin in `members`; there is one entry more than queues
        ("cpus", np.float64),
        ("live", np.int64),  # agents that have begun and are not over
    ]
)


# The machine in numbers: all its figures and its layout, and what is known of the task.
Costs = namedtuple(
    "Costs", (*FIGURES, "nodes", "cores_per_node", "smt", "n_workers", "hand_over", "loads_to_end")
)


# Numbers that change as the run goes on, in one array.
# CROWD: CPUs' worth of workers at work; STALE: whether speeds are to be worked out anew.
(T, CROWD, CLAIM_FREE, LOCK_FREE, STALE, CHUNKS, WORKERS_LEFT, LOADS_LEFT) = range(8)


# --- heaps and clocks --------------------------------------------------------------------------------------


@njit(cache=True)
def _before(a, i, j):
    """Order agents by when they are due; among equals, the lower number comes first."""
    return a[i].due < a[j].due or (a[i].due == a[j].due and i < j)


@njit(cache=True)
def _push(a, c, h, k, i):
    """Put agent `i` on clock `k`."""
    heap, at = h[k], c[k].agents
    c[k].agents += 1
    while at > 0 and _before(a, i, heap[(at - 1) >> 1]):
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = i
    if at == 0:
        _look(a, c, h, k)


@njit(cache=True)
def _pop(a, c, h, k):
    """Take the first agent off clock `k`."""
    heap = h[k]
    first = heap[0]
    c[k].agents -= 1
    n, at = c[k].agents, 0
    last = heap[n]
    while 2 * at + 1 < n:
        child = 2 * at + 1
        if child + 1 < n and _before(a, heap[child + 1], heap[child]):
            child += 1
        if not _before(a, heap[child], last):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = last
    _look(a, c, h, k)
    return first


@njit(cache=True)
def _look(a, c, h, k):
    """Work out when the first agent of clock `k` is due, in real time."""
    if c[k].agents == 0:
        c[k].next_s = np.inf
    else:
        c[k].next_s = c[k].at_s + max(a[h[k, 0]].due - c[k].value, 0.0) / c[k].pace


@njit(cache=True)
def _earliest(c):
    """Return the clock on which the next event is."""
    first = 0
    for k in range(1, c.size):
        if c[k].next_s < c[first].next_s:
            first = k
    return first


@njit(cache=True)
def _now(c, k, t):
    """Return what clock `k` shows at moment `t`."""
    return c[k].value + c[k].pace * (t - c[k].at_s)


@njit(cache=True)
def _ask(a, c, h, k, bytes_s, t):
    """Change what is asked of memory `k`; its clock runs slower while that is more than there is."""
    if k == WALL or bytes_s == 0:
        return
    c[k].demand += bytes_s
    pace = 1.0 if c[k].demand <= c[k].bandwidth else c[k].bandwidth / c[k].demand
    if pace != c[k].pace:
        c[k].value, c[k].at_s, c[k].pace = _now(c, k, t), t, pace
        _look(a, c, h, k)


# --- speeds --------------------------------------------------------------------------------------------


@njit(cache=True)
def _is_live(a, i):
    return a[i].phase == WORKING or a[i].phase == HELD


@njit(cache=True)
def _share_queue(a, members, cpus):
    """Give the live agents of a run queue their shares: by weight, but no more than one CPU each."""
    all_cpus, weight = cpus, 0.0
    for i in members:
        a[i].share = -1.0 if _is_live(a, i) else 0.0
        weight += a[i].weight if _is_live(a, i) else 0.0
    full = True
    while full:  # whoever deserves a whole CPU gets one; what is left is dealt out anew
        full = False
        for i in members:
            if a[i].share < 0 and a[i].weight * cpus >= weight:
                a[i].share = 1.0
                cpus, weight, full = cpus - 1.0, weight - a[i].weight, True
    for i in members:
        if a[i].share < 0:
            a[i].share = a[i].weight * cpus / weight
    _deal_gaps(a, members, all_cpus)


@njit(cache=True)
def _deal_gaps(a, members, cpus):
    """Give the gaps that busy threads leave, while they wait, to others that wait for their CPUs.

    Gaps are short and go to whoever waits at that very CPU, whatever its weight. A thread waits for as long
    as it does not run, behind one that has gaps; threads that wait are spread evenly over the CPUs.
    """
    gaps, takers = 0.0, 0
    for i in members:
        gaps += a[i].share * (1.0 - a[i].busy)
        takers += a[i].busy == 1.0 and 0.0 < a[i].share < 1.0
        a[i].share *= a[i].busy
    if gaps > 0 and takers > 0:
        for i in members:
            if a[i].busy == 1.0 and 0.0 < a[i].share < 1.0:
                a[i].share += (1.0 - a[i].share) * gaps / max(cpus, takers)


@njit(cache=True)
def _smt_factor(m, used):
    """Return how fast a hardware thread is when `used` of its node are busy; cores fill up first."""
    cores = m.cores_per_node
    if m.smt == 1 or used <= cores:
        return 1.0
    doubled = (used - cores) / (cores * (m.smt - 1.0))
    return cores * (1.0 + (m.smt_gain - 1.0) * doubled) / used


@njit(cache=True)
def _worker_speed(a, m, i, crowd):
    """Return the bytes per second of worker `i` on its memory, with `crowd` CPUs' worth of workers at it."""
    memory = a[i].memory - 1
    far = 1.0 if memory != a[i].node else 0.0
    if memory == m.nodes:  # spread over all nodes
        far = (m.nodes - 1.0) / m.nodes
    slower = (1.0 + far * (m.remote_penalty - 1.0)) * (1.0 + m.contention * max(crowd - 1.0, 0.0))
    return a[i].cpu * m.core_bandwidth / slower


@njit(cache=True)
def _account(a, c, i, t):
    """Book what agent `i` did since the last time."""
    if _is_live(a, i):
        a[i].used_s += a[i].share * (t - a[i].booked_s)
        a[i].booked_s = t
    if a[i].phase == WORKING:
        now = _now(c, a[i].memory, t)
        a[i].done += a[i].speed * (now - a[i].seen)
        a[i].seen = now


@njit(cache=True)
def _work_left(a, c, t):
    """Book what every agent did; return the work that each still has."""
    left = np.zeros(a.size)
    for i in range(a.size):
        _account(a, c, i, t)
        if a[i].phase == WORKING:
            left[i] = max(a[i].due - a[i].seen, 0.0) * a[i].speed
    return left


@njit(cache=True)
def _share_cpus(a, q, members, m):
    """Give every live agent its share of a CPU, less what its sibling takes; return the workers' sum."""
    for k in range(q.size - 1):
        if q[k].live:
            _share_queue(a, members[q[k].first : q[k + 1].first], q[k].cpus)
    used, crowd = np.zeros(m.nodes), 0.0
    for i in range(a.size):
        used[a[i].node] += a[i].share
        crowd += a[i].share if i < m.n_workers else 0.0
    for i in range(a.size):
        if _is_live(a, i):
            a[i].cpu = a[i].share * _smt_factor(m, used[a[i].node])
    return crowd


@njit(cache=True)
def _rescale(a, c, h, q, members, m, s):
    """Work out shares, speeds and clocks anew, because agents came, went or were reniced."""
    t = s[T]
    left = _work_left(a, c, t)
    s[CROWD] = _share_cpus(a, q, members, m)
    for k in range(c.size):
        c[k].value, c[k].at_s, c[k].demand, c[k].agents = t if k == WALL else _now(c, k, t), t, 0.0, 0
    for i in range(a.size):
        if a[i].phase == WORKING:
            at_memory = i < m.n_workers and a[i].memory != WALL
            a[i].speed = _worker_speed(a, m, i, s[CROWD]) if at_memory else a[i].cpu
            a[i].due = a[i].seen + left[i] / a[i].speed
            c[a[i].memory].demand += a[i].speed * a[i].traffic
    for k in range(1, c.size):
        c[k].pace = 1.0 if c[k].demand <= c[k].bandwidth else c[k].bandwidth / c[k].demand
    for i in range(a.size):
        if a[i].phase == WORKING or a[i].phase == HELD or a[i].phase == WAITING:
            _push(a, c, h, a[i].memory if a[i].phase == WORKING else WALL, i)


# --- what agents do ----------------------------------------------------------------------------------------


@njit(cache=True)
def _take_chunk(base, worker_index):
    """Take the next chunk as the engine does; return part, chunk and bounds, part -1 if there is none."""
    worker = worker_at(base, worker_index)
    part_index = load_plain(worker + WORKER.part)
    while True:
        part = part_at(base, part_index)
        chunk = fetch_add(part + PART.next_chunk, 1)
        if chunk < load_plain(part + PART.n_chunks):
            start, end = chunk_bounds(base, part, chunk)
            store(worker + WORKER.done, load_plain(worker + WORKER.done) + 1)
            return part_index, start, end
        part_index = other_part(base, worker)
        if part_index < 0:
            return part_index, 0, 0
        store(worker + WORKER.part, part_index)


@njit(cache=True)
def _work(a, c, h, i, memory, seconds, wait_s, t):
    """Have agent `i` work for `seconds` at its present speed, after a wait."""
    a[i].phase, a[i].memory = WORKING, memory
    a[i].seen = _now(c, memory, t)
    a[i].due = a[i].seen + wait_s * c[memory].pace + seconds
    _push(a, c, h, memory, i)


@njit(cache=True)
def _start_chunk(a, c, h, m, s, w, memory, size):
    """Have worker `w` work on a chunk of `size` bytes."""
    t, before, asked = s[T], a[w].memory, a[w].speed if a[w].phase == WORKING else 0.0
    a[w].memory = memory
    a[w].speed = _worker_speed(a, m, w, s[CROWD])
    if before != memory or asked != a[w].speed:
        _ask(a, c, h, before, -asked, t)
        _ask(a, c, h, memory, a[w].speed, t)
    work = float(size)
    if m.noise > 0:  # of mean 1
        work *= np.exp(m.noise * np.random.standard_normal() - m.noise * m.noise / 2)
    seconds = (1.0 - m.lock_share) * work / a[w].speed
    if m.chunk_cost_s > 0:
        seconds += m.chunk_cost_s / a[w].cpu
    if m.chunk_flush_s > 0:
        seconds += m.chunk_flush_s * max(s[CROWD] - 1.0, 0.0) / a[w].cpu
    slower = 1.0 + m.contention * max(s[CROWD] - 1.0, 0.0)  # who waits slows the one that holds it
    a[w].hold_s = m.lock_share * work / m.core_bandwidth * slower
    s[CLAIM_FREE] = max(t, s[CLAIM_FREE]) + m.claim_s
    _work(a, c, h, w, memory, seconds, s[CLAIM_FREE] - t, t)


@njit(cache=True)
def _take_lock(a, c, h, s, w):
    """Have worker `w` queue for the lock and hold it; nobody is preempted under it."""
    _ask(a, c, h, a[w].memory, -a[w].speed, s[T])
    _account(a, c, w, s[T])
    s[LOCK_FREE] = max(s[T], s[LOCK_FREE]) + a[w].hold_s
    a[w].phase, a[w].due = HELD, s[LOCK_FREE]
    _push(a, c, h, WALL, w)


@njit(cache=True)
def _arrive(a, c, h, q, nodes, m, s, i):
    """Have agent `i` begin: load with its work, the caller with what comes before the first chunk."""
    a[i].booked_s = s[T]
    a[i].share = a[i].cpu = a[i].speed = 1.0
    q[a[i].queue].live += 1
    nodes[a[i].node] += 1
    s[CROWD] += i < m.n_workers
    _mark_stale(a, q, nodes, m, s, i)
    if i == 0 or i >= m.n_workers:
        s[STALE] = 1.0  # to share what comes next
        _ask(a, c, h, a[i].memory, a[i].traffic, s[T])
        _work(a, c, h, i, a[i].memory, a[i].work, 0.0, s[T])


@njit(cache=True)
def _queue_helpers(a, c, h, m, s):
    """Have the caller queue its helpers, one after the other, and hold it up for as long."""
    for w in range(1, m.n_workers):
        a[w].phase, a[w].due = WAITING, s[T] + w * m.helper_queue_s + m.helper_start_s
        _push(a, c, h, WALL, w)
    a[0].phase, a[0].due = HELD, s[T] + (m.n_workers - 1) * m.helper_queue_s
    _push(a, c, h, WALL, 0)


@njit(cache=True)
def _leave(a, c, h, q, nodes, m, s, i):
    """Have agent `i` be over, and the caller, if it is, lend its priority to an unfinished helper."""
    _account(a, c, i, s[T])
    if a[i].phase == WORKING:
        _ask(a, c, h, a[i].memory, -a[i].speed * a[i].traffic, s[T])
    _mark_stale(a, q, nodes, m, s, i)
    s[CROWD] -= a[i].share if i < m.n_workers else 0.0
    a[i].phase, a[i].end_s, a[i].share = OVER, s[T], 0.0
    q[a[i].queue].live -= 1
    nodes[a[i].node] -= 1
    if i >= m.n_workers:
        s[LOADS_LEFT] -= 1
        return
    s[WORKERS_LEFT] -= 1
    if m.hand_over and a[0].phase == OVER:
        _lend_priority(a, m, s)


@njit(cache=True)
def _end_round(a, c, h, q, nodes, m, s, i):
    """Have load thread `i` sleep after its round; the last one does what one does alone and wakes all."""
    _account(a, c, i, s[T])
    is_last = True
    for j in range(m.n_workers, a.size):
        is_last = is_last and (j == i or a[j].entry != a[i].entry or a[j].phase >= ASLEEP)
    if not is_last:
        a[i].phase, a[i].share, s[STALE] = ASLEEP, 0.0, 1.0
        q[a[i].queue].live -= 1
        nodes[a[i].node] -= 1
    elif a[i].pause > 0 and a[i].alone == 0:
        a[i].alone = 1
        _work(a, c, h, i, a[i].memory, a[i].pause / a[i].speed, 0.0, s[T])
    else:
        a[i].alone = 0
        for j in range(m.n_workers, a.size):
            if j == i or (a[j].entry == a[i].entry and a[j].phase == ASLEEP):
                _begin_round(a, c, h, q, nodes, m, s, j)


@njit(cache=True)
def _begin_round(a, c, h, q, nodes, m, s, i):
    """Have load thread `i` begin its next round, or leave after the last."""
    if a[i].phase == ASLEEP:
        a[i].phase, a[i].speed, a[i].booked_s, s[STALE] = WORKING, 1.0, s[T], 1.0
        a[i].seen = _now(c, a[i].memory, s[T])
        q[a[i].queue].live += 1
        nodes[a[i].node] += 1
        _ask(a, c, h, a[i].memory, a[i].traffic, s[T])
    a[i].rounds -= 1
    if a[i].rounds == 0:
        _leave(a, c, h, q, nodes, m, s, i)
    else:
        _work(a, c, h, i, a[i].memory, a[i].work / a[i].speed, 0.0, s[T])


@njit(cache=True)
def _lend_priority(a, m, s):
    """Give the caller's weight to the first unfinished helper: exactly one thread of the task runs at it."""
    for w in range(1, m.n_workers):
        if a[w].phase != OVER:
            if a[w].weight != a[0].weight:
                a[w].weight, s[STALE] = a[0].weight, 1.0
            return


@njit(cache=True)
def _mark_stale(a, q, nodes, m, s, i):
    """Remember to work out speeds anew if the coming or going of agent `i` changes those of others."""
    crowded = q[a[i].queue].live > q[a[i].queue].cpus
    doubled = m.smt > 1 and nodes[a[i].node] > m.cores_per_node
    if crowded or doubled or (i < m.n_workers and m.contention + m.chunk_flush_s > 0):
        s[STALE] = 1.0


@njit(cache=True)
def _next_chunk(base, part_memory, a, c, h, m, s, w, trace):
    """Have worker `w` take a chunk; return whether there was one."""
    if a[w].row >= 0:
        trace[a[w].row, 5] = s[T]
    part, start, end = _take_chunk(base, w)
    if part < 0:
        return False
    if trace.shape[0] > 0:
        row = a[w].row = int(s[CHUNKS])
        trace[row, 0], trace[row, 1], trace[row, 2], trace[row, 3], trace[row, 4] = part, w, start, end, s[T]
    s[CHUNKS] += 1
    _start_chunk(a, c, h, m, s, w, part_memory[part], end - start)
    return True


@njit(cache=True)
def _step(base, part_memory, a, c, h, q, nodes, m, s, i, trace):
    """Have agent `i`, whose moment has come, do what is next for it."""
    is_worker, phase = i < m.n_workers, a[i].phase
    if phase == WAITING:
        _arrive(a, c, h, q, nodes, m, s, i)
        if i == 0 or not is_worker:
            return
    elif not is_worker and (a[i].rounds > 1 or a[i].pause > 0):
        _end_round(a, c, h, q, nodes, m, s, i)
        return
    elif is_worker and phase == WORKING and a[i].memory == WALL:
        _queue_helpers(a, c, h, m, s)
        return
    elif is_worker and phase == WORKING and a[i].hold_s > 0:
        _take_lock(a, c, h, s, i)
        return
    if not (is_worker and _next_chunk(base, part_memory, a, c, h, m, s, i, trace)):
        _leave(a, c, h, q, nodes, m, s, i)


@njit(cache=True)
def run(base, part_memory, a, c, h, q, members, nodes, m, trace, seed):
    """Run the task whose engine state lies at `base`; the arrays of the agents hold what came of it.

    Parameters
    ----------
    base
        Address of a state of the engine (`ktask.engine.layout.State`).
    part_memory
        Clock of the memory that each part lies on: 0 is real time, then the nodes, then all of them.
    a, c, q
        Agents (`AGENT`), clocks (`CLOCK`) and run queues (`QUEUE`).
    h
        Room for the heaps: clocks by agents.
    members
        Agents in order of their run queues.
    nodes
        Agents on each node that have begun and are not over; zeros.
    m
        The machine in numbers.
    trace
        Room for one row per chunk, or for none.
    seed
        Of the noise.

    Returns
    -------
    int
        Number of events, or -1 if the task can never end.
    """
    np.random.seed(seed)
    s = np.zeros(8)
    s[CLAIM_FREE] = s[LOCK_FREE] = -np.inf
    s[WORKERS_LEFT], s[LOADS_LEFT] = m.n_workers, a.size - m.n_workers
    for i in range(a.size):
        if a[i].phase == WAITING:
            _push(a, c, h, WALL, i)
    events = 0
    while s[WORKERS_LEFT] > 0 or (m.loads_to_end and s[LOADS_LEFT] > 0):
        k = _earliest(c)
        if s[STALE] and c[k].next_s > s[T]:  # before time goes on
            s[STALE] = 0.0
            _rescale(a, c, h, q, members, m, s)
            continue
        if not c[k].next_s < np.inf:
            return -1
        s[T] = c[k].next_s
        i = _pop(a, c, h, k)
        events += 1
        _step(base, part_memory, a, c, h, q, nodes, m, s, i, trace)
    for i in range(a.size):
        _account(a, c, i, s[T])
    return events
