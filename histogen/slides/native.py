"""TIFF and SVS read directly: positioned reads, every stored tile decoded once while it is near, then cut.

OpenSlide spends most of its time composing tiles with cairo, not decoding them. Where a file is laid out plainly
(one pyramid of tiles, 8-bit RGB, no overlap, no missing tile) its tiles are decoded here with the same libraries,
so the pixels are the same. Planes, more bits, grey and strips are read through tifffile's decoders, because OpenSlide
shows the first plane, or the upper bits, or nothing. Everything else is declined, and
:func:`histogen.slides.base.open_slide` asks OpenSlide.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import simplejpeg

from histogen.errors import SlideError
from histogen.geometry import BoxL0, Extent
from histogen.slides.base import WHITE, BaseSlide
from histogen.slides.pyramid import Stored
from histogen.slides.resample import EXACT
from histogen.slides.tiff_layout import TiffLevel, open_layout
from histogen.slides.tiff_pixels import check_payload

CACHE_BYTES = 96 * 2**20
"""Decoded tiles kept, per slide; :mod:`histogen.tiles.extract` reads wide slides in blocks that fit."""
CHROMA_STEP = {"420": (2, 2), "422": (2, 1)}
"""Subsampling to the pixels (across, down) that share a chroma sample."""
MAX_TAIL = 65536
"""Bytes that a packed tile may hold beyond its pixels; more are not unpacked, whatever a file promises."""
JPEG_TAIL = 64
"""Within this many bytes of its end a JPEG must say that it ends; some writers pad."""


class NativeSlide(BaseSlide):
    """A plain tiled TIFF; see the module."""

    reader_name = "native"

    def _open(self) -> None:
        layout = open_layout(self.path)
        about = layout.about
        self.vendor, self.objective_power, self.left_out = about.vendor, about.objective_power, about.left_out
        self.mpp, self.mpp_source = about.mpp, about.mpp_source
        self._file: int | None = None
        self._caches: dict[tuple[int, bool], TileCache] = {}
        self.tiff_levels: tuple[TiffLevel, ...] = layout.levels
        kept = self.settle_levels([Stored(level.extent, level.tile, level.stated) for level in layout.levels])
        self.tiff_levels = tuple(layout.levels[index] for index in kept)
        self._caches.clear()

    def read_level(self, level: int, x: int, y: int, extent: Extent) -> np.ndarray:
        """Read a rectangle given in pixels of ``level``; white outside of the slide."""
        tiff, filled = self.tiff_levels[level], self.filled(level)
        out = np.empty((extent.height, extent.width, 3), np.uint8)
        x1, y1 = x + extent.width, y + extent.height
        if x < 0 or y < 0 or x1 > filled.width or y1 > filled.height:
            out[:] = WHITE
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x1, filled.width), min(y1, filled.height)
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

    def read_row(
        self, box: BoxL0, tile_px: int, stride_px: int, count: int, *, encoded_as: str | None = None
    ) -> np.ndarray:
        """Read neighbouring tiles; where no resampling is needed, each stored tile is cut straight into them."""
        width_px = (count - 1) * stride_px + tile_px
        index = self.best_level(box.width / width_px)
        scale, extent = self.levels[index].downsample, self.filled(index)
        left, top = round(box.x / scale), round(box.y / scale)
        error = max(abs(box.x / scale - left), abs(box.y / scale - top), abs(box.width / scale - width_px),
                    abs(box.height / scale - tile_px))  # fmt: skip
        inside = min(left, top) >= 0 and left + width_px <= extent.width and top + tile_px <= extent.height
        if error > EXACT or not inside:
            return super().read_row(box, tile_px, stride_px, count)
        tiff = self.tiff_levels[index]
        across, down = CHROMA_STEP.get(tiff.subsampling or "", (0, 0)) if encoded_as == tiff.subsampling else (0, 0)
        repeat = bool(across) and not (left % across or stride_px % across or top % down)
        width, height = tiff.tile.width, tiff.tile.height
        out = np.empty((count, tile_px, tile_px, 3), np.uint8)
        for row in range(top // height, -(-(top + tile_px) // height)):
            y0, y1 = max(row * height, top), min((row + 1) * height, top + tile_px)
            for column in range(left // width, -(-(left + width_px) // width)):
                tile = self._tile(index, row * tiff.columns + column, repeat)[y0 - row * height : y1 - row * height]
                start = column * width - left
                first = max(0, -(-(start - tile_px + 1) // stride_px))
                for at in range(first, min(count, -(-(start + width) // stride_px))):
                    x0, x1 = max(start, at * stride_px), min(start + width, at * stride_px + tile_px)
                    out[at, y0 - top : y1 - top, x0 - at * stride_px : x1 - at * stride_px] = tile[
                        :, x0 - start : x1 - start
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

    def _tile(self, level: int, index: int, repeat_chroma: bool = False) -> np.ndarray:
        cache = self._caches.get((level, repeat_chroma))
        if cache is None:
            cache = self._caches[level, repeat_chroma] = TileCache(self.tiff_levels[level].tile)
        tile = cache.get(index)
        if tile is None:
            decode = self._decoder(level, index, repeat_chroma)
            try:
                tile = cache.put(index, decode)
            except (ValueError, RuntimeError) as error:
                raise SlideError(f"{self._where(level, index)}: {error}") from error
        return tile

    def _decoder(self, level: int, index: int, repeat_chroma: bool) -> Callable[[np.ndarray], np.ndarray]:
        """Read a tile's stored bytes; return what decodes them into a buffer, or beside it."""
        tiff = self.tiff_levels[level]
        if tiff.pieces is None:
            payload, decode = self.read_payload(level, index), decode_repeating_chroma if repeat_chroma else decode_tile
            return lambda out: decode(tiff, payload, out)
        pieces = tiff.pieces
        count = len(tiff.offsets) // pieces.num_planes
        payloads = [self.read_payload(level, index + plane * count) for plane in range(pieces.num_planes)]
        return lambda _: pieces.rgb(payloads, index)

    def _where(self, level: int, index: int) -> str:
        columns = self.tiff_levels[level].columns
        return f"slide '{self.slide_id}' cannot be read at level {level}, tile ({index % columns}, {index // columns})"

    def close(self) -> None:
        """Close the file and forget decoded tiles; a later read opens it again."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._caches.clear()


class TileCache:
    """Decoded tiles of one level in a fixed set of buffers, the oldest is overwritten.

    Decoding into memory that is there already saves the page faults of fresh arrays, a fifth of the time.
    """

    def __init__(self, tile: Extent) -> None:
        size = tile.width * tile.height * 3
        count = max(4 if size <= CACHE_BYTES else 2, CACHE_BYTES // size)
        self._buffers = np.empty((count, tile.height, tile.width, 3), np.uint8)
        self._slots: dict[int, int] = {}
        self._owners: list[int | None] = [None] * count
        self._next = 0

    def get(self, index: int) -> np.ndarray | None:
        """Return the pixels of tile ``index`` while they are there."""
        slot = self._slots.get(index)
        return None if slot is None else self._buffers[slot]

    def put(self, index: int, decode: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Decode a tile into the oldest buffer; when that fails the buffer stays free."""
        slot = self._next
        owner, self._owners[slot] = self._owners[slot], None
        if owner is not None:
            del self._slots[owner]
        pixels = decode(self._buffers[slot])
        if pixels is not self._buffers[slot]:
            self._buffers[slot][:] = pixels
        self._slots[index], self._owners[slot] = slot, index
        self._next = (slot + 1) % len(self._owners)
        return self._buffers[slot]


def decode_tile(level: TiffLevel, payload: bytes, out: np.ndarray | None = None) -> np.ndarray:
    """Decode one stored tile, uint8 RGB [tile height, tile width, 3], into ``out`` where the codec can.

    Raises:
        ValueError, RuntimeError: the payload is damaged or is not of the tile's extent.
    """
    shape = (level.tile.height, level.tile.width, 3)
    tile: Any
    if level.codec == "jpeg":
        _check_end(payload)
        tile = imagecodecs.jpeg8_decode(
            payload, tables=level.tables, colorspace=level.colorspace, outcolorspace="RGB", out=out
        )
    elif level.codec == "jpeg2000":
        check_payload(payload, level.tile)
        tile = imagecodecs.jpeg2k_decode(payload)
    else:
        size = shape[0] * shape[1] * 3 + MAX_TAIL
        raw = payload if level.codec == "none" else getattr(imagecodecs, f"{level.codec}_decode")(payload, out=size)
        tile = np.frombuffer(raw, np.uint8)
        tile = tile[: shape[0] * shape[1] * 3].reshape(shape)
        if level.differences:
            tile = np.cumsum(tile, axis=1, dtype=np.uint8)
    if tile.shape != shape or tile.dtype != np.uint8:
        raise ValueError(f"the tile decodes to {tile.dtype} {tile.shape}, not uint8 {shape}")
    return tile


def decode_repeating_chroma(level: TiffLevel, payload: bytes, out: np.ndarray) -> np.ndarray:
    """Decode one stored YCbCr JPEG into ``out``, uint8 RGB [tile height, tile width, 3], without interpolating chroma.

    Raises:
        ValueError: the payload is damaged or is not of the tile's extent.
    """
    _check_end(payload)
    whole = payload if level.tables is None else b"".join((payload[:2], level.tables[2:-2], payload[2:]))
    tile = simplejpeg.decode_jpeg(whole, fastupsample=True, strict=False, buffer=out)
    if tile.shape != out.shape:
        raise ValueError(f"the tile decodes to {tile.shape}, not {out.shape}")
    return out


def _check_end(payload: bytes) -> None:
    """Refuse a stream that ends early: libjpeg fills it up with grey and only warns."""
    if b"\xff\xd9" not in payload[-JPEG_TAIL:]:
        raise ValueError("the JPEG stream ends early")
