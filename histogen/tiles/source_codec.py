"""The slide's own JPEGs: tiles copied byte for byte, or encoded again with the slide's tables on its own blocks."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from histogen.errors import SlideError
from histogen.slides.base import Slide
from histogen.slides.native import JPEG_TAIL, NativeSlide
from histogen.slides.tiff_layout import TiffLevel
from histogen.store.jpeg import JpegSettings, complete_jpeg
from histogen.tiles.extract import Extracted, empty
from histogen.tiles.grid import Grid

SAME = 1e-6
PILLOW_NAMES = {"444": "4:4:4", "422": "4:2:2", "420": "4:2:0"}
"""Chroma subsamplings that Pillow writes."""


def passthrough_level(slide: Slide, grid: Grid) -> int:
    """Return the level whose stored tiles are exactly the tiles of ``grid``.

    Raises:
        SlideError: there is none; the message says what would fit.
    """
    name = f"slide '{slide.slide_id}'"
    if not isinstance(slide, NativeSlide):
        raise SlideError(f"{name} is not a plain tiled TIFF or SVS, whose stored tiles can be copied; use codec=jpeg")
    scale = grid.pixel_l0[0]
    for index, level in enumerate(slide.tiff_levels):
        downsample = slide.levels[index].downsample
        if abs(downsample / scale - 1) >= SAME or abs(downsample / grid.pixel_l0[1] - 1) >= SAME:
            continue
        if level.codec != "jpeg":
            raise SlideError(f"{name} stores {level.codec}, not JPEG, at this resolution; use codec=jpeg")
        if not level.tile.width == level.tile.height == grid.tile_px == grid.stride_px:
            stored = f"{level.tile.width} x {level.tile.height}"
            raise SlideError(f"{name} stores tiles of {stored} px; use tile_px={level.tile.width} with no overlap")
        return index
    mpps = ", ".join(f"{level.downsample * grid.slide_mpp.mean:.6g}" for level in slide.levels)
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


@dataclass(frozen=True)
class SourceEncoding:
    """How the JPEGs of a slide are encoded, enough to encode more of their kind.

    Tiles whose borders lie on the slide's own blocks of 8 or 16 pixels lose next to nothing by it.
    """

    tables: Mapping[int, Sequence[int]]
    """Quantisation tables by their ids, as Pillow has them."""
    subsampling: str
    is_rgb: bool

    def encode(self, tile: np.ndarray) -> bytes:
        """Encode a tile, uint8 RGB [H, W, 3], as a complete JPEG file."""
        from PIL import Image

        stream = io.BytesIO()
        Image.fromarray(tile).save(
            stream, "JPEG", qtables=self.tables, subsampling=PILLOW_NAMES[self.subsampling], keep_rgb=self.is_rgb
        )
        return stream.getvalue()


def source_encoding(slide: Slide, grid: Grid) -> SourceEncoding:
    """Return how the level that is read is encoded, after the stored tile in its middle.

    Raises:
        SlideError: the slide's tiles are not JPEG, or of a kind that Pillow does not write.
    """
    from PIL import Image
    from PIL.JpegImagePlugin import JpegImageFile

    level = _level_read(slide, grid)
    if level is None or level.codec != "jpeg" or level.subsampling not in PILLOW_NAMES:
        has = f"stores {level.codec} {level.subsampling or ''}".strip() if level else "gives no stored tiles"
        raise SlideError(
            f"slide '{slide.slide_id}' {has}, so that its encoding cannot be taken over; set jpeg.level to a number"
        )
    assert isinstance(slide, NativeSlide)
    payload = slide.read_payload(slide.tiff_levels.index(level), len(level.offsets) // 2)
    try:
        with Image.open(io.BytesIO(complete_jpeg(payload, passthrough_settings(level)))) as image:
            assert isinstance(image, JpegImageFile)
            return SourceEncoding(image.quantization, level.subsampling, level.colorspace == "RGB")
    except OSError as error:
        raise SlideError(
            f"slide '{slide.slide_id}' has a damaged tile in its middle, whose tables cannot be read; copy the slide "
            "again, or set jpeg.level to a number"
        ) from error


def source_subsampling(slide: Slide, grid: Grid) -> str:
    """Return the chroma subsampling of the level that is read; ``420`` where that is not known."""
    level = _level_read(slide, grid)
    known = level.subsampling if level is not None and level.codec == "jpeg" else None
    return known or "420"


def _level_read(slide: Slide, grid: Grid) -> TiffLevel | None:
    return slide.tiff_levels[slide.best_level(min(grid.pixel_l0))] if isinstance(slide, NativeSlide) else None
