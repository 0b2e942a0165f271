"""A bar for loops that people wait for, in the terminal and in a notebook."""

import contextlib
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
DELAY_S = 1.0  # what ends sooner shows nothing


def watched(items: Collection[Item], what: str = "") -> Iterable[Item]:
    """Return `items` with a progress bar beside them, which is gone when they end."""
    from tqdm.auto import tqdm  # noqa: PLC0415  (not needed without a bar)

    return tqdm(items, desc=what, leave=False, delay=DELAY_S)


@contextlib.contextmanager
def rounds_bar(rounds: int, what: str = "rounds", quiet: bool = False) -> Iterator[Callable[[int], None]]:
    """Show a progress bar for the block unless `quiet`; yield what to call with the number of rounds done."""
    from tqdm.auto import tqdm  # noqa: PLC0415  (not needed without a bar)

    with tqdm(total=rounds, desc=what, leave=False, delay=DELAY_S, disable=quiet) as bar:

        def update(done: int) -> None:
            bar.update(done - bar.n)

        yield update
        bar.total = bar.n  # enough, before the most: nothing that a notebook should paint red
