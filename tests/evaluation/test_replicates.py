"""Means and differences of several runs: the right level where both runs and test tiles vary."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import ttest_ind

from histogen.evaluation.bootstrap import Resampling
from histogen.evaluation.metrics import METRICS, class_counts
from histogen.evaluation.replicates import difference_of_runs, mean_of_runs

BALANCED = METRICS["balanced_accuracy"]


def predicted(rng: np.random.Generator, truth: np.ndarray, quality: float, easy: np.ndarray) -> np.ndarray:
    """Predictions that are right with probability ``quality``, shifted by how easy a tile is for every run alike."""
    return np.where(rng.random(len(truth)) < np.clip(quality + easy, 0, 1), truth, 1 - truth)


def runs(rng: np.random.Generator, truth: np.ndarray, easy: np.ndarray, mean: float, num: int) -> list[np.ndarray]:
    return [predicted(rng, truth, mean + 0.03 * rng.normal(), easy) for _ in range(num)]


def test_interval_of_a_mean_covers_what_new_runs_on_new_tiles_would_give() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        truth, easy = rng.integers(0, 2, 150), 0.15 * rng.choice([-1, 1], 150)
        interval, spread = mean_of_runs(
            truth, runs(rng, truth, easy, 0.7, 3), Resampling(BALANCED, num_classes=2, draws=200, seed=trial)
        )
        covered += interval.low <= 0.7 <= interval.high
        assert spread > 0
    assert covered / 200 >= 0.93


def test_equal_recipes_are_rarely_told_apart_and_unequal_ones_usually() -> None:
    rng = np.random.default_rng(1)
    rejected, found = 0, 0
    for trial in range(200):
        truth, easy = rng.integers(0, 2, 150), 0.1 * rng.choice([-1, 1], 150)
        a, b, better = (runs(rng, truth, easy, mean, 3) for mean in (0.6, 0.6, 0.85))
        how = Resampling(BALANCED, num_classes=2, draws=200, seed=trial)
        rejected += difference_of_runs(truth, a, b, how).verdict != "no difference shown"
        found += difference_of_runs(truth, better, b, how).verdict == "better"
    assert rejected / 200 <= 0.07
    assert found / 200 >= 0.9


def test_with_many_test_tiles_it_is_welchs_test_of_the_runs() -> None:
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 2, 200_000)
    nothing = np.zeros(len(truth))
    a = [predicted(rng, truth, q, nothing) for q in (0.70, 0.74, 0.78)]
    b = [predicted(rng, truth, q, nothing) for q in (0.66, 0.65, 0.69)]
    values = [[float(BALANCED(class_counts(truth, run, num_classes=2))) for run in side] for side in (a, b)]
    welch = ttest_ind(*values, equal_var=False)
    found = difference_of_runs(truth, a, b, Resampling(BALANCED, num_classes=2, draws=100, seed=0))
    limits = welch.confidence_interval()
    assert found.delta == pytest.approx(np.mean(values[0]) - np.mean(values[1]))
    assert found.p == pytest.approx(welch.pvalue, rel=0.05)
    np.testing.assert_allclose([found.low, found.high], [limits.low, limits.high], atol=0.004)


def test_equal_predictions_and_single_runs() -> None:
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 2, 300)
    run = predicted(rng, truth, 0.8, np.zeros(300))
    same = difference_of_runs(truth, [run, run], [run], Resampling(BALANCED, num_classes=2, seed=0))
    assert (same.delta, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)
    interval, spread = mean_of_runs(truth, [run], Resampling(BALANCED, num_classes=2, seed=0))
    assert spread == 0.0
    assert interval.low < interval.value < interval.high
