"""Slides in OME-Zarr (NGFF 0.4 and 0.5), through zarr."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import zarr
import zarr.errors

from histogen.errors import RefusedSlideError, SlideError
from histogen.geometry import Extent
from histogen.slides.base import WHITE, BaseSlide
from histogen.slides.ngff_metadata import Ngff, ngff_planes, read_ngff
from histogen.slides.pyramid import Stored
from histogen.slides.tiff_pixels import MAX_PIECE_BYTES

UNREADABLE = (OSError, ValueError, TypeError, LookupError, RuntimeError, zarr.errors.BaseZarrError)
"""What zarr and its codecs raise of arrays that are damaged, or of another layout."""


class NgffSlide(BaseSlide):
    """An OME-Zarr image; of several focal planes, times or images in it the first is read."""

    reader_name = "ngff"

    def _open(self) -> None:
        ngff = read_ngff(self.path)
        try:
            self._arrays: list[Any] = [zarr.open_array(ngff.folder / one.path, mode="r") for one in ngff.levels]
        except UNREADABLE as error:
            raise SlideError(f"an array of '{self.path.name}' cannot be opened ({error}); copy it again") from error
        self._axes, first = ngff.axes, self._arrays[0]
        self._check(first)
        for array in self._arrays:
            self._check_chunks(array)
        sizes = dict(zip(ngff.axes, first.shape, strict=True))
        self._planes, assumed = ngff_planes(ngff, sizes.get("c", 1))
        self.vendor, self.mpp = f"ome-zarr {ngff.version}", ngff.mpp
        self.mpp_source = "metadata" if ngff.mpp else "none"
        self.left_out += tuple(phrase for phrase in (assumed, *_planes_left(sizes, ngff)) if phrase)
        kept = self.settle_levels([self._stored(array, ngff, index) for index, array in enumerate(self._arrays)])
        self._arrays = [self._arrays[index] for index in kept]

    def _check(self, array: Any) -> None:
        if len(array.shape) != len(self._axes):
            raise SlideError(f"its array has {len(array.shape)} axes, its metadata name {', '.join(self._axes)}")
        if array.dtype != np.uint8:
            raise RefusedSlideError(f"its samples are {array.dtype}, not 8-bit colours; convert it to 8 bits")

    def _check_chunks(self, array: Any) -> None:
        size = math.prod(array.chunks)
        if size > MAX_PIECE_BYTES:
            raise RefusedSlideError(
                f"its pixels are stored in pieces of {size / 1e9:.1f} GB; convert it again, in tiles"
            )

    def _stored(self, array: Any, ngff: Ngff, index: int) -> Stored:
        sizes = dict(zip(ngff.axes, array.shape, strict=True))
        at = ngff.axes.index("x")
        return Stored(Extent(sizes["x"], sizes["y"]), None, ngff.levels[index].scale[at] / ngff.levels[0].scale[at])

    def read_level(self, level: int, x: int, y: int, extent: Extent) -> np.ndarray:
        """Read a rectangle given in pixels of ``level``; white outside of the slide."""
        array = self._arrays[level]
        sizes = dict(zip(self._axes, array.shape, strict=True))
        left, top = max(x, 0), max(y, 0)
        right, bottom = min(x + extent.width, sizes["x"]), min(y + extent.height, sizes["y"])
        out = np.full((extent.height, extent.width, 3), WHITE, np.uint8)
        if left < right and top < bottom:
            spans = {"x": slice(left, right), "y": slice(top, bottom), "c": slice(None)}
            try:
                pixels = np.asarray(array[tuple(spans.get(axis, 0) for axis in self._axes)])
            except UNREADABLE as error:
                where = f"level {level} at ({x}, {y}), {extent.width} x {extent.height} px"
                raise SlideError(f"slide '{self.slide_id}' cannot be read at {where}: {error}") from error
            out[top - y : bottom - y, left - x : right - x] = self._rgb(pixels)
        return out

    def _rgb(self, pixels: np.ndarray) -> np.ndarray:
        """Return what was read as [H, W, 3], or [H, W, 1] of grey."""
        kept = [axis for axis in self._axes if axis in "cyx"]
        if "c" not in kept:
            pixels, kept = pixels[None], ["c", *kept]
        return pixels.transpose([kept.index(axis) for axis in "yxc"])[..., list(self._planes)]

    def close(self) -> None:
        """Zarr keeps no handle that has to be given back."""


def _planes_left(sizes: dict[str, int], ngff: Ngff) -> list[str]:
    more = {"focal planes": sizes.get("z", 1), "times": sizes.get("t", 1), "images": 1 + ngff.others}
    return [f"of its {count} {what} only the first is read" for what, count in more.items() if count > 1]
