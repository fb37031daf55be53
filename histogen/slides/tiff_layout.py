"""Where the tiles of a plain tiled TIFF lie, and what its metadata say; anything unusual is refused."""

from __future__ import annotations

import re
import struct
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from histogen.errors import SlideError, TruncatedSlideError
from histogen.geometry import Extent, Mpp
from histogen.slides.base import plausible_tag_mpp
from histogen.slides.pyramid import SAME, Stored, may_be_level

CODECS = {1: "none", 5: "lzw", 7: "jpeg", 8: "zlib", 32946: "zlib", 33005: "jpeg2000", 34712: "jpeg2000"}
"""TIFF compression to codec. Aperio's 33003 (JPEG 2000 in YCbCr) is left to OpenSlide."""
OTHERS = ("is_ndpi", "is_philips", "is_bif", "is_scn", "is_qpi", "is_imagej", "is_stk", "is_lsm", "is_fluoview")
"""Layouts with missing, padded or overlapping tiles, or with more than one image."""
MAX_DIRECTORIES = 10_000
MICRONS = {"m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "um": 1.0, "nm": 1e-3, "inch": 25400.0, "in": 25400.0}


@dataclass(frozen=True)
class TiffLevel:
    """One level: ``offsets`` and ``sizes`` (int64 [number of tiles], row by row) of its stored tiles."""

    extent: Extent
    stated: float | None
    """Its downsample, where it has a resolution of its own."""
    tile: Extent
    columns: int
    offsets: np.ndarray
    sizes: np.ndarray
    codec: str
    tables: bytes | None
    colorspace: str | None
    subsampling: str | None
    differences: bool


@dataclass(frozen=True)
class TiffLayout:
    """The pyramid of one TIFF and what it says about itself."""

    levels: tuple[TiffLevel, ...]
    vendor: str
    objective_power: float | None
    mpp: Mpp | None
    mpp_source: str


def open_layout(path: Path) -> TiffLayout:
    """Read the directories of a TIFF.

    Raises:
        SlideError: it is not a TIFF, or not a plain one.
    """
    if path.is_dir():
        raise SlideError("a folder is not a TIFF")
    try:
        with tifffile.TiffFile(path) as tiff:
            _check_whole(tiff)
            return _layout(tiff)
    except (tifffile.TiffFileError, struct.error, ValueError, IndexError, KeyError, OSError) as error:
        if isinstance(error, SlideError):
            raise
        raise SlideError(f"not a TIFF that can be followed ({error})") from error


def _layout(tiff: tifffile.TiffFile) -> TiffLayout:
    odd = [name[3:] for name in OTHERS if getattr(tiff, name)]
    if odd:
        raise SlideError(f"the layout of {odd[0]} is not plain")
    first = tiff.pages.first
    lower = first.pages if tiff.is_ome and first.pages is not None else tiff.pages[1:]
    pages = [first, *(page.aspage() if hasattr(page, "aspage") else page for page in lower)]
    reduced = [page for page in pages[1:] if _is_level(page, first, aperio=tiff.is_svs)]
    levels = [_level(page, first) for page in (first, *reduced)]
    power, mpp = _aperio(first.description) if tiff.is_svs else (None, None)
    if tiff.is_ome:
        mpp = _ome_mpp(tiff.ome_metadata or "")
    source = "metadata"
    if mpp is None:
        mpp, source = _tag_mpp(first), "tiff tags"
    vendor = "aperio" if tiff.is_svs else "ome-tiff" if tiff.is_ome else "generic-tiff"
    return TiffLayout(tuple(levels), vendor, power, mpp, source if mpp else "none")


def _check_whole(tiff: tifffile.TiffFile) -> None:
    """Follow the chain of directories and their tiles to the end of the file; a cut copy ends earlier.

    Raises:
        TruncatedSlideError: a directory or a tile lies beyond the end.
    """
    size, form = tiff.filehandle.size, tiff.tiff
    offset, seen = int(tiff.pages.first.offset), 0
    while offset and seen < MAX_DIRECTORIES:
        tiff.filehandle.seek(offset)
        count = tiff.filehandle.read(form.tagnosize)
        if len(count) < form.tagnosize:
            break
        tiff.filehandle.seek(offset + form.tagnosize + struct.unpack(form.tagnoformat, count)[0] * form.tagsize)
        follows = tiff.filehandle.read(form.offsetsize)
        if len(follows) < form.offsetsize:
            break
        offset, seen = struct.unpack(form.offsetformat, follows)[0], seen + 1
    complete = offset == 0 or seen == MAX_DIRECTORIES
    needs = max((_reach(page) for page in tiff.pages), default=0) if complete else offset
    if not complete or needs > size:
        raise TruncatedSlideError(f"the file is cut: it has {size:,} bytes and needs {needs:,} or more; copy it again")


def _reach(page: Any) -> int:
    """Where the last tile or strip of a directory ends."""
    ends = np.asarray(page.dataoffsets, np.int64) + np.asarray(page.databytecounts, np.int64)
    return int(ends.max(initial=0))


def _is_level(page: Any, first: Any, *, aperio: bool) -> bool:
    """Whether a directory is a level of the pyramid; labels, macros and thumbnails are striped or of another shape."""
    if not page.is_tiled or page.shape[2:] != first.shape[2:]:
        return False
    stored = Stored(_extent(page), None if aperio else Extent(page.tilewidth, page.tilelength))
    return (aperio or bool(page.subfiletype & 1)) and may_be_level(_extent(first), stored)


def _extent(page: Any) -> Extent:
    return Extent(page.imagewidth, page.imagelength)


def _stated_downsample(page: Any, first: Any) -> float | None:
    """How many times coarser a level is by its resolution tags; None where they are those of level 0."""
    own, base = _tag_mpp(page), _tag_mpp(first)
    ratio = own.mean / base.mean if own and base else 1.0
    if ratio < 1.01:
        return None
    return float(round(ratio)) if abs(ratio / round(ratio) - 1) < SAME else ratio


def _level(page: Any, first: Any) -> TiffLevel:
    if not page.is_tiled:
        raise SlideError("its pixels are in strips, not in tiles")
    if page.compression not in CODECS:
        raise SlideError(f"compression {int(page.compression)} is not decoded here")
    plain = page.samplesperpixel == 3 and page.bitspersample == 8 and page.planarconfig == 1
    if not plain or page.photometric not in (2, 6) or page.predictor not in (1, 2) or page.fillorder != 1:
        raise SlideError("its pixels are not plain 8-bit RGB")
    codec = CODECS[page.compression]
    if codec != "jpeg" and page.photometric == 6:
        raise SlideError("its pixels are YCbCr without JPEG")
    extent = _extent(page)
    tile = Extent(page.tilewidth, page.tilelength)
    columns = -(-extent.width // tile.width)
    count = columns * -(-extent.height // tile.height)
    offsets, sizes = (np.asarray(v, np.int64) for v in (page.dataoffsets, page.databytecounts))
    if len(offsets) != count or len(sizes) != count:
        raise SlideError(f"it lists {len(offsets)} tiles where {count} are needed")
    if (sizes <= 0).any():
        raise SlideError("some of its tiles are missing")
    colorspace = {2: "RGB", 6: "YCbCr"}[int(page.photometric)] if codec == "jpeg" else None
    tag = page.tags.get("YCbCrSubSampling")
    return TiffLevel(
        extent, _stated_downsample(page, first), tile, columns, offsets, sizes, codec, page.jpegtables, colorspace,
        _subsampling(tag.value if tag else (2, 2)) if colorspace == "YCbCr" else "444", page.predictor == 2,
    )  # fmt: skip


def _subsampling(factors: Sequence[int]) -> str | None:
    known = {(1, 1): "444", (2, 1): "422", (2, 2): "420", (1, 2): "440"}
    return known.get((int(factors[0]), int(factors[1])))


def _aperio(description: str) -> tuple[float | None, Mpp | None]:
    """Objective power and mpp of an Aperio description: ``…|AppMag = 20|MPP = 0.4990|…``."""
    values = dict(re.findall(r"\|\s*([^|=]+?)\s*=\s*([^|]*?)\s*(?=\||$)", description))
    power, mpp = _number(values.get("AppMag")), _number(values.get("MPP"))
    return power, Mpp(mpp, mpp) if mpp else None


def _number(text: str | None) -> float | None:
    """A positive number, or None; some files write a decimal comma."""
    try:
        value = float((text or "").replace(",", "."))
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def _ome_mpp(xml: str) -> Mpp | None:
    """Physical size of a pixel of the first image of OME-XML; the unit is µm when none is given."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return None
    pixels = next((node for node in root.iter() if node.tag.endswith("}Pixels") or node.tag == "Pixels"), None)
    if pixels is None:
        return None
    sizes = []
    for axis in "XY":
        size, unit = _number(pixels.get(f"PhysicalSize{axis}")), pixels.get(f"PhysicalSize{axis}Unit", "µm")
        if size is None or unit not in MICRONS:
            return None
        sizes.append(size * MICRONS[unit])
    return Mpp(*sizes)


def _tag_mpp(page: Any) -> Mpp | None:
    """Resolution tags (pixels per inch or centimetre); None where they cannot be a scanner's."""
    unit = {2: 25400.0, 3: 10000.0}.get(int(page.resolutionunit or 0))
    across, down = page.resolution or (0, 0)
    if unit is None or not across or not down:
        return None
    mpp = Mpp(unit / across, unit / down)
    return mpp if plausible_tag_mpp(mpp.x, mpp.y) else None
