"""How near the distribution of synthetic tiles is to that of real ones, on any encoder's embeddings [N, D].

All of these compare two sets; none of them sees a tile's own source. The real set must be held out from the
training of the generator: against its training tiles a generator that copies looks best of all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import LinAlgError, cholesky, eigh, svdvals
from torch import Tensor

from histogen.errors import ConfigError
from histogen.evaluation.vectors import as_matrix
from histogen.seeds import numpy_rng

ROWS_PER_CHUNK = 1024
EDGE = 1e-9
"""Relative difference of squared distances (float64) up to which they count as equal."""

Matrix = NDArray[np.floating]


def frechet_distance(a: Matrix, b: Matrix) -> float:
    """Return the squared Fréchet distance of Gaussians fitted to ``a`` [N, D] and ``b`` [M, D].

    |mean_a - mean_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)), as in FID (Heusel et al. 2017, arXiv 1706.08500).
    With any factors S_a = F F^T and S_b = G G^T, the last trace is the sum of the singular values of F^T G: never
    complex, finite for N < D too, where the centred embeddings themselves are the factor, and exact to rounding for
    equal sets.

    Raises:
        ConfigError: a set has fewer than two tiles, the dimensions differ, or an embedding is not finite.
    """
    _check_pair(a, b)
    x, y = (matrix.astype(np.float64) for matrix in (a, b))
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    x, y = (x - mean_x) / np.sqrt(len(x) - 1), (y - mean_y) / np.sqrt(len(y) - 1)
    trace = float((x * x).sum() + (y * y).sum())
    return _not_negative(((mean_x - mean_y) ** 2).sum() + trace - 2 * _root_trace(_factor(x), _factor(y)))


def frechet_from_moments(mean_a: Matrix, cov_a: Matrix, mean_b: Matrix, cov_b: Matrix) -> float:
    """Return the squared Fréchet distance of two Gaussians given by means [D] and covariances [D, D].

    Raises:
        ConfigError: one of the four is not finite.
    """
    given = [np.asarray(values, dtype=np.float64) for values in (mean_a, cov_a, mean_b, cov_b)]
    for name, values in zip(("first mean", "first covariance", "second mean", "second covariance"), given, strict=True):
        if not np.isfinite(values).all():
            raise ConfigError(f"the {name} is not finite; measure it on finite embeddings")
    gap = given[0] - given[2]
    root = _root_trace(_factor_of_covariance(given[1]), _factor_of_covariance(given[3]))
    return _not_negative(gap @ gap + np.trace(given[1]) + np.trace(given[3]) - 2 * root)


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
    arXiv 2002.09797). A manifold is the union of balls around its tiles, each reaching to its k-th neighbour: as
    published, a tile on a ball's very edge is inside for precision and recall, outside for density and coverage.
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
    x, y = (as_matrix(m, what=w, device=device).double() for m, w in ((real, "real"), (synthetic, "synthetic")))
    centre = _rounded(x.mean(dim=0))  # the same shift of both changes no distance, and spares digits
    x, y = x - centre, y - centre
    radius_x, radius_y = _radii(x, k), _radii(y, k)
    inside, within, reached = 0, 0, torch.zeros(len(x), dtype=torch.bool, device=x.device)
    nearest = torch.full((len(x),), torch.inf, dtype=x.dtype, device=x.device)
    for start in range(0, len(y), ROWS_PER_CHUNK):
        rows = slice(start, start + ROWS_PER_CHUNK)
        distance = squared_distances(y[rows], x)
        inside += int((distance <= radius_x * (1 + EDGE)).any(dim=1).sum())
        within += int((distance < radius_x * (1 - EDGE)).sum())
        reached |= (distance <= radius_y[rows, None] * (1 + EDGE)).any(dim=0)
        nearest = torch.minimum(nearest, distance.min(dim=0).values)
    coverage = (nearest < radius_x * (1 - EDGE)).float().mean()
    return Manifold(inside / len(y), float(reached.float().mean()), within / (k * len(y)), float(coverage))


def _rounded(centre: Tensor) -> Tensor:
    """Return ``centre`` [D] to seven binary digits of its largest part, so that shifting by it rounds nothing away."""
    step = 2.0 ** (torch.floor(torch.log2(centre.abs().max().clamp_min(1e-30))) - 7)
    return torch.round(centre / step) * step


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


def _root_trace(factor_a: Matrix, factor_b: Matrix) -> float:
    """Return tr((F F^T G G^T)^(1/2)) of factors F [D, r] and G [D, s]: the sum of the singular values of F^T G."""
    return float(svdvals(factor_a.T @ factor_b, check_finite=False).sum())


def _not_negative(distance: float) -> float:
    """Return a squared distance, which rounding may have put below 0."""
    return max(0.0, float(distance))


def _check_pair(a: Matrix, b: Matrix) -> None:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ConfigError(f"embeddings {a.shape} and {b.shape} cannot be compared: two sets [N, D] of one D, N > 1")
    for name, matrix in (("first", a), ("second", b)):
        broken = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
        if len(broken):
            raise ConfigError(
                f"{len(broken)} of {len(matrix)} embeddings of the {name} set are not finite (the first in row "
                f"{broken[0]}); embed these tiles again"
            )
