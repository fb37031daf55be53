"""The slide's own JPEGs: tiles copied byte for byte, or encoded again with the slide's tables on its own blocks."""

from __future__ import annotations

import functools
import io
from collections.abc import Iterator

import imagecodecs
import numpy as np

from histogen.errors import SlideError
from histogen.slides.base import Slide
from histogen.slides.native import JPEG_TAIL, NativeSlide
from histogen.slides.tiff_layout import TiffLevel
from histogen.store.jpeg import JpegSettings
from histogen.tiles.extract import Extracted, empty
from histogen.tiles.grid import Grid

SAME = 1e-6


def passthrough_level(slide: Slide, grid: Grid) -> int:
    """Return the level whose stored tiles are exactly the tiles of ``grid``.

    Raises:
        SlideError: there is none; the message says what would fit.
    """
    name = f"slide '{slide.slide_id}'"
    if not isinstance(slide, NativeSlide):
        raise SlideError(f"{name} is read through {type(slide).__name__}, which gives no stored tiles; use codec=jpeg")
    scale = grid.pixel_l0[0]
    for index, level in enumerate(slide.tiff_levels):
        near = abs(level.downsample / scale - 1) < SAME and abs(level.downsample / grid.pixel_l0[1] - 1) < SAME
        if not near:
            continue
        if level.codec != "jpeg":
            raise SlideError(f"{name} stores {level.codec}, not JPEG, at this resolution; use codec=jpeg")
        if not level.tile.width == level.tile.height == grid.tile_px == grid.stride_px:
            stored = f"{level.tile.width} x {level.tile.height}"
            raise SlideError(f"{name} stores tiles of {stored} px; use tile_px={level.tile.width} with no overlap")
        return index
    mpps = ", ".join(f"{level.downsample * grid.slide_mpp.mean:.6g}" for level in slide.tiff_levels)
    raise SlideError(f"{name} has levels of {mpps} mpp, none of {grid.mpp:.6g}; use mpp=native or codec=jpeg")


def passthrough_settings(level: TiffLevel) -> JpegSettings:
    """Return what decodes the stored tiles of ``level``: tables and colour space that they leave out."""
    if level.tables is None and level.colorspace == "YCbCr":
        return JpegSettings(None, level.subsampling)
    return JpegSettings(
        None, level.subsampling, tables=level.tables, colorspace_data="RGB", colorspace_jpeg=level.colorspace
    )


def copy_tiles(slide: Slide, grid: Grid, columns: np.ndarray, rows: np.ndarray) -> Extracted:
    """Copy the stored tiles at ``columns``, ``rows``; nothing is decoded, so there are no scores.

    Raises:
        SlideError: none of them can be read.
    """
    index = passthrough_level(slide, grid)
    assert isinstance(slide, NativeSlide)
    across = slide.tiff_levels[index].columns
    result = empty(len(columns))
    for position, tile in enumerate((rows.astype(np.int64) * across + columns).tolist()):
        try:
            payload = slide.read_payload(index, tile)
        except SlideError as error:
            result.unreadable[position] = str(error)
            continue
        if payload[:2] == b"\xff\xd8" and b"\xff\xd9" in payload[-JPEG_TAIL:]:
            result.payloads[position] = payload
        else:
            where = f"level {index}, tile ({tile % across}, {tile // across})"
            result.unreadable[position] = f"slide '{slide.slide_id}' has no whole JPEG at {where}; copy the slide again"
    if len(columns) and len(result.unreadable) == len(columns):
        raise SlideError(next(iter(result.unreadable.values())))
    return result


def source_settings(slide: Slide, grid: Grid) -> JpegSettings:
    """Return settings with the quantisation tables and the subsampling of the level that is read.

    With these, tiles whose borders lie on the slide's own blocks lose next to nothing.

    Raises:
        SlideError: the slide's tiles are not JPEG, or its tables are not libjpeg's at any quality.
    """
    if isinstance(slide, NativeSlide):
        index = slide.best_level(min(grid.pixel_l0))
        level = slide.tiff_levels[index]
        if level.codec == "jpeg":
            payload = slide.read_payload(index, len(level.offsets) // 2)
            tables = quantisation_tables(payload) or quantisation_tables(level.tables or b"")
            quality = _quality_of(tables)
            if quality is not None and level.subsampling is not None:
                return JpegSettings(quality, level.subsampling)
    raise SlideError(
        f"slide '{slide.slide_id}' has no JPEG tables of a known quality; set jpeg.level to a number, 90 is usual"
    )


def source_subsampling(slide: Slide, grid: Grid) -> str:
    """Return the chroma subsampling of the level that is read; ``420`` where that is not known."""
    level = slide.tiff_levels[slide.best_level(min(grid.pixel_l0))] if isinstance(slide, NativeSlide) else None
    known = level.subsampling if level is not None and level.codec == "jpeg" else None
    return known or "420"


def quantisation_tables(jpeg: bytes) -> tuple[bytes, ...]:
    """Return the 8-bit quantisation tables (64 bytes each, in order of their ids) in a JPEG stream."""
    tables: dict[int, bytes] = {}
    for marker, segment in _segments(jpeg):
        at = 0
        while marker == 0xDB and at + 65 <= len(segment):
            tables[segment[at] & 15] = segment[at + 1 : at + 65]
            at += 65
    return tuple(tables[key] for key in sorted(tables))


def _segments(jpeg: bytes) -> Iterator[tuple[int, bytes]]:
    stream = io.BytesIO(jpeg)
    stream.read(2)
    while len(head := stream.read(2)) == 2 and head[0] == 0xFF and head[1] not in (0xDA, 0xD9):
        yield head[1], stream.read(int.from_bytes(stream.read(2), "big") - 2)


def _quality_of(tables: tuple[bytes, ...]) -> int | None:
    return _known_tables().get(tables) or _known_tables().get(tables * 2)


@functools.cache
def _known_tables() -> dict[tuple[bytes, ...], int]:
    """The tables that libjpeg writes at each quality; the highest quality of equal ones."""
    tile = np.zeros((16, 16, 3), np.uint8)
    return {quantisation_tables(bytes(imagecodecs.jpeg8_encode(tile, level=q))): q for q in range(1, 101)}
