"""Positions that are not numbers to be added up: a list of ranges, a tree, packed pairs.

The engine hands out chunks of *units*; an iterator says where each unit lies. It is asked by the caller
alone, once per chunk, before the first one runs, so it may be ordinary Python and needs no lock. (The kernel
asks it under the lock of the task, at the same places, which is why the chunks are the same.)
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ktask.engine.policy import POLICIES, Part, Plan

Range = tuple[int, int]


def unit_parts(nodes: Sequence[Part]) -> tuple[Part, ...]:
    """Return the parts counted in units from 0 on, one after the other, so that no two share a unit."""
    parts, start = [], 0
    for node in nodes:
        parts.append(replace(node, start=start))
        start += node.size
    return tuple(parts)


def relative(plan: Plan) -> Plan:
    """Return the plan with chunks counted from the start of each part.

    Absolute boundaries mean multiples of a number, which positions are not (Oracle UEK aligns with the
    default iterator only; padata has no iterators).
    """
    if POLICIES[plan.policy].is_padata:
        raise ValueError(f"policy {plan.policy} has no iterators; leave iter_func out, or use a ktask policy")
    return replace(plan, absolute=False)


class Positions:
    """Where the chunks of a plan lie, and how ranges of units translate.

    Parameters
    ----------
    plan
        Counted in units (`unit_parts`).
    nodes
        The parts as the caller gave them; their starts are positions.
    iter_func
        `(position, units) -> position`; never asked to go beyond the end of a part.

    Raises
    ------
    TypeError, ValueError
        If it does not return a whole number, or returns the position that it was given.
    """

    def __init__(self, plan: Plan, nodes: Sequence[Part], iter_func: Callable[[int, int], Any]):
        self._starts: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        rows = []
        for k, node in enumerate(nodes):
            position = node.start
            for start, end in plan.chunks_of(k):
                following = _advance(iter_func, position, end - start)
                self._starts[start], self._ends[end] = position, following
                rows.append((position, following))
                position = following
        self.table = np.array(rows, dtype=np.int64).reshape(-1, 2)

    def translate(self, bounds: Range) -> Range:
        """Return the positions of a range of units that begins and ends with a chunk."""
        return self._starts[bounds[0]], self._ends[bounds[1]]


def _advance(iter_func: Callable[[int, int], Any], position: int, units: int) -> int:
    result = iter_func(position, units)
    try:
        following = operator.index(result)
    except TypeError:
        raise TypeError(
            f"iter_func({position}, {units}) returned {result!r}; return a whole number"
        ) from None
    if following == position:
        raise ValueError(
            f"iter_func({position}, {units}) returned {following}, where it was; it must advance by the units"
        )
    return following
