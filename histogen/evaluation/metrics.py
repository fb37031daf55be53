"""Classification metrics from counts per class, for one set or for many resampled ones at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ClassCounts:
    """Counts per class, each [..., K]: tiles predicted rightly, tiles of the class, tiles predicted as it."""

    hits: NDArray[np.float64]
    truths: NDArray[np.float64]
    predictions: NDArray[np.float64]


def class_counts(truth: NDArray[np.integer], predicted: NDArray[np.integer], *, num_classes: int) -> ClassCounts:
    """Return the counts [K] of ``predicted`` [N] against ``truth`` [N]."""
    return ClassCounts(
        hits=np.bincount(truth[truth == predicted], minlength=num_classes).astype(np.float64),
        truths=np.bincount(truth, minlength=num_classes).astype(np.float64),
        predictions=np.bincount(predicted, minlength=num_classes).astype(np.float64),
    )


def balanced_accuracy(counts: ClassCounts) -> NDArray[np.float64]:
    """Return the mean recall over the classes that occur in the truth [...]."""
    return _mean_where(counts.hits, counts.truths, counts.truths > 0)


def macro_f1(counts: ClassCounts) -> NDArray[np.float64]:
    """Return the mean F1 over the classes that occur in the truth or the predictions [...], as scikit-learn does."""
    sizes = counts.truths + counts.predictions
    return _mean_where(2 * counts.hits, sizes, sizes > 0)


def accuracy(counts: ClassCounts) -> NDArray[np.float64]:
    """Return the share of tiles predicted rightly [...]."""
    return np.asarray(counts.hits.sum(axis=-1) / counts.truths.sum(axis=-1))


Metric = Callable[[ClassCounts], NDArray[np.float64]]
METRICS: dict[str, Metric] = {
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
    "accuracy": accuracy,
}


def _mean_where(
    numerator: NDArray[np.float64], denominator: NDArray[np.float64], where: NDArray[np.bool_]
) -> NDArray[np.float64]:
    ratio = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=where)
    return np.asarray(ratio.sum(axis=-1) / where.sum(axis=-1))
