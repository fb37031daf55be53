"""Images that a file holds as one array: PatchCamelyon's HDF5, CIFAR's binary. One of them is ``FILE#NUMBER``."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histogen.errors import StoreError

SIGN = "#"
SUFFIXES = {".h5": "hdf5", ".bin": "cifar"}
CIFAR_PX = 32
CIFAR_BYTES = 1 + 3 * CIFAR_PX * CIFAR_PX
"""Of one record: its label, then red, green and blue of 32 x 32 pixels."""


def split_path(path: Path) -> tuple[Path, int] | None:
    """Return the file and the number of an image in it; None of a path that is a file of its own."""
    name, sign, number = path.name.rpartition(SIGN)
    if not sign or not number.isdecimal() or Path(name).suffix.lower() not in SUFFIXES:
        return None
    return path.with_name(name), int(number)


def read_image(path: Path, number: int) -> NDArray[np.uint8]:
    """Return one image, uint8 RGB [H, W, 3].

    Raises:
        StoreError: the file cannot be read, or holds no such image.
    """
    images = _images(path, path.stat().st_mtime_ns)
    if number >= len(images):
        raise StoreError(f"'{path}' holds {len(images)} images, not one of number {number}; get the file again")
    try:
        image = np.asarray(images[number])
    except (OSError, ValueError, RuntimeError) as error:  # h5py's own
        raise StoreError(f"image {number} of '{path}' cannot be read ({error}); get the file again") from error
    return image.reshape(3, CIFAR_PX, CIFAR_PX).transpose(1, 2, 0) if image.ndim == 1 else image


def num_images(path: Path) -> int:
    """Return how many images a file holds; errors as :func:`read_image`."""
    return len(_images(path, path.stat().st_mtime_ns))


def image_px(path: Path) -> tuple[int, int]:
    """Return (width, height) of the images of a file; errors as :func:`read_image`."""
    height, width = read_image(path, 0).shape[:2]
    return width, height


def read_labels(path: Path) -> NDArray[np.int64]:
    """Return the labels [N] of a CIFAR file, or the array ``y`` of an HDF5 file; errors as :func:`read_image`."""
    if SUFFIXES[path.suffix.lower()] == "cifar":
        return _records(path)[:, 0].astype(np.int64)
    return np.asarray(_dataset(path, "y")).reshape(-1).astype(np.int64)


@lru_cache(maxsize=4)
def _images(path: Path, _: int) -> Any:
    if SUFFIXES[path.suffix.lower()] == "cifar":
        return _records(path)[:, 1:]
    images = _dataset(path, "x")
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
        raise StoreError(f"'{path}' holds an array {images.dtype} {list(images.shape)}, no RGB images; get it again")
    return images


def _records(path: Path) -> NDArray[np.uint8]:
    if path.stat().st_size == 0 or path.stat().st_size % CIFAR_BYTES:
        raise StoreError(f"'{path}' is no whole number of records of {CIFAR_BYTES:,} bytes; get it again")
    return np.memmap(path, np.uint8, "r").reshape(-1, CIFAR_BYTES)


def _dataset(path: Path, name: str) -> Any:
    import h5py

    try:
        return h5py.File(path, "r")[name]
    except (OSError, KeyError) as error:
        raise StoreError(f"'{path}' has no array '{name}' ({error}); get it again") from error
