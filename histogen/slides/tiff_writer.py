"""Write an array as a pyramidal, tiled JPEG TIFF that slide readers take for a scanner's file (Aperio's layout)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile

from histogen.geometry import Extent

MIN_LEVEL_PX = 256
THUMBNAIL_PX = 512


def write_svs(
    path: Path,
    pixels: np.ndarray,
    *,
    mpp: float | None,
    objective_power: float | None = None,
    tile_px: int = 256,
    quality: int = 85,
    downsamples: tuple[int, ...] | None = None,
) -> None:
    """Write ``pixels`` (uint8 [H, W, 3], RGB) as level 0 of a slide at ``path``.

    Args:
        mpp: microns per pixel stated in the description; ``None`` states none.
        objective_power: stated magnification; ``None`` states 10 / mpp, as scanners do.
        tile_px: side of a stored JPEG tile.
        quality: JPEG quality (4:2:0, YCbCr) of every level.
        downsamples: of the lower levels; ``None`` divides by four until the level is small.

    The bytes depend on the arguments alone.
    """
    height, width = pixels.shape[:2]
    factors = downsamples if downsamples is not None else _default_downsamples(Extent(width, height))
    options: dict[str, Any] = {"compression": "jpeg", "compressionargs": {"level": quality}, "photometric": "rgb"}
    # tifffile turns RGB into YCbCr itself when it writes JPEG.
    options |= {"subsampling": (2, 2), "metadata": None, "software": False}
    path.parent.mkdir(parents=True, exist_ok=True)
    with tifffile.TiffWriter(path) as tiff:
        description = _description(Extent(width, height), tile_px, quality, mpp, objective_power)
        tiff.write(pixels, tile=(tile_px, tile_px), description=description, **options)
        thumbnail = _shrink(pixels, max(1, round(max(width, height) / THUMBNAIL_PX)))
        tiff.write(thumbnail, rowsperstrip=16, description=description.split("|")[0], **options)
        for factor in factors:
            level = _shrink(pixels, factor)
            tiff.write(level, tile=(tile_px, tile_px), subfiletype=1, description=description.split("|")[0], **options)


def _default_downsamples(extent: Extent) -> tuple[int, ...]:
    factors = []
    factor = 4
    while min(extent.width, extent.height) // factor >= MIN_LEVEL_PX // 2:
        factors.append(factor)
        factor *= 4
    return tuple(factors)


def _shrink(pixels: np.ndarray, factor: int) -> np.ndarray:
    height, width = max(1, pixels.shape[0] // factor), max(1, pixels.shape[1] // factor)
    whole = pixels[: height * factor, : width * factor]
    return np.ascontiguousarray(cv2.resize(whole, (width, height), interpolation=cv2.INTER_AREA))


def _description(extent: Extent, tile_px: int, quality: int, mpp: float | None, objective_power: float | None) -> str:
    width, height = extent.width, extent.height
    text = (
        "Aperio Image Library v12.0.15 (drawn by histogen)\r\n"
        f"{width}x{height} [0,0 {width}x{height}] ({tile_px}x{tile_px}) JPEG/YCC Q={quality}"
    )
    power = objective_power if objective_power is not None or mpp is None else round(10 / mpp)
    if power is not None:
        text += f"|AppMag = {power:g}"
    if mpp is not None:
        text += f"|MPP = {mpp:.6g}"
    return text
