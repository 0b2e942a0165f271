"""The figures of a page in its order: their numbers, and which data each was made from."""

from collections.abc import Iterable
from dataclasses import replace

from ktask.report import headline
from ktask.report import sentences as words
from ktask.report.costs import busy, neighbours
from ktask.report.figure import Figure
from ktask.report.paths import many_cpus, numa, states
from ktask.report.runs import beside, kernels
from ktask.report.scaling.larger_machines import LARGER_KEY, RESIDUALS_KEY
from ktask.report.scaling.reproduction import PUBLISHED_KEY

# Kinds of figures in the order of the page; those that are folded have numbers of their own: S1, S2, ...
SHOWN = (
    *(headline.KEY, beside.BESIDE_KEY, kernels.KERNELS_KEY),
    *("speedup", many_cpus.EFFICIENCY_KEY, numa.NUMA_KEY),
    *(neighbours.BYSTANDERS_KEY, busy.BUSY_KEY, PUBLISHED_KEY, LARGER_KEY),
)
FOLDED_OF_A_WORKLOAD = ("timeline", "distribution")
FOLDED = (
    *FOLDED_OF_A_WORKLOAD,
    *(words.NOISE_KEY, states.FIGURE_KEY, words.CROSSOVER_KEY, words.CHUNKS_KEY, RESIDUALS_KEY),
)
CELL = "cell.ipynb"


def kind_of(figure: Figure) -> str:
    """Return what a figure shows: the first word of its key."""
    return figure.key.split("-")[0]


def numbered(figures: Iterable[Figure]) -> list[Figure]:
    """Return figures in the order of the page, each with its number; those of a workload stay together."""
    drawn = list(figures)
    shown = sorted((one for one in drawn if kind_of(one) in SHOWN), key=lambda one: SHOWN.index(kind_of(one)))
    folded = sorted((one for one in drawn if kind_of(one) not in SHOWN), key=_place_folded)
    numbers = [*map(str, range(1, len(shown) + 1)), *(f"S{i}" for i in range(1, len(folded) + 1))]
    return [replace(one, number=number) for one, number in zip([*shown, *folded], numbers, strict=True)]


def _place_folded(figure: Figure) -> int:
    kind = kind_of(figure)
    return FOLDED.index(FOLDED[0] if kind in FOLDED_OF_A_WORKLOAD else kind)


def source(key: str) -> str:
    """Return which data the figure of this key was made from, and which notebook measured them."""
    kind, _, workload = key.partition("-")
    if kind in (beside.BESIDE_KEY, kernels.KERNELS_KEY):
        return f"records/*.parquet of all runs, measured by {CELL}"
    if kind == PUBLISHED_KEY:
        return "data/published, by reproduction.ipynb, and records/*.parquet"
    if kind == LARGER_KEY:
        return f"records/*.parquet and traces/*.parquet, measured by {CELL}"
    if kind == headline.KEY:
        return f"records/*.parquet and bystanders/*.parquet, measured by {CELL}"
    if kind == "speedup":
        return f"records/ and evidence/{workload.replace('-', '_')}-*.parquet, measured by {CELL}"
    folder = {"timeline": "traces", neighbours.BYSTANDERS_KEY: "bystanders"}.get(kind, "records")
    return f"{folder}/{workload.replace('-', '_') or '*'}-*.parquet, measured by {CELL}"
