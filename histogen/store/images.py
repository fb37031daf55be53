"""One image file of any common format to the JPEG of one tile."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from histogen.errors import StoreError
from histogen.store.arrays import image_px, read_image, split_path
from histogen.store.jpeg import JpegSettings, decode_jpeg, encode_jpeg

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".ppm"})
DEEP_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
"""Pillow's modes of more than 8 bits, which its conversion to RGB would clamp."""

BITS_PER_SAMPLE = 258
"""TIFF's tag of the bits per channel."""
PNG_BITS = 24
"""Place of the bits per channel in a PNG file: the ninth byte of its first chunk."""

_BASELINE = 0xC0
_START_OF_FRAME = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def image_extent(path: Path) -> tuple[int, int]:
    """Return (width, height) in pixels from the header of an image.

    Raises:
        StoreError: it is not an image.
    """
    if (place := split_path(path)) is not None:
        return image_px(place[0])
    with _opened(path, path) as image:
        return image.size


def tile_payload(path: Path, tile_px: int, jpeg: JpegSettings) -> tuple[bytes, bool]:
    """Return the JPEG of an image as a tile of ``tile_px``, and whether it is the file itself, byte for byte.

    A baseline RGB JPEG of the right size is taken as it is. Any other image is made RGB (grey is repeated, alpha
    dropped, orientation tags not followed, as torchvision does), its centre square is resampled (bicubic,
    antialiased) and it is encoded with ``jpeg``.

    ``FILE#NUMBER`` is an image of a file of many (:mod:`histogen.store.arrays`).

    Raises:
        StoreError: the file is not an image, is truncated, has several pages or more than 8 bits per channel.
    """
    if (place := split_path(path)) is not None:
        return encode_jpeg(_centre_square(np.ascontiguousarray(read_image(*place)), tile_px), jpeg), False
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StoreError(f"image '{path}' cannot be read ({error.strerror}); check the file") from error
    with _opened(io.BytesIO(data), path) as image:
        pixels = _rgb(image, data, path)
    if pixels.shape[:2] == (tile_px, tile_px) and is_baseline_rgb(data) and _decodes(data, pixels.shape):
        return data, True
    return encode_jpeg(_centre_square(pixels, tile_px), jpeg), False


def is_baseline_rgb(data: bytes) -> bool:
    """Whether ``data`` is a baseline JPEG of three 8-bit channels."""
    position = 2
    while data[:2] == b"\xff\xd8" and position + 9 < len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if marker in _START_OF_FRAME:
            return marker == _BASELINE and data[position + 4] == 8 and data[position + 9] == 3
        position += 1 if marker == 0xFF else 2 + length
    return False


def _opened(source: Path | io.BytesIO, path: Path) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return Image.open(source)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise StoreError(f"image '{path}' cannot be opened ({_reason(error)}); mend or remove it") from error


def _rgb(image: Image.Image, data: bytes, path: Path) -> NDArray[np.uint8]:
    try:
        pages, bits = getattr(image, "n_frames", 1), _bits(image, data)
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise StoreError(f"image '{path}' does not decode ({_reason(error)}); mend or remove it") from error
    if bits > 8:
        raise StoreError(
            f"image '{path}' has {bits} bits per channel, and nothing says what is white; convert it to 8 bits"
        )
    if pages > 1 and image.format != "MPO":  # a camera's second picture is a preview
        raise StoreError(
            f"image '{path}' has {pages} pages, of which one would be taken; save each as a file of its own"
        )
    try:
        # Pillow, not libjpeg through imagecodecs: only Pillow says when a file is truncated
        return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError) as error:
        raise StoreError(f"image '{path}' does not decode ({_reason(error)}); mend or remove it") from error


def _bits(image: Image.Image, data: bytes) -> int:
    """Return the bits per channel that the file has: Pillow opens colours of 16 bits by their high bytes."""
    if image.format == "PNG":
        return data[PNG_BITS]
    if image.mode in DEEP_MODES:
        return 32 if image.mode in ("I", "F") else 16
    stated = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, 8)
    return max(stated) if isinstance(stated, tuple) else int(stated)


def _decodes(data: bytes, shape: tuple[int, ...]) -> bool:
    try:
        return decode_jpeg(data).shape == shape
    except (imagecodecs.Jpeg8Error, ValueError):
        return False


def _centre_square(pixels: NDArray[np.uint8], tile_px: int) -> NDArray[np.uint8]:
    height, width = pixels.shape[:2]
    if (height, width) == (tile_px, tile_px):
        return pixels
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    square = Image.fromarray(pixels[top : top + side, left : left + side])
    return np.asarray(square.resize((tile_px, tile_px), Image.Resampling.BICUBIC))


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return "not an image" if "cannot identify" in text else text or type(error).__name__
