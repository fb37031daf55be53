"""k-NN against a plain NumPy loop and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from histogen.errors import ConfigError
from histogen.evaluation.knn import knn_votes


def clouds(num: int, dim: int, num_classes: int, spread: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(num_classes, dim))
    labels = rng.integers(0, num_classes, num)
    return (centres[labels] + spread * rng.normal(size=(num, dim))).astype(np.float32), labels


def loop_votes(train, labels, queries, num_classes, k, temperature):
    """The protocol, one query and one neighbour at a time, in float64."""
    votes = np.zeros((len(queries), num_classes))
    for row, query in enumerate(queries.astype(np.float64)):
        cosines = [float(query @ t / (np.linalg.norm(query) * np.linalg.norm(t))) for t in train.astype(np.float64)]
        for neighbour in sorted(range(len(train)), key=lambda i: -cosines[i])[:k]:
            votes[row, labels[neighbour]] += np.exp(cosines[neighbour] / temperature)
    return votes / votes.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (7, 1.0)])
def test_votes_equal_a_plain_loop(k: int, temperature: float) -> None:
    train, labels = clouds(90, 12, 4, 1.5, 1)
    queries, _ = clouds(25, 12, 4, 1.5, 2)
    found = knn_votes(train, labels, queries, num_classes=4, k=k, temperature=temperature)
    np.testing.assert_allclose(found, loop_votes(train, labels, queries, 4, k, temperature), atol=2e-5)


def test_many_chunks_predict_as_scikit_learn() -> None:
    train, labels = clouds(600, 16, 5, 2.0, 3)
    queries, _ = clouds(1300, 16, 5, 2.0, 4)  # more than two chunks
    peer = KNeighborsClassifier(20, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07))
    expected = peer.fit(train.astype(np.float64), labels).predict(queries.astype(np.float64))
    assert (knn_votes(train, labels, queries, num_classes=5).argmax(axis=1) == expected).mean() > 0.999


def test_unis_protocol_is_scikit_learns_default_on_centred_unit_vectors() -> None:
    train, labels = clouds(400, 16, 5, 2.0, 8)
    queries, _ = clouds(300, 16, 5, 2.0, 9)
    train, queries = train + 4, queries + 4  # far from the origin, so that centring matters
    centre = train.astype(np.float64).mean(axis=0)
    x, q = ((m - centre) / np.linalg.norm(m - centre, axis=1, keepdims=True) for m in (train, queries))
    expected = KNeighborsClassifier(20).fit(x, labels).predict(q)
    assert (knn_votes(train, labels, queries, num_classes=5, protocol="uni").argmax(axis=1) == expected).mean() > 0.99
    assert (knn_votes(train, labels, queries, num_classes=5).argmax(axis=1) == expected).mean() < 0.99


def test_scale_of_an_embedding_does_not_matter_and_low_temperature_stays_finite() -> None:
    train, labels = clouds(60, 8, 3, 1.0, 5)
    queries, _ = clouds(10, 8, 3, 1.0, 6)
    scales = np.linspace(0.1, 50, 60, dtype=np.float32)[:, None]
    a = knn_votes(train, labels, queries, num_classes=3, temperature=0.001)
    b = knn_votes(train * scales, labels, 7 * queries, num_classes=3, temperature=0.001)
    assert np.isfinite(a).all()
    np.testing.assert_allclose(a, b, atol=1e-3)


def test_what_cannot_be_used_is_refused() -> None:
    train, labels = clouds(10, 4, 2, 1.0, 7)
    with pytest.raises(ConfigError, match="k = 11 neighbours cannot be taken from 10"):
        knn_votes(train, labels, train, num_classes=2, k=11)
    broken = train.copy()
    broken[3, 1] = np.nan
    with pytest.raises(ConfigError, match="1 of 10 training embeddings are not finite"):
        knn_votes(broken, labels, train, num_classes=2, k=3)
    with pytest.raises(ConfigError, match="outside 0 to 1"):
        knn_votes(train, labels + 5, train, num_classes=2, k=3)
