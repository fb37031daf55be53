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
NEAR_WHOLE = 0.05
"""Reductions this near to a whole one are made in two steps."""
CUBIC_REACH = 3


def read_resampled(read: ReadPixels, x: float, y: float, width: float, height: float, extent_out: Extent) -> np.ndarray:
    """Read the rectangle (source pixels, fractions meant) as ``extent_out``; uint8 [H, W, 3].

    Reduction averages areas with OpenCV's ``INTER_AREA``, which weighs partly covered pixels but starts and ends on
    whole source pixels only. So the rectangle is first widened by whole output pixels until both borders fall on a
    source pixel's border (within 1/40 at worst); what was added is cut. That search fails where the reduction is
    nearly whole (1.002, 1.98 …), because there fractions hardly change from one output pixel to the next: then the
    whole part averages areas and what remains, within 5 % of 1, is bicubic. Enlargement is bicubic.
    """
    across, down = width / extent_out.width, height / extent_out.height
    whole = all(_whole(v) for v in (x, y, across, down)) and min(across, down) > 0.5
    if whole and round(across) == round(down) == 1:
        return read(round(x), round(y), extent_out.width, extent_out.height)
    if whole or all(v > 1 + NEAR_WHOLE and abs(v - round(v)) > NEAR_WHOLE for v in (across, down)):
        return _reduced(read, x, y, across, down, extent_out)
    return _in_two_steps(read, x, y, across, down, extent_out)


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


def _in_two_steps(read: ReadPixels, x: float, y: float, across: float, down: float, out: Extent) -> np.ndarray:
    """Average blocks of whole source pixels, then interpolate between the averages."""
    by_x, by_y = max(1, round(across)), max(1, round(down))
    x0, y0 = int(np.floor(x)) - CUBIC_REACH * by_x, int(np.floor(y)) - CUBIC_REACH * by_y
    columns = int(np.ceil((x + out.width * across - x0) / by_x)) + CUBIC_REACH
    rows = int(np.ceil((y + out.height * down - y0) / by_y)) + CUBIC_REACH
    source = read(x0, y0, columns * by_x, rows * by_y)
    if by_x > 1 or by_y > 1:
        source = cv2.resize(source, (columns, rows), interpolation=cv2.INTER_AREA)
    across, down, left, top = across / by_x, down / by_y, (x - x0) / by_x, (y - y0) / by_y
    # The centre of output pixel i lies at left + (i + 1/2) * across; the centre of block k at k + 1/2.
    matrix = np.array([[across, 0, left + across / 2 - 0.5], [0, down, top + down / 2 - 0.5]], dtype=np.float64)
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(source, matrix, (out.width, out.height), flags=flags, borderMode=cv2.BORDER_REPLICATE)
