"""The scale of each level of a pyramid. Extents alone may mislead: writers round them, or pad them to whole tiles.

A level of 768 px below one of 1,300 px is not 1.69 times coarser when its tiles are 256 px wide and 650 px of it are
filled: it is 2 times coarser. What explains a level's extent is tried in turn, and where padding may be at work the
pixels of the finer level decide. A level that nothing explains is left out: reading a finer one only costs time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from histogen.errors import SlideError
from histogen.geometry import Extent

ReadLevel = Callable[[int, int, int, Extent], np.ndarray]
"""(index of a stored level, x, y, extent), pixels of that level, to uint8 [H, W, 3]."""

SAME = 0.005
"""Two downsamples this near to each other, relatively, are one."""
MAX_DOWNSAMPLE = 256
MAX_STEP = 16
"""How many times coarser than the level before it a level can be."""
MIN_ALIKE = 0.6
"""Correlation of texture between a level and the finer one: 0.84 and more at the right scale, 0.13 and less at others
(measured on two H&E slides, levels averaged, interpolated or picked from the finer ones)."""
MIN_LEAD = 0.2
WINDOWS, WINDOW_PX, CELLS = 8, 64, 16
"""The most textured windows of a level are compared, as cells x cells means."""


class Stored(NamedTuple):
    """A level as it lies in the file."""

    extent: Extent
    tile: Extent | None = None
    """Extent of its stored tiles, to which the level may be padded; None where that cannot be."""
    stated: float | None = None
    """Its downsample as its resolution tags have it."""


def level_downsample(base: Extent, level: Extent) -> float:
    """Return the downsample of a level: the whole number that explains both sides up to rounding, else the mean ratio.

    Writers round a level's extent, so 9274 / 2318 = 4.0009 stands for 4: pixels lie where 4 puts them.
    """
    ratio = ((base.width / level.width) * (base.height / level.height)) ** 0.5
    whole = round(ratio)
    sides = _sides(base, level)
    if whole >= 1 and all(math.floor(a / whole) - 1 <= b <= math.ceil(a / whole) for a, b in sides):
        return float(whole)
    return ratio


def may_be_level(base: Extent, stored: Stored) -> bool:
    """Whether a picture of this extent can be a coarser level of ``base``, padded or not."""
    if stored.extent.width >= base.width:
        return False
    ratio = (base.width / base.height) / (stored.extent.width / stored.extent.height)
    return abs(ratio - 1) < 0.05 or any(_padded(float(k), base, stored) for k in range(2, MAX_DOWNSAMPLE + 1))


def settle(stored: Sequence[Stored], read: ReadLevel) -> list[tuple[int, float]]:
    """Return index and downsample of each level that can be used, from fine to coarse; ``stored[0]`` is level 0."""
    base = stored[0].extent
    found = [(0, 1.0)]
    rest = sorted(range(1, len(stored)), key=lambda i: -stored[i].extent.width * stored[i].extent.height)
    for index in rest:
        scale = _scale(index, stored, found, base, read)
        if scale is not None:
            found.append((index, scale))
    return found


def _scale(
    index: int, stored: Sequence[Stored], found: list[tuple[int, float]], base: Extent, read: ReadLevel
) -> float | None:
    level = stored[index]
    before = [scale for _, scale in found]
    steady = before[-1] * (before[-1] / before[-2]) if len(before) > 1 else None
    plain = _plain(base, level)
    likely = [v for v in (level.stated, steady) if v is not None]
    if plain is not None and plain <= before[-1] * (1 + SAME):
        plain = None
    whole = plain is not None and plain == round(plain)
    if plain is not None and whole and (math.log2(plain).is_integer() or any(_same(plain, v) for v in likely)):
        return plain
    steps = [before[-1] * k for k in range(2, MAX_STEP + 1)]
    padded = [
        v for v in dict.fromkeys((*likely, *steps))
        if before[-1] * (1 + SAME) < v <= before[-1] * MAX_STEP and _padded(v, base, level)
    ]  # fmt: skip
    if plain is not None and not padded:
        return plain
    candidates = ([] if plain is None else [plain]) + padded
    candidates = [v for at, v in enumerate(candidates) if not any(_same(v, other) for other in candidates[:at])]
    return _seen(index, found[-1], candidates, stored, read) if candidates else None


def _plain(base: Extent, level: Stored) -> float | None:
    """The downsample that rounding alone explains; None where the sides disagree."""
    ranges = [(a / (b + 1), a / max(b - 1, 0.5)) for a, b in _sides(base, level.extent)]
    agree = max(low for low, _ in ranges) <= min(high for _, high in ranges)
    return level_downsample(base, level.extent) if agree else None


def _padded(scale: float, base: Extent, level: Stored) -> bool:
    """Whether ``scale`` explains the extent, at least one side being padded to whole tiles; level 0 may be as well."""
    if level.tile is None:
        return False
    tiles = (level.tile.width, level.tile.height)
    for (a, b), tile in zip(_sides(base, level.extent), tiles, strict=True):
        if a / scale - 1 <= b <= a / scale + 1:
            continue
        least = a - tile + 1 if a % tile == 0 else a  # level 0 may be padded itself
        if b % tile or not (least / scale - 1 <= b and b - tile < a / scale + 1):
            return False
    return True


def _seen(
    index: int, finer: tuple[int, float], candidates: list[float], stored: Sequence[Stored], read: ReadLevel
) -> float | None:
    """The candidate at which the level shows what the finer level shows; None where its pixels do not tell."""
    ratios = [candidate / finer[1] for candidate in candidates]
    try:
        places = _textured(index, stored[index].extent, stored[finer[0]].extent, max(ratios), read)
        if not places:
            return None
        ours = np.stack([_cells(pixels) for _, _, pixels in places])
        scores = []
        for ratio in ratios:
            theirs = np.stack([_cells(_under(read, finer[0], x, y, pixels.shape[0], ratio)) for x, y, pixels in places])
            scores.append(_alike(ours, theirs))
    except SlideError:  # a damaged tile is said where it is cut; here it only leaves the scale open
        return None
    best = int(np.argmax(scores))
    lead = scores[best] - max((score for at, score in enumerate(scores) if at != best), default=-1.0)
    return candidates[best] if scores[best] >= MIN_ALIKE and lead >= MIN_LEAD else None


def _textured(
    index: int, extent: Extent, finer: Extent, ratio: float, read: ReadLevel
) -> list[tuple[int, int, np.ndarray]]:
    """Windows (x, y, pixels) of a level with the most texture, of those that lie on the finer level at ``ratio``."""
    width, height = min(extent.width, int(finer.width / ratio)), min(extent.height, int(finer.height / ratio))
    side = min(WINDOW_PX, width // 2, height // 2)
    if side < CELLS // 2:
        return []
    windows = []
    for y in np.unique(np.linspace(0, height - side, WINDOWS).astype(int)).tolist():
        for x in np.unique(np.linspace(0, width - side, WINDOWS).astype(int)).tolist():
            windows.append((x, y, read(index, x, y, Extent(side, side))))
    windows = [window for window in windows if window[2].std(axis=(0, 1)).max() > 2]
    return sorted(windows, key=lambda window: -float(window[2].std(axis=(0, 1)).max()))[:WINDOWS]


def _under(read: ReadLevel, finer: int, x: int, y: int, side: int, ratio: float) -> np.ndarray:
    left, top, width = round(x * ratio), round(y * ratio), max(1, round(side * ratio))
    return read(finer, left, top, Extent(width, width))


def _cells(pixels: np.ndarray) -> np.ndarray:
    small = cv2.resize(pixels, (CELLS, CELLS), interpolation=cv2.INTER_AREA).astype(np.float64)
    return np.asarray(small - small.mean((0, 1)))


def _alike(ours: np.ndarray, theirs: np.ndarray) -> float:
    norm = float(np.sqrt((ours**2).sum() * (theirs**2).sum()))
    return float((ours * theirs).sum()) / norm if norm > 0 else 0.0


def _same(one: float, other: float) -> bool:
    return abs(one / other - 1) < SAME


def _sides(base: Extent, level: Extent) -> tuple[tuple[int, int], tuple[int, int]]:
    return (base.width, level.width), (base.height, level.height)
