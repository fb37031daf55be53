"""Tiled TIFF and SVS read directly: positioned reads, every stored tile decoded once while it is near, then cut.

OpenSlide spends most of its time composing tiles with cairo, not decoding them. Where a file is laid out plainly
(one pyramid of tiles, 8-bit RGB, no overlap, no missing tile) its tiles are decoded here with the same libraries,
so the pixels are the same. Everything else is refused, and :func:`histogen.slides.base.open_slide` asks OpenSlide.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from typing import Any

import imagecodecs
import numpy as np

from histogen.errors import SlideError
from histogen.geometry import Extent
from histogen.slides.base import WHITE, BaseSlide, Level
from histogen.slides.tiff_layout import TiffLevel, open_layout

CACHE_BYTES = 160 * 2**20
"""Decoded tiles kept: two rows of them for a slide 100,000 pixels wide."""
JPEG_TAIL = 64
"""Within this many bytes of its end a JPEG must say that it ends; some writers pad."""


class NativeSlide(BaseSlide):
    """A plain tiled TIFF; see the module."""

    reader_name = "native"

    def _open(self) -> None:
        layout = open_layout(self.path)
        self.tiff_levels: tuple[TiffLevel, ...] = layout.levels
        self.levels = tuple(Level(level.extent, level.downsample) for level in layout.levels)
        self.vendor, self.objective_power = layout.vendor, layout.objective_power
        self.mpp, self.mpp_source = layout.mpp, layout.mpp_source
        self._file: int | None = None
        self._cache: OrderedDict[tuple[int, int], np.ndarray] = OrderedDict()
        self._cached_bytes = 0

    def read_level(self, level: int, x: int, y: int, extent: Extent) -> np.ndarray:
        """Read a rectangle given in pixels of ``level``; white outside of the slide."""
        tiff = self.tiff_levels[level]
        out = np.empty((extent.height, extent.width, 3), np.uint8)
        x1, y1 = x + extent.width, y + extent.height
        if x < 0 or y < 0 or x1 > tiff.extent.width or y1 > tiff.extent.height:
            out[:] = WHITE
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x1, tiff.extent.width), min(y1, tiff.extent.height)
        if left >= right or top >= bottom:
            return out
        width, height = tiff.tile.width, tiff.tile.height
        for row in range(top // height, -(-bottom // height)):
            y_from, y_to = max(row * height, top), min((row + 1) * height, bottom)
            for column in range(left // width, -(-right // width)):
                x_from, x_to = max(column * width, left), min((column + 1) * width, right)
                tile = self._tile(level, row * tiff.columns + column)
                out[y_from - y : y_to - y, x_from - x : x_to - x] = tile[
                    y_from - row * height : y_to - row * height, x_from - column * width : x_to - column * width
                ]
        return out

    def read_payload(self, level: int, index: int) -> bytes:
        """Return the stored bytes of tile ``index`` (row by row) of ``level``.

        Raises:
            SlideError: the file ends before the tile does.
        """
        tiff = self.tiff_levels[level]
        if self._file is None:
            self._file = os.open(self.path, os.O_RDONLY)
        size = int(tiff.sizes[index])
        payload = os.pread(self._file, size, int(tiff.offsets[index]))
        if len(payload) != size:
            raise SlideError(f"{self._where(level, index)}: the file ends before the tile does; copy it again")
        return payload

    def _tile(self, level: int, index: int) -> np.ndarray:
        key = (level, index)
        tile = self._cache.get(key)
        if tile is not None:
            return tile
        payload = self.read_payload(level, index)
        try:
            tile = decode_tile(self.tiff_levels[level], payload)
        except (ValueError, RuntimeError) as error:
            raise SlideError(f"{self._where(level, index)}: {error}") from error
        self._cache[key] = tile
        self._cached_bytes += tile.nbytes
        while self._cached_bytes > CACHE_BYTES:
            self._cached_bytes -= self._cache.popitem(last=False)[1].nbytes
        return tile

    def _where(self, level: int, index: int) -> str:
        columns = self.tiff_levels[level].columns
        return f"slide '{self.slide_id}' cannot be read at level {level}, tile ({index % columns}, {index // columns})"

    def close(self) -> None:
        """Close the file and forget decoded tiles; a later read opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._cache.clear()
        self._cached_bytes = 0


def decode_tile(level: TiffLevel, payload: bytes) -> np.ndarray:
    """Decode one stored tile, uint8 RGB [tile height, tile width, 3].

    Raises:
        ValueError, RuntimeError: the payload is damaged or is not of the tile's extent.
    """
    shape = (level.tile.height, level.tile.width, 3)
    tile: Any
    if level.codec == "jpeg":
        # libjpeg fills up a stream that ends early with grey and only warns.
        if b"\xff\xd9" not in payload[-JPEG_TAIL:]:
            raise ValueError("the JPEG stream ends early")
        tile = imagecodecs.jpeg8_decode(payload, tables=level.tables, colorspace=level.colorspace, outcolorspace="RGB")
    elif level.codec == "jpeg2000":
        tile = imagecodecs.jpeg2k_decode(payload)
    else:
        raw = payload if level.codec == "none" else getattr(imagecodecs, f"{level.codec}_decode")(payload)
        tile = np.frombuffer(raw, np.uint8)
        tile = tile[: shape[0] * shape[1] * 3].reshape(shape)
        if level.differences:
            tile = np.cumsum(tile, axis=1, dtype=np.uint8)
    if tile.shape != shape or tile.dtype != np.uint8:
        raise ValueError(f"the tile decodes to {tile.dtype} {tile.shape}, not uint8 {shape}")
    return tile
