"""From which corner regions count: that of the whole canvas (OpenSlide's level 0), or of what was scanned (QuPath's).

Both are the same but for slides with *bounds*, such as MRXS and Leica SCN, where QuPath shows the scanned part only.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import shapely

from histogen.errors import SlideError
from histogen.geometry import BoxL0
from histogen.slides.base import BaseSlide
from histogen.tiles.annotations.read import Areas
from histogen.tiles.grid import box_means
from histogen.tiles.regions import Region
from histogen.tiles.tissue import TissueMask

Frame = Literal["auto", "bounds", "canvas"]

CLEAR = 0.05
"""Regions that lie within the bounds by so much more from one corner than from the other settle the question."""
CONTRARY = 0.2
"""So much more tissue under regions from the other corner than from the usual one leaves it open."""
NO_TISSUE = 0.02
"""A region whose box holds less than this share of tissue lies beside it."""


def place_areas(
    areas: Areas, slide: BaseSlide, tissue: TissueMask, frame: Frame
) -> tuple[list[Region], tuple[str, ...]]:
    """Return regions in level-0 pixels of the canvas, and what is to be known of them, a phrase each.

    Raises:
        SlideError: most of them lie outside of the slide, or beside its tissue; or it is open from where they count.
    """
    bounds = slide.bounds_l0
    boxes = shapely.bounds([region.geometry for region in areas.regions]).reshape(-1, 4)
    if areas.on_glass or bounds is None or not (bounds.x or bounds.y) or not len(boxes):
        return areas.regions, (*_flat(areas), *_check_place(areas, slide, tissue, boxes, frame))
    moved = boxes + np.tile([bounds.x, bounds.y], 2)
    chosen = _guess(areas, slide, tissue, boxes, moved) if frame == "auto" else frame
    notes = _flat(areas) + _check_place(areas, slide, tissue, moved if chosen == "bounds" else boxes, frame)
    corner = f"the {chosen}' corner ({bounds.x:g}, {bounds.y:g})" if chosen == "bounds" else "the canvas' corner"
    notes = (f"'{areas.path.name}' is counted from {corner}", *notes)
    if chosen == "canvas":
        return areas.regions, notes
    shift = np.array([bounds.x, bounds.y])
    shapes = shapely.transform([region.geometry for region in areas.regions], lambda points: points + shift)
    return [Region(r.name, shape) for r, shape in zip(areas.regions, shapes, strict=True)], notes


def _flat(areas: Areas) -> tuple[str, ...]:
    some = areas.num_flat
    return (f"{some} drawings in '{areas.path.name}' have no area and were left out",) if some else ()


def _guess(
    areas: Areas, slide: BaseSlide, tissue: TissueMask, boxes: np.ndarray, moved: np.ndarray
) -> Literal["bounds", "canvas"]:
    assert slide.bounds_l0 is not None
    within = {"canvas": _within(boxes, slide.bounds_l0), "bounds": _within(moved, slide.bounds_l0)}
    if abs(within["canvas"] - within["bounds"]) > CLEAR:
        return "canvas" if within["canvas"] > within["bounds"] else "bounds"
    weights = _sizes(boxes).prod(axis=1)
    under = {
        "canvas": float(np.average(_tissue_under(boxes, slide, tissue), weights=weights)),
        "bounds": float(np.average(_tissue_under(moved, slide, tissue), weights=weights)),
    }
    usual, other = ("bounds", "canvas") if areas.of_qupath else ("canvas", "bounds")
    if under[other] > under[usual] + CONTRARY:
        raise SlideError(
            f"annotations '{areas.path}' could count from the corner of slide '{slide.slide_id}' or from that of its "
            f"bounds ({under['canvas']:.0%} and {under['bounds']:.0%} of tissue under them); set frame=canvas or "
            "frame=bounds (QuPath's)"
        )
    return usual  # type: ignore[return-value]


def _check_place(
    areas: Areas, slide: BaseSlide, tissue: TissueMask, boxes: np.ndarray, frame: Frame
) -> tuple[str, ...]:
    if not len(boxes):
        return ()
    whole = BoxL0(0, 0, slide.extent.width, slide.extent.height)
    outside = int((_overlaps(boxes, whole) <= 0).sum())
    if outside * 2 > len(boxes):
        raise SlideError(
            f"{outside} of {len(boxes)} regions in '{areas.path}' lie outside of slide '{slide.slide_id}' "
            f"({slide.extent.width} x {slide.extent.height} px); give the annotations of this slide, in level-0 pixels"
        )
    beside = int((_tissue_under(boxes, slide, tissue) < NO_TISSUE).sum())
    if frame == "auto" and beside * 2 > len(boxes):
        raise SlideError(
            f"{beside} of {len(boxes)} regions in '{areas.path}' lie where slide '{slide.slide_id}' has no tissue; "
            "give the annotations of this slide, or set frame=canvas (level-0 pixels) or frame=bounds (QuPath's) to "
            "take them as they are"
        )
    return (f"{outside} of {len(boxes)} regions in '{areas.path.name}' lie outside of the slide",) if outside else ()


def _sizes(boxes: np.ndarray) -> np.ndarray:
    return boxes[:, 2:] - boxes[:, :2]


def _overlaps(boxes: np.ndarray, box: BoxL0) -> np.ndarray:
    """Share of each box [N, 4] (left, top, right, bottom) that lies in ``box``, [N]."""
    least, most = np.array([box.x, box.y]), np.array([box.x + box.width, box.y + box.height])
    sides = np.minimum(boxes[:, 2:], most) - np.maximum(boxes[:, :2], least)
    return np.clip(sides, 0, None).prod(axis=1) / _sizes(boxes).prod(axis=1)


def _within(boxes: np.ndarray, box: BoxL0) -> float:
    return float(np.average(_overlaps(boxes, box), weights=_sizes(boxes).prod(axis=1)))


def _tissue_under(boxes: np.ndarray, slide: BaseSlide, tissue: TissueMask) -> np.ndarray:
    """Share of tissue in each box, [N]; there is none beyond the slide's bounds."""
    mask, pixel = tissue.mask, np.array(tissue.pixel_l0)
    if slide.bounds_l0 is not None:
        box, scanned = slide.bounds_l0, np.zeros_like(mask)
        left, top = np.floor(np.array([box.x, box.y]) / pixel).astype(int)
        right, bottom = np.ceil(np.array([box.x + box.width, box.y + box.height]) / pixel).astype(int)
        scanned[max(0, top) : bottom, max(0, left) : right] = True
        mask = mask & scanned
    corners, sizes = boxes[:, :2] / pixel, _sizes(boxes) / pixel
    return box_means(mask, corners[:, 0], corners[:, 1], sizes[:, 0], sizes[:, 1])
