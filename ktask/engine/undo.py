"""What to undo after a failure: the ranges that were finished."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set

from ktask.engine.policy import Plan, whole_number


def undo_ranges(
    plan: Plan, claimed_per_part: Sequence[int], failed: Set[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Return the ranges to undo after a failure, in order (ktask: add undo support, 2018-11-05).

    Part by part, from its start to the end of the last chunk handed out: whatever lies between failed
    chunks, as one range each. Failed chunks clean up after themselves and are left out, as is everything
    that was never handed out.

    Parameters
    ----------
    plan
        The plan that was being carried out.
    claimed_per_part
        Chunks handed out of each part.
    failed
        Part and chunk index of each failed chunk; all of them handed out.
    """
    if len(claimed_per_part) != len(plan.parts):
        raise ValueError(f"claimed_per_part={list(claimed_per_part)} does not fit {len(plan.parts)} parts")
    for part_index, i in sorted(failed):
        in_plan = 0 <= part_index < len(plan.parts)
        if not in_plan or not 0 <= i < claimed_per_part[part_index]:
            raise ValueError(f"failed chunk {part_index}#{i} was never handed out; use part#chunk of a claim")
    ranges: list[tuple[int, int]] = []
    for k in range(len(plan.parts)):
        claimed = whole_number(f"claimed_per_part[{k}]", claimed_per_part[k], 0, plan.part_chunks(k))
        ranges += _between(plan, k, claimed, sorted(i for part, i in failed if part == k))
    return ranges


def _between(plan: Plan, part_index: int, claimed: int, failed: list[int]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of one part that lie before, between and after its failed chunks."""
    if claimed == 0:
        return
    position = plan.parts[part_index].start
    for i in failed:
        start, end = plan.chunk_bounds(part_index, i)
        if start > position:
            yield position, start
        position = end
    end = plan.chunk_bounds(part_index, claimed - 1)[1]
    if end > position:
        yield position, end
