"""The program of a kernel that opens no port at all.

IPython's own keeps one open on the loopback interface, for the output of forked children. Here such a child
must not print.
"""

from __future__ import annotations

import sys

from ipykernel import kernelapp


class _WithoutPipe(kernelapp.IOPubThread):
    def __init__(self, socket, pipe=False, **options):
        super().__init__(socket, pipe=False, **options)


def run(connection_file: str) -> None:
    """Be a kernel until killed; nobody types here, so no history is kept."""
    kernelapp.IOPubThread = _WithoutPipe  # type: ignore[misc, assignment]
    # The parent is watched by the operating system already; 1 means: no thread of ipykernel's own for it.
    options = ["--IPKernelApp.parent_handle=1", "--HistoryManager.enabled=False"]
    kernelapp.launch_new_instance(argv=["-f", connection_file, *options])


if __name__ == "__main__":
    run(sys.argv[1])
