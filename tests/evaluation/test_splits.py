"""Splits: deterministic, no slide on both sides, every class on both sides where possible."""

from __future__ import annotations

import numpy as np
import pytest

from histogen.errors import ConfigError
from histogen.evaluation.splits import given_split, hold_out, split_by_group, split_by_tile


def test_given_split_takes_only_train_and_test() -> None:
    codes = np.array([0, 1, 2, 0, -1, 1])
    usable = np.array([True, True, True, False, True, True])
    found = given_split(codes, ["train", "test", "val"], usable)
    assert (found.train.tolist(), found.test.tolist()) == ([0], [1, 5])
    with pytest.raises(ConfigError, match="no labelled tile has split 'test'"):
        given_split(codes, ["train", "validation"], usable)


@pytest.mark.parametrize("names", [["train", "test", "Train"], ["train", "test", "test "], ["TEST", "train", "test"]])
def test_a_side_that_is_spelled_in_two_ways_is_refused(names: list[str]) -> None:
    with pytest.raises(
        ConfigError, match="which would take no part beside 'train' and 'test'; write it as '(train|test)'"
    ):
        given_split(np.array([0, 1, 2]), names, np.ones(3, bool))


def test_groups_stay_whole_and_classes_reach_both_sides() -> None:
    """Classes 0 and 1 live in slides 0-2 and 3-5 only: a careless choice of two of eight slides would miss one."""
    groups = np.repeat(np.arange(8), 10)
    labels = np.select([groups < 3, groups < 6], [0, 1], 2)
    usable = np.ones(80, bool)
    for seed in range(20):
        found = split_by_group(labels, groups, usable, share=0.375, seed=seed)
        assert not set(groups[found.train]) & set(groups[found.test])
        assert sorted([*found.train, *found.test]) == list(range(80))
        assert set(labels[found.test]) == set(labels[found.train]) == {0, 1, 2}
        again = split_by_group(labels, groups, usable, share=0.375, seed=seed)
        np.testing.assert_array_equal(found.test, again.test)


def test_one_slide_cannot_be_split_by_slide() -> None:
    with pytest.raises(ConfigError, match="one slide; use split=tile"):
        split_by_group(np.array([0, 1]), np.array([3, 3]), np.ones(2, bool), share=0.5, seed=0)


def test_tile_split_takes_the_share_of_every_class_and_leaves_unlabelled_out() -> None:
    labels = np.array([0] * 40 + [1] * 8 + [2] + [-1] * 5)
    found = split_by_tile(labels, labels >= 0, share=0.25, seed=3)
    assert np.bincount(labels[found.test], minlength=3).tolist() == [10, 2, 0]
    assert np.bincount(labels[found.train]).tolist() == [30, 6, 1]


def test_hold_out_falls_back_on_tiles_when_a_class_lives_in_one_group() -> None:
    groups = np.repeat([0, 1, 2, 3], 10)
    labels = (groups == 0).astype(int)
    held = hold_out(labels, groups, share=0.2, seed=0)
    assert set(labels[held]) == set(labels[~held]) == {0, 1}
    spread = np.tile([0, 1], 20)
    whole = hold_out(spread, groups, share=0.25, seed=0)
    assert not set(groups[whole]) & set(groups[~whole])
