"""ABMIL finds the few tiles that make a slide's class, and is judged on slides that it has not seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from histogen.errors import ConfigError
from histogen.evaluation.memorisation import area_under_curve
from histogen.evaluation.mil import GatedAttention, assign_folds, cross_validate, fit_slides
from histogen.evaluation.settings import MilSettings

SMALL = MilSettings(folds=3, epochs=25, hidden=32, attention=16)


def slides(num: int, seed: int) -> tuple[list[np.ndarray], np.ndarray, list[np.ndarray]]:
    """Bags of 30-60 tiles; a slide of class 1 holds 10 % tiles moved along one direction of feature 3."""
    rng = np.random.default_rng(seed)
    bags, marks = [], []
    labels = np.arange(num) % 2
    for label in labels:
        bag = rng.normal(size=(rng.integers(30, 60), 12)) * np.linspace(0.5, 3, 12)
        mark = np.zeros(len(bag), bool)
        if label:
            mark[: max(3, len(bag) // 10)] = True
            bag[mark, 3] += 6.0
        bags.append(bag.astype(np.float32))
        marks.append(mark)
    return bags, labels, marks


def test_slides_are_told_apart_by_a_tenth_of_their_tiles() -> None:
    bags, labels, marks = slides(48, 0)
    probabilities, attention = cross_validate(bags, labels, classes="ab", settings=SMALL, seed=0)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
    assert (probabilities.argmax(axis=1) == labels).mean() >= 0.85
    unseen = [area_under_curve(a[m], a[~m]) for a, m in zip(attention, marks, strict=True) if m.any()]
    assert np.mean(unseen) > 0.9  # by the model that did not see the slide
    model = fit_slides(bags, labels, num_classes=2, settings=SMALL, seed=0)
    fresh, _, fresh_marks = slides(20, 1)
    areas = [
        area_under_curve(model.predict(bag)[1][mark], model.predict(bag)[1][~mark])
        for bag, mark in zip(fresh, fresh_marks, strict=True)
        if mark.any()
    ]
    assert np.mean(areas) > 0.9  # attention goes to the tiles that matter


def test_labels_without_meaning_are_not_learned() -> None:
    bags, _, _ = slides(24, 2)
    noise = [np.random.default_rng(i).normal(size=bag.shape).astype(np.float32) for i, bag in enumerate(bags)]
    labels = np.random.default_rng(5).permutation(np.arange(24) % 2)
    probabilities, _ = cross_validate(noise, labels, classes="ab", settings=SMALL, seed=0)
    assert 0.2 <= (probabilities.argmax(axis=1) == labels).mean() <= 0.8


def test_a_bag_has_no_order_and_attention_sums_to_one() -> None:
    torch.manual_seed(0)
    network = GatedAttention(5, 3, SMALL).eval()
    bag = torch.randn(17, 5)
    order = torch.randperm(17)
    scores, attention = network(bag)
    turned, turned_attention = network(bag[order])
    torch.testing.assert_close(scores, turned)
    torch.testing.assert_close(attention[order], turned_attention)
    assert float(attention.detach().sum()) == pytest.approx(1.0)


def test_the_same_seed_gives_the_same_model_and_leaves_the_callers_seed_alone() -> None:
    bags, labels, _ = slides(8, 3)
    quick = MilSettings(epochs=2, hidden=8, attention=4, max_tiles=20)
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    first = fit_slides(bags, labels, num_classes=2, settings=quick, seed=1).predict(bags[0])[0]
    assert torch.rand(1) == expected
    second = fit_slides(bags, labels, num_classes=2, settings=quick, seed=1).predict(bags[0])[0]
    np.testing.assert_array_equal(first, second)


def test_folds_hold_every_class_evenly() -> None:
    labels = np.array([0] * 11 + [1] * 6 + [2] * 8)
    folds = assign_folds(labels, 5, classes="abc", seed=0)
    assert np.bincount(folds).tolist() == [5, 5, 5, 5, 5]
    for code in range(3):
        counts = np.bincount(folds[labels == code], minlength=5)
        assert counts.max() - counts.min() <= 1
    with pytest.raises(ConfigError, match="class 'y' has 2 slides, fewer than the 3 folds"):
        assign_folds(np.array([0, 0, 0, 1, 1]), 3, classes="xy", seed=0)
