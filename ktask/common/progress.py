"""A bar for loops that people wait for, in the terminal and in a notebook."""

from collections.abc import Collection, Iterable
from typing import TypeVar

Item = TypeVar("Item")
DELAY_S = 1.0  # what ends sooner shows nothing


def watched(items: Collection[Item], what: str = "") -> Iterable[Item]:
    """Return `items` with a progress bar beside them, which is gone when they end."""
    from tqdm.auto import tqdm  # noqa: PLC0415  (not needed without a bar)

    return tqdm(items, desc=what, leave=False, delay=DELAY_S)
