"""Grids of tiles as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from histogen.files import write_atomic

GAP_PX = 2


def grid(rows: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return one picture of ``rows``, each uint8 [N, H, W, 3], on white with a small gap; rows may differ in N."""
    height, width = rows[0].shape[1:3]
    columns = max(len(row) for row in rows)
    canvas = np.full((len(rows) * (height + GAP_PX) - GAP_PX, columns * (width + GAP_PX) - GAP_PX, 3), 255, np.uint8)
    for r, row in enumerate(rows):
        for c, tile in enumerate(row):
            top, left = r * (height + GAP_PX), c * (width + GAP_PX)
            canvas[top : top + height, left : left + width] = tile
    return canvas


def write_grid(path: Path, rows: Sequence[NDArray[np.uint8]]) -> None:
    """Write :func:`grid` of ``rows`` as a PNG."""
    write_atomic(path, bytes(imagecodecs.png_encode(grid(rows))))
