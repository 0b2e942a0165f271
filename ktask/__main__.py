"""The command `ktask` from its first moment: a library that cannot be loaded is one line."""

import sys
from typing import NoReturn

LAB = "the command needs the lab: `pip install 'ktask[lab]'`"
STEP = "raise the limit on memory if there is one (`ulimit -v`), or repair the environment (`make setup`)"


def main() -> None:
    """Load the command line, which takes a tenth of a second, and run it."""
    try:
        from ktask.cli.app import main as run  # noqa: PLC0415
    except KeyboardInterrupt:
        _end("interrupted; nothing is left behind", 130)
    except (ImportError, MemoryError, OSError) as error:
        _end(_message(error), 1)
    try:
        run()
    except ImportError as error:  # of what a verb loads
        _end(_message(error), 1)


def _message(error: Exception) -> str:
    step = LAB if isinstance(error, ModuleNotFoundError) else STEP
    return f"a library cannot be loaded: {str(error) or 'memory has run out'}; {step}"


def _end(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"ktask: {' '.join(message.split())}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
