"""Slides through OpenSlide: every format it knows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import openslide

from histogen.errors import SlideError
from histogen.geometry import BoxL0, Extent, Mpp
from histogen.slides.base import WHITE, BaseSlide, GlassCentre, Level
from histogen.slides.dicom import one_series
from histogen.slides.pyramid import Stored, level_downsample
from histogen.slides.tiff_layout import read_about
from histogen.slides.tiff_metadata import plausible_tag_mpp

TAG_VENDORS = ("generic-tiff",)
"""Vendors whose mpp OpenSlide takes from TIFF resolution tags, not from a scanner's metadata."""
MAX_BEFORE = 32
PLAIN_VENDORS = ("generic-tiff", "aperio")
"""Vendors whose downsamples OpenSlide takes from extents alone; of others it knows the layout."""


class OpenSlideSlide(BaseSlide):
    """A slide read through OpenSlide. An error spoils an OpenSlide handle, so a fresh one is opened after it."""

    reader_name = "openslide"

    def _open(self) -> None:
        about = read_about(self.path)
        handle = self._fresh()
        self._handle: openslide.OpenSlide | None = handle
        extents = [Extent(*dimensions) for dimensions in handle.level_dimensions]
        properties = handle.properties
        self.vendor = properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
        self._stored = list(enumerate(float(d) for d in handle.level_downsamples))
        if self.vendor in PLAIN_VENDORS:
            stored = [Stored(extent, _tile(properties, index)) for index, extent in enumerate(extents)]
            self._stored = [self._stored[index] for index in self.settle_levels(stored)]
        else:
            self.levels = tuple(Level(extent, level_downsample(extents[0], extent)) for extent in extents)
        power = properties.get(openslide.PROPERTY_NAME_OBJECTIVE_POWER)
        self.objective_power = float(power) if power else None
        x, y = (properties.get(name) for name in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y))
        if x and y and float(x) > 0 and float(y) > 0:
            tags = self.vendor in TAG_VENDORS
            if not tags or plausible_tag_mpp(float(x), float(y)):
                self.mpp, self.mpp_source = Mpp(float(x), float(y)), "tiff tags" if tags else "metadata"
        if about is not None:
            self.left_out += about.left_out
            if about.mpp is not None and (self.mpp is None or self.mpp_source == "tiff tags"):
                self.mpp, self.mpp_source = about.mpp, about.mpp_source
        self.bounds_l0 = _bounds(properties)
        self.glass_centre = _glass_centre(properties, extents[0], self.mpp)

    def _fresh(self) -> openslide.OpenSlide:
        try:
            path, self._links = one_series(self.path)
            return openslide.OpenSlide(path)
        except openslide.OpenSlideError as error:
            raise SlideError(f"'{self.path.name}' is not opened by OpenSlide: {error}") from error

    def read_level(self, level: int, x: int, y: int, extent: Extent) -> np.ndarray:
        """Read a rectangle given in pixels of ``level``; white outside of the slide.

        Only what lies inside is asked of OpenSlide: it places rectangles that begin outside up to a pixel away.
        """
        whole = self.filled(level)
        left, top = max(x, 0), max(y, 0)
        inside = Extent(min(x + extent.width, whole.width) - left, min(y + extent.height, whole.height) - top)
        if inside == extent:
            return self._read_inside(level, left, top, inside)
        out = np.full((extent.height, extent.width, 3), WHITE, np.uint8)
        if inside.width > 0 and inside.height > 0:
            pixels = self._read_inside(level, left, top, inside)
            out[top - y : top - y + inside.height, left - x : left - x + inside.width] = pixels
        return out

    def _read_inside(self, level: int, x: int, y: int, extent: Extent) -> np.ndarray:
        if self._handle is None:
            self._handle = self._fresh()
        stored, scale = self._stored[level]  # of OpenSlide's own, by which it finds the pixels of the level
        left, top = (_before(at, scale) for at in (x, y))
        place, size = (round(left * scale), round(top * scale)), (x - left + extent.width, y - top + extent.height)
        try:
            image = self._handle.read_region(place, stored, size)
        except openslide.OpenSlideError as error:
            self.close()
            where = f"level {level} at ({x}, {y}), {extent.width} x {extent.height} px"
            raise SlideError(f"slide '{self.slide_id}' cannot be read at {where}: {error}") from error
        return _on_white(np.asarray(image)[y - top :, x - left :])

    def close(self) -> None:
        """Close the file; a later read opens it again."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()
        links, self._links = self._links, None
        if links is not None:
            links.cleanup()


def _tile(properties: Mapping[str, str], level: int) -> Extent | None:
    said = [properties.get(f"openslide.level[{level}].tile-{side}") for side in ("width", "height")]
    return Extent(*(int(value) for value in said if value)) if all(said) else None


def _before(at: int, scale: float) -> int:
    """The pixel of a level, at ``at`` or a few before it, that lies nearest to a whole pixel of level 0.

    OpenSlide takes places in whole pixels of level 0: what lies between them would be shifted by a fraction.
    """
    near = range(at, max(-1, at - MAX_BEFORE), -1)
    return min(near, key=lambda place: round(abs(place * scale - round(place * scale)), 3))


def _bounds(properties: Mapping[str, str]) -> BoxL0 | None:
    said = [properties.get(f"openslide.bounds-{key}") for key in ("x", "y", "width", "height")]
    return BoxL0(*(float(value) for value in said if value)) if all(said) else None


def _glass_centre(properties: Mapping[str, str], extent: Extent, mpp: Mpp | None) -> GlassCentre | None:
    """Hamamatsu states how far the middle of the image lies from that of the glass, nanometres."""
    said = [properties.get(f"hamamatsu.{axis}OffsetFromSlideCentre") for axis in ("X", "Y")]
    if mpp is None or not all(said):
        return None
    nm_x, nm_y = mpp.x * 1000, mpp.y * 1000
    right, down = (float(value) for value in said if value)
    return GlassCentre(extent.width / 2 - right / nm_x, extent.height / 2 - down / nm_y, nm_x, nm_y)


def _on_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3]
    rgb = np.ascontiguousarray(rgba[..., :3])
    if alpha.min() < 255:
        weight = alpha[..., None].astype(np.float32) / 255
        rgb = (rgb * weight + WHITE * (1 - weight) + 0.5).astype(np.uint8)
    return rgb
