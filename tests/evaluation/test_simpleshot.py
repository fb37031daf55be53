"""SimpleShot against the distances written out."""

from __future__ import annotations

import numpy as np
import pytest

from histogen.errors import ConfigError
from histogen.evaluation.simpleshot import few_shot_episodes, simpleshot_predict


def spelled_out(train, labels, queries, num_classes):
    mean = train.mean(axis=0)
    unit = [(t - mean) / np.linalg.norm(t - mean) for t in train]
    centroids = [np.mean([u for u, y in zip(unit, labels, strict=True) if y == c], axis=0) for c in range(num_classes)]
    found = []
    for query in queries:
        q = (query - mean) / np.linalg.norm(query - mean)
        found.append(int(np.argmin([np.linalg.norm(q - c) for c in centroids])))
    return np.array(found)


@pytest.fixture
def task() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(4, 10))
    y, z = np.arange(80) % 4, np.arange(40) % 4
    train, queries = centres[y] + 1.2 * rng.normal(size=(80, 10)), centres[z] + 1.2 * rng.normal(size=(40, 10))
    return train + 3, y, queries + 3, z


def test_equals_the_distances_written_out(task) -> None:
    train, y, queries, _ = task
    np.testing.assert_array_equal(
        simpleshot_predict(train, y, queries, num_classes=4), spelled_out(train, y, queries, 4)
    )


def test_a_class_without_support_is_never_predicted(task) -> None:
    train, y, queries, _ = task
    keep = y != 2
    assert 2 not in simpleshot_predict(train[keep], y[keep], queries, num_classes=4)


def test_episodes_are_the_same_for_every_encoder_and_more_shots_help(task) -> None:
    train, y, queries, z = task
    few = few_shot_episodes(train, y, queries, z, classes="abcd", shots=1, episodes=30, seed=5)
    again = few_shot_episodes(train, y, queries, z, classes="abcd", shots=1, episodes=30, seed=5)
    many = few_shot_episodes(train, y, queries, z, classes="abcd", shots=15, episodes=30, seed=5)
    np.testing.assert_array_equal(few, again)
    assert len(set(few)) > 3
    assert many.mean() > few.mean() + 0.05


def test_all_training_tiles_as_shots_equal_the_plain_classifier(task) -> None:
    train, y, queries, z = task
    scores = few_shot_episodes(train, y, queries, z, classes="abcd", shots=20, episodes=2, seed=0)
    expected = np.mean([(simpleshot_predict(train, y, queries, num_classes=4) == z)[z == c].mean() for c in range(4)])
    np.testing.assert_allclose(scores, expected)


def test_too_few_tiles_for_the_shots(task) -> None:
    train, y, queries, z = task
    with pytest.raises(ConfigError, match="class 'a' has 20 training tiles; ask for fewer than 21 shots"):
        few_shot_episodes(train, y, queries, z, classes="abcd", shots=21, episodes=1, seed=0)
