"""The machine that is measured; every reader takes the `root` of its ``proc`` and ``sys``.

`topology` says what this process may use: CPUs, quotas, nodes, caches, memory (`cpu_count`, `read_topology`,
`available_memory_bytes`). `facts.machine_facts` describes the machine for ``machine.json``.
`doctor.diagnose` finds what would disturb a measurement, and `counters` (`sample_state`, `state_flags`) what
did disturb a repetition.
"""
