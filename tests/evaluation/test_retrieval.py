"""Average precision against scikit-learn; its intervals against tiles resampled one by one."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from histogen.evaluation.means import mean_difference, mean_interval
from histogen.evaluation.retrieval import average_precisions


def test_average_precision_equals_scikit_learn(monkeypatch) -> None:
    monkeypatch.setattr("histogen.evaluation.retrieval.QUERIES_PER_CHUNK", 4)
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(3, 6))
    y, z = rng.integers(0, 3, 50), rng.integers(0, 4, 13)
    gallery, queries = centres[y] + rng.normal(size=(50, 6)), rng.normal(size=(13, 6))
    found = average_precisions(gallery, y, queries, z, num_classes=4)
    for row in range(13):
        cosine = gallery @ queries[row] / np.linalg.norm(gallery, axis=1) / np.linalg.norm(queries[row])
        expected = average_precision_score(y == z[row], cosine) if (y == z[row]).any() else 0.0
        assert found[row] == pytest.approx(expected, abs=1e-6)


def test_mean_is_balanced_over_classes_and_its_interval_is_the_plain_bootstrap() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], [90, 30])
    values = np.where(labels == 0, 0.8, 0.3) + rng.normal(0, 0.1, 120)
    found = mean_interval(values, labels, draws=3000, seed=0)
    assert found.value == pytest.approx((values[:90].mean() + values[90:].mean()) / 2)
    plain = []
    for _ in range(3000):
        rows = rng.integers(0, 120, 120)
        plain.append(np.mean([values[rows][labels[rows] == c].mean() for c in (0, 1)]))
    np.testing.assert_allclose([found.low, found.high], np.quantile(plain, [0.025, 0.975]), atol=0.003)


def test_difference_has_its_level_and_finds_what_is_there() -> None:
    p_values = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        labels, a, b = rng.integers(0, 2, 60), rng.random(60), rng.random(60)
        p_values.append(mean_difference(a, b, labels, draws=199, seed=seed).p)
    assert 0.01 <= np.mean(np.array(p_values) < 0.05) <= 0.1
    rng = np.random.default_rng(0)
    labels, a = rng.integers(0, 2, 200), rng.random(200)
    found = mean_difference(a, a - 0.1 + 0.05 * rng.normal(size=200), labels, seed=0)
    assert found.verdict == "better"
    assert found.delta == pytest.approx(0.1, abs=0.02)
    clusters = np.repeat([0, 1], 100)
    assert mean_difference(a, a - 0.1, labels, clusters=clusters, seed=0).p > 0.3  # two slides prove nothing
