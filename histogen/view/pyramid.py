"""Deep zoom: any slide as squares of 256 px at level 0 and at every halving of it, whichever levels its file has."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from histogen.errors import SlideError
from histogen.geometry import BoxL0, Extent
from histogen.manifest import SlideRecord
from histogen.slides.base import BaseSlide, open_slide
from histogen.store.jpeg import JpegSettings, encode_jpeg
from histogen.view.bounded import Bounded

SQUARE = 256
"""Side of a square, pixels."""
QUALITY = JpegSettings(level=85)
MOST_READ = 8
"""Stored pixels per pixel of a square, along a side, beyond which squares are cut from one overview instead."""
OVERVIEW_PX = 4096
CACHE_BYTES = 64 * 2**20
OPEN_SLIDES = 8


def num_zooms(extent: Extent) -> int:
    """Return how many halvings, none included, it takes until a slide fits one square."""
    zoom = 0
    while max(extent.width, extent.height) > SQUARE << zoom:
        zoom += 1
    return zoom + 1


class Pyramid:
    """One slide; safe between threads, which wait for each other."""

    def __init__(self, slide: BaseSlide) -> None:
        self.slide = slide
        self.num_zooms = num_zooms(slide.extent)
        self._lock = threading.Lock()
        self._overview_zoom = self._choose_overview()
        self._overview: NDArray[np.uint8] | None = None

    def square(self, zoom: int, column: int, row: int) -> bytes:
        """Return the JPEG of a square, smaller at the right and lower border; ``zoom`` 0 is level 0, 1 its half, ….

        Raises:
            SlideError: the slide has no such square, or it cannot be read.
        """
        size, extent = SQUARE << zoom, self.slide.extent
        x, y = column * size, row * size
        if not (0 <= zoom < self.num_zooms and 0 <= x < extent.width and 0 <= y < extent.height):
            raise SlideError(f"slide '{self.slide.slide_id}' has no square {zoom}/{column}_{row}; reload the page")
        out = Extent(*(min(SQUARE, -(-left >> zoom)) for left in (extent.width - x, extent.height - y)))
        with self._lock:
            if self._overview_zoom is not None and zoom >= self._overview_zoom:
                pixels = self._from_overview(column, row, zoom, out)
            else:  # what lies beyond the border is white, so that every pixel has the same size
                pixels = self.slide.read_region(BoxL0(x, y, out.width << zoom, out.height << zoom), out)
        return encode_jpeg(np.ascontiguousarray(pixels), QUALITY)

    def close(self) -> None:
        """Close the slide when nobody reads it."""
        with self._lock:
            self.slide.close()

    def _choose_overview(self) -> int | None:
        """Return the zoom from which on squares would read too many stored pixels; None where none does."""
        for zoom in range(self.num_zooms):
            stored = (1 << zoom) / self.slide.levels[self.slide.best_level(1 << zoom)].downsample
            fits = max(self.slide.extent.width, self.slide.extent.height) >> zoom <= OVERVIEW_PX
            if stored > MOST_READ and fits:
                return zoom
        return None

    def _from_overview(self, column: int, row: int, zoom: int, out: Extent) -> NDArray[np.uint8]:
        assert self._overview_zoom is not None
        if self._overview is None:
            extent, scale = self.slide.extent, self._overview_zoom
            self._overview = self.slide.read_overview(Extent(-(-extent.width >> scale), -(-extent.height >> scale)))
        side = SQUARE << (zoom - self._overview_zoom)
        part = self._overview[row * side : (row + 1) * side, column * side : (column + 1) * side]
        return np.asarray(cv2.resize(part, (out.width, out.height), interpolation=cv2.INTER_AREA), np.uint8)


class Pyramids:
    """Opens slides when they are looked at, keeps the last few, and the last squares, in bounded memory."""

    def __init__(self, records: dict[str, SlideRecord], opener: Callable[..., BaseSlide] = open_slide) -> None:
        self._records, self._open = records, opener
        self._lock = threading.Lock()
        self._pyramids: OrderedDict[str, Pyramid] = OrderedDict()
        self.squares: Bounded[bytes] = Bounded(CACHE_BYTES, len)

    def get(self, slide_id: str) -> Pyramid:
        """Return a slide's pyramid.

        Raises:
            SlideError: no such slide was given, or it cannot be opened.
        """
        if slide_id not in self._records:
            raise SlideError(f"the file of slide '{slide_id}' was not given; add it, or its folder, to the command")
        with self._lock:
            if slide_id not in self._pyramids:
                record = self._records[slide_id]
                slide = self._open(record.path, mpp=record.mpp, slide_id=slide_id)
                self._pyramids[slide_id] = Pyramid(slide)
            self._pyramids.move_to_end(slide_id)
            while len(self._pyramids) > OPEN_SLIDES:
                self._pyramids.popitem(last=False)[1].close()
            return self._pyramids[slide_id]

    def square(self, slide_id: str, zoom: int, column: int, row: int) -> bytes:
        """Return :meth:`Pyramid.square`, perhaps of before."""
        key = (slide_id, zoom, column, row)
        return self.squares.get(key, lambda: self.get(slide_id).square(zoom, column, row))
