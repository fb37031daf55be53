"""A slide that is drawn: tissue, classes, pen and blur are known exactly. For tests, the demo and benchmarks.

The picture is made in optical density, as light is absorbed by haematoxylin and eosin, never painted in colours.
Stains and scanners differ from slide to slide (the seed draws them): colour alone does not tell a class, texture does.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from histogen.files import write_atomic
from histogen.geometry import Extent
from histogen.seeds import numpy_rng
from histogen.slides.drawn_layout import CELL_PX, CLASS_NAMES, Layout, build_layout, region_features, smooth_field
from histogen.slides.drawn_texture import Canvas, draw_classes, render, sample_stain
from histogen.slides.tiff_writer import write_svs

PENS = {"blue": (38, 60, 150), "green": (30, 120, 70), "black": (32, 32, 36)}
"""Grey levels (R, G, B) of a dense pen stroke."""


@dataclass(frozen=True)
class DrawnTruth:
    """What is where on a drawn slide. Maps have one pixel per ``cell_px`` level-0 pixels, from the top left corner."""

    extent: Extent
    mpp: float
    cell_px: int
    class_names: tuple[str, ...]
    class_map: np.ndarray
    """int8 [h, w], index into ``class_names``, -1 off tissue."""
    pen_mask: np.ndarray
    """bool [h, w]."""
    blur_mask: np.ndarray
    """bool [h, w], out of focus."""
    annotations: Path
    """GeoJSON beside the slide: the class regions, ``properties.classification.name`` is the class."""

    @property
    def tissue_mask(self) -> np.ndarray:
        """bool [h, w]: tissue, under the pen as well."""
        return self.class_map >= 0

    def class_shares(self, x_l0: float, y_l0: float, size_l0: float) -> np.ndarray:
        """Return the share of each class, float [len(class_names)], in a square given in level-0 pixels."""
        c = self.cell_px
        rows = slice(max(0, round(y_l0 / c)), max(1, round((y_l0 + size_l0) / c)))
        columns = slice(max(0, round(x_l0 / c)), max(1, round((x_l0 + size_l0) / c)))
        inside = self.class_map[rows, columns].ravel()
        return np.bincount(inside[inside >= 0], minlength=len(self.class_names)) / (size_l0 / c) ** 2

    def label_at(self, x_l0: float, y_l0: float, size_l0: float) -> int:
        """Return the class with the largest share in a square (level-0 pixels), -1 where there is no tissue."""
        shares = self.class_shares(x_l0, y_l0, size_l0)
        return int(shares.argmax()) if shares.any() else -1


def draw_slide(
    path: Path,
    *,
    seed: int,
    extent: Extent = Extent(4096, 3072),
    mpp: float = 0.5,
    stated_mpp: bool = True,
    region_um: float = 420.0,
    stain_variation: float = 1.0,
    pen: bool = True,
    blur: bool = True,
    quality: int = 85,
    tile_px: int = 256,
) -> DrawnTruth:
    """Draw a slide as a pyramidal tiled JPEG TIFF in Aperio's layout; write ``<stem>.geojson`` beside it.

    Args:
        extent: level-0 pixels; mpp: level-0 microns per pixel (lengths are drawn in microns).
        stated_mpp: whether the file states its resolution.
        region_um: width of a class region, microns.
        stain_variation: how much stains, sharpness and noise differ between slides; 0 is not at all.
        pen, blur: whether there is a pen stroke and an out-of-focus area.

    Same arguments, same bytes.
    """
    path = Path(path)
    layout = build_layout(numpy_rng(seed, "layout"), extent, mpp, region_um=region_um, pen=pen, blur=blur)
    pixels = draw_pixels(layout, seed=seed, extent=extent, mpp=mpp, stain_variation=stain_variation)
    write_svs(path, pixels, mpp=mpp if stated_mpp else None, tile_px=tile_px, quality=quality)
    annotations = path.with_suffix(".geojson")
    features = region_features(layout.class_map, extent)
    write_atomic(annotations, json.dumps({"type": "FeatureCollection", "features": features}, separators=(",", ":")))
    return DrawnTruth(
        extent, mpp, CELL_PX, CLASS_NAMES, layout.class_map, layout.pen_mask, layout.blur_mask, annotations
    )


def draw_pixels(layout: Layout, *, seed: int, extent: Extent, mpp: float, stain_variation: float = 1.0) -> np.ndarray:
    """Return the picture of ``layout``, uint8 [H, W, 3]."""
    rng = numpy_rng(seed, "texture")
    stain = sample_stain(numpy_rng(seed, "stain"), stain_variation)
    canvas = Canvas(rng, layout, (extent.height, extent.width), mpp)
    draw_classes(canvas)
    thickness = np.exp(0.10 * smooth_field(rng, layout.class_map.shape, 500 / (mpp * CELL_PX)))
    tissue = cv2.GaussianBlur((layout.class_map >= 0).astype(np.float32), (0, 0), 0.7)
    pixels = render(canvas, stain, (thickness * tissue).astype(np.float32))
    _defocus(pixels, layout.blur_mask, sigma=3.5 / mpp)
    _mark(pixels, layout.pen_mask, PENS[list(PENS)[int(rng.integers(len(PENS)))]])
    return pixels


def _defocus(pixels: np.ndarray, mask: np.ndarray, sigma: float) -> None:
    """Blur ``pixels`` in place where ``mask`` (coarse) is set, with a soft transition."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return
    top, bottom = rows.min() * CELL_PX, min((rows.max() + 1) * CELL_PX, pixels.shape[0])
    left, right = columns.min() * CELL_PX, min((columns.max() + 1) * CELL_PX, pixels.shape[1])
    weight = _upscaled(mask, 3.0)[top:bottom, left:right, None]
    part = pixels[top:bottom, left:right]
    blurred = cv2.GaussianBlur(part, (0, 0), sigma).astype(np.float32)
    part[:] = np.clip(part * (1 - weight) + blurred * weight + 0.5, 0, 255).astype(np.uint8)


def _mark(pixels: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]) -> None:
    """Lay ink over ``pixels`` in place: dense, a little of what lies below shines through."""
    rows, columns = np.nonzero(mask)
    if not len(rows):
        return
    top, bottom = rows.min() * CELL_PX, min((rows.max() + 1) * CELL_PX, pixels.shape[0])
    left, right = columns.min() * CELL_PX, min((columns.max() + 1) * CELL_PX, pixels.shape[1])
    weight = _upscaled(mask, 0.6)[top:bottom, left:right, None] * np.float32(0.9)
    part = pixels[top:bottom, left:right]
    part[:] = (part * (1 - weight) + np.array(colour, np.float32) * weight + 0.5).astype(np.uint8)


def _upscaled(mask: np.ndarray, sigma: float) -> np.ndarray:
    soft = cv2.GaussianBlur(mask.astype(np.float32), (0, 0), sigma)
    return cv2.resize(soft, None, fx=CELL_PX, fy=CELL_PX, interpolation=cv2.INTER_LINEAR)
