"""Flat images as slides: PNG, JPEG and their like, small enough to be held in memory whole."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from histogen.errors import RefusedSlideError, SlideError
from histogen.geometry import Extent, Mpp
from histogen.slides.base import WHITE, BaseSlide, Level
from histogen.slides.tiff_metadata import plausible_tag_mpp

DEEP_MODES = frozenset({"I", "F", "I;16", "I;16B", "I;16L", "I;16N"})
"""Pillow's modes of more than 8 bits."""
WITH_ALPHA = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
STRIP_ROWS = 1024
PNG_DEPTH_AT = 24
"""Where a PNG says how many bits its samples have; of 16-bit colours Pillow keeps the upper 8 without a word."""
ORIENTATION, UPRIGHT = 274, 1
MICRONS_PER_INCH = 25400.0


class FlatSlide(BaseSlide):
    """One image, decoded when it is first read and kept until :meth:`close`."""

    reader_name = "image"

    def _open(self) -> None:
        self._pixels: np.ndarray | None = None
        image = self._image()
        with image:
            if image.mode in DEEP_MODES or _is_deep_png(self.path):
                raise RefusedSlideError(
                    "its samples have more than 8 bits, and it does not say how many are used; convert it to 8 bits"
                )
            self.levels = (Level(Extent(*image.size), 1.0),)
            self.vendor = str(image.format or "image").lower()
            dpi = image.info.get("dpi")
            if image.getexif().get(ORIENTATION, UPRIGHT) != UPRIGHT:
                self.left_out += ("it is read as it is stored, its orientation tag is not followed",)
            if getattr(image, "n_frames", 1) > 1:
                self.left_out += (f"of its {image.n_frames} pictures only the first is read",)  # type: ignore[attr-defined]
        if dpi and min(dpi) > 0:
            mpp = Mpp(MICRONS_PER_INCH / float(dpi[0]), MICRONS_PER_INCH / float(dpi[1]))
            if plausible_tag_mpp(mpp.x, mpp.y):
                self.mpp, self.mpp_source = mpp, "image dpi"
        self._whole()

    def _image(self) -> Image.Image:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # of half the size that is refused
                return Image.open(self.path)
        except Image.DecompressionBombError as error:
            raise SlideError(
                "it is too large for a flat image; convert it to a tiled TIFF (vips tiffsave IN OUT --tile --pyramid)"
            ) from error
        except (OSError, ValueError, SyntaxError) as error:
            raise SlideError("it is not an image that can be read") from error

    def _whole(self) -> np.ndarray:
        if self._pixels is None:
            with self._image() as checked, self._image() as image:
                try:
                    checked.verify()  # a PNG's checksums, which decoding leaves out
                    self._pixels = _rgb(image)
                except (OSError, ValueError, SyntaxError) as error:
                    raise SlideError(f"image '{self.path.name}' does not decode ({error}); copy it again") from error
        return self._pixels

    def read_level(self, level: int, x: int, y: int, extent: Extent) -> np.ndarray:  # noqa: ARG002 - there is one
        """Read a rectangle; white outside of the image."""
        whole = self._whole()
        height, width = whole.shape[:2]
        out = np.full((extent.height, extent.width, 3), WHITE, np.uint8)
        left, top, right, bottom = max(x, 0), max(y, 0), min(x + extent.width, width), min(y + extent.height, height)
        if left < right and top < bottom:
            out[top - y : bottom - y, left - x : right - x] = whole[top:bottom, left:right]
        return out

    def close(self) -> None:
        """Forget the pixels; a later read decodes them again."""
        self._pixels = None


def _rgb(image: Image.Image) -> np.ndarray:
    """The picture on white, uint8 RGB [H, W, 3]; in strips, so that no second whole copy is needed."""
    has_alpha = image.mode in WITH_ALPHA or "transparency" in image.info
    width, height = image.size
    out = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, STRIP_ROWS):
        strip = image.crop((0, top, width, min(height, top + STRIP_ROWS)))
        if has_alpha:
            shown = strip.convert("RGBA")
            strip = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown)
        out[top : top + STRIP_ROWS] = np.asarray(strip.convert("RGB"))
    return out


def _is_deep_png(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(PNG_DEPTH_AT + 1)
    return head[1:4] == b"PNG" and head[PNG_DEPTH_AT : PNG_DEPTH_AT + 1] == b"\x10"
