"""Where tiles lie: a regular grid of squares of exact physical size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from histogen.geometry import BoxL0, Extent, Mpp

BLOCK_BOXES = 1 << 18
"""Boxes whose means are computed at a time: ten million at once would take 2 GB."""
SLACK_PX = 1e-6
"""Tile pixels by which a tile may reach over the slide's border through rounding."""


@dataclass(frozen=True)
class Grid:
    """Tiles of ``tile_px`` at ``mpp`` every ``stride_px`` over a slide, from its top left corner.

    All tiles lie on one pixel grid at ``mpp``, whose pixel is ``mpp / slide_mpp`` level-0 pixels wide (a float per
    axis): the tile in column ``i`` begins exactly at ``i * stride_px * mpp / slide_mpp.x``, so nothing drifts.
    """

    slide_extent: Extent
    slide_mpp: Mpp
    tile_px: int
    stride_px: int
    mpp: float
    edge: Literal["drop", "pad"] = "drop"

    @property
    def pixel_l0(self) -> tuple[float, float]:
        """Width and height of a tile's pixel, level-0 pixels."""
        return self.mpp / self.slide_mpp.x, self.mpp / self.slide_mpp.y

    @property
    def size_l0(self) -> tuple[float, float]:
        """Width and height of a tile, level-0 pixels."""
        return self.tile_px * self.pixel_l0[0], self.tile_px * self.pixel_l0[1]

    @property
    def step_l0(self) -> tuple[float, float]:
        """Level-0 pixels from one column, and from one row, to the next."""
        return self.stride_px * self.pixel_l0[0], self.stride_px * self.pixel_l0[1]

    @property
    def num_columns(self) -> int:
        """Tiles side by side."""
        return self._count(self.slide_extent.width / self.pixel_l0[0])

    @property
    def num_rows(self) -> int:
        """Tiles one below the other."""
        return self._count(self.slide_extent.height / self.pixel_l0[1])

    def _count(self, length_px: float) -> int:
        if self.edge == "pad":
            return max(1, int(np.ceil(length_px / self.stride_px - SLACK_PX)))
        return max(0, int(np.floor((length_px - self.tile_px + SLACK_PX) / self.stride_px)) + 1)

    def cells(self) -> tuple[np.ndarray, np.ndarray]:
        """Return column and row of every tile, int32 [N] each, row by row."""
        columns, rows = (np.arange(count, dtype=np.int32) for count in (self.num_columns, self.num_rows))
        return np.tile(columns, len(rows)), np.repeat(rows, len(columns))

    def positions_l0(self, columns: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return left and top of tiles, float64 [N] each, level-0 pixels."""
        across, down = self.step_l0
        return columns * across, rows * down

    def cells_at(self, x_l0: np.ndarray, y_l0: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return column and row, int64 [N] each, of tiles that begin at ``x_l0``, ``y_l0``."""
        across, down = self.step_l0
        return np.rint(x_l0 / across).astype(np.int64), np.rint(y_l0 / down).astype(np.int64)

    def box(self, column: int, row: int, num_columns: int = 1) -> BoxL0:
        """Return the rectangle under ``num_columns`` neighbouring tiles of a row."""
        across, down = self.pixel_l0
        width_px = (num_columns - 1) * self.stride_px + self.tile_px
        left, top = self.step_l0
        return BoxL0(column * left, row * top, width_px * across, self.tile_px * down)


@dataclass(frozen=True)
class Placed(Grid):
    """Tiles of ``tile_px`` at ``mpp`` anywhere: a tile's column and row are its left and top, whole level-0 pixels."""

    @property
    def step_l0(self) -> tuple[float, float]:
        """Level-0 pixels from one column, and from one row, to the next."""
        return 1.0, 1.0


def box_means(values: np.ndarray, x: np.ndarray, y: np.ndarray, width: float, height: float) -> np.ndarray:
    """Return the mean of a map [h, w] of values 0-1 over boxes given in its own pixels (fractions meant), float32 [N].

    Exact for a map that is constant within each pixel. What lies outside of the map counts as 0.
    """
    out = np.zeros(len(x), np.float32)
    if not values.any():
        return out
    table = cv2.integral(values.view(np.uint8) if values.dtype == bool else values, sdepth=cv2.CV_64F)
    for start in range(0, len(x), BLOCK_BOXES):
        block = slice(start, start + BLOCK_BOXES)
        left, top = x[block], y[block]
        right, bottom = left + width, top + height
        total = _integral(table, right, bottom) - _integral(table, left, bottom)
        total += _integral(table, left, top) - _integral(table, right, top)
        # What cumulative sums leave of nothing (1e-15) must not count as ink.
        out[block] = np.round(np.clip(total / (width * height), 0, 1), 6)
    return out


def _integral(table: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sum of all that is left of ``x`` and above ``y``: bilinear between the corners of pixels."""
    height, width = table.shape
    x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
    x0, y0 = np.minimum(x.astype(int), width - 2), np.minimum(y.astype(int), height - 2)
    across, down = x - x0, y - y0
    above = table[y0, x0] * (1 - across) + table[y0, x0 + 1] * across
    below = table[y0 + 1, x0] * (1 - across) + table[y0 + 1, x0 + 1] * across
    return above * (1 - down) + below * down
