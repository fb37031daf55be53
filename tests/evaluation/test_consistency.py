"""Cosines and ranks against their definitions."""

from __future__ import annotations

import numpy as np
import pytest

from histogen.errors import ConfigError
from histogen.evaluation.consistency import embedding_consistency, source_ranks, summarise_ranks


def test_consistency_is_the_cosine() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(9, 5)), rng.normal(size=(9, 5))
    expected = [x @ y / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(embedding_consistency(a, b), expected, atol=1e-6)
    np.testing.assert_allclose(embedding_consistency(a, 3 * a), 1.0, atol=1e-6)
    with pytest.raises(ConfigError, match="do not fit"):
        embedding_consistency(a, b[:3])


def test_ranks_count_the_candidates_that_are_nearer(monkeypatch) -> None:
    monkeypatch.setattr("histogen.evaluation.consistency.ROWS_PER_CHUNK", 4)
    rng = np.random.default_rng(1)
    candidates = rng.normal(size=(30, 6))
    sources = rng.integers(0, 30, 17)
    synthetic = candidates[sources] + 0.9 * rng.normal(size=(17, 6))
    expected = []
    for query, source in zip(synthetic, sources, strict=True):
        cosine = candidates @ query / np.linalg.norm(candidates, axis=1) / np.linalg.norm(query)
        expected.append(sorted(-cosine).index(-cosine[source]) + 1)
    found = source_ranks(synthetic, sources, candidates)
    assert found.tolist() == expected
    summary = summarise_ranks(found, 30)
    assert summary.top1 == np.mean(np.array(expected) == 1)
    assert summary.top5 == np.mean(np.array(expected) <= 5)
    assert (summary.median, summary.num_candidates) == (np.median(expected), 30)


def test_exact_duplicates_of_the_source_do_not_push_it_back() -> None:
    candidates = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert source_ranks(np.array([[1.0, 0.1]]), np.array([1]), candidates).tolist() == [1]
