"""Where the tiles of a TIFF lie, and what its metadata say; layouts that are not plain are left to other readers."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import tifffile

from histogen.errors import RefusedSlideError, SlideError, TruncatedSlideError
from histogen.geometry import Extent, Mpp
from histogen.slides.pyramid import SAME, Stored, may_be_level
from histogen.slides.tiff_colours import colour_planes, num_same
from histogen.slides.tiff_metadata import OmeImage, aperio, imagej_mpp, is_tiff, read_ome, tag_mpp
from histogen.slides.tiff_pixels import (
    Pieces,
    check_depth,
    check_kind,
    check_sizes,
    is_plain,
    piece_extent,
    piece_places,
    pieces_of,
    white_of,
)

CODECS = {1: "none", 5: "lzw", 7: "jpeg", 8: "zlib", 32946: "zlib", 33005: "jpeg2000", 34712: "jpeg2000"}
"""Compressions of plain tiles. Aperio's 33003 (JPEG 2000 in YCbCr) is left to OpenSlide."""
COMPOSED = ("is_ndpi", "is_philips", "is_bif", "is_scn")
"""Scanners' layouts that OpenSlide knows, with missing, padded or overlapping tiles, or several images."""
OTHERS = (*COMPOSED, "is_stk", "is_lsm", "is_fluoview")
MAX_DIRECTORIES = 10_000
FOLLOWED = (tifffile.TiffFileError, struct.error, ValueError, IndexError, KeyError, RuntimeError, OSError,
            TypeError, ArithmeticError, AttributeError)  # fmt: skip
"""What following a file that is no TIFF, or a damaged one, ends in."""


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
    tables: bytes | None = None
    colorspace: str | None = None
    subsampling: str | None = None
    differences: bool = False
    pieces: Pieces | None = None
    """How tiles that are not plain become RGB; ``offsets`` then lists all first planes, all second, all third."""


@dataclass(frozen=True)
class TiffAbout:
    """What a TIFF says about itself."""

    vendor: str = "generic-tiff"
    objective_power: float | None = None
    mpp: Mpp | None = None
    mpp_source: str = "none"
    left_out: tuple[str, ...] = ()
    """What of it is not read, a phrase each."""


@dataclass(frozen=True)
class TiffLayout:
    """The pyramid of one TIFF, level 0 first, and what it says about itself."""

    levels: tuple[TiffLevel, ...]
    about: TiffAbout


def open_layout(path: Path) -> TiffLayout:
    """Read the directories of a TIFF.

    Raises:
        SlideError: it is not a TIFF, or not one whose tiles are read here.
        RefusedSlideError: it is cut, or what it holds cannot be shown rightly.
    """
    if path.is_dir():
        raise SlideError("a folder is not a TIFF")
    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            _check_whole(tiff)
            return _layout(tiff, path)
    except FOLLOWED as error:
        if isinstance(error, SlideError):
            raise
        raise SlideError(f"not a TIFF that can be followed ({error})") from error


def read_about(path: Path) -> TiffAbout | None:
    """Return what a TIFF says of itself, for readers that do not read it all; None for any other file.

    Raises:
        RefusedSlideError: it is cut, or what it holds cannot be shown rightly.
    """
    if path.is_dir() or not is_tiff(path):
        return None
    try:
        with tifffile.TiffFile(path, _multifile=False) as tiff:
            _check_whole(tiff)
            ome = read_ome(tiff.ome_metadata or "") if tiff.is_ome else OmeImage()
            if not any(getattr(tiff, name) for name in COMPOSED):
                if colour_planes(tiff, ome) is not None:
                    raise RefusedSlideError("its colours lie in planes, which only the native reader puts together")
                check_depth(tiff.pages.first)
                _check_count(tiff.pages.first)
            pages: list[Any] = list(tiff.pages)
            for page in (page for page in pages if page.is_tiled):
                piece_extent(page)  # a reader may end the process where memory does not suffice
            return _about(tiff, ome)
    except FOLLOWED as error:
        if isinstance(error, RefusedSlideError):
            raise
        return None


def _check_count(first: Any) -> None:
    """Refuse a file that has less stored tiles than its extent takes.

    Raises:
        RefusedSlideError: it has.
    """
    if first.is_tiled:
        tile = piece_extent(first)
        planes = first.samplesperpixel if first.planarconfig == 2 else 1
        needed = -(-first.imagewidth // tile.width) * -(-first.imagelength // tile.height) * planes
        if len(first.dataoffsets) < needed:
            raise RefusedSlideError(f"it lists {len(first.dataoffsets)} tiles where {needed} are needed; copy it again")


def _layout(tiff: tifffile.TiffFile, path: Path) -> TiffLayout:
    first = tiff.pages.first
    ome = read_ome(tiff.ome_metadata or "") if tiff.is_ome else OmeImage()
    composed = any(getattr(tiff, name) for name in COMPOSED)
    order = None if composed else colour_planes(tiff, ome)
    odd = [name[3:] for name in OTHERS if getattr(tiff, name)]
    if odd:
        raise SlideError(f"the layout of {odd[0]} is not plain")
    if not first.is_tiled:
        _check_strips(tiff, path)
    check_sizes(first)
    check_kind(first)
    groups = _planes(tiff) if order is not None and first.samplesperpixel == 1 else [[page] for page in _levels(tiff)]
    levels = [groups[0], *(group for group in groups[1:] if _is_level(group[0], first, aperio=tiff.is_svs))]
    plain = all(is_plain(group[0]) and group[0].compression in CODECS for group in levels) and order is None
    white = 255 if plain else white_of(levels[0], levels[-1], ome.bits)
    made = [_plain_level(group[0], first) if plain else _other_level(group, first, order, white) for group in levels]
    if not plain:
        _check_decoded(tiff, made[0])
    return TiffLayout(tuple(made), _about(tiff, ome))


def _check_decoded(tiff: tifffile.TiffFile, level: TiffLevel) -> None:
    """Decline a file whose first tile is not decoded here; the next reader may know its compression."""
    assert level.pieces is not None
    count = len(level.offsets) // level.pieces.num_planes
    payloads = []
    for plane in range(level.pieces.num_planes):
        tiff.filehandle.seek(int(level.offsets[plane * count]))
        payloads.append(tiff.filehandle.read(int(level.sizes[plane * count])))
    shape = level.pieces.rgb(payloads, 0).shape
    if shape != (level.tile.height, level.tile.width, 3):
        raise SlideError(f"its tiles decode to {shape}, not {level.tile.height} x {level.tile.width} x 3")


def _levels(tiff: tifffile.TiffFile) -> list[Any]:
    first = tiff.pages.first
    lower = first.pages if tiff.is_ome and first.pages is not None else tiff.pages[1:]
    return [first, *(page.aspage() if hasattr(page, "aspage") else page for page in lower)]


def _planes(tiff: Any) -> list[list[Any]]:
    """The directories that hold the channels of the first focal plane, for each level."""
    groups = []
    for level in tiff.series[0].levels:
        axes = dict(zip(level.axes, level.shape, strict=True))
        leading = [axis for axis in level.axes if axis not in "YXS"]
        shape = [axes[axis] for axis in leading]
        if "C" not in leading or axes["C"] != 3:
            raise SlideError(f"its channels do not lie in planes ({level.axes})")
        numbers = [
            int(np.ravel_multi_index([channel if axis == "C" else 0 for axis in leading], shape))
            for channel in range(3)
        ]
        pages = [level.pages[number] for number in numbers]
        if any(page is None for page in pages):
            raise SlideError("some of its planes are missing")
        groups.append([page.aspage() if hasattr(page, "aspage") else page for page in pages])
    return groups


def _about(tiff: tifffile.TiffFile, ome: OmeImage) -> TiffAbout:
    first = tiff.pages.first
    power, mpp = aperio(first.description) if tiff.is_svs else (ome.power, ome.mpp)
    imagej = tiff.imagej_metadata or {} if tiff.is_imagej else {}
    mpp = mpp or imagej_mpp(first, imagej)
    source = "metadata"
    if mpp is None:
        mpp, source = tag_mpp(first), "tiff tags"
    planes = ome.planes if tiff.is_ome else int(imagej.get("slices", 1)) * int(imagej.get("frames", 1))
    pages = num_same(tiff) if not (tiff.is_ome or tiff.is_imagej or tiff.is_svs) else 1
    left_out = []
    if planes > 1:
        left_out.append(f"of its {planes} focal planes or times only the first is read")
    if pages > 1:
        left_out.append(f"of its {pages} pages of one size only the first is read")
    vendor = "aperio" if tiff.is_svs else "ome-tiff" if tiff.is_ome else "generic-tiff"
    return TiffAbout(vendor, power, mpp, source if mpp else "none", tuple(left_out))


def _check_whole(tiff: tifffile.TiffFile) -> None:
    """Follow the chain of directories and their tiles to the end of the file; a cut copy ends earlier.

    Raises:
        TruncatedSlideError: a directory or a tile lies beyond the end.
        SlideError: the chain has no end.
    """
    size, form = tiff.filehandle.size, tiff.tiff
    offset, seen = int(tiff.pages.first.offset), set[int]()
    while offset and len(seen) < MAX_DIRECTORIES:
        if offset in seen:
            raise SlideError("its directories lead in a circle")
        tiff.filehandle.seek(offset)
        count = tiff.filehandle.read(form.tagnosize)
        if len(count) < form.tagnosize:
            break
        tiff.filehandle.seek(offset + form.tagnosize + struct.unpack(form.tagnoformat, count)[0] * form.tagsize)
        follows = tiff.filehandle.read(form.offsetsize)
        if len(follows) < form.offsetsize:
            break
        seen.add(offset)
        offset = struct.unpack(form.offsetformat, follows)[0]
    complete = offset == 0 or len(seen) == MAX_DIRECTORIES
    needs = max((_reach(page) for page in tiff.pages), default=0) if complete else offset
    if not complete or needs > size:
        raise TruncatedSlideError(f"the file is cut: it has {size:,} bytes and needs {needs:,} or more; copy it again")


def _reach(page: Any) -> int:
    """Where the last tile or strip of a directory ends."""
    ends = np.asarray(page.dataoffsets, np.int64) + np.asarray(page.databytecounts, np.int64)
    return int(ends.max(initial=0))


def _check_strips(tiff: Any, path: Path) -> None:
    """Decline a file whose first picture, in strips, is not the slide but a label or an overview before it."""
    first = tiff.pages.first
    larger = any(page.imagewidth * page.imagelength > first.imagewidth * first.imagelength for page in tiff.pages[1:])
    if larger or tiff.is_svs or openslide.OpenSlide.detect_format(path) is not None:
        raise SlideError("its first picture is in strips, and not its largest or of a scanner's layout")


def _is_level(page: Any, first: Any, *, aperio: bool) -> bool:
    """Whether a directory is a level of the pyramid; labels, macros and thumbnails are striped or of another shape."""
    if page.is_tiled != first.is_tiled or page.shape[2:] != first.shape[2:]:
        return False
    tile = Extent(page.tilewidth, page.tilelength) if page.is_tiled and not aperio else None
    return (aperio or bool(page.subfiletype & 1)) and may_be_level(_extent(first), Stored(_extent(page), tile))


def _extent(page: Any) -> Extent:
    return Extent(page.imagewidth, page.imagelength)


def _stated_downsample(page: Any, first: Any) -> float | None:
    """How many times coarser a level is by its resolution tags; None where they are those of level 0."""
    own, base = tag_mpp(page), tag_mpp(first)
    ratio = own.mean / base.mean if own and base else 1.0
    if ratio < 1.01:
        return None
    return float(round(ratio)) if abs(ratio / round(ratio) - 1) < SAME else ratio


def _plain_level(page: Any, first: Any) -> TiffLevel:
    codec = CODECS[page.compression]
    if codec != "jpeg" and page.photometric == 6:
        raise SlideError("its pixels are YCbCr without JPEG")
    tile = piece_extent(page)
    offsets, sizes = (np.asarray(v, np.int64) for v in (page.dataoffsets, page.databytecounts))
    columns = _check_tiles(page, tile, offsets, sizes, 1)
    colorspace = {2: "RGB", 6: "YCbCr"}[int(page.photometric)] if codec == "jpeg" else None
    tag = page.tags.get("YCbCrSubSampling")
    return TiffLevel(
        _extent(page), _stated_downsample(page, first), tile, columns, offsets, sizes, codec, page.jpegtables,
        colorspace, _subsampling(tag.value if tag else (2, 2)) if colorspace == "YCbCr" else "444", page.predictor == 2,
    )  # fmt: skip


def _other_level(pages: Sequence[Any], first: Any, order: tuple[int, int, int] | None, white: int) -> TiffLevel:
    page, tile = pages[0], piece_extent(pages[0])
    pieces = pieces_of(pages, order, white)
    offsets, sizes = piece_places(pages, tile)
    columns = _check_tiles(page, tile, offsets, sizes, pieces.num_planes)
    stated = _stated_downsample(page, first)
    return TiffLevel(_extent(page), stated, tile, columns, offsets, sizes, "other", pieces=pieces)


def _check_tiles(page: Any, tile: Extent, offsets: np.ndarray, sizes: np.ndarray, planes: int) -> int:
    """Return the tiles in a row."""
    columns = -(-page.imagewidth // tile.width)
    count = columns * -(-page.imagelength // tile.height) * planes
    if len(offsets) != count or len(sizes) != count:
        raise SlideError(f"it lists {len(offsets)} tiles where {count} are needed")
    if (sizes <= 0).any():
        raise SlideError("some of its tiles are missing")
    return columns


def _subsampling(factors: Sequence[int]) -> str | None:
    known = {(1, 1): "444", (2, 1): "422", (2, 2): "420", (1, 2): "440"}
    return known.get((int(factors[0]), int(factors[1])))
