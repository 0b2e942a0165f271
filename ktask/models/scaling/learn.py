"""How the usual values of the laws are learned from the published curves, and again without some of them.

A hierarchical model: over the curves, each parameter of a law is normally distributed on its own scale (log,
or logit for a share), and a curve follows one of the laws. Means, spreads and weights come from an EM over
the curves; a few pretended curves hold them where the tables say little. Curves of one work on one machine
are no independent witnesses and count as one together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from ktask.models.published import FOLDER, load
from ktask.models.scaling.laws import DESIGN_TABLES, LAWS, Law, SlowStart
from ktask.models.scaling.posterior import fit_law
from ktask.models.scaling.predict import curve_rows
from ktask.models.scaling.table import Curve, TableError, read_curves

Array = NDArray[np.float64]

# What is supposed before any table: medians and spreads, wide enough for almost any curve.
BEFORE = {
    "serial": (0.05, 2.0),
    "contention": (0.05, 2.0),
    "crosstalk": (0.001, 1.5),
    "roof_threads": (10.0, 0.65),  # 90 % between 3 and 29 cores for the bandwidth of a node
    "sharpness": (4.0, 0.7),
    "lock_share": (0.05, 1.5),
    "handover": (0.02, 1.5),
    "crowd": (8.0, 0.75),
}
# Gustafson's law is for work that grows with the threads, which no curve of one size does.
ODDS_BEFORE = {"amdahl": 0.25, "gustafson": 0.01, "usl": 0.24, "roof": 0.25, "lock": 0.25}
_ODDS = np.array([ODDS_BEFORE[law.name] for law in LAWS])
SLOW_BEFORE = SlowStart(0.4, 0.25)
PRETENDED = 4.0  # so many works of that kind are added to those of the tables
ROUNDS = 20
DRAWS_KEPT = 256
MOST_PER_WORK = 8
MIGRATION = "page_migration_multithread"
# Tables of rates at several thread counts; their inverse is a time.
RATES = ("lock_scalability_page_fault1", MIGRATION, "ktask_clear_page_per_thread_bandwidth")


class Example(NamedTuple):
    """A curve to learn from, and where it is from.

    Attributes
    ----------
    work : tuple of str
        Curves with the same one are versions, sizes or settings of the same work on the same machine.
    """

    table: str
    machine: str
    workload: str
    work: tuple[str, ...]
    curve: Curve
    is_rate: bool = False


def _time_examples(folder: Path) -> list[Example]:
    found = []
    for name in DESIGN_TABLES:
        try:
            table = read_curves(folder / f"{name}.csv")
        except TableError:  # a table of rates
            continue
        for curve in table.curves:
            machine, workload, *rest = (
                str(curve.group.get(key, "")) for key in ("machine", "workload", "environment", "metric")
            )
            found.append(Example(name, machine, workload, (machine, workload, *rest), curve))
    return found


def _rate_examples(folder: Path) -> list[Example]:
    table = load(folder)
    rates = table[table.file.isin(RATES) & (table.threads >= 1) & (table.value > 0) & (table.unit != "s")]
    found = []
    for key, group in rates.groupby(["file", "machine", "workload", "variant", "case", "metric", "unit"]):
        rows = group.drop_duplicates("threads").sort_values("threads")
        rate, stdev = rows.value.to_numpy(float), rows.stdev.to_numpy(float)
        spread = np.where(np.isfinite(stdev), stdev / rate, 0.0)
        curve = Curve({"machine": key[1]}, rows.threads.to_numpy(int), rate[0] / rate, spread)
        setting = "" if key[0] == MIGRATION else key[4]  # its cases are sizes of a page
        found.append(Example(*key[:3], (*key[1:3], setting), curve, is_rate=True))
    return found


def examples(folder: Path = FOLDER) -> list[Example]:
    """Return all curves of the design tables with at least three thread counts."""
    return [e for e in (*_time_examples(folder), *_rate_examples(folder)) if len(e.curve.threads) > 2]


def _thinned(found: Sequence[Example]) -> list[Example]:
    """Return at most so many curves of one work, evenly chosen: more of them count no more, and cost time."""
    by_work: dict[tuple[str, ...], list[Example]] = defaultdict(list)
    for example in found:
        by_work[example.work].append(example)
    chosen = []
    for alike in by_work.values():
        at = np.linspace(0, len(alike) - 1, min(len(alike), MOST_PER_WORK)).round().astype(int)
        chosen += [alike[i] for i in at]
    return chosen


def _laws_before() -> tuple[Law, ...]:
    return tuple(
        replace(
            law,
            weight=ODDS_BEFORE[law.name],
            slow_start=SLOW_BEFORE,
            parameters=tuple(
                replace(p, median=BEFORE[p.name][0], spread=BEFORE[p.name][1]) for p in law.parameters
            ),
        )
        for law in LAWS
    )


class _Draws(NamedTuple):
    """Draws of one law for all examples, equally likely given each curve.

    Attributes
    ----------
    normals : ndarray, shape (examples, draws, parameters)
    slow : ndarray, shape (examples, draws)
        Logarithm of the factor by which one thread is slower; 0 if it is not, or faster.
    log_evidence : ndarray, shape (examples,)
    """

    normals: Array
    slow: Array
    log_evidence: Array


def _draws(law: Law, curves: Sequence[Curve]) -> _Draws:
    steps = (np.arange(DRAWS_KEPT) + 0.5) / DRAWS_KEPT
    normals, evidence = [], []
    for curve in curves:
        found = fit_law(law, [curve_rows(curve)])
        reached = np.cumsum(np.exp(found.log_weight))
        picked = np.minimum(np.searchsorted(reached / reached[-1], steps), len(reached) - 1)
        normals.append(found.normals[picked])
        evidence.append(found.log_evidence)
    all_normals = np.array(normals)
    slow = law.slow_start.value(all_normals[..., -2], all_normals[..., -1])
    return _Draws(all_normals[..., :-2], np.maximum(slow, 0), np.array(evidence))


@dataclass
class _Usual:
    """What is usual, as far as it is known: per law the mean and spread of its normals, and its weight."""

    mean: list[Array]
    spread: list[Array]
    weight: Array
    slow: SlowStart = SLOW_BEFORE


class Learner:
    """The published curves, ready to be learned from as a whole or in parts.

    Parameters
    ----------
    found : sequence of Example
    """

    def __init__(self, found: Sequence[Example]) -> None:
        self.examples = _thinned(found)
        self.laws_before = _laws_before()
        self._draws = [_draws(law, [e.curve for e in self.examples]) for law in self.laws_before]

    def laws(self, wanted: Callable[[Example], bool] = lambda _: True) -> tuple[Law, ...]:
        """Return the laws as the examples teach them for which `wanted` is true."""
        at = np.array([i for i, example in enumerate(self.examples) if wanted(example)])
        works = Counter(self.examples[i].work for i in at)
        share = np.array([1 / works[self.examples[i].work] for i in at])
        draws = [_Draws(*(part[at] for part in law)) for law in self._draws]
        sizes = [len(law.parameters) for law in self.laws_before]
        usual = _Usual([np.zeros(d) for d in sizes], [np.ones(d) for d in sizes], _ODDS)
        for _ in range(ROUNDS):
            usual = _round(usual, draws, share)
        return tuple(_named(law, usual, i) for i, law in enumerate(self.laws_before))


def _likelier(draws: _Draws, mean: Array, spread: Array, slow: SlowStart) -> Array:
    """Return the log odds of each draw under what is usual against what was supposed before."""
    shift = -0.5 * ((draws.normals - mean) / spread) ** 2 - np.log(spread) + 0.5 * draws.normals**2
    before = SLOW_BEFORE
    with_slow = np.log(slow.odds * before.mean / (before.odds * slow.mean))
    with_slow = with_slow - draws.slow * (1 / slow.mean - 1 / before.mean)
    without = np.log((1 - slow.odds) / (1 - before.odds))
    return shift.sum(axis=-1) + np.where(draws.slow > 0, with_slow, without)


def _round(usual: _Usual, draws: Sequence[_Draws], share: Array) -> _Usual:
    """Return what is usual after one round of the EM."""
    odds, weights = [], []
    for law, mean, spread, prior in zip(draws, usual.mean, usual.spread, usual.weight, strict=True):
        ratio = _likelier(law, mean, spread, usual.slow)
        total = logsumexp(ratio, axis=1, keepdims=True)
        odds.append(law.log_evidence + total[:, 0] + np.log(prior))
        weights.append(np.exp(ratio - total))
    belongs = np.exp(odds - logsumexp(odds, axis=0)) * share  # shape (laws, examples)
    means, spreads, slow_count, slow_sum = [], [], PRETENDED * SLOW_BEFORE.odds, 0.0
    for law, weight, part in zip(draws, weights, belongs, strict=True):
        count = part.sum() + PRETENDED
        mass = weight * part[:, None]
        mean = np.einsum("ed,edp->p", mass, law.normals) / count
        square = (np.einsum("ed,edp->p", mass, law.normals**2) + PRETENDED) / count
        means.append(mean)
        spreads.append(np.sqrt(square - mean**2))
        slow_count += (mass * (law.slow > 0)).sum()
        slow_sum += (mass * law.slow).sum()
    slow_mean = (slow_sum + PRETENDED * SLOW_BEFORE.odds * SLOW_BEFORE.mean) / slow_count
    slow = SlowStart(float(slow_count / (share.sum() + PRETENDED)), float(slow_mean))
    weight = (belongs.sum(axis=1) + PRETENDED * _ODDS) / (share.sum() + PRETENDED)
    return _Usual(means, spreads, weight, slow)


def _named(law: Law, usual: _Usual, i: int) -> Law:
    parameters = tuple(
        replace(p, median=float(p.value(np.asarray(mean))), spread=float(p.spread * spread))
        for p, mean, spread in zip(law.parameters, usual.mean[i], usual.spread[i], strict=True)
    )
    return replace(law, parameters=parameters, weight=float(usual.weight[i]), slow_start=usual.slow)
