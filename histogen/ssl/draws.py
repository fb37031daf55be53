"""What is drawn for each view of each tile: crop, flips, colour, blur. Drawn on the CPU, applied on the device.

The numbers of a view depend on (seed, step, position in the global batch, view) alone; neither the batch's other
tiles nor the number of processes matter. The laws are torchvision's, which DINO's published recipe uses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np

from histogen.seeds import derive_seed, uniforms
from histogen.ssl.settings import ChangeSettings

NUM_TRIES = 10
"""How often RandomResizedCrop tries a box before it takes the largest central one."""
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)
_ORDERS = np.array(
    [[a, b, c, d] for a in range(4) for b in range(4) for c in range(4) for d in range(4) if len({a, b, c, d}) == 4]
)
_NUM_UNIFORMS = 2 * NUM_TRIES + 21


@dataclass(frozen=True)
class ViewSpec:
    """How one view slot is drawn; ``blur`` and ``solarize`` are shares of views."""

    px: int
    scale: tuple[float, float]
    """Share of the tile's area that a crop covers, uniform between the two."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width over height of the box, log-uniform."""
    blur: float = 0.5
    solarize: float = 0.0
    change: ChangeSettings = ChangeSettings()


@dataclass(frozen=True)
class Draws:
    """The drawn parameters of views [B, V] of one size; boxes in pixels of the tile."""

    top: np.ndarray
    left: np.ndarray
    height: np.ndarray
    width: np.ndarray
    flip: np.ndarray
    vertical_flip: np.ndarray
    transpose: np.ndarray
    factors: np.ndarray
    """[B, V, 4]: brightness, contrast, saturation factors (1 is none) and hue shift (0 is none)."""
    order: np.ndarray
    """[B, V, 4]: in which order the four are applied."""
    grayscale: np.ndarray
    sigma: np.ndarray
    """Standard deviation of the blur in pixels of the view; 0 is none."""
    solarize: np.ndarray
    stain: np.ndarray
    """[B, V, 6]: three factors, three shifts, of optical density; NaN is none."""

    def part(self, rows: slice) -> Draws:
        """Return the draws of some of the tiles."""
        return Draws(*(getattr(self, field.name)[rows] for field in fields(self)))

    def take(self, slots: np.ndarray) -> Draws:
        """Return the draws of view ``slots[b, v]`` of each tile: int [B, V']."""
        rows = np.arange(len(slots))[:, None]
        return Draws(*(getattr(self, field.name)[rows, slots] for field in fields(self)))


def draw_views(specs: Sequence[ViewSpec], tile_px: int, *, seed: int, positions: np.ndarray, first_slot: int) -> Draws:
    """Draw one view for each of ``specs`` for each tile.

    Args:
        specs: one per view slot, V in all, of the same ``px``.
        tile_px: side of the tiles.
        seed: the step's seed.
        positions: int [B], positions of the tiles in the global batch.
        first_slot: number of the first slot, so that slots of other sizes get other numbers.
    """
    slots = [_draw(spec, tile_px, derive_seed(seed, first_slot + v), positions) for v, spec in enumerate(specs)]
    return Draws(*(np.stack([getattr(d, field.name) for d in slots], axis=1) for field in fields(Draws)))


def _draw(spec: ViewSpec, tile_px: int, seed: int, positions: np.ndarray) -> Draws:
    change = spec.change
    u = uniforms(seed, positions, _NUM_UNIFORMS)
    top, left, height, width = _boxes(spec, tile_px, u[:, : 2 * NUM_TRIES + 2])
    rest = u[:, 2 * NUM_TRIES + 2 :]
    jittered = rest[:, 3] < change.jitter
    ranges = np.array([change.brightness, change.contrast, change.saturation, change.hue])
    factors = np.array([1.0, 1.0, 1.0, 0.0]) + np.where(jittered[:, None], (2 * rest[:, 4:8] - 1) * ranges, 0.0)
    low, high = change.blur_sigma
    stain = np.where([True] * 3 + [False] * 3, 1.0, 0.0) + (2 * rest[:, 13:19] - 1) * change.stain
    return Draws(
        top=top,
        left=left,
        height=height,
        width=width,
        flip=rest[:, 0] < change.flip,
        vertical_flip=rest[:, 1] < change.vertical_flip,
        transpose=rest[:, 2] < change.quarter_turn,
        factors=factors,
        order=_ORDERS[(rest[:, 8] * len(_ORDERS)).astype(np.int64)],
        grayscale=rest[:, 9] < change.grayscale,
        sigma=np.where(rest[:, 10] < spec.blur, low + (high - low) * rest[:, 11], 0.0),
        solarize=rest[:, 12] < spec.solarize,
        stain=stain if change.stain > 0 else np.full_like(stain, np.nan),
    )


def _boxes(spec: ViewSpec, tile_px: int, u: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return top, left, height, width int64 [B]: the first of ten boxes that fits, else the largest central one."""
    area = tile_px**2 * (spec.scale[0] + (spec.scale[1] - spec.scale[0]) * u[:, :NUM_TRIES])
    low, high = np.log(spec.ratio)
    ratio = np.exp(low + (high - low) * u[:, NUM_TRIES : 2 * NUM_TRIES])
    widths = np.rint(np.sqrt(area * ratio)).astype(np.int64)
    heights = np.rint(np.sqrt(area / ratio)).astype(np.int64)
    fits = (widths > 0) & (widths <= tile_px) & (heights > 0) & (heights <= tile_px)
    first, rows = fits.argmax(axis=1), np.arange(len(u))
    found = fits.any(axis=1)
    width, height = np.where(found, widths[rows, first], tile_px), np.where(found, heights[rows, first], tile_px)
    top, left = (
        (u[:, 2 * NUM_TRIES + k] * (tile_px - side + 1)).astype(np.int64) for k, side in ((0, height), (1, width))
    )
    return top, left, height, width
