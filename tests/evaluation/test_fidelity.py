"""Distances between distributions against scipy's matrix root, closed forms and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.linalg import sqrtm

from histogen.errors import ConfigError
from histogen.evaluation.fidelity import (
    frechet_distance,
    frechet_from_moments,
    kernel_distance,
    manifold_metrics,
    squared_distances,
)


def sets(n: int, m: int, dim: int, seed: int, shift: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(dim, dim)) / np.sqrt(dim)
    return rng.normal(size=(n, dim)), shift + rng.normal(size=(m, dim)) @ mix


def with_sqrtm(a: np.ndarray, b: np.ndarray) -> float:
    s, t = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.real(sqrtm(s @ t))
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * np.trace(root))


@pytest.mark.parametrize(("n", "m"), [(300, 500), (500, 300), (100, 4000)])
def test_frechet_equals_scipy_sqrtm(n: int, m: int) -> None:
    a, b = sets(n, m, 48, 0)
    expected = with_sqrtm(a, b)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)
    assert frechet_distance(b, a) == pytest.approx(expected, rel=1e-6)
    moments = (a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))
    assert frechet_from_moments(*moments) == pytest.approx(expected, rel=1e-6)


def test_frechet_of_one_dimension_is_the_closed_form() -> None:
    a, b = np.random.default_rng(1).normal(0, 1, (400, 1)), np.random.default_rng(2).normal(2, 3, (300, 1))
    closed = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert frechet_distance(a, b) == pytest.approx(closed)


def test_frechet_is_finite_and_right_when_there_are_fewer_tiles_than_dimensions() -> None:
    a, b = sets(20, 30, 64, 3)
    eigen = np.linalg.eigvals(np.cov(a, rowvar=False) @ np.cov(b, rowvar=False))
    root = np.sqrt(np.clip(eigen.real, 0, None)).sum()  # the trace of the root without ever taking it
    trace = np.trace(np.cov(a, rowvar=False)) + np.trace(np.cov(b, rowvar=False))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + trace - 2 * root
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)
    moments = (a.mean(0), np.cov(a, rowvar=False), b.mean(0), np.cov(b, rowvar=False))
    assert frechet_from_moments(*moments) == pytest.approx(expected, rel=1e-5)


def test_frechet_of_a_set_with_itself_and_with_its_shift() -> None:
    a, _ = sets(200, 2, 16, 4)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + np.arange(16)) == pytest.approx(float((np.arange(16) ** 2).sum()))


def test_kernel_distance_equals_a_plain_loop() -> None:
    a, b = sets(30, 25, 6, 5)

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 6 + 1) ** 3)

    a, b = a[:25], b  # equal sizes: a single subset of everything
    xx = np.mean([kernel(x, y) for i, x in enumerate(a) for j, y in enumerate(a) if i != j])
    yy = np.mean([kernel(x, y) for i, x in enumerate(b) for j, y in enumerate(b) if i != j])
    xy = np.mean([kernel(x, y) for x in a for y in b])
    assert kernel_distance(a, b, seed=0).value == pytest.approx(xx + yy - 2 * xy, rel=1e-4)


def test_kernel_distance_is_zero_on_average_for_one_distribution() -> None:
    values = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        values.append(kernel_distance(rng.normal(size=(100, 8)), rng.normal(size=(100, 8)), seed=0).value)
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(40)
    subsets = kernel_distance(*sets(300, 200, 8, 6, shift=0.0), subsets=20, subset_size=50, seed=1)
    assert subsets.std > 0


def plain_manifold(real: np.ndarray, synthetic: np.ndarray, k: int) -> tuple[float, float, float, float]:
    def distance(x: np.ndarray, y: np.ndarray) -> float:
        return float(np.linalg.norm(x - y))

    def radius(points: np.ndarray) -> list[float]:
        return [sorted(distance(p, q) for j, q in enumerate(points) if j != i)[k - 1] for i, p in enumerate(points)]

    rx, ry = radius(real), radius(synthetic)
    precision = np.mean([any(distance(s, r) <= rx[i] for i, r in enumerate(real)) for s in synthetic])
    recall = np.mean([any(distance(s, r) <= ry[j] for j, s in enumerate(synthetic)) for r in real])
    density = np.mean([sum(distance(s, r) < rx[i] for i, r in enumerate(real)) / k for s in synthetic])
    coverage = np.mean([any(distance(s, r) < rx[i] for s in synthetic) for i, r in enumerate(real)])
    return float(precision), float(recall), float(density), float(coverage)


@pytest.mark.parametrize("k", [1, 3, 5])
def test_manifold_metrics_equal_plain_loops(k: int) -> None:
    real, synthetic = sets(40, 60, 3, 7, shift=0.8)
    found = manifold_metrics(real, synthetic, k=k)
    expected = plain_manifold(real, synthetic, k)
    np.testing.assert_allclose((found.precision, found.recall, found.density, found.coverage), expected, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_ties_count_as_published(k: int) -> None:
    """Points on a grid: most distances are equal to some radius, so that < and <= differ."""
    rng = np.random.default_rng(k)
    real, synthetic = rng.integers(0, 5, (40, 2)) + 3.0, rng.integers(0, 5, (30, 2)) + 3.0
    for other in (synthetic, real):
        found = manifold_metrics(real, other, k=k)
        expected = plain_manifold(real, other, k)
        np.testing.assert_allclose((found.precision, found.recall, found.density, found.coverage), expected, atol=1e-9)
    loose = np.mean([sum(np.linalg.norm(s - r) <= 1 for r in real) for s in synthetic])
    assert loose > np.mean([sum(np.linalg.norm(s - r) < 1 for r in real) for s in synthetic])


@pytest.mark.parametrize(("num", "dim"), [(50, 300), (300, 50), (64, 64)])
def test_equal_sets_are_at_distance_0(num: int, dim: int) -> None:
    rng = np.random.default_rng(num)
    a = rng.normal(size=(num, 7)) @ rng.normal(size=(7, dim)) * 30 + 100  # of low rank, far from the origin
    assert 0 <= frechet_distance(a, a.copy()) < 1e-12 * float(a.var(axis=0).sum())
    assert 0 <= frechet_distance(a, a[rng.permutation(num)]) < 1e-10 * float(a.var(axis=0).sum())


def test_what_is_not_finite_is_a_sentence() -> None:
    a, b = sets(20, 20, 4, 3)
    b[7, 2] = np.nan
    for measure in (frechet_distance, lambda x, y: kernel_distance(x, y, seed=0), manifold_metrics):
        with pytest.raises(ConfigError, match=r"1 of 20 embeddings of the second set are not finite .*row 7"):
            measure(a, b)
    with pytest.raises(ConfigError, match="the second covariance is not finite"):
        frechet_from_moments(a.mean(0), np.cov(a.T), a.mean(0), np.full((4, 4), np.inf))


def test_manifold_metrics_do_not_depend_on_chunks_or_a_far_origin(monkeypatch) -> None:
    real, synthetic = sets(150, 130, 4, 8, shift=0.5)
    whole = manifold_metrics(real + 1000, synthetic + 1000)
    monkeypatch.setattr("histogen.evaluation.fidelity.ROWS_PER_CHUNK", 7)
    parts = manifold_metrics(real, synthetic)
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(whole, name) == pytest.approx(getattr(parts, name), abs=0.02)


def test_a_collapsed_generator_has_precision_but_no_coverage() -> None:
    rng = np.random.default_rng(9)
    real = rng.normal(size=(300, 5))
    collapsed = real[:1] + 1e-3 * rng.normal(size=(300, 5))
    found = manifold_metrics(real, collapsed)
    assert found.precision == 1.0
    assert found.recall < 0.05
    assert found.coverage < 0.1


def test_distances_are_never_negative() -> None:
    import torch

    x = torch.full((5, 3), 1e3)
    assert float(squared_distances(x, x).min()) == 0.0


def test_sets_that_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match="cannot be compared"):
        frechet_distance(np.zeros((5, 3)), np.zeros((5, 4)))
    with pytest.raises(ConfigError, match="k = 5 neighbours need more than 5"):
        manifold_metrics(np.random.default_rng(0).normal(size=(5, 3)), np.zeros((9, 3)))
