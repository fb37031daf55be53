"""Area-correct resampling: an output pixel is the mean of what lies under it, wherever its borders fall."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from histogen.geometry import Extent

ReadPixels = Callable[[int, int, int, int], np.ndarray]
"""(x, y, width, height) in source pixels to uint8 [height, width, 3]."""

EXACT = 1e-6
NEAR = 0.01
"""A border this near to a source pixel's border (in source pixels) counts as on it."""
MAX_MARGIN = 24


def read_resampled(read: ReadPixels, x: float, y: float, width: float, height: float, extent_out: Extent) -> np.ndarray:
    """Read the rectangle (source pixels, fractions meant) as ``extent_out``; uint8 [H, W, 3].

    Reduction averages areas (OpenCV's ``INTER_AREA`` weighs partly covered pixels); enlargement is bicubic. Since
    ``INTER_AREA`` starts and ends on whole source pixels, the rectangle is first widened by whole output pixels
    until both borders fall on (within 1/100, at worst about 1/50 of) a source pixel's border; what was added is cut.
    """
    across, down = width / extent_out.width, height / extent_out.height
    if abs(across - 1) < EXACT and abs(down - 1) < EXACT and _whole(x) and _whole(y):
        return read(round(x), round(y), extent_out.width, extent_out.height)
    if across >= 1 - EXACT and down >= 1 - EXACT and (across > 1 + EXACT or down > 1 + EXACT):
        return _reduced(read, x, y, across, down, extent_out)
    return _enlarged(read, x, y, across, down, extent_out)


def _whole(value: float) -> bool:
    return abs(value - round(value)) < EXACT


def _margin(border: float, step: float) -> int:
    """Output pixels to add so that ``border + k * step`` is nearly whole."""
    away = [abs(border + k * step - round(border + k * step)) for k in range(MAX_MARGIN + 1)]
    good = [k for k, distance in enumerate(away) if distance <= NEAR]
    return good[0] if good else int(np.argmin(away))


def _reduced(read: ReadPixels, x: float, y: float, across: float, down: float, out: Extent) -> np.ndarray:
    left, right = _margin(x, -across), _margin(x + out.width * across, across)
    top, bottom = _margin(y, -down), _margin(y + out.height * down, down)
    x0, x1 = round(x - left * across), round(x + (out.width + right) * across)
    y0, y1 = round(y - top * down), round(y + (out.height + bottom) * down)
    source = read(x0, y0, x1 - x0, y1 - y0)
    shape = (left + out.width + right, top + out.height + bottom)
    small = cv2.resize(source, shape, interpolation=cv2.INTER_AREA)
    return small[top : top + out.height, left : left + out.width]


def _enlarged(read: ReadPixels, x: float, y: float, across: float, down: float, out: Extent) -> np.ndarray:
    x0, y0 = int(np.floor(x)) - 3, int(np.floor(y)) - 3
    x1, y1 = int(np.ceil(x + out.width * across)) + 3, int(np.ceil(y + out.height * down)) + 3
    source = read(x0, y0, x1 - x0, y1 - y0)
    # Output pixel centres (i + 1/2) * step in the source, whose own centres are at k + 1/2.
    matrix = np.array([[across, 0, x - x0 + across / 2 - 0.5], [0, down, y - y0 + down / 2 - 0.5]], dtype=np.float64)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(source, matrix, (out.width, out.height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
