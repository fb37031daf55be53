"""The figures of a comparison, as a report shows them."""

from __future__ import annotations

import numpy as np
import pytest

from histogen.evaluation.compare import copy_figures, distribution_figures
from histogen.evaluation.memorisation import CopyReport, CopyScores
from histogen.evaluation.settings import FidelitySettings


def test_sets_of_one_size_have_a_spread_of_their_kernel_distance() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 60, 5)).astype(np.float32)
    found = distribution_figures(a, b, FidelitySettings(kernel_subsets=30), seed=0, device="cpu")
    whole = distribution_figures(a, b, FidelitySettings(kernel_subsets=30, kernel_subset_size=10), seed=0, device="cpu")
    assert 0 < found["kernel_std"] < whole["kernel_std"], "smaller subsets spread more"


def test_a_far_tile_does_not_squeeze_the_histogram() -> None:
    rng = np.random.default_rng(1)
    usual = rng.uniform(0.8, 1.4, 100).astype(np.float32)
    far = np.append(usual[:-1], np.float32(1200))
    nobody = np.zeros(100, np.int64)
    middle = {"median_synthetic": float(np.median(far)), "median_held_out": float(np.median(usual))}
    report = CopyReport(threshold=0.8, quantile=0.01, flagged=nobody[:0], flagged_share=0.0, closer=0.5, **middle)
    shown = copy_figures(report, CopyScores(far, nobody), CopyScores(usual, nobody))["histogram"]
    assert shown["edges"][-1] == pytest.approx(3 * np.median(usual))
    assert shown["synthetic"][-1] == pytest.approx(0.01)
    for name, ratios in (("synthetic", far[:-1]), ("held_out", usual)):
        assert sum(shown[name]) == pytest.approx(1)
        width = shown["edges"][1]
        for k, share in enumerate(shown[name][:-1]):
            inside = ((ratios >= k * width) & (ratios < (k + 1) * width)).sum()
            assert share == pytest.approx(inside / 100), k
