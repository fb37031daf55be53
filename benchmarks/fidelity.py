"""The figures of `histogen fidelity`: their speed and memory, and the Fréchet distance beside scipy's matrix root.

    python benchmarks/fidelity.py [--quick]

Embeddings are drawn Gaussians. The peer computes the trace of scipy.linalg.sqrtm of the product of both covariances,
as published FID code does. One thread unless OMP_NUM_THREADS says otherwise.
"""

from __future__ import annotations

import argparse
import os
import resource
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from common import Clock, machine
from scipy.linalg import sqrtm

from histogen.evaluation.fidelity import frechet_distance, frechet_from_moments, kernel_distance, manifold_metrics
from histogen.evaluation.memorisation import SIDE, copy_scores


def row(name: str, text: str) -> None:
    print(f"{name:<34s} {text}", flush=True)


def timed(function: Callable[[], object]) -> tuple[Clock, object]:
    with Clock() as clock:
        value = function()
    return clock, value


def seconds_of(clock: Clock) -> str:
    return f"{clock.wall:.1f} s ({clock.cpu:.1f} CPU-s)"


def memory_gb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def embeddings(num: int, dim: int, seed: int, shift: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scales = np.linspace(0.05, 2.0, dim)
    return (shift + rng.normal(size=(num, dim)) * scales).astype(np.float32)


def with_sqrtm(mean_a: np.ndarray, cov_a: np.ndarray, mean_b: np.ndarray, cov_b: np.ndarray) -> float:
    root = np.real(np.trace(sqrtm(cov_a @ cov_b)))
    return float(((mean_a - mean_b) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * root)


def frechet(dim: int, num: int) -> None:
    a, b = embeddings(num, dim, 1), embeddings(num, dim, 2, shift=0.1)
    moments = [m for x in (a, b) for m in (x.mean(0, dtype=np.float64), np.cov(x, rowvar=False, dtype=np.float64))]
    ours, value = timed(lambda: frechet_from_moments(*moments))
    theirs, expected = timed(lambda: with_sqrtm(*moments))
    row(f"Frechet D = {dim}, histogen", f"{seconds_of(ours)}: {value:.6f}")
    row(f"Frechet D = {dim}, scipy sqrtm", f"{seconds_of(theirs)}: {expected:.6f}")
    row("ratio of CPU", f"{theirs.cpu / ours.cpu:.1f}; relative difference {abs(value - expected) / expected:.1e}")
    few, value = timed(lambda: frechet_distance(a[:64], b[:64]))
    row(f"Frechet of 64 tiles, D = {dim}", f"{few.wall:.3f} s: {value:.3f} (finite: {np.isfinite(value)})")


def manifold(num: int, dim: int) -> None:
    a, b = embeddings(num, dim, 3), embeddings(num, dim, 4)
    before = memory_gb()
    clock, _ = timed(lambda: manifold_metrics(a, b))
    row(
        f"manifold, {num:,} x {num:,}, D = {dim}",
        f"{seconds_of(clock)}; peak {memory_gb():.2f} GB ({before:.2f} before)",
    )
    clock, _ = timed(lambda: kernel_distance(a, b, seed=0))
    row("kernel distance, 100 x 1,000", f"{seconds_of(clock)}; peak {memory_gb():.2f} GB")
    clock, _ = timed(lambda: frechet_distance(a, b))
    row(f"Frechet from {num:,} embeddings", seconds_of(clock))


def copies(num_train: int, num: int) -> None:
    dim = 3 * SIDE * SIDE
    train, made = embeddings(num_train, dim, 5), embeddings(num, dim, 6)
    train, made = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (train, made))
    clock, _ = timed(lambda: copy_scores(made, train))
    row(f"copies, {num:,} in {num_train:,}", f"{seconds_of(clock)}, eight symmetries; peak {memory_gb():.2f} GB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="D = 512 and a tenth of the tiles")
    quick = parser.parse_args().quick
    print(machine("torch", "numpy", "scipy"))
    num = 1_000 if quick else 10_000
    manifold(num, 384)
    manifold(num, 512 if quick else 2_048)
    copies(num, num // 5)
    frechet(512 if quick else 2_048, 4_096)


if __name__ == "__main__":
    main()
