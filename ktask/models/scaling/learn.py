"""How the priors of the laws are learned from the published curves, and again without some of them.

A hierarchical model: over the curves, each parameter of a law is normally distributed on its own scale (log,
or logit for a fraction), and a curve follows one of the laws. Means, spreads and weights come from an EM over
the curves; a few pseudo-works stand for a weak prior where the tables say little. Curves of one work on one
machine are no independent witnesses and count as one together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax

from ktask.models.published import FOLDER, load
from ktask.models.scaling.laws import DESIGN_TABLES, LAWS, Law, SlowStart
from ktask.models.scaling.posterior import fit_law, picks
from ktask.models.scaling.predict import curve_rows
from ktask.models.scaling.table import Curve, TableError, read_curves

Array = NDArray[np.float64]

# The weak prior, before any table: medians and spreads, wide enough for almost any curve.
WEAK = {
    "serial": (0.05, 2.0),
    "contention": (0.05, 2.0),
    "crosstalk": (0.001, 1.5),
    "roof_threads": (10.0, 0.65),  # 90 % between 3 and 29 cores for the bandwidth of a node
    "sharpness": (4.0, 0.7),
    "lock_share": (0.05, 1.5),
    "handover": (0.02, 1.5),
    "active_workers": (8.0, 0.75),
}
# Gustafson's law is for work that grows with the threads, which no curve of one size does.
WEAK_WEIGHTS = {"amdahl": 0.25, "gustafson": 0.01, "usl": 0.24, "roof": 0.25, "lock": 0.25}
WEAK_START = SlowStart(0.4, 0.25)
WEAK_LAWS = tuple(
    replace(
        law,
        prior_weight=WEAK_WEIGHTS[law.name],
        slow_start=WEAK_START,
        parameters=tuple(replace(p, median=WEAK[p.name][0], spread=WEAK[p.name][1]) for p in law.parameters),
    )
    for law in LAWS
)
PSEUDO_WORKS = 4.0  # so many works that follow the weak prior are added to those of the tables
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


def _time_examples(folder: Path) -> Iterator[Example]:
    for name in DESIGN_TABLES:
        try:
            curves = read_curves(folder / f"{name}.csv").curves
        except TableError:  # a table of rates
            continue
        for curve in curves:
            keys = ("machine", "workload", "environment", "metric")
            work = tuple(str(curve.group.get(key, "")) for key in keys)
            yield Example(name, work[0], work[1], work, curve)


def _rate_examples(folder: Path) -> Iterator[Example]:
    table = load(folder)
    rates = table[table.file.isin(RATES) & (table.threads >= 1) & (table.value > 0) & (table.unit != "s")]
    for key, group in rates.groupby(["file", "machine", "workload", "variant", "case", "metric", "unit"]):
        file, machine, workload, _, case, *_ = key
        rows = group.drop_duplicates("threads").sort_values("threads")
        rate, stdev = rows.value.to_numpy(float), rows.stdev.to_numpy(float)
        spread = np.where(np.isfinite(stdev), stdev / rate, 0.0)
        curve = Curve({"machine": machine}, rows.threads.to_numpy(int), rate[0] / rate, spread)
        setting = "" if file == MIGRATION else case  # its cases are sizes of a page
        yield Example(file, machine, workload, (machine, workload, setting), curve, is_rate=True)


def examples(folder: Path = FOLDER) -> list[Example]:
    """Return all curves of the design tables with at least three thread counts."""
    return [e for e in (*_time_examples(folder), *_rate_examples(folder)) if len(e.curve.threads) > 2]


def _thinned(found: Sequence[Example]) -> list[Example]:
    """Return at most so many curves of one work, evenly chosen: more of them count no more, and cost time."""
    by_work: dict[tuple[str, ...], list[Example]] = defaultdict(list)
    for example in found:
        by_work[example.work].append(example)
    return [
        alike[round(at)]
        for alike in by_work.values()
        for at in np.linspace(0, len(alike) - 1, min(len(alike), MOST_PER_WORK))
    ]


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
    fits = [fit_law(law, [curve_rows(curve)]) for curve in curves]
    normals = np.array([found.normals[picks(np.exp(found.log_weight), DRAWS_KEPT)] for found in fits])
    slow = law.slow_start.value(normals[..., -2], normals[..., -1])
    return _Draws(normals[..., :-2], np.maximum(slow, 0), np.array([found.log_evidence for found in fits]))


@dataclass
class _Priors:
    """What is learned so far: per law the mean and spread of its normals, and its weight."""

    mean: list[Array]
    spread: list[Array]
    weight: Array
    start: SlowStart = WEAK_START


class Learner:
    """The published curves, ready to be learned from as a whole or in parts."""

    def __init__(self, found: Sequence[Example]) -> None:
        self.examples = _thinned(found)
        self._draws = [_draws(law, [e.curve for e in self.examples]) for law in WEAK_LAWS]

    def laws(self, **without: str) -> tuple[Law, ...]:
        """Return the laws with priors learned without a machine, workload or table: `laws(machine="...")`."""
        left_out = [any(getattr(e, by) == name for by, name in without.items()) for e in self.examples]
        at = np.flatnonzero(np.invert(left_out))
        works = Counter(self.examples[i].work for i in at)
        counts = np.array([1 / works[self.examples[i].work] for i in at])
        draws = [_Draws(*(part[at] for part in law)) for law in self._draws]
        sizes = [len(law.parameters) for law in WEAK_LAWS]
        weak = np.array([law.prior_weight for law in WEAK_LAWS])
        priors = _Priors([np.zeros(d) for d in sizes], [np.ones(d) for d in sizes], weak)
        for _ in range(ROUNDS):
            priors = _updated(priors, draws, counts)
        return tuple(_with_priors(law, priors, i) for i, law in enumerate(WEAK_LAWS))


def _log_ratio(draws: _Draws, mean: Array, spread: Array, start: SlowStart) -> Array:
    """Return the log of the prior density of each draw over that of the weak prior."""
    shift = -0.5 * ((draws.normals - mean) / spread) ** 2 - np.log(spread) + 0.5 * draws.normals**2
    slow = np.log(start.slow * WEAK_START.slow_mean / (WEAK_START.slow * start.slow_mean))
    slow = slow - draws.slow * (1 / start.slow_mean - 1 / WEAK_START.slow_mean)
    not_slow = np.log((1 - start.slow) / (1 - WEAK_START.slow))
    return shift.sum(axis=-1) + np.where(draws.slow > 0, slow, not_slow)


def _updated(priors: _Priors, draws: Sequence[_Draws], counts: Array) -> _Priors:
    """Return the priors after one round of the EM; each example counts as much as `counts` says."""
    evidence, weights = [], []
    for law, mean, spread, prior in zip(draws, priors.mean, priors.spread, priors.weight, strict=True):
        ratio = _log_ratio(law, mean, spread, priors.start)
        evidence.append(law.log_evidence + logsumexp(ratio, axis=1) + np.log(prior))
        weights.append(softmax(ratio, axis=1))
    belongs = softmax(evidence, axis=0) * counts  # shape (laws, examples)
    means, spreads = [], []
    pseudo_slow = PSEUDO_WORKS * WEAK_START.slow
    slow_count, slow_sum = pseudo_slow, pseudo_slow * WEAK_START.slow_mean
    for law, weight, part in zip(draws, weights, belongs, strict=True):
        mass, count = weight * part[:, None], part.sum() + PSEUDO_WORKS
        mean = np.einsum("ed,edp->p", mass, law.normals) / count
        square = (np.einsum("ed,edp->p", mass, law.normals**2) + PSEUDO_WORKS) / count
        means.append(mean)
        spreads.append(np.sqrt(square - mean**2))
        slow_count += (mass * (law.slow > 0)).sum()
        slow_sum += (mass * law.slow).sum()
    total = counts.sum() + PSEUDO_WORKS
    weak = np.array([law.prior_weight for law in WEAK_LAWS])
    weight = (belongs.sum(axis=1) + PSEUDO_WORKS * weak) / total
    start = SlowStart(float(slow_count / total), float(slow_sum / slow_count))
    return _Priors(means, spreads, weight, start)


def _with_priors(law: Law, priors: _Priors, i: int) -> Law:
    parameters = tuple(
        replace(p, median=float(p.value(np.asarray(mean))), spread=float(p.spread * spread))
        for p, mean, spread in zip(law.parameters, priors.mean[i], priors.spread[i], strict=True)
    )
    return replace(law, parameters=parameters, prior_weight=float(priors.weight[i]), slow_start=priors.start)
