"""A process that measures one case once, and ends with its parent (`ktask.lab.measure.processes`).

It reads what to measure from standard input and writes the measurement to standard output, both pickled; they
come from the parent alone.
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C reaches parent and child; the parent says so
    import os
    import pickle
    import sys

    from ktask.common import children
    from ktask.lab.measure.cell import measure_case

    children.die_with(int(sys.argv[1]))
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else is printed is no answer
    case, threads, protocol, how = pickle.load(sys.stdin.buffer)  # noqa: S301 - written by our own parent
    found: object
    try:
        found = measure_case(case, threads, protocol, **how)
    except Exception as error:
        found = error.with_traceback(None)
    with answer:
        pickle.dump(found, answer)
