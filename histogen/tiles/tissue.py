"""Where the tissue is, on an overview of the slide: not glass, not ink, not the scanner's black border.

Thresholds, morphology and regions are OpenCV's: equal to scikit-image's pixel by pixel (``tests/tiles/test_tissue.py``)
and faster (``benchmarks/libraries.py``).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from histogen.errors import MissingDependencyError
from histogen.geometry import Extent
from histogen.tiles.grid import box_means
from histogen.tiles.spec import TissueSettings
from histogen.tiles.stain import MISSING

UNSCANNED = 254
"""Grey level from which a pixel was filled in, not scanned."""
BRIGHT = 170
"""Grey level above which a pixel can be glass."""
DENSITY_RANGE = (0.09, 0.21)
"""Otsu's threshold on summed optical density is kept in this range: strong nuclei must not hide pale mucus or fat."""
WEAK_DENSITY = 0.035
REACH_UM = 100.0
"""Weak tissue counts within this distance of strong tissue."""
GLOW_UM = 300.0
"""How far around weak tissue the glass is looked at: stain that bled into it is denser there than elsewhere."""
GLOW_FACTOR = 1.6
"""Weak tissue is this much denser than the glass around it."""
SATURATION_RANGE = (10, 22)
GREY_RANGE = (205, 232)
MIN_PEN_MM2 = 0.01
"""Smaller spots of ink's colours are pigment or dirt."""
PEN_GAP_UM = 60.0
"""How far from sure ink a paler blue still counts as ink."""


@dataclass(frozen=True)
class TissueMask:
    """Maps over the whole slide, bool [h, w]; a pixel is ``pixel_l0`` level-0 pixels (width, height)."""

    mask: np.ndarray
    pen: np.ndarray
    pixel_l0: tuple[float, float]

    def fractions(self, x_l0: np.ndarray, y_l0: np.ndarray, size_l0: tuple[float, float]) -> np.ndarray:
        """Return the share of tissue in tiles, float32 [N]; exact for the mask."""
        return self._share(self.mask, x_l0, y_l0, size_l0)

    def pen_fractions(self, x_l0: np.ndarray, y_l0: np.ndarray, size_l0: tuple[float, float]) -> np.ndarray:
        """Return the share of ink in tiles, float32 [N]."""
        return self._share(self.pen, x_l0, y_l0, size_l0)

    def _share(
        self, values: np.ndarray, x_l0: np.ndarray, y_l0: np.ndarray, size_l0: tuple[float, float]
    ) -> np.ndarray:
        across, down = self.pixel_l0
        return box_means(values, x_l0 / across, y_l0 / down, size_l0[0] / across, size_l0[1] / down)


def find_tissue(overview: np.ndarray, mpp: float, slide_extent: Extent, settings: TissueSettings) -> TissueMask:
    """Find tissue on ``overview``, uint8 RGB [h, w, 3] of the whole slide at ``mpp`` microns per pixel."""
    height, width = overview.shape[:2]
    pixel_l0 = (slide_extent.width / width, slide_extent.height / height)
    nothing = np.zeros((height, width), bool)
    if settings.method == "none":
        return TissueMask(~nothing, nothing, pixel_l0)
    pen = find_pen(overview, mpp, settings) if settings.remove_pen else nothing
    black = overview.max(-1) < 12
    if settings.method == "morphological":
        return TissueMask(_by_tiatoolbox(overview, mpp) & ~(pen | black), pen, pixel_l0)
    mask = {"optical_density": _by_density, "otsu": _by_grey, "saturation": _by_saturation}[settings.method](
        overview, ~(pen | black), settings.faint, mpp
    )
    mask &= ~(pen | black)
    mask = _closed(mask, settings.close_um / mpp)
    mask = _opened(mask, 8.0 / mpp)
    pixel_mm2 = (mpp / 1000) ** 2
    mask = fill_holes(mask, settings.max_hole_mm2 / pixel_mm2)
    mask = drop_small(mask, settings.min_area_mm2 / pixel_mm2)
    return TissueMask(mask & ~(pen | black), pen, pixel_l0)


def optical_density(rgb: np.ndarray, glass: np.ndarray) -> np.ndarray:
    """Return optical density summed over R, G, B relative to ``glass`` [3], float32 [h, w], never negative."""
    table = -np.log10((np.arange(256, dtype=np.float32)[:, None] + 1) / (glass[None].astype(np.float32) + 1))
    table = np.maximum(table, 0)
    return table[rgb[..., 0], 0] + table[rgb[..., 1], 1] + table[rgb[..., 2], 2]


def glass_colour(rgb: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """Return the colour of empty glass, float [3]: per channel the mode among the brightest pixels; white without any.

    The slide's own glass, not 255, is the zero of optical density: scanners differ in white balance. Pure white is what
    scanners fill in where they did not look; beside it, real glass would pass for faint tissue.
    """
    least = rgb.min(-1)
    bright = rgb[usable & (least >= BRIGHT) & (least < UNSCANNED)]
    if len(bright) < 0.005 * rgb.shape[0] * rgb.shape[1]:
        return np.full(3, 255.0)
    grey = bright.min(-1)
    near = bright[grey >= np.percentile(grey, 60)]
    return np.array([np.bincount(near[:, c], minlength=256).argmax() for c in range(3)], float)


def _by_density(rgb: np.ndarray, usable: np.ndarray, faint: bool, mpp: float) -> np.ndarray:
    """What is above Otsu's threshold, and what is weaker but close to it: thin walls of fat, pale mucus."""
    density = optical_density(rgb, glass_colour(rgb, usable))
    threshold = float(np.clip(_otsu(density[usable] * 100) / 100, *DENSITY_RANGE))
    strong = (density > threshold) & usable
    least = max(WEAK_DENSITY, _glass_density(density[usable & ~strong]))
    if faint:
        return density > min(threshold, least)
    near = _dilated(strong, REACH_UM / mpp)
    glow = _local_mean(density, usable & ~near, GLOW_UM / mpp)
    weak = near & (density > np.minimum(threshold, np.maximum(least, GLOW_FACTOR * glow)))
    return _connected(weak, strong)


def _local_mean(values: np.ndarray, mask: np.ndarray, radius: float) -> np.ndarray:
    """Return the mean of ``values`` under ``mask`` around each pixel, float32 [h, w]; 0 where the mask is far away."""
    side = 2 * round(radius) + 1
    weight = cv2.blur(mask.astype(np.float32), (side, side))
    total = cv2.blur(np.where(mask, values, 0).astype(np.float32), (side, side))
    return np.divide(total, weight, out=np.zeros_like(total), where=weight > 0.02)


def _connected(weak: np.ndarray, strong: np.ndarray) -> np.ndarray:
    """Keep the pieces of ``weak`` that are at least a quarter ``strong``: a smear with a speck in it is no tissue."""
    count, labels = cv2.connectedComponents(weak.astype(np.uint8), connectivity=8)
    size = np.bincount(labels.ravel(), minlength=count)
    strong_size = np.bincount(labels[strong], minlength=count)
    keep = strong_size >= 0.25 * size
    keep[0] = False
    return keep[labels] | strong


def _glass_density(density: np.ndarray) -> float:
    """Five robust deviations above the median of what is not clearly tissue: the most that uneven glass shows."""
    if not len(density):
        return 0.0
    middle = float(np.median(density))
    return middle + 5 * 1.4826 * float(np.median(np.abs(density - middle)))


def _by_grey(rgb: np.ndarray, usable: np.ndarray, faint: bool, _mpp: float) -> np.ndarray:
    grey = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)
    threshold = np.clip(_otsu(grey[usable]), *GREY_RANGE)
    return grey < (max(threshold, GREY_RANGE[1] + 5) if faint else threshold)


def _by_saturation(rgb: np.ndarray, usable: np.ndarray, faint: bool, _mpp: float) -> np.ndarray:
    saturation = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)[..., 1]
    threshold = np.clip(_otsu(saturation[usable]), *SATURATION_RANGE)
    return saturation > (SATURATION_RANGE[0] * 0.8 if faint else threshold)


def _by_tiatoolbox(rgb: np.ndarray, mpp: float) -> np.ndarray:
    """Otsu's threshold of grey, pieces smaller than a disk of 64 um left out, the rest dilated by it."""
    try:
        from tiatoolbox.tools.tissuemask import MorphologicalMasker
    except ImportError as error:
        raise MissingDependencyError(MISSING) from error
    return np.asarray(MorphologicalMasker(mpp=mpp).fit_transform([rgb])[0], bool)


def _otsu(values: np.ndarray) -> float:
    """Otsu's threshold of values between 0 and 255."""
    if values.size == 0:
        return 0.0
    clipped = np.clip(values, 0, 255).astype(np.uint8).reshape(-1, 1)
    return float(cv2.threshold(clipped, 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[0])


def find_pen(rgb: np.ndarray, mpp: float, settings: TissueSettings) -> np.ndarray:
    """Return where there is ink, bool [h, w], widened by the margin.

    Both stains absorb green most, so under tissue green is the darkest channel; inks break that rule, or are black
    and without colour. Blue haematoxylin comes near to blue ink: on three real sections its blue exceeds its red by
    75 grey levels at most, ink's by 100 and more.
    """
    r, g, b = (rgb[..., c].astype(np.int16) for c in range(3))
    darkest, spread = rgb.max(-1), rgb.max(-1).astype(np.int16) - rgb.min(-1)
    green = (g - r > 18) & (g - b > -12) & (r < 150)
    blue = (b - r > 80) & (g - r > -6) & (r < 130)
    red = (r - np.maximum(g, b) > 120) & (np.abs(g - b) < 40)
    black = (darkest < 88) & (spread < 26)
    sure = green | blue | red | black
    # blue ink over pink tissue comes short of the bound; near sure ink a lower one joins the pieces of a stroke
    likely = (b - r > 60) & (g - r > -14) & (r < 130) & _dilated(sure, PEN_GAP_UM / mpp)
    ink = drop_small(_closed(sure | likely, 8.0 / mpp), MIN_PEN_MM2 / (mpp / 1000) ** 2)
    return _dilated(ink, settings.pen_margin_um / mpp)


def fill_holes(mask: np.ndarray, max_area: float) -> np.ndarray:
    """Fill holes up to ``max_area`` pixels."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats((~mask).astype(np.uint8), connectivity=4)
    small = stats[:, cv2.CC_STAT_AREA] <= max_area
    border = np.unique(np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]]))
    small[border] = False
    small[0] = False
    return mask | small[labels] if count > 1 else mask


def drop_small(mask: np.ndarray, min_area: float) -> np.ndarray:
    """Drop pieces under ``min_area`` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    keep = stats[:, cv2.CC_STAT_AREA] >= min_area
    keep[0] = False
    return keep[labels]


def _disk(radius: float) -> np.ndarray:
    size = 2 * round(radius) + 1
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))


def _morph(mask: np.ndarray, operation: int, radius: float) -> np.ndarray:
    if round(radius) < 1:
        return mask
    margin = round(radius) + 1
    padded = cv2.copyMakeBorder(mask.astype(np.uint8), margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    return cv2.morphologyEx(padded, operation, _disk(radius))[margin:-margin, margin:-margin].astype(bool)


def _closed(mask: np.ndarray, radius: float) -> np.ndarray:
    return _morph(mask, cv2.MORPH_CLOSE, radius)


def _opened(mask: np.ndarray, radius: float) -> np.ndarray:
    return _morph(mask, cv2.MORPH_OPEN, radius)


def _dilated(mask: np.ndarray, radius: float) -> np.ndarray:
    return _morph(mask, cv2.MORPH_DILATE, radius)
