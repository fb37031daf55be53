"""Slides that OpenSlide cannot open, through TIAToolbox: some OME-TIFF images, JPEG 2000, flat images."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np

from histogen.errors import MissingDependencyError, SlideError
from histogen.geometry import Extent, Mpp
from histogen.slides.base import WHITE, BaseSlide
from histogen.slides.dicom import dicom_slide
from histogen.slides.pyramid import Stored
from histogen.slides.tiff_layout import read_about
from histogen.slides.tiff_metadata import plausible_tag_mpp


class TiatoolboxSlide(BaseSlide):
    """A slide read through ``tiatoolbox.wsicore.WSIReader``. Importing TIAToolbox takes seconds: it is asked last."""

    reader_name = "tiatoolbox"

    def _open(self) -> None:
        about = read_about(self.path)
        handle: Any = _open_reader(self)
        self._handle = handle
        info = handle.info
        extents = [Extent(int(width), int(height)) for width, height in info.level_dimensions]
        if not extents or len(info.level_dimensions[0]) != 2:
            raise SlideError(f"'{self.path.name}' has no levels that TIAToolbox can read")
        self._stored = list(enumerate(float(scale) for scale in info.level_downsamples))
        self._stored = [self._stored[index] for index in self.settle_levels([Stored(extent) for extent in extents])]
        self.vendor = str(info.vendor or "unknown").lower()
        self.objective_power = float(info.objective_power) if info.objective_power else None
        if info.mpp is not None and plausible_tag_mpp(*(float(v) for v in info.mpp)):
            self.mpp, self.mpp_source = Mpp(*(float(v) for v in info.mpp)), "metadata"
        if about is not None:
            self.left_out += about.left_out
            self.mpp, self.mpp_source = (about.mpp, about.mpp_source) if about.mpp else (self.mpp, self.mpp_source)
        probe = self.read_level(len(self.levels) - 1, 0, 0, Extent(8, 8))
        if probe.shape != (8, 8, 3):
            raise SlideError(f"'{self.path.name}' has {probe.shape[-1]} channels, not the three of a stained slide")

    def read_level(self, level: int, x: int, y: int, extent: Extent) -> np.ndarray:
        """Read a rectangle given in pixels of ``level``; white outside of the slide."""
        stored, scale = self._stored[level]  # of TIAToolbox's own, by which it finds the pixels of the level
        try:
            pixels = self._handle.read_rect(
                (round(x * scale), round(y * scale)), (extent.width, extent.height), resolution=stored, units="level",
                coord_space="baseline", pad_mode="constant", pad_constant_values=WHITE,
            )  # fmt: skip
        except (OSError, ValueError, RuntimeError, IndexError, KeyError) as error:
            where = f"level {level} at ({x}, {y}), {extent.width} x {extent.height} px"
            raise SlideError(f"slide '{self.slide_id}' cannot be read at {where}: {error}") from error
        return np.ascontiguousarray(pixels[..., :3].astype(np.uint8, copy=False))

    def close(self) -> None:
        """TIAToolbox keeps no handle that has to be given back."""


def _open_reader(slide: BaseSlide) -> Any:
    reader = _wsi_reader()
    if dicom_slide(slide.path) is not None:
        raise SlideError("DICOM is read by OpenSlide")
    return reader.open(slide.path, post_proc=None)  # else channels are mixed to colours


def _wsi_reader() -> Any:
    """Import TIAToolbox's reader; that it sets up the root logger, and warns there of what is said anyway is undone."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from tiatoolbox.wsicore.wsireader import WSIReader
    except ImportError as error:
        raise MissingDependencyError("TIAToolbox is not installed; run: pip install 'tiatoolbox>=2.1.3'") from error
    root.handlers[:] = handlers
    root.setLevel(level)
    if _is_no_warning_of_tiatoolbox not in root.filters:
        root.addFilter(_is_no_warning_of_tiatoolbox)
    return WSIReader


def _is_no_warning_of_tiatoolbox(record: logging.LogRecord) -> bool:
    return record.levelno > logging.WARNING or "tiatoolbox" not in record.pathname
