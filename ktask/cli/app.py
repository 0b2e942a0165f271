"""The command line: each verb is a file beside this one, a thin layer over a Python call."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import typer

from ktask.cli import (
    compare,
    doctor,
    import_results,
    predict,
    profile,
    report,
    reproducer,
    run,
    simulate,
    sweep,
    vectors,
)
from ktask.cli.base import BAD_INPUT, FOUND, INTERRUPTED, OK, fail
from ktask.lab.sweep.warm_process import keep_from_threads

app = typer.Typer(
    help="Would multithreading the kernel's big memory paths pay on this machine?",
    epilog="Start with `ktask doctor`, then `ktask run zeroing --size 1GiB --threads 2`, then `make report`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for verb in (
    doctor,
    run,
    sweep,
    report,
    profile,
    compare,
    import_results,
    reproducer,
    vectors,
    predict,
    simulate,
):  # in the order of the help
    name = verb.__name__.rpartition(".")[2]
    epilog = "\n".join(["Examples:\n\n\b", *(f"  {line}" for line in verb.EXAMPLES)])
    app.command(getattr(verb, "NAME", name), epilog=epilog)(getattr(verb, name))


def _interrupt_again(lost: Any) -> None:
    """Repeat Ctrl-C that came while compiled code had called Python, where an exception is lost."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        threading.Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()
    else:
        sys.__unraisablehook__(lost)


def main() -> None:
    """Run the command line; bad input ends with exit 2 and one line."""
    hook, sys.unraisablehook = sys.unraisablehook, _interrupt_again
    keep_from_threads()  # OpenBLAS ends a process whose threads cannot start, as by Ctrl-C
    try:
        code = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except (typer.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except (ValueError, OSError) as error:
        fail(_message(error), BAD_INPUT)
    except (MemoryError, SystemError):  # the latter from within Python, which did not get memory either
        fail("memory has run out; raise what limits it (`ulimit -v`, `ulimit -d`), or use less", FOUND)
    except Exception as error:
        if "can't start new thread" in str(error):
            fail("no thread can be started; raise what limits them (`ulimit -u`, a control group)", FOUND)
        if not hasattr(error, "format_message"):
            raise
        fail(error.format_message(), BAD_INPUT)
    finally:
        sys.unraisablehook = hook
    if code == INTERRUPTED:  # typer turns Ctrl-C into this code
        fail("interrupted; nothing is left behind", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else OK)


def _message(error: ValueError | OSError) -> str:
    """Return what an error says, without the number of it that Python puts in front."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


if __name__ == "__main__":
    main()
