"""The parent of generators of load: starts them, and ends them when its standard input ends.

That is when the process that has started it closes the pipe, or ends in whatever way. The generators end with
their parent: the kernel kills them.
"""

import json
import os
import signal
import sys

import numpy as np

from ktask.common import children
from ktask.lab.conditions.generators import ROW, generate
from ktask.lab.conditions.load import rows_in, run
from ktask.workloads.conditions import Load


def main() -> int:
    """Start generators, and wait for the end of the input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that has started this one
    file, load, cpus = json.loads(sys.argv[1])
    rows, own = rows_in(file, len(cpus)), os.getpid()
    nothing = np.zeros(1, ROW)
    nothing["stop"] = 1
    generate(nothing.ctypes.data, 0, np.zeros(1, np.int64), 1.0, 0.0)  # compiled, or loaded, once for all
    signal.signal(signal.SIGCHLD, lambda *_: os._exit(1))  # without one of them it is another load
    pids = [start(rows, k, Load(*load), cpu, own) for k, cpu in enumerate(cpus)]
    sys.stdin.buffer.read()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return 0


def start(rows, k: int, load: Load, cpu: int, own: int) -> int:
    """Fork generator `k`; return its process number."""
    if pid := os.fork():
        return pid
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    children.die_with(own)
    run(rows, k, load, cpu)
    os._exit(1)  # it ends by being killed, or after an error that its row has


if __name__ == "__main__":
    sys.exit(main())
