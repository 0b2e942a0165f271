"""The machine that is measured; every reader takes the `root` of its ``proc`` and ``sys``.

`topology` says which CPUs, caches and nodes this process may use (`cpu_count`, `read_topology`);
`control_groups` its quotas, `available_memory` and `node_memory` its memory and huge pages. All of them read
by `kernel_files`. `facts.machine_facts` describes the machine for ``machine.json``. `doctor.diagnose` finds
what would disturb a measurement, and `counters` (`sample_state`, `state_flags`) what did disturb a
repetition. `perf` and `kernel_counters` see where the threads of a task spend their time.
"""
