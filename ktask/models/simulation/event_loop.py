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

from ktask.engine.compiled import compiled
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
Costs = namedtuple(  # type: ignore[misc]  # the names follow from the description
    "Costs", (*FIGURES, "nodes", "cores_per_node", "smt", "n_workers", "hand_over", "loads_to_end")
)


# Numbers that change as the run goes on, in one array.
# ACTIVE_WORKERS: CPUs' worth of workers at work; STALE: whether speeds are to be worked out anew.
(NOW, ACTIVE_WORKERS, CLAIM_FREE, LOCK_FREE, STALE, CHUNKS, WORKERS_LEFT, LOADS_LEFT) = range(8)


# --- heaps and clocks --------------------------------------------------------------------------------------


@compiled
def _is_before(agents, first, second):
    """Order agents by when they are due; among equals, the lower number comes first."""
    return (agents[first].due, first) < (agents[second].due, second)


@compiled
def _push(agents, clocks, heaps, index, agent):
    """Put agent `agent` on clock `index`."""
    clock = clocks[index]
    heap, at = heaps[index], clock.agents
    clock.agents += 1
    while at > 0 and _is_before(agents, agent, heap[(at - 1) >> 1]):
        heap[at] = heap[(at - 1) >> 1]
        at = (at - 1) >> 1
    heap[at] = agent
    if at == 0:
        _schedule(agents, clocks, heaps, index)


@compiled
def _pop(agents, clocks, heaps, index):
    """Take the first agent off clock `index`."""
    clock = clocks[index]
    heap = heaps[index]
    first = heap[0]
    clock.agents -= 1
    n, at = clock.agents, 0
    last = heap[n]
    while 2 * at + 1 < n:
        child = 2 * at + 1
        if child + 1 < n and _is_before(agents, heap[child + 1], heap[child]):
            child += 1
        if not _is_before(agents, heap[child], last):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = last
    _schedule(agents, clocks, heaps, index)
    return first


@compiled
def _schedule(agents, clocks, heaps, index):
    """Compute when the first agent of clock `index` is due, in real time."""
    clock = clocks[index]
    if clock.agents == 0:
        clock.next_s = np.inf
    else:
        clock.next_s = clock.at_s + max(agents[heaps[index, 0]].due - clock.value, 0.0) / clock.pace


@compiled
def _earliest(clocks):
    """Return the clock on which the next event is."""
    first = 0
    for k in range(1, clocks.size):
        if clocks[k].next_s < clocks[first].next_s:
            first = k
    return first


@compiled
def _now(clocks, index, now_s):
    """Return what clock `index` shows at moment `now_s`."""
    clock = clocks[index]
    return clock.value + clock.pace * (now_s - clock.at_s)


@compiled
def _pace(clocks, index):
    """Return how fast clock `index` runs while its memory has to serve its demand."""
    clock = clocks[index]
    return 1.0 if clock.demand <= clock.bandwidth else clock.bandwidth / clock.demand


@compiled
def _ask(agents, clocks, heaps, index, bytes_s, now_s):
    """Change what is asked of memory `index`; its clock runs slower while that is more than there is."""
    clock = clocks[index]
    if index == WALL or bytes_s == 0:
        return
    clock.demand += bytes_s
    pace = _pace(clocks, index)
    if pace != clock.pace:
        clock.value, clock.at_s, clock.pace = _now(clocks, index, now_s), now_s, pace
        _schedule(agents, clocks, heaps, index)


# --- speeds --------------------------------------------------------------------------------------------


@compiled
def _is_live(agents, agent):
    return agents[agent].phase == WORKING or agents[agent].phase == HELD


@compiled
def _share_queue(agents, members, cpus):
    """Give the live agents of a run queue their shares: by weight, but no more than one CPU each."""
    all_cpus, weight = cpus, 0.0
    for i in members:
        agents[i].share = -1.0 if _is_live(agents, i) else 0.0
        weight += agents[i].weight if _is_live(agents, i) else 0.0
    full = True
    while full:  # whoever deserves a whole CPU gets one; the rest is divided again
        full = False
        for i in members:
            agent = agents[i]
            if agent.share < 0 and agent.weight * cpus >= weight:
                agent.share = 1.0
                cpus, weight, full = cpus - 1.0, weight - agent.weight, True
    for i in members:
        if agents[i].share < 0:
            agents[i].share = agents[i].weight * cpus / weight
    _fill_gaps(agents, members, all_cpus)


@compiled
def _fill_gaps(agents, members, cpus):
    """Give the gaps that busy threads leave, while they wait, to others that wait for their CPUs.

    Gaps are short and go to whoever waits at that very CPU, whatever its weight. A thread waits for as long
    as it does not run, behind one that has gaps; threads that wait are spread evenly over the CPUs.
    """
    gaps, takers = 0.0, 0
    for i in members:
        agent = agents[i]
        gaps += agent.share * (1.0 - agent.busy)
        takers += agent.busy == 1.0 and 0.0 < agent.share < 1.0
        agent.share *= agent.busy
    if gaps > 0 and takers > 0:
        for i in members:
            agent = agents[i]
            if agent.busy == 1.0 and 0.0 < agent.share < 1.0:
                agent.share += (1.0 - agent.share) * gaps / max(cpus, takers)


@compiled
def _smt_factor(costs, used):
    """Return how fast a hardware thread is when `used` of its node are busy; cores fill up first."""
    cores = costs.cores_per_node
    if costs.smt == 1 or used <= cores:
        return 1.0
    doubled = (used - cores) / (cores * (costs.smt - 1.0))
    return cores * (1.0 + (costs.smt_gain - 1.0) * doubled) / used


@compiled
def _worker_speed(agents, costs, index, active_workers):
    """Return the bytes per second of worker `index` on its memory, beside all the active workers."""
    agent = agents[index]
    memory = agent.memory - 1
    far = 1.0 if memory != agent.node else 0.0
    if memory == costs.nodes:  # spread over all nodes
        far = (costs.nodes - 1.0) / costs.nodes
    farther = 1.0 + far * (costs.remote_penalty - 1.0)
    return agent.cpu * costs.core_bandwidth / (farther * _contention(costs, active_workers))


@compiled
def _contention(costs, active_workers):
    """Return the factor by which the other active workers slow each one."""
    return 1.0 + costs.contention * max(active_workers - 1.0, 0.0)


@compiled
def _account(agents, clocks, index, now_s):
    """Book what agent `index` did since the last time."""
    agent = agents[index]
    if _is_live(agents, index):
        agent.used_s += agent.share * (now_s - agent.booked_s)
        agent.booked_s = now_s
    if agent.phase == WORKING:
        now = _now(clocks, agent.memory, now_s)
        agent.done += agent.speed * (now - agent.seen)
        agent.seen = now


@compiled
def _work_left(agents, clocks, now_s):
    """Book what every agent did; return the work that each still has."""
    left = np.zeros(agents.size)
    for i in range(agents.size):
        _account(agents, clocks, i, now_s)
        if agents[i].phase == WORKING:
            left[i] = max(agents[i].due - agents[i].seen, 0.0) * agents[i].speed
    return left


@compiled
def _share_cpus(agents, queues, members, costs):
    """Give every live agent its share of a CPU, less what its sibling takes; return the workers' sum."""
    for k in range(queues.size - 1):
        if queues[k].live:
            _share_queue(agents, members[queues[k].first : queues[k + 1].first], queues[k].cpus)
    used, active_workers = np.zeros(costs.nodes), 0.0
    for i in range(agents.size):
        used[agents[i].node] += agents[i].share
        active_workers += agents[i].share if i < costs.n_workers else 0.0
    for i in range(agents.size):
        if _is_live(agents, i):
            agents[i].cpu = agents[i].share * _smt_factor(costs, used[agents[i].node])
    return active_workers


@compiled
def _rescale(agents, clocks, heaps, queues, members, costs, state):
    """Work out shares, speeds and clocks anew, because agents came, went or were reniced."""
    now_s = state[NOW]
    left = _work_left(agents, clocks, now_s)
    state[ACTIVE_WORKERS] = _share_cpus(agents, queues, members, costs)
    for k in range(clocks.size):
        clock = clocks[k]
        clock.value = now_s if k == WALL else _now(clocks, k, now_s)
        clock.at_s, clock.demand, clock.agents = now_s, 0.0, 0
    for i in range(agents.size):
        agent = agents[i]
        if agent.phase == WORKING:
            agent.speed = agent.cpu
            if i < costs.n_workers and agent.memory != WALL:
                agent.speed = _worker_speed(agents, costs, i, state[ACTIVE_WORKERS])
            agent.due = agent.seen + left[i] / agent.speed
            clocks[agent.memory].demand += agent.speed * agent.traffic
    for k in range(1, clocks.size):
        clocks[k].pace = _pace(clocks, k)
    for i in range(agents.size):
        if WAITING <= agents[i].phase <= HELD:
            _push(agents, clocks, heaps, agents[i].memory if agents[i].phase == WORKING else WALL, i)


# --- what agents do ----------------------------------------------------------------------------------------


@compiled
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


@compiled
def _work(agents, clocks, heaps, index, memory, seconds, wait_s, now_s):
    """Have agent `index` work for `seconds` at its present speed, after a wait."""
    agent = agents[index]
    agent.phase, agent.memory = WORKING, memory
    agent.seen = _now(clocks, memory, now_s)
    agent.due = agent.seen + wait_s * clocks[memory].pace + seconds
    _push(agents, clocks, heaps, memory, index)


@compiled
def _start_chunk(agents, clocks, heaps, costs, state, index, memory, size):
    """Have worker `index` work on a chunk of `size` bytes."""
    worker = agents[index]
    now_s, before = state[NOW], worker.memory
    asked = worker.speed if worker.phase == WORKING else 0.0
    worker.memory = memory
    worker.speed = _worker_speed(agents, costs, index, state[ACTIVE_WORKERS])
    if before != memory or asked != worker.speed:
        _ask(agents, clocks, heaps, before, -asked, now_s)
        _ask(agents, clocks, heaps, memory, worker.speed, now_s)
    work = float(size)
    if costs.noise > 0:  # of mean 1
        work *= np.exp(costs.noise * np.random.standard_normal() - costs.noise * costs.noise / 2)
    seconds = (1.0 - costs.lock_share) * work / worker.speed
    if costs.chunk_cost_s > 0:
        seconds += costs.chunk_cost_s / worker.cpu
    if costs.chunk_flush_s > 0:
        seconds += costs.chunk_flush_s * max(state[ACTIVE_WORKERS] - 1.0, 0.0) / worker.cpu
    slower = _contention(costs, state[ACTIVE_WORKERS])  # who waits slows the one that holds it
    worker.hold_s = costs.lock_share * work / costs.core_bandwidth * slower
    state[CLAIM_FREE] = max(now_s, state[CLAIM_FREE]) + costs.claim_s
    _work(agents, clocks, heaps, index, memory, seconds, state[CLAIM_FREE] - now_s, now_s)


@compiled
def _take_lock(agents, clocks, heaps, state, index):
    """Have worker `index` queue for the lock and hold it; nobody is preempted under it."""
    worker = agents[index]
    _ask(agents, clocks, heaps, worker.memory, -worker.speed, state[NOW])
    _account(agents, clocks, index, state[NOW])
    state[LOCK_FREE] = max(state[NOW], state[LOCK_FREE]) + worker.hold_s
    worker.phase, worker.due = HELD, state[LOCK_FREE]
    _push(agents, clocks, heaps, WALL, index)


@compiled
def _arrive(agents, clocks, heaps, queues, nodes, costs, state, index):
    """Have agent `index` begin: load with its work, the caller with what comes before the first chunk."""
    agent = agents[index]
    agent.booked_s = state[NOW]
    agent.share = agent.cpu = agent.speed = 1.0
    queues[agent.queue].live += 1
    nodes[agent.node] += 1
    state[ACTIVE_WORKERS] += index < costs.n_workers
    _mark_stale(agents, queues, nodes, costs, state, index)
    if index == 0 or index >= costs.n_workers:
        state[STALE] = 1.0  # to share what comes next
        _ask(agents, clocks, heaps, agent.memory, agent.traffic, state[NOW])
        _work(agents, clocks, heaps, index, agent.memory, agent.work, 0.0, state[NOW])


@compiled
def _queue_helpers(agents, clocks, heaps, costs, state):
    """Have the caller queue its helpers, one after the other, and hold it up for as long."""
    for w in range(1, costs.n_workers):
        agents[w].phase = WAITING
        agents[w].due = state[NOW] + w * costs.helper_queue_s + costs.helper_start_s
        _push(agents, clocks, heaps, WALL, w)
    agents[0].phase, agents[0].due = HELD, state[NOW] + (costs.n_workers - 1) * costs.helper_queue_s
    _push(agents, clocks, heaps, WALL, 0)


@compiled
def _leave(agents, clocks, heaps, queues, members, nodes, costs, state, index):
    """Have agent `index` be over, and the caller, if it is, lend its priority to an unfinished helper."""
    agent = agents[index]
    _account(agents, clocks, index, state[NOW])
    if agent.phase == WORKING:
        _ask(agents, clocks, heaps, agent.memory, -agent.speed * agent.traffic, state[NOW])
    _mark_stale(agents, queues, nodes, costs, state, index)
    state[ACTIVE_WORKERS] -= agent.share if index < costs.n_workers else 0.0
    agent.phase, agent.end_s, agent.share = OVER, state[NOW], 0.0
    queues[agent.queue].live -= 1
    nodes[agent.node] -= 1
    _pull_load(agents, queues, members, costs, state, index)
    if index >= costs.n_workers:
        state[LOADS_LEFT] -= 1
        return
    state[WORKERS_LEFT] -= 1
    if costs.hand_over and agents[0].phase == OVER:
        _lend_priority(agents, costs, state)


@compiled
def _pull_load(agents, queues, members, costs, state, index):
    """Have load that shares a CPU move to the CPU that agent `index`, which is over, leaves idle.

    The kernel does so when a CPU goes idle; here within a node. Workers are pinned, and stay.
    """
    gone = agents[index]
    if queues[gone.queue].cpus > 1 or queues[gone.queue].live > 0:
        return
    for i in range(costs.n_workers, agents.size):
        load = agents[i]
        if load.node == gone.node and _is_live(agents, i) and queues[load.queue].live > 1:
            queues[load.queue].live -= 1
            queues[gone.queue].live += 1
            _swap_queues(agents, members, index, i)
            state[STALE] = 1.0
            return


@compiled
def _swap_queues(agents, members, first, second):
    """Have two agents change their places in the run queues."""
    queue = agents[first].queue
    agents[first].queue, agents[second].queue = agents[second].queue, queue
    for slot in range(members.size):
        if members[slot] == first:
            members[slot] = second
        elif members[slot] == second:
            members[slot] = first


@compiled
def _end_round(agents, clocks, heaps, queues, members, nodes, costs, state, index):
    """Have load thread `index` sleep after its round; the last one does what one does alone and wakes all."""
    agent = agents[index]
    _account(agents, clocks, index, state[NOW])
    is_last = True
    for j in range(costs.n_workers, agents.size):
        is_last = is_last and (j == index or agents[j].entry != agent.entry or agents[j].phase >= ASLEEP)
    if not is_last:
        agent.phase, agent.share, state[STALE] = ASLEEP, 0.0, 1.0
        queues[agent.queue].live -= 1
        nodes[agent.node] -= 1
    elif agent.pause > 0 and agent.alone == 0:
        agent.alone = 1
        pause_s = agent.pause / agent.speed
        _work(agents, clocks, heaps, index, agent.memory, pause_s, 0.0, state[NOW])
    else:
        agent.alone = 0
        for j in range(costs.n_workers, agents.size):
            if j == index or (agents[j].entry == agent.entry and agents[j].phase == ASLEEP):
                _begin_round(agents, clocks, heaps, queues, members, nodes, costs, state, j)


@compiled
def _begin_round(agents, clocks, heaps, queues, members, nodes, costs, state, index):
    """Have load thread `index` begin its next round, or leave after the last."""
    agent = agents[index]
    if agent.phase == ASLEEP:
        agent.phase, agent.speed, agent.booked_s, state[STALE] = WORKING, 1.0, state[NOW], 1.0
        agent.seen = _now(clocks, agent.memory, state[NOW])
        queues[agent.queue].live += 1
        nodes[agent.node] += 1
        _ask(agents, clocks, heaps, agent.memory, agent.traffic, state[NOW])
    agent.rounds -= 1
    if agent.rounds == 0:
        _leave(agents, clocks, heaps, queues, members, nodes, costs, state, index)
    else:
        round_s = agent.work / agent.speed
        _work(agents, clocks, heaps, index, agent.memory, round_s, 0.0, state[NOW])


@compiled
def _lend_priority(agents, costs, state):
    """Give the caller's weight to the first unfinished helper: exactly one thread of the task runs at it."""
    for w in range(1, costs.n_workers):
        if agents[w].phase != OVER:
            if agents[w].weight != agents[0].weight:
                agents[w].weight, state[STALE] = agents[0].weight, 1.0
            return


@compiled
def _mark_stale(agents, queues, nodes, costs, state, index):
    """Remember to work out speeds anew if the coming or going of agent `index` changes those of others."""
    agent = agents[index]
    crowded = queues[agent.queue].live > queues[agent.queue].cpus
    doubled = costs.smt > 1 and nodes[agent.node] > costs.cores_per_node
    if crowded or doubled or (index < costs.n_workers and costs.contention + costs.chunk_flush_s > 0):
        state[STALE] = 1.0


@compiled
def _next_chunk(base, part_memory, agents, clocks, heaps, costs, state, index, trace):
    """Have worker `index` take a chunk; return whether there was one."""
    worker = agents[index]
    if worker.row >= 0:
        trace[worker.row, 5] = state[NOW]
    part, start, end = _take_chunk(base, index)
    if part < 0:
        return False
    if trace.shape[0] > 0:
        row = worker.row = int(state[CHUNKS])
        trace[row, 0], trace[row, 1], trace[row, 2], trace[row, 3] = part, index, start, end
        trace[row, 4] = state[NOW]
    state[CHUNKS] += 1
    _start_chunk(agents, clocks, heaps, costs, state, index, part_memory[part], end - start)
    return True


@compiled
def _step(base, part_memory, agents, clocks, heaps, queues, members, nodes, costs, state, index, trace):
    """Have agent `index`, whose moment has come, do what is next for it."""
    agent = agents[index]
    is_worker, phase = index < costs.n_workers, agent.phase
    if phase == WAITING:
        _arrive(agents, clocks, heaps, queues, nodes, costs, state, index)
        if index == 0 or not is_worker:
            return
    elif not is_worker and (agent.rounds > 1 or agent.pause > 0):
        _end_round(agents, clocks, heaps, queues, members, nodes, costs, state, index)
        return
    elif is_worker and phase == WORKING and agent.memory == WALL:
        _queue_helpers(agents, clocks, heaps, costs, state)
        return
    elif is_worker and phase == WORKING and agent.hold_s > 0:
        _take_lock(agents, clocks, heaps, state, index)
        return
    if not (is_worker and _next_chunk(base, part_memory, agents, clocks, heaps, costs, state, index, trace)):
        _leave(agents, clocks, heaps, queues, members, nodes, costs, state, index)


@compiled
def run(base, part_memory, agents, clocks, heaps, queues, members, nodes, costs, trace, seed):
    """Run the task whose engine state lies at `base`; the arrays of the agents hold what came of it.

    Parameters
    ----------
    base
        Address of a state of the engine (`ktask.engine.layout.State`).
    part_memory
        Clock of the memory that each part lies on: 0 is real time, then the nodes, then all of them.
    agents, clocks, queues
        Records of `AGENT`, `CLOCK` and `QUEUE`.
    heaps
        Room for the heaps: clocks by agents.
    members
        Agents in order of their run queues.
    nodes
        Agents on each node that have begun and are not over; zeros.
    costs
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
    state = np.zeros(8)
    state[CLAIM_FREE] = state[LOCK_FREE] = -np.inf
    state[WORKERS_LEFT], state[LOADS_LEFT] = costs.n_workers, agents.size - costs.n_workers
    for i in range(agents.size):
        if agents[i].phase == WAITING:
            _push(agents, clocks, heaps, WALL, i)
    events = 0
    while state[WORKERS_LEFT] > 0 or (costs.loads_to_end and state[LOADS_LEFT] > 0):
        clock = _earliest(clocks)
        if state[STALE] and clocks[clock].next_s > state[NOW]:  # before time goes on
            state[STALE] = 0.0
            _rescale(agents, clocks, heaps, queues, members, costs, state)
            continue
        if not clocks[clock].next_s < np.inf:
            return -1
        state[NOW] = clocks[clock].next_s
        i = _pop(agents, clocks, heaps, clock)
        events += 1
        _step(base, part_memory, agents, clocks, heaps, queues, members, nodes, costs, state, i, trace)
    for i in range(agents.size):
        _account(agents, clocks, i, state[NOW])
    return events
