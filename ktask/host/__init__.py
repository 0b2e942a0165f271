"""The machine: what this process may use, facts for `machine.json`, checks before measuring, counters."""
