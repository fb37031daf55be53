"""SimpleShot: nearest class centroid of centred, L2-normalised embeddings (Wang et al. 2019, arXiv 1911.04623).

With every training tile as support it is a one-line classifier; with few of them, drawn again and again, it is
the few-shot protocol that pathology encoders report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histogen.errors import ConfigError
from histogen.evaluation.metrics import balanced_accuracy, class_counts
from histogen.evaluation.vectors import as_labels, as_matrix, few_threads, unit_rows
from histogen.seeds import numpy_rng


@dataclass(frozen=True)
class Queries:
    """Embeddings to classify [M, D] and their squared norms [M], which all episodes share; float32."""

    embeddings: Tensor
    squared: Tensor

    @classmethod
    def of(cls, embeddings: Tensor) -> Queries:
        """Take ``embeddings`` [M, D]."""
        return cls(embeddings, embeddings.square().sum(dim=1))


@dataclass(frozen=True)
class Centroids:
    """What the support gives: its mean [D], a centroid per class [K, D] and their squared norms [K], float32.

    The squared norm of a class without support is infinite, so that it is never the nearest.
    """

    mean: Tensor
    centroids: Tensor
    squared: Tensor

    def predict(self, queries: Queries) -> Tensor:
        """Return the class [M] int64 whose centroid c is nearest to each query, u = (q - mean) / |q - mean|.

        |u - c|^2 = 1 - 2 u.c + |c|^2, and both u.c and |q - mean|^2 follow from the products of q with the centroids
        and the mean: one thin product classifies, and no centred copy of the queries is made.
        """
        products = queries.embeddings @ torch.cat([self.centroids, self.mean[None]]).T
        with_mean = self.centroids @ self.mean
        length = (queries.squared - 2 * products[:, -1] + self.mean.square().sum()).clamp(min=1e-12).sqrt()
        return (self.squared - 2 * (products[:, :-1] - with_mean) / length[:, None]).argmin(dim=1)


def fit_centroids(support: Tensor, labels: Tensor, *, num_classes: int) -> Centroids:
    """Return the centroids of ``support`` [N, D] by ``labels`` [N]; a class without support is never predicted."""
    mean = support.mean(dim=0)
    unit = unit_rows(support - mean)
    counts = torch.bincount(labels, minlength=num_classes).to(unit)
    sums = unit.new_zeros(num_classes, unit.shape[1]).index_add_(0, labels, unit)
    centroids = sums / counts[:, None].clamp(min=1)
    squared = torch.where(counts > 0, centroids.square().sum(dim=1), torch.inf)
    return Centroids(mean, centroids, squared)


def simpleshot_predict(
    train: NDArray[np.floating],
    train_labels: NDArray[np.integer],
    queries: NDArray[np.floating],
    *,
    num_classes: int,
    device: str = "cpu",
) -> NDArray[np.int64]:
    """Return the class [M] of each query [M, D] with all of ``train`` [N, D] as support."""
    support = as_matrix(train, what="training", device=device)
    labels = as_labels(train_labels, len(support), what="training", num_classes=num_classes).to(device)
    origin = support.mean(dim=0)  # the classifier does not see a common shift, but float32 does
    model = fit_centroids(support - origin, labels, num_classes=num_classes)
    tests = Queries.of(as_matrix(queries, what="query", device=device) - origin)
    return np.asarray(model.predict(tests).cpu().numpy())


def few_shot_episodes(
    train: NDArray[np.floating],
    train_labels: NDArray[np.integer],
    queries: NDArray[np.floating],
    query_labels: NDArray[np.integer],
    *,
    classes: Sequence[str],
    shots: int,
    episodes: int,
    seed: int,
    device: str = "cpu",
) -> NDArray[np.float64]:
    """Return the balanced accuracy [episodes] of SimpleShot with ``shots`` random training tiles per class.

    ``classes`` [K] are their names. The supports of an episode depend on (seed, episode) alone, so encoders are
    compared on the same ones.

    Raises:
        ConfigError: a class has fewer than ``shots`` training tiles.
    """
    support = as_matrix(train, what="training", device=device)
    origin = support.mean(dim=0)
    support = support - origin
    tests = Queries.of(as_matrix(queries, what="query", device=device) - origin)
    of_class = [np.flatnonzero(train_labels == code) for code in range(len(classes))]
    short = min(range(len(classes)), key=lambda code: len(of_class[code]))
    if len(of_class[short]) < shots:
        raise ConfigError(
            f"class '{classes[short]}' has {len(of_class[short])} training tiles; ask for fewer than {shots} shots"
        )
    labels = torch.arange(len(classes), device=device).repeat_interleave(shots)
    scores = np.empty(episodes)
    with few_threads(support):
        for episode in range(episodes):
            rng = numpy_rng(seed, "few-shot", episode)
            rows = np.concatenate([rng.choice(members, shots, replace=False) for members in of_class])
            model = fit_centroids(support[torch.as_tensor(rows, device=device)], labels, num_classes=len(classes))
            predicted = model.predict(tests).cpu().numpy()
            scores[episode] = balanced_accuracy(class_counts(query_labels, predicted, num_classes=len(classes)))
    return scores
