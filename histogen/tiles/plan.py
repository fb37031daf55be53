"""The plan of one slide: which tiles it has, computed once, before a pixel of level 0 is read."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import cv2
import numpy as np

from histogen.errors import SlideError
from histogen.geometry import Extent
from histogen.slides.base import BaseSlide, require_mpp
from histogen.tiles.grid import Grid
from histogen.tiles.spec import TissueSettings
from histogen.tiles.tissue import TissueMask, find_tissue

if TYPE_CHECKING:
    from histogen.tiles.annotations.frame import Frame
    from histogen.tiles.annotations.read import Areas

MIN_ROI_SHARE = 0.5
MAX_OVERVIEW_PX = 12_000
THUMBNAIL_PX = 1600


@dataclass(frozen=True)
class SlidePlan:
    """The kept tiles of one slide: column and row on the grid, and what the overview says of each [N]."""

    grid: Grid
    columns: np.ndarray
    rows: np.ndarray
    tissue_fraction: np.ndarray
    pen_fraction: np.ndarray
    tissue: TissueMask
    overview: np.ndarray
    """uint8 RGB [h, w, 3]."""
    notes: tuple[str, ...] = ()
    """What had to be found out, a phrase each."""

    @property
    def positions_l0(self) -> tuple[np.ndarray, np.ndarray]:
        """Left and top of each tile, float64 [N], level-0 pixels."""
        return self.grid.positions_l0(self.columns, self.rows)


def plan_slide(
    slide: BaseSlide,
    grid: Grid,
    *,
    tissue: TissueSettings,
    min_tissue_fraction: float,
    max_pen_fraction: float,
    roi: Areas | None = None,
    frame: Frame = "auto",
    places: np.ndarray | None = None,
) -> SlidePlan:
    """Find the tissue of a slide and keep the tiles with enough of it, of those at least half inside ``roi``.

    With ``places``, columns and rows int [n, 2], just these tiles are kept; their share of tissue is looked up all the
    same.

    Raises:
        MissingMppError: its resolution is not known.
        SlideError: its overview cannot be read, it is smaller than a tile, no tile has enough tissue, or ``roi``
            cannot be of this slide.
    """
    slide_mpp = require_mpp(slide)
    if places is None and grid.num_columns * grid.num_rows == 0:
        across, down = (round(v) for v in grid.size_l0)
        extent = f"{slide.extent.width} x {slide.extent.height}"
        raise SlideError(
            f"slide '{slide.slide_id}' ({extent} px) is smaller than one tile ({across} x {down} px of level 0); "
            "choose a smaller tile, or edge=pad"
        )
    overview, mpp = read_overview(slide, tissue.mpp, slide_mpp.mean)
    mask = find_tissue(overview, mpp, slide.extent, tissue)
    columns, rows = grid.cells() if places is None else places.T
    x_l0, y_l0 = grid.positions_l0(columns, rows)
    fraction = mask.fractions(x_l0, y_l0, grid.size_l0)
    pen = mask.pen_fractions(x_l0, y_l0, grid.size_l0)
    enough = (fraction >= min_tissue_fraction) | (places is not None)
    keep = enough & (pen <= max_pen_fraction) | (places is not None)
    if enough.any() and not keep.any():
        raise SlideError(
            f"slide '{slide.slide_id}' has ink in all of its {enough.sum()} tiles with enough tissue; set "
            "tissue.remove_pen=false if it is not ink, or raise max_pen_fraction"
        )
    notes: tuple[str, ...] = ()
    if roi is not None and keep.any():
        from histogen.tiles.annotations.frame import place_areas
        from histogen.tiles.regions import roi_shares

        regions, notes = place_areas(roi, slide, mask, frame)
        keep[keep] = roi_shares(regions, x_l0[keep], y_l0[keep], grid.size_l0) >= MIN_ROI_SHARE
        if not keep.any():
            raise SlideError(
                f"slide '{slide.slide_id}' has no tile with enough tissue of which half is in the region of interest; "
                "draw it larger, in level-0 pixels of this slide"
            )
    if not keep.any():
        raise SlideError(
            f"slide '{slide.slide_id}' has no tile with {min_tissue_fraction:.0%} of tissue "
            f"(method {tissue.method}; the best of {len(columns)} tiles has {fraction.max():.0%}); "
            "try tissue.faint=true, another tissue.method, or a lower min_tissue_fraction"
        )
    return SlidePlan(grid, columns[keep], rows[keep], fraction[keep], pen[keep], mask, overview, notes)


def read_overview(slide: BaseSlide, mpp: float, slide_mpp: float) -> tuple[np.ndarray, float]:
    """Read the whole slide at ``mpp`` (coarser when it would be huge, never finer than it is); also say its mpp."""
    longest = max(slide.extent.width, slide.extent.height)
    ratio = max(1.0, mpp / slide_mpp, longest / MAX_OVERVIEW_PX)
    out = Extent(max(1, round(slide.extent.width / ratio)), max(1, round(slide.extent.height / ratio)))
    return slide.read_overview(out), slide_mpp * slide.extent.width / out.width


def draw_thumbnail(plan: SlidePlan, slide: BaseSlide) -> np.ndarray:
    """Return the slide with the tissue's outline (green), ink (yellow) and the kept tiles (blue); uint8 RGB [h, w, 3].

    The overview is the picture, unless it is so small that a finer one costs little.
    """
    picture = plan.overview
    if max(picture.shape[:2]) < THUMBNAIL_PX / 2:
        with contextlib.suppress(SlideError):  # a damaged tile; the overview was read from a level without it
            picture = slide.thumbnail(THUMBNAIL_PX)
    scale = min(1.0, THUMBNAIL_PX / max(picture.shape[:2]))
    extent = tuple(max(1, round(side * scale)) for side in picture.shape[1::-1])
    picture = cv2.resize(picture, extent, interpolation=cv2.INTER_AREA)
    shade = picture.copy()
    to_px = (extent[0] / plan.grid.slide_extent.width, extent[1] / plan.grid.slide_extent.height)
    width, height = plan.grid.size_l0
    x_l0, y_l0 = plan.positions_l0
    left, right, top, bottom = (
        np.rint(sides).astype(np.int32)
        for sides in (x_l0 * to_px[0], (x_l0 + width) * to_px[0], y_l0 * to_px[1], (y_l0 + height) * to_px[1])
    )
    inside, outline = mark_boxes((left, top), (right, bottom), extent)
    shade[inside] = (40, 110, 255)
    picture = cv2.addWeighted(shade, 0.18, picture, 0.82, 0)
    picture[outline] = (40, 90, 220)
    for mask, colour in ((plan.tissue.mask, (0, 160, 60)), (plan.tissue.pen, (240, 190, 0))):
        small = cv2.resize(mask.astype(np.uint8), extent, interpolation=cv2.INTER_NEAREST)
        outlines, _ = cv2.findContours(small, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, colour, 2)
    return picture


def mark_boxes(
    corners: tuple[np.ndarray, np.ndarray], opposites: tuple[np.ndarray, np.ndarray], extent: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return what boxes cover, and their outlines, of a picture of ``extent`` (width, height); bool [h, w] each.

    ``corners`` and ``opposites`` are x and y, int [N] each, and belong to the boxes. The time does not depend on their
    size, so ten million of them are as quick as a sum.
    """
    (left, top), (right, bottom) = corners, opposites
    width, height = extent

    def cover(x0: np.ndarray, y0: np.ndarray, x1: np.ndarray, y1: np.ndarray) -> np.ndarray:
        steps = np.zeros((height + 1) * (width + 1), np.int64)
        for x, y, sign in ((x0, y0, 1), (x1 + 1, y0, -1), (x0, y1 + 1, -1), (x1 + 1, y1 + 1, 1)):
            at = np.clip(y, 0, height).astype(np.int64) * (width + 1) + np.clip(x, 0, width)
            steps += sign * np.bincount(at, minlength=len(steps))
        return steps.reshape(height + 1, width + 1).cumsum(0).cumsum(1)[:-1, :-1] > 0

    lines = [cover(left, top, right, top), cover(left, bottom, right, bottom)]
    lines += [cover(left, top, left, bottom), cover(right, top, right, bottom)]
    return cover(left, top, right, bottom), np.logical_or.reduce(lines)
