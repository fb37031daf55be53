"""The drawn slide: what OpenSlide says of it, and that its truth is true."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import openslide
import pytest

from histogen.geometry import Extent
from histogen.slides.drawn import CELL_PX, CLASS_NAMES, DrawnTruth, draw_slide

EXTENT = Extent(1500, 1100)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, DrawnTruth]:
    path = tmp_path_factory.mktemp("drawn") / "slide.svs"
    return path, draw_slide(path, seed=3, extent=EXTENT, mpp=0.6, region_um=250)


def test_openslide_sees_a_scanner_s_file(drawn: tuple[Path, DrawnTruth]) -> None:
    with openslide.OpenSlide(drawn[0]) as slide:
        assert slide.properties["openslide.vendor"] == "aperio"
        assert float(slide.properties["openslide.mpp-x"]) == 0.6
        assert slide.properties["openslide.objective-power"] == "17"
        assert slide.dimensions == (1500, 1100)
        assert slide.level_count == 2
        assert "thumbnail" in slide.associated_images


def test_same_seed_same_bytes_and_another_seed_another_slide(drawn: tuple[Path, DrawnTruth], tmp_path: Path) -> None:
    again, other = tmp_path / "a.svs", tmp_path / "b.svs"
    draw_slide(again, seed=3, extent=EXTENT, mpp=0.6, region_um=250)
    draw_slide(other, seed=4, extent=EXTENT, mpp=0.6, region_um=250)
    assert again.read_bytes() == drawn[0].read_bytes() != other.read_bytes()


def test_every_class_has_its_share(drawn: tuple[Path, DrawnTruth]) -> None:
    truth = drawn[1]
    counts = np.bincount(truth.class_map[truth.tissue_mask], minlength=len(CLASS_NAMES))
    assert truth.class_map.shape == (275, 375)
    assert (counts / counts.sum() > 0.08).all()


def test_pixels_follow_the_truth(drawn: tuple[Path, DrawnTruth]) -> None:
    path, truth = drawn
    with openslide.OpenSlide(path) as slide:
        pixels = np.asarray(slide.read_region((0, 0), 0, slide.dimensions).convert("RGB"))
    small = cv2.resize(pixels, truth.class_map.shape[::-1], interpolation=cv2.INTER_AREA).astype(float)
    glass = ~cv2.dilate((truth.tissue_mask | truth.pen_mask).astype(np.uint8), np.ones((7, 7))).astype(bool)
    assert small[glass].min() > 225
    assert np.median(small[truth.pen_mask].min(-1)) < 90
    nuclei = (truth.class_map == CLASS_NAMES.index("lymphocytes")) & ~truth.pen_mask
    fat = (truth.class_map == CLASS_NAMES.index("adipose")) & ~truth.pen_mask
    assert small[nuclei].mean() < small[fat].mean() - 50


def test_polygons_cover_exactly_the_class_map(drawn: tuple[Path, DrawnTruth]) -> None:
    """Oracle: even-odd counting of edges to the left of every cell's centre, per class."""
    truth = drawn[1]
    features = json.loads(truth.annotations.read_text())["features"]
    height, width = truth.class_map.shape
    redrawn = np.full((height, width), -1, np.int8)
    for code, name in enumerate(CLASS_NAMES):
        crossings = np.zeros((height, width + 1), int)
        for feature in features:
            if feature["properties"]["classification"]["name"] != name:
                continue
            for ring in feature["geometry"]["coordinates"]:
                for (x0, y0), (x1, y1) in zip(ring[:-1], ring[1:], strict=True):
                    low, high = sorted((y0, y1))
                    for row in range(round(low / CELL_PX), round(high / CELL_PX)):
                        crossings[row, min(width, round((x0 + x1) / 2 / CELL_PX))] += 1
        redrawn[crossings.cumsum(1)[:, :-1] % 2 == 1] = code
    assert (redrawn == truth.class_map).mean() > 0.9995


def test_label_at_is_the_largest_class(drawn: tuple[Path, DrawnTruth]) -> None:
    truth = drawn[1]
    assert truth.label_at(0, 0, 64) == -1
    rows, columns = np.nonzero(truth.class_map == 2)
    y, x = rows[len(rows) // 2], columns[len(rows) // 2]
    part = truth.class_map[y : y + 10, x : x + 10]
    expected = np.bincount(part[part >= 0], minlength=6).argmax()
    assert truth.label_at(x * CELL_PX, y * CELL_PX, 10 * CELL_PX) == expected
