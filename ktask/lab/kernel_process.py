"""The program of a kernel that opens no port at all.

IPython's own keeps one open on the loopback interface, for the output of forked children. Here such a child
must not print.
"""

from ipykernel import kernelapp


class _WithoutPipe(kernelapp.IOPubThread):
    def __init__(self, socket, pipe=False, **options):
        super().__init__(socket, pipe=False, **options)


if __name__ == "__main__":
    kernelapp.IOPubThread = _WithoutPipe
    kernelapp.launch_new_instance()
