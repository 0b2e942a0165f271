"""The command `ktask` from its first moment: what goes wrong while libraries are loaded is told in a line."""

import sys
from typing import NoReturn

STEP = "raise the limit on memory if there is one (`ulimit -v`), or repair the environment (`make setup`)"


def main() -> None:
    """Load the command line, which takes a tenth of a second, and run it."""
    try:
        from ktask.cli import main as run  # noqa: PLC0415

        run()
    except KeyboardInterrupt:
        _end("interrupted; nothing is left behind", 130)
    except (ImportError, MemoryError, OSError) as error:
        _end(f"a library cannot be loaded: {str(error) or 'memory has run out'}; {STEP}", 1)


def _end(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"ktask: {' '.join(message.split())}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
