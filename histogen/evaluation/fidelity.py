"""How near the distribution of synthetic tiles is to that of real ones, on any encoder's embeddings [N, D].

All of these compare two sets; none of them sees a tile's own source. The real set must be held out from the
training of the generator: against its training tiles a generator that copies looks best of all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cholesky, eigh, eigvalsh
from torch import Tensor

from histogen.errors import ConfigError
from histogen.evaluation.vectors import as_matrix
from histogen.seeds import numpy_rng

ROWS_PER_CHUNK = 1024

Matrix = NDArray[np.floating]


def frechet_distance(a: Matrix, b: Matrix) -> float:
    """Return the squared Fréchet distance of Gaussians fitted to ``a`` [N, D] and ``b`` [M, D].

    |mean_a - mean_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), as in FID (Heusel et al. 2017, arXiv 1706.08500).
    With any factor S_a = F F^T, the last trace is the sum of the square roots of the eigenvalues of the symmetric
    F^T S_b F: never complex, finite for N < D too, where the centred embeddings themselves are the factor.

    Raises:
        ConfigError: a set has fewer than two tiles, or the dimensions differ.
    """
    _check_pair(a, b)
    x, y = (matrix.astype(np.float64) for matrix in (a, b))
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    x, y = (x - mean_x) / np.sqrt(len(x) - 1), (y - mean_y) / np.sqrt(len(y) - 1)
    if len(x) > len(y):  # the smaller set gives the smaller factor
        x, y = y, x
    trace = float((x * x).sum() + (y * y).sum())
    root = _root_trace(_factor(x), y)
    return float(((mean_x - mean_y) ** 2).sum() + trace - 2 * root)


def frechet_from_moments(mean_a: Matrix, cov_a: Matrix, mean_b: Matrix, cov_b: Matrix) -> float:
    """Return the squared Fréchet distance of two Gaussians given by means [D] and covariances [D, D]."""
    factor = _factor_of_covariance(np.asarray(cov_a, dtype=np.float64))
    inner = factor.T @ np.asarray(cov_b, dtype=np.float64) @ factor
    gap = np.asarray(mean_a, dtype=np.float64) - np.asarray(mean_b, dtype=np.float64)
    return float(gap @ gap + np.trace(cov_a) + np.trace(cov_b) - 2 * _sum_of_roots(inner))


@dataclass(frozen=True)
class KernelDistance:
    """Mean and standard deviation over subsets of the unbiased squared MMD with a cubic polynomial kernel."""

    value: float
    std: float


def kernel_distance(
    a: Matrix, b: Matrix, *, subsets: int = 100, subset_size: int = 1000, seed: int, device: str = "cpu"
) -> KernelDistance:
    """Return the kernel distance (KID, Binkowski et al. 2018, arXiv 1801.01401) of ``a`` [N, D] and ``b`` [M, D].

    The kernel is (x.y / D + 1)^3. Subsets are drawn without replacement and are no larger than either set.
    """
    _check_pair(a, b)
    x, y = as_matrix(a, what="first", device=device), as_matrix(b, what="second", device=device)
    size = min(subset_size, len(x), len(y))
    rng = numpy_rng(seed, "kernel distance")
    values = []
    for _ in range(subsets if size < max(len(x), len(y)) else 1):
        rows = [torch.as_tensor(rng.choice(len(m), size, replace=False), device=device) for m in (x, y)]
        values.append(_unbiased_mmd(x[rows[0]].double(), y[rows[1]].double()))
    return KernelDistance(float(np.mean(values)), float(np.std(values)))


@dataclass(frozen=True)
class Manifold:
    """Shares in 0–1; density may exceed 1.

    precision: synthetic tiles inside the real manifold; recall: real tiles inside the synthetic one
    (Kynkäänniemi et al. 2019, arXiv 1904.06991). density, coverage: their robust kin (Naeem et al. 2020,
    arXiv 2002.09797). A manifold is the union of balls around its tiles, each reaching to its k-th neighbour.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def manifold_metrics(real: Matrix, synthetic: Matrix, *, k: int = 5, device: str = "cpu") -> Manifold:
    """Return the manifold metrics of ``synthetic`` [M, D] against ``real`` [N, D], in chunks of rows.

    Raises:
        ConfigError: k is not smaller than both sets.
    """
    _check_pair(real, synthetic)
    if k >= min(len(real), len(synthetic)):
        raise ConfigError(f"k = {k} neighbours need more than {min(len(real), len(synthetic))} tiles in each set")
    x, y = as_matrix(real, what="real", device=device), as_matrix(synthetic, what="synthetic", device=device)
    centre = x.mean(dim=0)  # the same shift of both changes no distance, and spares float32 its digits
    x, y = x - centre, y - centre
    radius_x, radius_y = _radii(x, k), _radii(y, k)
    inside, within, reached = 0, 0, torch.zeros(len(x), dtype=torch.bool, device=x.device)
    nearest = torch.full((len(x),), torch.inf, device=x.device)
    for start in range(0, len(y), ROWS_PER_CHUNK):
        rows = slice(start, start + ROWS_PER_CHUNK)
        distance = squared_distances(y[rows], x)
        hits = distance <= radius_x
        inside += int(hits.any(dim=1).sum())
        within += int(hits.sum())
        reached |= (distance <= radius_y[rows, None]).any(dim=0)
        nearest = torch.minimum(nearest, distance.min(dim=0).values)
    coverage = (nearest <= radius_x).float().mean()
    return Manifold(inside / len(y), float(reached.float().mean()), within / (k * len(y)), float(coverage))


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """Return squared Euclidean distances [len(a), len(b)], not negative."""
    distance = torch.addmm(b.square().sum(dim=1)[None, :], a, b.T, alpha=-2)
    return distance.add_(a.square().sum(dim=1)[:, None]).clamp_(min=0)


def _radii(x: Tensor, k: int) -> Tensor:
    """Return the squared distance [N] of each row to its k-th nearest other row."""
    radii = []
    for start in range(0, len(x), ROWS_PER_CHUNK):
        distance = squared_distances(x[start : start + ROWS_PER_CHUNK], x)
        own = torch.arange(len(distance), device=x.device)
        distance[own, start + own] = torch.inf
        radii.append(distance.kthvalue(k, dim=1).values)
    return torch.cat(radii)


def _unbiased_mmd(x: Tensor, y: Tensor) -> float:
    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    n, m = len(x), len(y)
    xx, yy, xy = kernel(x, x), kernel(y, y), kernel(x, y)
    within = (xx.sum() - xx.trace()) / (n * (n - 1)) + (yy.sum() - yy.trace()) / (m * (m - 1))
    return float(within - 2 * xy.mean())


def _factor(centred: Matrix) -> Matrix:
    """Return F [D, r] with F F^T = centred^T centred; r is the smaller of N and D."""
    if len(centred) <= centred.shape[1]:
        return np.ascontiguousarray(centred.T)
    return _factor_of_covariance(centred.T @ centred)


def _factor_of_covariance(covariance: Matrix) -> Matrix:
    try:
        return np.asarray(cholesky(covariance, lower=True, check_finite=False))
    except LinAlgError:  # not of full rank: the symmetric root exists always
        values, vectors = eigh(covariance, check_finite=False)
        return np.asarray(vectors * np.sqrt(np.clip(values, 0, None)))


def _root_trace(factor: Matrix, centred: Matrix) -> float:
    """Return tr((F F^T S)^(1/2)) for S = centred^T centred, through the smaller symmetric product."""
    product = centred @ factor  # [M, r], and S never has to be formed
    return _sum_of_roots(product.T @ product)


def _sum_of_roots(symmetric: Matrix) -> float:
    values = eigvalsh((symmetric + symmetric.T) / 2, check_finite=False)
    return float(np.sqrt(np.clip(values, 0, None)).sum())


def _check_pair(a: Matrix, b: Matrix) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ConfigError(f"embeddings {a.shape} and {b.shape} cannot be compared: two sets [N, D] of one D, N > 1")
