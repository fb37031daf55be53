"""Intervals cover what they say; paired tests hold their level and find what is there."""

from __future__ import annotations

import numpy as np
import pytest

from histogen.errors import ConfigError
from histogen.evaluation.bootstrap import Difference, Resampling, bootstrap_interval, paired_difference
from histogen.evaluation.metrics import METRICS, class_counts

BALANCED = METRICS["balanced_accuracy"]


def simulate(rng, num: int, recall: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray]:
    truth = rng.integers(0, len(recall), num)
    right = rng.random(num) < np.array(recall)[truth]
    return truth, np.where(right, truth, (truth + 1) % len(recall))


def test_tile_interval_covers_the_true_value_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(1)
    recall = (0.9, 0.7, 0.5)
    covered = 0
    for trial in range(300):
        truth, predicted = simulate(rng, 200, recall)
        found = bootstrap_interval(truth, predicted, Resampling(BALANCED, num_classes=3, draws=300, seed=trial))
        covered += found.low <= np.mean(recall) <= found.high
    assert 0.91 <= covered / 300 <= 0.985  # 95 % +- 3 standard errors of 300 trials, and the percentile's small bias


def clustered(rng, num_clusters: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every slide has its own recall, with mean 0.7: tiles of a slide succeed and fail together."""
    clusters = np.repeat(np.arange(num_clusters), size)
    recall = rng.beta(2.1, 0.9, num_clusters)[clusters]
    truth = np.tile(np.arange(2), num_clusters * size // 2)
    return truth, np.where(rng.random(len(truth)) < recall, truth, 1 - truth), clusters


def test_cluster_interval_covers_where_the_tile_interval_does_not() -> None:
    rng = np.random.default_rng(2)
    covered = {"clusters": 0, "tiles": 0}
    for trial in range(200):
        truth, predicted, clusters = clustered(rng, 30, 40)
        for name, given in (("clusters", clusters), ("tiles", None)):
            found = bootstrap_interval(
                truth, predicted, Resampling(BALANCED, num_classes=2, clusters=given, draws=300, seed=trial)
            )
            covered[name] += found.low <= 0.7 <= found.high
    assert covered["clusters"] / 200 >= 0.89
    assert covered["tiles"] / 200 <= 0.6


def test_counting_combinations_equals_resampling_tiles_one_by_one() -> None:
    rng = np.random.default_rng(3)
    truth, predicted = simulate(rng, 150, (0.9, 0.6, 0.4))
    found = bootstrap_interval(truth, predicted, Resampling(BALANCED, num_classes=3, draws=4000, seed=0))
    plain = []
    for _ in range(4000):
        rows = rng.integers(0, 150, 150)
        plain.append(BALANCED(class_counts(truth[rows], predicted[rows], num_classes=3)))
    np.testing.assert_allclose([found.low, found.high], np.quantile(plain, [0.025, 0.975]), atol=0.01)
    assert found.value == pytest.approx(BALANCED(class_counts(truth, predicted, num_classes=3)))


def test_paired_test_rejects_one_time_in_twenty_when_there_is_no_difference() -> None:
    rng = np.random.default_rng(4)
    p_values = []
    for trial in range(300):
        truth, a = simulate(rng, 120, (0.8, 0.7))
        b = np.where(rng.random(120) < 0.75, truth, 1 - truth)
        found = paired_difference(truth, a, b, Resampling(BALANCED, num_classes=2, draws=199, seed=trial))
        p_values.append(found.p)
    assert 0.01 <= np.mean(np.array(p_values) < 0.05) <= 0.09
    assert 0.4 < np.mean(p_values) < 0.62


def test_paired_test_finds_a_real_difference_and_its_sign() -> None:
    rng = np.random.default_rng(5)
    truth, a = simulate(rng, 600, (0.9, 0.85, 0.9))
    b = np.where(rng.random(600) < 0.85, a, (truth + 1) % 3)
    found = paired_difference(truth, a, b, Resampling(BALANCED, num_classes=3, seed=0))
    values = [float(BALANCED(class_counts(truth, x, num_classes=3))) for x in (a, b)]
    assert found.delta == pytest.approx(values[0] - values[1])
    assert found.low > 0
    assert found.p < 0.01
    assert found.verdict == "better"
    reverse = paired_difference(truth, b, a, Resampling(BALANCED, num_classes=3, seed=0))
    assert (reverse.delta, reverse.verdict) == (pytest.approx(-found.delta), "worse")


def test_identical_predictions_differ_by_nothing() -> None:
    truth, a = simulate(np.random.default_rng(6), 100, (0.8, 0.8))
    found = paired_difference(truth, a, a, Resampling(BALANCED, num_classes=2, seed=0))
    assert found == Difference(0.0, 0.0, 0.0, 1.0)
    assert found.verdict == "no difference shown"


def test_three_slides_never_prove_a_difference() -> None:
    """b fails everywhere, yet with three slides the permutation p cannot fall below a quarter."""
    truth = np.tile([0, 1], 90)
    clusters = np.repeat([0, 1, 2], 60)
    found = paired_difference(
        truth, truth, 1 - truth, Resampling(BALANCED, num_classes=2, clusters=clusters, draws=2000, seed=0)
    )
    assert found.delta == 1.0
    assert found.p == pytest.approx(0.25, abs=0.04)
    assert found.verdict == "no difference shown"


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="do not fit"):
        bootstrap_interval(np.zeros(3, int), np.zeros(2, int), Resampling(BALANCED, num_classes=1, seed=0))
