"""Where things are on a drawn slide: tissue, class regions, pen stroke and out-of-focus area, as coarse maps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from histogen.geometry import Extent

CLASS_NAMES = ("glands", "stroma", "lymphocytes", "adipose", "mucus", "necrosis")
"""The classes of a drawn slide, in the order of their codes."""

CELL_PX = 4
"""Level-0 pixels along one side of a pixel of the maps."""

BALANCE_STEPS = 40


@dataclass(frozen=True)
class Layout:
    """Maps of one drawn slide, each ``[ceil(H / CELL_PX), ceil(W / CELL_PX)]``."""

    class_map: np.ndarray
    """int8, index into :data:`CLASS_NAMES`, -1 off tissue."""
    pen_mask: np.ndarray
    """bool."""
    blur_mask: np.ndarray
    """bool."""


def smooth_field(rng: np.random.Generator, shape: tuple[int, int], cell: float) -> np.ndarray:
    """Return smooth noise, float32 [h, w], with features of about ``cell`` pixels and unit variance at the knots."""
    height, width = shape
    knots = (max(4, int(np.ceil(height / cell)) + 3), max(4, int(np.ceil(width / cell)) + 3))
    noise = rng.standard_normal(knots).astype(np.float32)
    scale = (int(knots[1] * cell), int(knots[0] * cell))
    big = cv2.resize(noise, (max(scale[0], width), max(scale[1], height)), interpolation=cv2.INTER_CUBIC)
    return np.ascontiguousarray(big[:height, :width])


def build_layout(
    rng: np.random.Generator, extent: Extent, mpp: float, *, region_um: float, pen: bool, blur: bool
) -> Layout:
    """Lay out a slide of ``extent`` level-0 pixels at ``mpp``; class regions are about ``region_um`` across."""
    shape = (-(-extent.height // CELL_PX), -(-extent.width // CELL_PX))
    tissue = _tissue(rng, shape)
    classes = _classes(rng, tissue, region_um / (mpp * CELL_PX))
    pen_mask = _stroke(rng, tissue, 45.0 / (mpp * CELL_PX)) if pen else np.zeros(shape, bool)
    blur_mask = _blurred(rng, tissue) if blur else np.zeros(shape, bool)
    return Layout(classes, pen_mask, blur_mask)


def _tissue(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """One large and one small piece with a wavy outline, clear of the border of the slide."""
    height, width = shape
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = x / width, y / height
    left = rng.random() < 0.5
    centres = [(0.40, 0.5, 0.30, 0.38), (0.84, 0.45 + 0.2 * rng.random(), 0.09, 0.26)]
    wave = smooth_field(rng, shape, min(shape) / 7) * 0.22 + smooth_field(rng, shape, min(shape) / 20) * 0.05
    inside = np.zeros(shape, bool)
    for cx, cy, rx, ry in centres:
        cx = cx if left else 1 - cx
        inside |= ((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + wave < 1
    margin_x, margin_y = max(2, width // 40), max(2, height // 40)
    inside[:margin_y] = inside[-margin_y:] = False
    inside[:, :margin_x] = inside[:, -margin_x:] = False
    return _without_crumbs(inside, min_area=inside.size // 150)


def _without_crumbs(mask: np.ndarray, min_area: int) -> np.ndarray:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    keep = np.zeros(count, bool)
    keep[1:] = stats[1:, cv2.CC_STAT_AREA] >= min_area
    return keep[labels]


def _classes(rng: np.random.Generator, tissue: np.ndarray, cell: float) -> np.ndarray:
    """Every class gets about the same share of the tissue: the fields' offsets are balanced, then the largest wins."""
    fields = np.stack([smooth_field(rng, tissue.shape, cell * 0.6) for _ in CLASS_NAMES], axis=-1)
    inside = fields[tissue][:: max(1, int(tissue.sum()) // 20000)]
    offsets = np.zeros(len(CLASS_NAMES), np.float32)
    for step in range(BALANCE_STEPS):
        share = np.bincount((inside + offsets).argmax(-1), minlength=len(CLASS_NAMES)) / max(1, len(inside))
        offsets += (1 / len(CLASS_NAMES) - share).astype(np.float32) * 2.0 / (1 + step / 10)
    classes = (fields + offsets).argmax(-1).astype(np.int8)
    smooth = cv2.medianBlur(classes.astype(np.uint8), 5).astype(np.int8)
    smooth[~tissue] = -1
    return smooth


def _stroke(rng: np.random.Generator, tissue: np.ndarray, thickness: float) -> np.ndarray:
    """A pen stroke that begins off the tissue and crosses its edge."""
    height, width = tissue.shape
    edge = tissue & ~cv2.erode(tissue.astype(np.uint8), np.ones((3, 3), np.uint8)).astype(bool)
    rows, columns = np.nonzero(edge)
    at = int(rng.integers(len(rows)))
    centre = np.array([columns[at], rows[at]], np.float32)
    angle = rng.uniform(0, np.pi)
    length = 0.14 * (width + height) / 2
    along = np.array([np.cos(angle), np.sin(angle)], np.float32)
    across = np.array([-along[1], along[0]], np.float32)
    t = np.linspace(-1, 1, 60, dtype=np.float32)[:, None]
    bend = rng.uniform(0.5, 2.0) * np.sin(t * np.pi) * thickness * 2
    points = centre + along * t * length + across * bend
    mask = np.zeros(tissue.shape, np.uint8)
    cv2.polylines(mask, [np.round(points).astype(np.int32)], False, 1, max(2, round(thickness)), cv2.LINE_8)
    return mask.astype(bool)


def _blurred(rng: np.random.Generator, tissue: np.ndarray) -> np.ndarray:
    rows, columns = np.nonzero(tissue)
    at = int(rng.integers(len(rows)))
    radius = min(tissue.shape) * rng.uniform(0.08, 0.12)
    mask = np.zeros(tissue.shape, np.uint8)
    axes = (int(radius * rng.uniform(0.9, 1.4)), int(radius))
    cv2.ellipse(mask, (int(columns[at]), int(rows[at])), axes, rng.uniform(0, 180), 0, 360, 1, -1)
    return mask.astype(bool)


def region_features(class_map: np.ndarray, extent: Extent) -> list[dict[str, Any]]:
    """Return the class regions as GeoJSON features (level-0 pixels), in QuPath's manner.

    A corner of a region lies on the boundary between pixels of ``class_map``: the polygons cover its pixels exactly.
    """
    features = []
    for code, name in enumerate(CLASS_NAMES):
        # Doubling the map puts every pixel's outline on integer corners of the contour tracer.
        mask = np.repeat(np.repeat((class_map == code).astype(np.uint8), 2, axis=0), 2, axis=1)
        contours, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        for index, contour in enumerate(contours):
            if tree[0][index][3] != -1 or len(contour) < 3:
                continue
            rings = [_ring(contour, extent)]
            child = tree[0][index][2]
            while child != -1:
                if len(contours[child]) >= 3:
                    rings.append(_ring(contours[child], extent))
                child = tree[0][child][0]
            features.append(
                {
                    "type": "Feature",
                    "geometry": {"type": "Polygon", "coordinates": rings},
                    "properties": {"objectType": "annotation", "classification": {"name": name}},
                }
            )
    return features


def _ring(contour: np.ndarray, extent: Extent) -> list[list[float]]:
    """Turn a contour of the doubled map, which runs through pixel centres, into a closed ring along pixel borders.

    Pixel ``i`` has the copies ``2 i`` and ``2 i + 1``: a contour touches the first where the border is on its low
    side and the second where it is on its high side, so halving upwards meets the border.
    """
    corners = np.clip((contour[:, 0].astype(np.int64) + 1) // 2 * CELL_PX, 0, [extent.width, extent.height])
    ring = [[float(x), float(y)] for x, y in corners]
    return [*ring, ring[0]]
