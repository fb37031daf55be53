"""Several runs of one recipe (seeds) against several of another: what a new run on new slides would show.

Two things vary: the run, and the tiles that happen to test it. The variance of a mean over n runs is

    (variance between the runs) / n  +  (bootstrap variance over test tiles or slides of the mean of the runs),

and the interval is Student's t with Welch-Satterthwaite degrees of freedom (the bootstrap term counts as known). With
three runs it is wide, as it should be. This is our choice; the page of Gen-SIS gives no intervals for ImageNet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from histogen.evaluation.bootstrap import Difference, Interval, Resampling, Table, tabulate
from histogen.seeds import numpy_rng

Runs = Sequence[NDArray[np.integer]]


@dataclass(frozen=True)
class _Term:
    """One part of the variance of a mean, and the degrees of freedom that it was estimated with."""

    variance: float
    freedom: float


def mean_of_runs(
    truth: NDArray[np.integer],
    runs: Runs,
    how: Resampling,
) -> tuple[Interval, float]:
    """Return the mean metric of ``runs`` (predictions [N] each) with its interval, and their standard deviation."""
    table = tabulate(truth, runs, how.clusters)
    values, drawn = _metrics(table, len(runs), how)
    terms = [_between(values), _Term(float(drawn.mean(axis=0).var(ddof=1)), np.inf)]
    mean = float(values.mean())
    low, high, _ = _student(mean, terms, how.level)
    return Interval(mean, low, high), float(values.std(ddof=1)) if len(runs) > 1 else 0.0


def difference_of_runs(
    truth: NDArray[np.integer],
    runs_a: Runs,
    runs_b: Runs,
    how: Resampling,
) -> Difference:
    """Return mean metric of ``runs_a`` minus that of ``runs_b`` on the same tiles; p is two-sided, of the same t.

    A side of a single run has no variance between runs that could be known; none is counted for it.
    """
    table = tabulate(truth, [*runs_a, *runs_b], how.clusters)
    values, drawn = _metrics(table, len(runs_a) + len(runs_b), how)
    a, b = values[: len(runs_a)], values[len(runs_a) :]
    tested = drawn[: len(runs_a)].mean(axis=0) - drawn[len(runs_a) :].mean(axis=0)
    terms = [_between(a), _between(b), _Term(float(tested.var(ddof=1)), np.inf)]
    delta = float(a.mean() - b.mean())
    low, high, p = _student(delta, terms, how.level)
    return Difference(delta, low, high, p)


def _metrics(table: Table, num_runs: int, how: Resampling) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the metric of every run [n], and in every draw, the same tiles for all runs [n, draws]."""

    def score(counts: NDArray[np.float64], run: int) -> NDArray[np.float64]:
        return np.asarray(how.metric(table.counts(counts, run, how.num_classes)))

    values = np.array([float(score(table.total, run)) for run in range(num_runs)])
    resampled = list(table.resampled(how.draws, numpy_rng(how.seed, "bootstrap")))
    drawn = np.stack([np.concatenate([score(draw, run) for draw in resampled]) for run in range(num_runs)])
    return values, drawn


def _between(values: NDArray[np.float64]) -> _Term:
    if len(values) < 2:
        return _Term(0.0, np.inf)
    return _Term(float(values.var(ddof=1)) / len(values), len(values) - 1.0)


def _student(mean: float, terms: Sequence[_Term], level: float) -> tuple[float, float, float]:
    """Return the limits of the interval and the two-sided p of ``mean`` against 0."""
    variance = sum(term.variance for term in terms)
    if variance == 0.0:
        return mean, mean, 1.0 if mean == 0.0 else 0.0
    spread = sum(term.variance**2 / term.freedom for term in terms)
    freedom = variance**2 / spread if spread > 0 else np.inf
    error = float(np.sqrt(variance))
    reach = float(student.ppf((1 + level) / 2, freedom)) * error
    return mean - reach, mean + reach, float(2 * student.sf(abs(mean) / error, freedom))
