"""The benchmark's own speed: k-NN, linear probe, SimpleShot and bootstrap, each beside a peer in the same run.

    python benchmarks/evaluate.py [--quick]

Embeddings are drawn: nine classes (NCT-CRC-100K's number), 384 dimensions, 100,000 training and 7,180 test tiles. The
peers are scikit-learn (k-NN, on a tenth of the queries; logistic regression), the distances by broadcasting as
published few-shot code computes them, and resampling tiles one draw at a time. One thread unless OMP_NUM_THREADS says
otherwise.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import replace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from common import Clock, machine
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from histogen.evaluation.bootstrap import Resampling, bootstrap_interval, paired_difference
from histogen.evaluation.knn import knn_votes
from histogen.evaluation.linear import fit_linear, linear_probe
from histogen.evaluation.metrics import METRICS, class_counts
from histogen.evaluation.simpleshot import Queries, few_shot_episodes, fit_centroids
from histogen.seeds import numpy_rng

CLASSES, DIM = 9, 384
BALANCED = METRICS["balanced_accuracy"]


def row(name: str, text: str) -> None:
    print(f"{name:<26s} {text}", flush=True)


def timed(function: Callable[[], object]) -> tuple[Clock, object]:
    with Clock() as clock:
        value = function()
    return clock, value


def seconds_of(clock: Clock) -> str:
    return f"{clock.wall:.1f} s ({clock.cpu:.1f} CPU-s)"


def embeddings(num: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return embeddings [num, 384] and labels: class centres that overlap, and features of unequal scale."""
    centres = np.random.default_rng(7).normal(0, 0.13, (CLASSES, DIM))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, num)
    scales = np.random.default_rng(8).uniform(0.2, 3.0, DIM)
    return ((centres[labels] + rng.normal(size=(num, DIM))) * scales).astype(np.float32), labels


def balanced(truth: np.ndarray, predicted: np.ndarray) -> float:
    return float(BALANCED(class_counts(truth, predicted, num_classes=CLASSES)))


def knn(x: np.ndarray, y: np.ndarray, q: np.ndarray) -> None:
    ours, found = timed(lambda: knn_votes(x, y, q, num_classes=CLASSES).argmax(axis=1))
    row("k-NN, histogen", f"{len(x):,} x {len(q):,} in {seconds_of(ours)}")
    part = q[: len(q) // 10]
    peer = KNeighborsClassifier(20, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07))
    peer.fit(x, y)
    theirs, expected = timed(lambda: peer.predict(part))
    same = 100 * float((found[: len(part)] == expected).mean())
    row("k-NN, scikit-learn", f"{len(part):,} queries in {seconds_of(theirs)}; same predictions {same:.2f} %")
    row("ratio of CPU per query", f"{theirs.cpu / len(part) / (ours.cpu / len(q)):.1f}")


def linear(x: np.ndarray, y: np.ndarray, q: np.ndarray, z: np.ndarray) -> None:
    whole, probe = timed(lambda: linear_probe(x, y, None, num_classes=CLASSES, seed=0))
    accuracy = 100 * balanced(z, probe.predict(q))
    row("linear probe, histogen", f"{len(x):,} x {DIM}, penalty chosen, in {seconds_of(whole)}: {accuracy:.2f} %")
    ours, one = timed(lambda: fit_linear(x, y, num_classes=CLASSES, penalty=probe.penalty))
    scaler = StandardScaler().fit(x)
    peer = LogisticRegression(C=1 / (probe.penalty * len(x)), max_iter=1000)
    theirs, _ = timed(lambda: peer.fit(scaler.transform(x), y))
    figures = [100 * balanced(z, p) for p in (one.predict(q), peer.predict(scaler.transform(q)))]
    row("one fit, histogen", f"{seconds_of(ours)}, {figures[0]:.2f} %")
    gap = abs(figures[0] - figures[1])
    row("one fit, scikit-learn", f"{seconds_of(theirs)}, {figures[1]:.2f} %; {gap:.3f} points apart")


def broadcast_episode(support: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """The same classifier with every difference written out, [M, K, D]."""
    mean = support.mean(0)
    unit = torch.nn.functional.normalize(support - mean, dim=1)
    centroids = torch.stack([unit[labels == code].mean(0) for code in range(CLASSES)])
    test = torch.nn.functional.normalize(queries - mean, dim=1)
    return torch.norm(test[:, None] - centroids[None], dim=2).argmin(1)


def simpleshot(x: np.ndarray, y: np.ndarray, q: np.ndarray, z: np.ndarray, episodes: int) -> None:
    whole, _ = timed(lambda: few_shot_episodes(x, y, q, z, num_classes=CLASSES, shots=16, episodes=episodes, seed=0))
    row("SimpleShot, histogen", f"{episodes:,} episodes x {len(q):,} queries in {seconds_of(whole)}")
    rng = numpy_rng(0, "bench")
    chosen = [rng.choice(np.flatnonzero(y == code), 16, replace=False) for code in range(CLASSES)]
    support, queries = torch.as_tensor(x)[np.concatenate(chosen)], torch.as_tensor(q)
    labels, prepared = torch.arange(CLASSES).repeat_interleave(16), Queries.of(queries)

    def product() -> torch.Tensor:
        return fit_centroids(support, labels, num_classes=CLASSES).predict(prepared)

    def broadcast() -> torch.Tensor:
        return broadcast_episode(support, labels, queries)

    ours, theirs = (min((timed(f)[0] for _ in range(9)), key=lambda c: c.cpu) for f in (product, broadcast))
    same = bool((product() == broadcast()).all())
    row("one episode", f"{1000 * ours.cpu:.1f} CPU-ms; by broadcasting {1000 * theirs.cpu:.1f}; same: {same}")
    row("ratio of CPU", f"{theirs.cpu / ours.cpu:.1f}")


def bootstrap(z: np.ndarray) -> None:
    rng = np.random.default_rng(3)
    a, b = (np.where(rng.random(len(z)) < p, z, (z + 1) % CLASSES) for p in (0.8, 0.78))
    clusters = np.arange(len(z)) // 40
    plain = Resampling(BALANCED, CLASSES, seed=0)
    clock, _ = timed(lambda: bootstrap_interval(z, a, plain))
    row("1,000 bootstrap draws", f"{len(z):,} tiles in {clock.wall:.2f} s ({clock.cpu:.2f} CPU-s)")
    clock, _ = timed(lambda: paired_difference(z, a, b, replace(plain, clusters=clusters)))
    row("paired, by slide", f"1,000 draws, 1,000 permutations, {clusters.max() + 1} slides in {clock.wall:.2f} s")

    def one_by_one() -> None:
        for _ in range(1000):
            rows = rng.integers(0, len(z), len(z))
            balanced(z[rows], a[rows])

    row("one draw at a time", f"{timed(one_by_one)[0].wall:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the training tiles, 100 episodes")
    quick = parser.parse_args().quick
    print(machine("torch", "scikit-learn", "numpy", "scipy"))
    x, y = embeddings(10_000 if quick else 100_000, 1)
    q, z = embeddings(7_180, 2)
    knn(x, y, q)
    linear(x, y, q, z)
    simpleshot(x, y, q, z, 100 if quick else 1000)
    bootstrap(z)


if __name__ == "__main__":
    main()
