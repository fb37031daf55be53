"""A slide of any size in a few kilobytes a level: a TIFF whose tiles are a few JPEGs, named over and over."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from common import textured_tiles

from histogen.geometry import Extent
from histogen.store.jpeg import JpegSettings, encode_jpeg

TILE_PX = 256
NUM_TISSUE = 24
DOWNSAMPLES = (1, 4, 16, 64)
TYPES = {2: ("s", 1), 3: ("H", 2), 4: ("I", 4)}


def build(path: Path, extent: Extent, *, mpp: float = 0.25) -> Path:
    """Write a slide of ``extent`` at ``path``: tissue in an ellipse that fills it, glass around it, at every level."""
    settings = JpegSettings(80, "420")
    glass = np.full((TILE_PX, TILE_PX, 3), 243, np.uint8)
    payloads = [encode_jpeg(tile, settings) for tile in (glass, *textured_tiles(NUM_TISSUE, TILE_PX))]
    with path.open("wb") as file:
        file.write(b"II*\0\0\0\0\0")
        starts = []
        for payload in payloads:
            starts.append(file.tell())
            file.write(payload + b"\0" * (len(payload) % 2))
        link = 4
        for factor in DOWNSAMPLES:
            link = _write_level(
                file, Extent(extent.width // factor, extent.height // factor), payloads, starts, link, mpp
            )
    return path


def _write_level(file: object, extent: Extent, payloads: list[bytes], starts: list[int], link: int, mpp: float) -> int:
    columns, rows = -(-extent.width // TILE_PX), -(-extent.height // TILE_PX)
    y, x = np.mgrid[:rows, :columns]
    inside = ((x + 0.5) / columns * 2 - 1) ** 2 + ((y + 0.5) / rows * 2 - 1) ** 2 < 1
    chosen = np.where(inside, 1 + (7 * y + 3 * x) % NUM_TISSUE, 0).ravel()
    text = f"Aperio Image Library v12.0.15 (built by histogen)\r\n{extent.width}x{extent.height}"
    text += f"|AppMag = {10 / mpp:g}|MPP = {mpp:g}"
    tags = {
        254: (4, [0 if link == 4 else 1]), 256: (4, [extent.width]), 257: (4, [extent.height]), 258: (3, [8, 8, 8]),
        259: (3, [7]), 262: (3, [6]), 270: (2, [text.encode() + b"\0"]), 277: (3, [3]), 284: (3, [1]),
        322: (3, [TILE_PX]), 323: (3, [TILE_PX]), 324: (4, np.array(starts)[chosen]),
        325: (4, np.array([len(p) for p in payloads])[chosen]), 530: (3, [2, 2]),
    }  # fmt: skip
    entries = b""
    for tag, (kind, values) in tags.items():
        data = values[0] if kind == 2 else np.asarray(values, f"<u{TYPES[kind][1]}").tobytes()
        count = len(data) // TYPES[kind][1]
        if len(data) > 4:
            at = file.tell()
            file.write(data + b"\0" * (len(data) % 2))
            data = struct.pack("<I", at)
        entries += struct.pack("<HHI", tag, kind, count) + data.ljust(4, b"\0")
    here = file.tell()
    file.write(struct.pack("<H", len(tags)) + entries + b"\0\0\0\0")
    file.seek(link)
    file.write(struct.pack("<I", here))
    file.seek(0, 2)
    return here + 2 + len(entries)
