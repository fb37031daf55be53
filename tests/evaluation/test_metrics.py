"""Metrics against scikit-learn."""

from __future__ import annotations

import numpy as np
from sklearn.metrics import accuracy_score, f1_score, recall_score

from histogen.evaluation.metrics import METRICS, class_counts


def test_metrics_equal_scikit_learn_also_with_absent_classes() -> None:
    rng = np.random.default_rng(0)
    for present in (6, 4):
        truth = rng.integers(0, present, 200)  # with 4, classes 4 and 5 never occur in the truth
        predicted = np.where(rng.random(200) < 0.6, truth, rng.integers(0, 5, 200))
        counts = class_counts(truth, predicted, num_classes=6)
        recall = recall_score(truth, predicted, average="macro", labels=np.unique(truth))
        np.testing.assert_allclose(METRICS["balanced_accuracy"](counts), recall)
        np.testing.assert_allclose(METRICS["macro_f1"](counts), f1_score(truth, predicted, average="macro"))
        np.testing.assert_allclose(METRICS["accuracy"](counts), accuracy_score(truth, predicted))
