"""Texts from elsewhere: what steers a terminal, or turns the direction of a line, is left out."""

from __future__ import annotations

import re
from typing import Any

# Escape sequences; control characters but tab and line feed; marks of direction. Arrow knows no \u.
STEERING = r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f" + "\x80-\x9f\u202a-\u202e\u2066-\u2069]"
LONGEST = 20_000  # characters
_STEERING = re.compile(STEERING)


def readable(text: str) -> str:
    """Return a text as a page or a terminal may have it: not too long, of characters that can be written."""
    return _STEERING.sub("", text[:LONGEST]).encode("utf-8", "replace").decode()


def readable_tree(tree: Any) -> Any:
    """Return lists and mappings with all their texts and keys `readable`."""
    if isinstance(tree, str):
        return readable(tree)
    if isinstance(tree, list):
        return [readable_tree(one) for one in tree]
    if isinstance(tree, dict):
        return {readable(str(key)): readable_tree(one) for key, one in tree.items()}
    return tree
