"""The command `ktask` from its first moment: a library that cannot be loaded is one line."""

import os
import resource
import stat
import sys
from typing import NoReturn

LAB = "the command needs the lab: `pip install 'ktask[lab]'`"
STEP = "raise the limit on memory if there is one (`ulimit -v`), or repair the environment (`make setup`)"

# What this process must be allowed: with less data, OpenBLAS tries without end to get its buffers; with fewer
# files, the libraries that run notebooks fail each in a way of its own.
LEAST = (
    (resource.RLIMIT_DATA, 192 << 20, "bytes of data", "ulimit -d"),
    (resource.RLIMIT_NOFILE, 128, "open files", "ulimit -n"),
)


def main() -> None:
    """Load the command line, which takes a tenth of a second, and run it."""
    _require_standard_files()
    _require_limits()
    os.umask(os.umask(stat.S_IWOTH) | stat.S_IWOTH)  # runs and reports are for no other user to change
    try:
        from ktask.cli.app import main as run  # noqa: PLC0415
    except KeyboardInterrupt:
        _end("interrupted; nothing is left behind", 130)
    except (ImportError, MemoryError, OSError, SystemError) as error:
        _end(_message(error), 1)
    try:
        run()
    except ImportError as error:  # of what a verb loads
        _end(_message(error), 1)


def _require_standard_files() -> None:
    """Fill the places of closed standard files; else a file opened later gets the output."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")
    if sys.stdout is None:
        _end("stdout is closed, so the result has no place; send it to a file, or to /dev/null", 2)


def _require_limits() -> None:
    for which, least, what, how in LEAST:
        limit = resource.getrlimit(which)[0]
        if 0 <= limit < least:  # it is -1 if there is none
            _end(f"{limit} {what} are too few, ktask needs {least}; raise the limit (`{how}`)", 1)


def _message(error: Exception) -> str:
    step = LAB if isinstance(error, ModuleNotFoundError) else STEP
    return f"a library cannot be loaded: {str(error) or 'memory has run out'}; {step}"


def _end(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"ktask: {' '.join(message.split())}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
