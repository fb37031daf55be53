"""What a slide is, whatever reads it; and the door to it, :func:`open_slide`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from histogen.errors import HistogenError, MissingMppError, RefusedSlideError, SlideError
from histogen.geometry import BoxL0, Extent, Mpp
from histogen.names import READERS, plain_name, resolve
from histogen.slides.dicom import dicom_slide
from histogen.slides.ngff_metadata import is_ngff
from histogen.slides.pyramid import Stored, settle
from histogen.slides.resample import read_resampled
from histogen.slides.tiff_metadata import is_tiff

WHITE = 255
ODD_MPP = (0.1, 2.5)
"""Microns per pixel outside of which a stated resolution is flagged as odd."""
POWER_MPP = (7.0, 14.0)
"""Scanners' mpp times objective power; 10 is usual (0.25 at 40x, 0.5 at 20x)."""
WITH_FOLDER = (".mrxs", ".vms", ".vmu")
"""Slides whose data lie in a folder of the same name, or in files beside them."""
MAX_PIXELS_PER_BYTE = 10_000
"""Blank tiles, packed, hold some hundred pixels in a byte."""
SAME_MPP = 0.01
"""Two statements of a slide's resolution may differ by so much, relatively, without a word."""
OVERVIEW_PIXELS = 16e6
"""Pixels of level 0 that are read at a time for a picture of the whole slide."""
LEVEL_TOLERANCE = 1.001
"""A level up to 0.1 % coarser than what is asked for is read without going one level finer."""

IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".jp2"))
"""Flat images, which no slide library is needed for."""
TIATOOLBOX_SUFFIXES = (".jp2",)
"""Files that TIAToolbox may open where no other reader does."""


class Level(NamedTuple):
    """One level of a slide's pyramid."""

    extent: Extent
    downsample: float
    """Level-0 pixels per pixel of this level."""


class GlassCentre(NamedTuple):
    """Where the centre of the glass slide lies, level-0 pixels (perhaps outside), and the nanometres of a pixel."""

    x_l0: float
    y_l0: float
    nm_x: float
    nm_y: float

    def to_l0(self, x_nm: float, y_nm: float) -> tuple[float, float]:
        """Return the level-0 pixel of a place counted from the centre, nanometres to the right and down."""
        return self.x_l0 + x_nm / self.nm_x, self.y_l0 + y_nm / self.nm_y


@runtime_checkable
class Slide(Protocol):
    """A whole-slide image. Pixels are uint8 RGB [H, W, 3]; what lies outside of the slide is white."""

    slide_id: str
    path: Path
    mpp: Mpp | None
    mpp_source: str
    objective_power: float | None
    vendor: str
    levels: tuple[Level, ...]

    @property
    def extent(self) -> Extent:
        """Extent of level 0, pixels."""

    def read_level(self, level: int, x: int, y: int, extent: Extent) -> np.ndarray:
        """Read a rectangle given in pixels of ``level``."""

    def read_region(self, box: BoxL0, extent_out: Extent) -> np.ndarray:
        """Read ``box`` resampled to ``extent_out``, every output pixel the mean over its own area."""

    def read_row(
        self, box: BoxL0, tile_px: int, stride_px: int, count: int, *, encoded_as: str | None = None
    ) -> np.ndarray:
        """Read ``count`` neighbouring tiles, uint8 [count, tile_px, tile_px, 3], that ``box`` encloses."""

    def thumbnail(self, max_px: int) -> np.ndarray:
        """Read the whole slide with its longer side ``max_px`` pixels at most."""

    def close(self) -> None:
        """Give back file handles and caches."""


class BaseSlide(ABC):
    """What every reader shares: metadata, the choice of the level, resampling."""

    reader_name = ""

    def __init__(
        self, path: Path, *, mpp: Mpp | None = None, gap_mpp: Mpp | None = None, slide_id: str | None = None
    ) -> None:
        self.path = Path(path)
        self.slide_id = slide_id or slide_id_of(self.path)
        self.mpp: Mpp | None = None
        self.mpp_source = "none"
        self.objective_power: float | None = None
        self.vendor = ""
        self.levels: tuple[Level, ...] = ()
        self.left_out: tuple[str, ...] = ()  # what of the file is not used, a phrase each
        self.bounds_l0: BoxL0 | None = None  # of what was scanned, where that is less than level 0
        self.glass_centre: GlassCentre | None = None
        self._open()
        self._other_mpp = self._take_mpp(mpp, gap_mpp)

    def _take_mpp(self, mpp: Mpp | None, gap_mpp: Mpp | None) -> tuple[str, ...]:
        """Take what is stated beside the file; return a phrase where the file says something else."""
        own, said = self.mpp, f"the file says {_text(self.mpp)} ({self.mpp_source})" if self.mpp else ""
        if mpp is not None:
            self.mpp, self.mpp_source = mpp, "stated"
            return (f"mpp {_text(mpp)} is stated, {said}",) if own and _differ(own, mpp) else ()
        if gap_mpp is not None and own is None:
            self.mpp, self.mpp_source = gap_mpp, "gap filled"
        if gap_mpp is not None and own is not None and _differ(own, gap_mpp):
            return (f"mpp {_text(gap_mpp)} is for slides that do not state theirs, {said}",)
        return ()

    @abstractmethod
    def _open(self) -> None:
        """Open the file; set levels, vendor, objective power, mpp and where it came from."""

    @abstractmethod
    def read_level(self, level: int, x: int, y: int, extent: Extent) -> np.ndarray:
        """Read a rectangle given in pixels of ``level``; white outside of the slide.

        Raises:
            SlideError: it cannot be read.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back file handles and caches."""

    def settle_levels(self, stored: Sequence[Stored]) -> list[int]:
        """Set ``levels`` to those of ``stored`` (level 0 first) whose scale can be told; return which they are.

        :meth:`read_level` must read any of ``stored`` by its index when this is called.
        """
        self.levels = tuple(Level(level.extent, 1.0) for level in stored)
        found = settle(stored, self.read_level)
        self.levels = tuple(Level(stored[index].extent, scale) for index, scale in found)
        kept = [index for index, _ in found]
        self.left_out += tuple(
            f"its level of {level.extent.width} x {level.extent.height} px is not used: its scale cannot be told"
            for index, level in enumerate(stored)
            if index not in kept
        )
        return kept

    def filled(self, level: int) -> Extent:
        """Extent of what a level holds of the slide, pixels: without what pads it to whole stored tiles."""
        (width, height), scale = (self.extent.width, self.extent.height), self.levels[level].downsample
        stored = self.levels[level].extent
        return Extent(min(stored.width, math.ceil(width / scale)), min(stored.height, math.ceil(height / scale)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}('{self.slide_id}', {self.extent.width} x {self.extent.height} px)"

    @property
    def extent(self) -> Extent:
        """Extent of level 0, pixels."""
        return self.levels[0].extent

    def best_level(self, downsample: float) -> int:
        """Return the coarsest level that is no coarser than ``downsample``."""
        fine = [i for i, level in enumerate(self.levels) if level.downsample <= downsample * LEVEL_TOLERANCE]
        return max(fine, key=lambda i: self.levels[i].downsample) if fine else 0

    def read_region(self, box: BoxL0, extent_out: Extent) -> np.ndarray:
        """Read ``box`` resampled to ``extent_out``, every output pixel the mean over its own area.

        Raises:
            SlideError: it cannot be read.
        """
        index = self.best_level(min(box.width / extent_out.width, box.height / extent_out.height))
        scale = self.levels[index].downsample

        def read(x: int, y: int, width: int, height: int) -> np.ndarray:
            return self.read_level(index, x, y, Extent(width, height))

        return read_resampled(read, box.x / scale, box.y / scale, box.width / scale, box.height / scale, extent_out)

    def read_row(
        self,
        box: BoxL0,
        tile_px: int,
        stride_px: int,
        count: int,
        *,
        encoded_as: str | None = None,  # noqa: ARG002 - for readers of JPEG tiles
    ) -> np.ndarray:
        """Read ``count`` neighbouring tiles, uint8 [count, tile_px, tile_px, 3], that ``box`` encloses.

        ``encoded_as`` is the chroma subsampling that these pixels will be encoded with. A reader of JPEG tiles may then
        repeat the chroma samples that it found instead of interpolating between them: the encoder's means give the same
        samples back, so that chroma is not blurred a second time.

        Raises:
            SlideError: one of them cannot be read.
        """
        pixels = self.read_region(box, Extent((count - 1) * stride_px + tile_px, tile_px))
        return np.stack([pixels[:, left : left + tile_px] for left in range(0, count * stride_px, stride_px)])

    def thumbnail(self, max_px: int) -> np.ndarray:
        """Read the whole slide with its longer side ``max_px`` pixels at most (fewer when the slide is smaller)."""
        ratio = max(1.0, max(self.extent.width, self.extent.height) / max_px)
        out = Extent(max(1, round(self.extent.width / ratio)), max(1, round(self.extent.height / ratio)))
        return self.read_overview(out)

    def read_overview(self, out: Extent) -> np.ndarray:
        """Read the whole slide as ``out``, in pieces, so that a slide with one level only needs little memory."""
        across, down = self.extent.width / out.width, self.extent.height / out.height
        columns = min(out.width, max(1, int(OVERVIEW_PIXELS / max(1.0, across * down))))
        rows = min(out.height, max(1, int(OVERVIEW_PIXELS / max(1.0, columns * across * down))))
        strips = []
        for top in range(0, out.height, rows):
            pieces = [
                self.read_region(BoxL0(left * across, top * down, piece.width * across, piece.height * down), piece)
                for left in range(0, out.width, columns)
                for piece in [Extent(min(columns, out.width - left), min(rows, out.height - top))]
            ]  # fmt: skip
            strips.append(np.concatenate(pieces, axis=1))
        return np.concatenate(strips)

    def flags(self) -> tuple[str, ...]:
        """Return what is odd about the slide, a phrase each."""
        odd = list(self.left_out)
        if self.mpp is None:
            return tuple(odd)
        odd += self._other_mpp
        if not ODD_MPP[0] <= self.mpp.mean <= ODD_MPP[1]:
            odd.append(f"mpp {self.mpp.mean:.4g} is outside {ODD_MPP[0]}-{ODD_MPP[1]}")
        if self.objective_power and not POWER_MPP[0] <= self.mpp.mean * self.objective_power <= POWER_MPP[1]:
            odd.append(f"mpp {self.mpp.mean:.4g} does not go with an objective of {self.objective_power:g}x")
        if abs(self.mpp.x / self.mpp.y - 1) > 0.01:
            odd.append(f"mpp differs between x ({self.mpp.x:.4g}) and y ({self.mpp.y:.4g})")
        return tuple(odd)


def open_slide(
    path: Path | str,
    *,
    mpp: Mpp | float | None = None,
    gap_mpp: Mpp | float | None = None,
    reader: str = "auto",
    slide_id: str | None = None,
) -> BaseSlide:
    """Open a slide with the fastest reader that can read it.

    Args:
        path: a file, or a folder of DICOM files that make up one slide.
        mpp: microns per pixel of level 0, when the user knows better than the file.
        gap_mpp: the same, for a file that does not state it.
        reader: a name of ``names.READERS``, or ``auto``: those that may know the file, in their order there.
        slide_id: defaults to :func:`slide_id_of`.

    Raises:
        SlideError: it does not exist, is empty, or no reader can open it.
        RefusedSlideError: what it holds cannot be shown rightly, or ends before its pixels do.
    """
    path = Path(path)
    _check_there(path)
    stated, filling = (Mpp(v, v) if isinstance(v, int | float) else v for v in (mpp, gap_mpp))
    names = _readers_for(path) if reader == "auto" else [reader]
    reasons = []
    for name in names:
        opener: Callable[..., BaseSlide] = resolve(READERS, name, what="reader")
        try:
            slide = opener(path, mpp=stated, gap_mpp=filling, slide_id=slide_id)
            _check_plausible(slide)
            return slide
        except RefusedSlideError as error:
            raise type(error)(f"slide '{path}' cannot be opened: {_printable(str(error))}") from error
        except HistogenError as error:
            reasons.append(str(error))
        except Exception as error:  # noqa: BLE001  odd bytes make a library raise whatever they lead it to
            reasons.append(f"the {name} reader cannot follow it: {str(error) or type(error).__name__}")
    said = _printable("; ".join(reasons))
    raise SlideError(f"slide '{path}' cannot be opened ({said}); check that it is a whole slide image")


def _printable(text: str) -> str:
    """Return ``text`` on one line; libraries repeat what bytes they find."""
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in " ".join(text.split()))


def _readers_for(path: Path) -> list[str]:
    """TIAToolbox takes seconds to import (torch comes with it): only files that it may know better are its own."""
    is_image, tiff = path.suffix.lower() in IMAGE_SUFFIXES, path.is_file() and is_tiff(path)
    ngff = path.suffix == ".zarr" or is_ngff(path)
    may = {
        "native": tiff,
        "image": is_image and not tiff,
        "ngff": ngff,
        "openslide": not ngff and (tiff or not is_image),
        "tiatoolbox": path.suffix.lower() in TIATOOLBOX_SUFFIXES,
    }
    return [name for name in READERS if may[name]]


def require_mpp(slide: Slide) -> Mpp:
    """Return the slide's microns per pixel.

    Raises:
        MissingMppError: it is not known.
    """
    if slide.mpp is None:
        is_tile = (
            "; if it is a tile, and no slide, put its folder into a store: histogen import-images FOLDER --out STORE"
        )
        raise MissingMppError(
            f"slide '{slide.slide_id}' has no mpp in its file; add a column 'mpp' to the manifest or pass --slide-mpp"
            f"{is_tile if slide.path.suffix.lower() in IMAGE_SUFFIXES else ''}"
        )
    return slide.mpp


def _differ(one: Mpp, other: Mpp) -> bool:
    return max(abs(one.x / other.x - 1), abs(one.y / other.y - 1)) > SAME_MPP


def _text(mpp: Mpp) -> str:
    return f"{mpp.x:.4g}" if f"{mpp.x:.4g}" == f"{mpp.y:.4g}" else f"{mpp.x:.4g} x {mpp.y:.4g}"


def slide_id_of(path: Path) -> str:
    """Return the id of a slide from its name, as :func:`histogen.names.plain_name` writes it."""
    plain_folder = path.is_dir() and path.suffix != ".zarr"
    stem = path.name if plain_folder else path.name.removesuffix(path.suffix)
    return plain_name(stem.removesuffix(".ome"))


def _check_plausible(slide: BaseSlide) -> None:
    """Refuse a slide that claims more pixels than its bytes can stand for; planning it would take all memory.

    Raises:
        RefusedSlideError: it does.
    """
    dicom = None if slide.reader_name == "ngff" else dicom_slide(slide.path)
    if slide.path.suffix.lower() in WITH_FOLDER or (dicom is None and slide.path.is_dir()):
        return  # its bytes lie elsewhere
    size = sum(file.stat().st_size for file in ([slide.path] if dicom is None else dicom.files))
    width, height = slide.extent.width, slide.extent.height
    if width * height > MAX_PIXELS_PER_BYTE * size:
        slide.close()
        raise RefusedSlideError(f"it says that it has {width} x {height} px, and has {size:,} bytes; copy it again")


def _check_there(path: Path) -> None:
    if not path.exists():
        raise SlideError(f"slide '{path}' does not exist; check the path")
    if path.is_file() and path.stat().st_size == 0:
        raise SlideError(f"slide '{path}' is empty (0 bytes); copy it again")
