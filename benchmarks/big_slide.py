"""A slide of 20,000 x 20,000 pixels, made in seconds: the tissue tiles of a drawn slide, repeated byte for byte."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
import tifffile

from histogen.geometry import Extent
from histogen.slides.drawn import draw_slide
from histogen.slides.native import NativeSlide, decode_tile

TILE_PX = 256
SIDE_TILES = 79
QUALITY = 70
"""What Aperio scanners write by default."""
DESCRIPTION = (
    "Aperio Image Library v12.0.15 (built by histogen)\r\n{0}x{0} [0,0 {0}x{0}] ({1}x{1}) JPEG/YCC Q=70"
    "|AppMag = {3:g}|MPP = {2:g}"
)


def tissue_payloads(folder: Path) -> tuple[list[bytes], list[np.ndarray]]:
    """Return JPEGs, and their pixels, of the stored tiles of a drawn slide that show tissue alone."""
    path = folder / "pattern.svs"
    truth = draw_slide(path, seed=7, extent=Extent(8192, 6144), mpp=0.5, pen=False, blur=False, quality=QUALITY)
    slide = NativeSlide(path)
    level = slide.tiff_levels[0]
    chosen = [
        index
        for index in range(len(level.offsets))
        if truth.class_shares(index % level.columns * TILE_PX, index // level.columns * TILE_PX, TILE_PX).sum() > 0.98
    ]
    payloads = [slide.read_payload(0, index) for index in chosen]
    return payloads, [decode_tile(level, payload) for payload in payloads]


def build(path: Path, *, mpp: float = 0.5, side_tiles: int = SIDE_TILES, abbreviated: bool = False) -> Path:
    """Write the slide at ``path`` unless it is there.

    ``abbreviated`` writes RGB JPEG streams without tables and one set of tables for all, as Aperio scanners do.
    """
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    payloads, pixels = tissue_payloads(path.parent)
    tables = None
    photometric = "ycbcr"
    if abbreviated:
        payloads = [
            imagecodecs.jpeg8_encode(p, level=QUALITY, colorspace="RGB", outcolorspace="RGB", subsampling="444")
            for p in pixels
        ]
        tables, payloads = split_tables(payloads)
        photometric = "rgb"
    order = [(7 * row + 3 * column) % len(payloads) for row in range(side_tiles) for column in range(side_tiles)]
    side = side_tiles * TILE_PX
    text = DESCRIPTION.format(side, TILE_PX, mpp, round(10 / mpp))
    options = {"tile": (TILE_PX, TILE_PX), "compression": "jpeg", "metadata": None, "software": False}
    temporary = path.with_suffix(".part")
    with tifffile.TiffWriter(temporary, bigtiff=False) as tiff:
        tiff.write(
            iter([payloads[i] for i in order]), shape=(side, side, 3), dtype=np.uint8, photometric=photometric,
            subsampling=(1, 1) if abbreviated else (2, 2), jpegtables=tables, description=text, **options,
            compressionargs={"outcolorspace": photometric},  # without it tifffile calls RGB streams YCbCr
        )  # fmt: skip
        for factor in (4, 16):
            level = mosaic(pixels, order, side_tiles, factor)
            tiff.write(
                level, photometric="rgb", subfiletype=1, compressionargs={"level": QUALITY},
                description=text.split("|")[0], **options,
            )  # fmt: skip
    temporary.rename(path)
    return path


def mosaic(pixels: list[np.ndarray], order: list[int], side_tiles: int, factor: int) -> np.ndarray:
    """Return the slide reduced by ``factor``."""
    small = [cv2.resize(p, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA) for p in pixels]
    px = TILE_PX // factor
    out = np.empty((side_tiles * px, side_tiles * px, 3), np.uint8)
    for at, index in enumerate(order):
        row, column = divmod(at, side_tiles)
        out[row * px : (row + 1) * px, column * px : (column + 1) * px] = small[index]
    return out


def split_tables(payloads: list[bytes]) -> tuple[bytes, list[bytes]]:
    """Take the quantisation and Huffman tables out of JPEG files that share them; (tables, abbreviated streams)."""
    tables: set[bytes] = set()
    short = []
    for payload in payloads:
        kept, taken = [b"\xff\xd8"], []
        for marker, segment in _segments(payload):
            (taken if marker in (0xDB, 0xC4) else kept).append(segment)
        tables.add(b"".join([b"\xff\xd8", *taken, b"\xff\xd9"]))
        short.append(b"".join(kept))
    if len(tables) != 1:
        raise ValueError(f"the streams use {len(tables)} sets of tables, not one")
    return tables.pop(), short


def _segments(payload: bytes) -> Iterator[tuple[int, bytes]]:
    at = 2
    while at < len(payload):
        marker = payload[at + 1]
        end = len(payload) if marker == 0xDA else at + 2 + int.from_bytes(payload[at + 2 : at + 4], "big")
        yield marker, payload[at:end]
        at = end


def num_tiles(tile_px: int, scale: float = 1.0, side_tiles: int = SIDE_TILES) -> int:
    """Return how many whole tiles of ``tile_px`` (each ``scale`` slide pixels wide) the slide has."""
    return math.floor(side_tiles * TILE_PX / (tile_px * scale) + 1e-9) ** 2
