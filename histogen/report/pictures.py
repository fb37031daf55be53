"""Pictures as data addresses, so that a page needs no file beside it."""

from __future__ import annotations

import base64
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray

from histogen.errors import HistogenError

Picture = NDArray[np.uint8] | Path
"""A picture as uint8 RGB [H, W, 3] or grey [H, W], or a JPEG or PNG file."""

_TYPES = {".jpg": "jpeg", ".jpeg": "jpeg", ".png": "png"}


def data_address(picture: Picture, *, max_px: int = 512, quality: int = 88) -> str:
    """Return ``picture`` as a ``data:`` address: a file as it is, an array as JPEG no larger than ``max_px``.

    Raises:
        HistogenError: the file is neither JPEG nor PNG, or the array is not uint8 [H, W, 3] or [H, W].
    """
    if isinstance(picture, Path):
        return _address(_file_type(picture), picture.read_bytes())
    if picture.dtype != np.uint8 or not (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] == 3)):
        raise HistogenError(f"a picture is {picture.dtype} {picture.shape}; a report takes uint8 [H, W, 3] or [H, W]")
    encoded = imagecodecs.jpeg8_encode(np.ascontiguousarray(shrink(picture, max_px)), level=quality)
    return _address("jpeg", bytes(encoded))


def shrink(picture: NDArray[np.uint8], max_px: int) -> NDArray[np.uint8]:
    """Return ``picture`` averaged down so that its longer side is at most ``max_px``; smaller ones as they are."""
    longer = max(picture.shape[:2])
    if longer <= max_px:
        return picture
    width, height = (max(1, round(side * max_px / longer)) for side in (picture.shape[1], picture.shape[0]))
    return np.asarray(cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)


def _file_type(path: Path) -> str:
    try:
        return _TYPES[path.suffix.lower()]
    except KeyError as error:
        raise HistogenError(f"picture '{path}' is neither JPEG nor PNG; give an array instead") from error


def _address(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
