"""Planted copies are found; tiles that only share a kind, a stain or a plain ground are not taken for copies."""

from __future__ import annotations

import numpy as np
import pytest

from histogen.errors import ConfigError
from histogen.evaluation.memorisation import (
    area_under_curve,
    copy_scores,
    has_layout,
    layout_descriptor,
    nearest_tiles,
    report_copies,
    symmetries,
)
from histogen.store.jpeg import decode_jpeg, encode_jpeg

PX = 48


def tissue(num: int, seed: int) -> np.ndarray:
    """Tiles [num, 48, 48, 3]: blobs on a pink ground, each tile with its own layout; a fifth nearly plain."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:PX, :PX]
    tiles = np.empty((num, PX, PX, 3), np.uint8)
    for tile in tiles:
        depth = np.zeros((PX, PX))
        for _ in range(rng.integers(0, 2) if rng.random() < 0.2 else 12):
            cy, cx, r = rng.uniform(0, PX, 2).tolist() + [rng.uniform(2, 7)]
            depth += np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * r * r))
        ground = np.array([225, 160, 195]) + rng.normal(0, 8, 3)
        colour = ground - np.clip(depth, 0, 1.4)[..., None] * np.array([90, 85, 40])
        tile[:] = np.clip(colour + rng.normal(0, 4, (PX, PX, 1)), 0, 255)
    return tiles


def with_layout(tiles: np.ndarray) -> np.ndarray:
    return tiles[has_layout(layout_descriptor(tiles))]


def planted(training: np.ndarray, rows: np.ndarray, seed: int) -> np.ndarray:
    """Copies as a generator would make them: flipped or turned, shifted, restained, compressed."""
    rng = np.random.default_rng(seed)
    copies = []
    for tile in training[rows]:
        copy = np.rot90(tile, rng.integers(4))
        copy = copy[:, ::-1] if rng.random() < 0.5 else copy
        copy = np.roll(copy, rng.integers(-1, 2, 2), axis=(0, 1)).astype(float)
        copy = copy * rng.uniform(0.93, 1.07, 3) + rng.normal(0, 5, copy.shape)
        copies.append(decode_jpeg(encode_jpeg(np.clip(copy, 0, 255).astype(np.uint8))))
    return np.stack(copies)


def test_planted_copies_at_one_percent_are_found() -> None:
    training, held_out, fresh = (with_layout(tissue(n, seed)) for n, seed in ((800, 1), (400, 2), (1000, 3)))
    fresh = fresh[:792]
    assert len(fresh) == 792
    rows = np.random.default_rng(4).choice(len(training), 8, replace=False)
    synthetic = np.concatenate([fresh, planted(training, rows, 5)])
    train = layout_descriptor(training)
    made = copy_scores(layout_descriptor(synthetic), train)
    real = copy_scores(layout_descriptor(held_out), train)
    assert area_under_curve(-made.ratio[792:], -made.ratio[:792]) >= 0.99
    assert made.nearest[792:].tolist() == rows.tolist()
    report = report_copies(made, real)
    assert set(range(792, 800)) <= set(report.flagged.tolist())
    assert report.flagged_share < 0.04
    assert set(report.flagged[:5].tolist()) <= set(range(792, 800))  # the list is led by real copies


def test_a_generator_that_does_not_copy_looks_like_held_out_tiles() -> None:
    train = layout_descriptor(with_layout(tissue(400, 6)))
    made = copy_scores(layout_descriptor(with_layout(tissue(300, 7))), train)
    real = copy_scores(layout_descriptor(with_layout(tissue(300, 8))), train)
    report = report_copies(made, real)
    assert report.closer == pytest.approx(0.5, abs=0.07)
    assert report.flagged_share <= 0.04
    assert report.median_synthetic == pytest.approx(report.median_held_out, rel=0.1)


def test_a_generator_that_copies_everything_is_seen_whole() -> None:
    training = with_layout(tissue(300, 9))
    train = layout_descriptor(training)
    made = copy_scores(layout_descriptor(planted(training, np.arange(200), 10)), train)
    real = copy_scores(layout_descriptor(with_layout(tissue(200, 11))), train)
    report = report_copies(made, real)
    assert report.closer > 0.97
    assert report.flagged_share > 0.8


def test_descriptor_ignores_stain_and_symmetries_are_those_of_the_tile() -> None:
    tile = tissue(1, 12)
    stained = np.clip(tile.astype(int) + np.array([-20, 10, 5]), 0, 255).astype(np.uint8)
    np.testing.assert_allclose(layout_descriptor(tile), layout_descriptor(stained), atol=0.02)
    views = symmetries(layout_descriptor(tile))
    turned = [np.rot90(tile, n, axes=(1, 2)) for n in range(4)]
    for view, moved in zip(views, [*turned, *[t[:, :, ::-1] for t in turned]], strict=True):
        np.testing.assert_allclose(view, layout_descriptor(np.ascontiguousarray(moved)), atol=1e-6)


def test_nearest_is_the_plain_minimum_over_all_symmetries(monkeypatch) -> None:
    monkeypatch.setattr("histogen.evaluation.memorisation.ROWS_PER_CHUNK", 3)
    train, queries = layout_descriptor(tissue(12, 13)), layout_descriptor(tissue(7, 14))
    every = np.stack([((view[:, None] - train[None]) ** 2).sum(-1) for view in symmetries(queries)])
    distance, nearest = nearest_tiles(queries, train)
    np.testing.assert_allclose(distance, np.sqrt(every.min(axis=(0, 2))), atol=1e-4)
    np.testing.assert_array_equal(nearest, every.min(axis=0).argmin(axis=1))
    scale, _ = nearest_tiles(train, train, exclude=np.arange(12))
    others = np.stack([((view[:, None] - train[None]) ** 2).sum(-1) for view in symmetries(train)]).min(axis=0)
    np.fill_diagonal(others, np.inf)
    np.testing.assert_allclose(scale, np.sqrt(others.min(axis=1)), atol=1e-4)


def test_plain_tiles_are_left_out() -> None:
    plain = np.clip(200 + np.random.default_rng(0).normal(0, 3, (4, PX, PX, 3)), 0, 255).astype(np.uint8)
    assert not has_layout(layout_descriptor(plain)).any()
    assert 0.75 < has_layout(layout_descriptor(tissue(300, 15))).mean() < 1.0


def test_area_under_curve_is_the_share_of_ordered_pairs() -> None:
    a, b = np.array([3.0, 1.0, 2.0]), np.array([0.0, 2.0])
    pairs = [(x > y) + 0.5 * (x == y) for x in a for y in b]
    assert area_under_curve(a, b) == pytest.approx(np.mean(pairs))


def test_nothing_to_compare() -> None:
    with pytest.raises(ConfigError, match="0 tiles cannot be compared"):
        nearest_tiles(np.zeros((0, 768), np.float32), np.zeros((3, 768), np.float32))
