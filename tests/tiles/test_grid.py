"""The grid: exact in the small against arithmetic, exact in the large against a ruler drawn on a slide."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest

from histogen.geometry import Extent, Mpp
from histogen.slides.base import open_slide
from histogen.slides.tiff_writer import write_svs
from histogen.store.jpeg import JpegSettings, decode_jpeg
from histogen.tiles.extract import Recipe, extract_tiles, runs_of
from histogen.tiles.grid import Grid, box_means
from histogen.tiles.plan import mark_boxes

PERIOD_UM = 13.7


def ruler(extent: Extent, mpp: float) -> np.ndarray:
    """Waves of ``PERIOD_UM`` along x in red and along y in blue; a pixel shows the middle of its own area."""
    x = (np.arange(extent.width) + 0.5) * mpp
    y = (np.arange(extent.height) + 0.5) * mpp
    waves = [128 + 90 * np.cos(2 * np.pi * axis / PERIOD_UM) for axis in (x, y)]
    pixels = np.full((extent.height, extent.width, 3), 128.0)
    pixels[..., 0] = waves[0][None, :]
    pixels[..., 2] = waves[1][:, None]
    return np.rint(pixels).astype(np.uint8)


def phase_um(wave: np.ndarray, mpp: float) -> float:
    """Where the wave's crest next to the beginning lies, microns from the first pixel's left border."""
    at = (np.arange(len(wave)) + 0.5) * mpp
    whole = int(int(len(wave) * mpp / PERIOD_UM) * PERIOD_UM / mpp)
    window = np.hanning(whole)
    spectrum = ((wave[:whole] - wave[:whole].mean()) * window * np.exp(-2j * np.pi * at[:whole] / PERIOD_UM)).sum()
    return float(-np.angle(spectrum) / (2 * np.pi) * PERIOD_UM)


@pytest.mark.parametrize("slide_mpp", [0.2201, 0.2325, 0.2523, 0.2650, 0.3334, 0.4990, 0.5498])
@pytest.mark.parametrize("target", [0.5, 1.0])
@pytest.mark.parametrize("reader", ["native", "openslide"])
def test_scale_and_place_against_a_ruler(tmp_path: Path, slide_mpp: float, target: float, reader: str) -> None:
    """Oracle: the phase of a wave of known period. Scale within 0.2 %, and no drift along 900 µm: within 0.15 µm."""
    extent = Extent(round(900 / slide_mpp), round(420 / slide_mpp))
    path = tmp_path / "ruler.svs"
    write_svs(path, ruler(extent, slide_mpp), mpp=slide_mpp, quality=95, downsamples=(2,))
    slide = open_slide(path, reader=reader)
    assert slide.mpp is not None
    grid = Grid(slide.extent, slide.mpp, 96, 96, target)
    columns, rows = grid.cells()
    extracted = extract_tiles(slide, grid, columns, rows, Recipe(JpegSettings(95, "444")))
    offsets = []
    for column, row, payload in zip(columns.tolist(), rows.tolist(), extracted.payloads, strict=True):
        assert payload is not None
        tile = decode_jpeg(payload).astype(float)
        for cell, wave in ((column, tile[..., 0].mean(0)), (row, tile[..., 2].mean(1))):
            start = cell * 96 * target
            crest = phase_um(wave, target) + start
            offsets.append((start, (crest + PERIOD_UM / 2) % PERIOD_UM - PERIOD_UM / 2))
    starts, errors = np.array(offsets).T
    assert np.abs(errors).max() < 0.15
    slope = np.polyfit(starts, errors, 1)[0]
    assert abs(slope) < 0.0005
    assert {round(v) for v in columns} == set(range(grid.num_columns))


def test_counts_at_the_border() -> None:
    grid = Grid(Extent(1000, 700), Mpp(0.25, 0.25), 100, 100, 0.5)
    assert (grid.num_columns, grid.num_rows) == (5, 3)
    padded = Grid(Extent(1000, 700), Mpp(0.25, 0.25), 100, 100, 0.5, "pad")
    assert (padded.num_columns, padded.num_rows) == (5, 4)
    overlapping = Grid(Extent(1000, 700), Mpp(0.25, 0.25), 100, 50, 0.5)
    assert (overlapping.num_columns, overlapping.num_rows) == (9, 6)
    assert Grid(Extent(150, 700), Mpp(0.25, 0.25), 100, 50, 0.5).num_columns == 0


def test_positions_do_not_drift_and_know_each_axis() -> None:
    grid = Grid(Extent(100_000, 80_000), Mpp(0.2325, 0.2331), 256, 200, 0.5)
    columns, rows = np.array([0, 1, 190]), np.array([0, 3, 177])
    x, y = grid.positions_l0(columns, rows)
    assert np.allclose(x, [0, 200 * 0.5 / 0.2325, 190 * 200 * 0.5 / 0.2325], rtol=0, atol=1e-8)
    assert np.allclose(y, [0, 3 * 200 * 0.5 / 0.2331, 177 * 200 * 0.5 / 0.2331], rtol=0, atol=1e-8)
    back = grid.cells_at(x, y)
    assert [v.tolist() for v in back] == [columns.tolist(), rows.tolist()]


def test_overlapping_neighbours_share_their_pixels(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (260, 390, 3), np.uint8)
    write_svs(tmp_path / "a.svs", pixels, mpp=0.5, quality=95, downsamples=())
    slide = open_slide(tmp_path / "a.svs")
    grid = Grid(slide.extent, Mpp(0.5, 0.5), 64, 32, 0.5)
    extracted = extract_tiles(slide, grid, *grid.cells(), Recipe(JpegSettings(100, "444")))
    whole = slide.read_level(0, 0, 0, slide.extent).astype(int)
    for column, row, payload in zip(*(c.tolist() for c in grid.cells()), extracted.payloads, strict=True):
        assert payload is not None
        expected = whole[row * 32 : row * 32 + 64, column * 32 : column * 32 + 64]
        assert np.abs(decode_jpeg(payload) - expected).mean() < 1.5


def test_runs_visit_every_tile_once_and_keep_neighbours_together() -> None:
    grid = Grid(Extent(40_000, 3000), Mpp(0.5, 0.5), 100, 100, 0.5)
    columns, rows = grid.cells()
    keep = np.random.default_rng(0).random(len(columns)) < 0.7
    columns, rows = columns[keep], rows[keep]
    seen: list[int] = []
    for (column, row), members in runs_of(grid, columns, rows):
        assert columns[members].tolist() == list(range(column, column + len(members)))
        assert set(rows[members]) == {row}
        seen += members
    assert sorted(seen) == list(range(len(columns)))


@pytest.mark.parametrize("block", [3, 7, 1 << 18])
def test_box_means_are_exact_between_pixels(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Oracle: the map blown up ten times and summed."""
    monkeypatch.setattr("histogen.tiles.grid.BLOCK_BOXES", block)
    rng = np.random.default_rng(1)
    values = rng.random((13, 17)) > 0.5
    big = np.kron(values, np.ones((10, 10)))
    x, y = rng.integers(0, 120, 20) / 10, rng.integers(0, 80, 20) / 10
    means = box_means(values, x, y, 4.3, 3.7)
    for mean, left, top in zip(means, np.rint(x * 10).astype(int), np.rint(y * 10).astype(int), strict=True):
        assert mean == pytest.approx(big[top : top + 37, left : left + 43].mean(), abs=1e-6)


def test_ten_million_boxes_are_as_many_means_in_little_memory() -> None:
    """What is computed at a time does not grow with the slide; an empty map is not computed at all."""
    tracemalloc.start()
    x = np.linspace(0, 90, 2_000_000)
    before = tracemalloc.get_traced_memory()[1]
    means = box_means(np.ones((100, 100), bool), x, x, 8.0, 8.0)
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    np.testing.assert_array_equal(means, np.ones(len(x), np.float32))
    assert peak < means.nbytes + 60e6
    assert not box_means(np.zeros((100, 100), bool), x, x, 8.0, 8.0).any()


def test_boxes_are_marked_as_opencv_draws_them() -> None:
    rng = np.random.default_rng(2)
    corners = rng.integers(0, [[60], [40]], (2, 30)).astype(np.int32)
    opposites = corners + rng.integers(0, 25, (2, 30)).astype(np.int32)  # some reach over the border
    inside, outline = mark_boxes((corners[0], corners[1]), (opposites[0], opposites[1]), (60, 40))
    filled, lines = np.zeros((40, 60), np.uint8), np.zeros((40, 60), np.uint8)
    for corner, opposite in zip(corners.T.tolist(), opposites.T.tolist(), strict=True):
        cv2.rectangle(filled, corner, opposite, 1, -1)
        cv2.rectangle(lines, corner, opposite, 1, 1)
    np.testing.assert_array_equal(inside, filled > 0)
    np.testing.assert_array_equal(outline, lines > 0)
