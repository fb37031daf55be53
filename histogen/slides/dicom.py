"""DICOM whole-slide images: which files make up one slide, whatever their names.

A slide is a pyramid: the files of one series (SeriesInstanceUID) that also share a pyramid (PyramidUID, else frame of
reference and container). Labels and overviews belong to their series.
"""

from __future__ import annotations

import functools
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from histogen.errors import RefusedSlideError, SlideError

MAGIC_AT, MAGIC = 128, b"DICM"
WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""SOPClassUID of VL Whole Slide Microscopy Image Storage."""
MAX_FRAME_PIXELS = 2**27
"""The largest stored frame that is decoded: 0.4 GB."""
BESIDE = frozenset({"LABEL", "OVERVIEW", "THUMBNAIL"})
"""Kinds of pictures (third value of ImageType) that are no level of their own."""
TAGS = ("SOPClassUID", "SeriesInstanceUID", "PyramidUID", "FrameOfReferenceUID", "ContainerIdentifier", "ImageType",
        "TotalPixelMatrixColumns", "TotalPixelMatrixRows", "Rows", "Columns")  # fmt: skip


class DicomFile(NamedTuple):
    """One file of a whole-slide image."""

    path: Path
    series: str
    pyramid: str
    """Its PyramidUID, else empty."""
    frame: tuple[str, str]
    """Frame of reference and container, which tell pyramids apart that have no PyramidUID."""
    is_level: bool
    num_pixels: int
    frame_pixels: int = 0
    """Pixels of one stored frame."""

    @property
    def key(self) -> tuple[str, ...]:
        """What the levels of one slide have in common."""
        return (self.series, self.pyramid) if self.pyramid else (self.series, *self.frame)


class DicomSlide(NamedTuple):
    """One slide: its levels, the finest first, and what of its series lies beside them."""

    levels: tuple[DicomFile, ...]
    beside: tuple[DicomFile, ...]
    is_alone: bool
    """Whether its series holds no other pyramid, so that a reader that goes by series finds its levels and no more."""

    @property
    def path(self) -> Path:
        """The file of the finest level."""
        return self.levels[0].path

    @property
    def files(self) -> list[Path]:
        """All its files."""
        return [file.path for file in (*self.levels, *self.beside)]


def is_dicom(head: bytes) -> bool:
    """Whether a file begins as DICOM files do; ``head``: its first 132 bytes."""
    return head[MAGIC_AT : MAGIC_AT + len(MAGIC)] == MAGIC


def read_dicom(path: Path) -> DicomFile | None:
    """Return what a file is a part of; None when it is not a whole-slide image, or not DICOM."""
    stat = path.stat()
    return _read_dicom(path, stat.st_size, stat.st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _read_dicom(path: Path, size: int, modified: int) -> DicomFile | None:  # noqa: ARG001 - they tell versions apart
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd values are not what is read here
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(TAGS))
            said = {tag: header.get(tag) for tag in TAGS}
    except Exception:  # noqa: BLE001  odd bytes make its parsers raise whatever they lead them to
        return None
    if said["SOPClassUID"] != WHOLE_SLIDE or not said["SeriesInstanceUID"]:
        return None
    kinds = said["ImageType"]
    kind = str(kinds[2]) if kinds is not None and not isinstance(kinds, str) and len(kinds) > 2 else "VOLUME"
    numbers = [said[key] or 0 for key in ("TotalPixelMatrixColumns", "TotalPixelMatrixRows", "Rows", "Columns")]
    if not all(isinstance(number, int) for number in numbers):
        return None
    width, height, rows, columns = numbers
    frame = (str(said["FrameOfReferenceUID"] or ""), str(said["ContainerIdentifier"] or ""))
    pyramid = str(said["PyramidUID"] or "")
    is_level = kind not in BESIDE
    return DicomFile(path, str(said["SeriesInstanceUID"]), pyramid, frame, is_level, width * height, rows * columns)


def dicom_slides(files: Iterable[DicomFile]) -> list[DicomSlide]:
    """Return the slides that files are of, in the order of their finest levels' names.

    A series without any level (only a label, say) is no slide.
    """
    files = list(files)
    pyramids: dict[tuple[str, ...], list[DicomFile]] = {}
    for file in files:
        if file.is_level:
            pyramids.setdefault(file.key, []).append(file)
    slides = []
    for key, levels in pyramids.items():
        levels.sort(key=lambda file: (-file.num_pixels, file.path.name))
        beside = tuple(file for file in files if not file.is_level and file.series == key[0])
        is_alone = sum(other[0] == key[0] for other in pyramids) == 1
        slides.append(DicomSlide(tuple(levels), beside, is_alone))
    return sorted(slides, key=lambda slide: slide.path.name)


def without_lower(slides: list[DicomSlide]) -> list[DicomSlide]:
    """Return the slides but those that are coarser levels of another one's pyramid, in a series of their own."""
    finest: dict[str, DicomSlide] = {}
    for slide in sorted(slides, key=lambda slide: -slide.levels[0].num_pixels):
        finest.setdefault(slide.levels[0].pyramid, slide)
    return [slide for slide in slides if not slide.levels[0].pyramid or finest[slide.levels[0].pyramid] is slide]


def folder_files(folder: Path) -> list[DicomFile]:
    """Return the files of DICOM slides that lie directly in a folder."""
    return [file for path in sorted(folder.iterdir()) if (file := dicom_file(path)) is not None]


def dicom_file(path: Path) -> DicomFile | None:
    """:func:`read_dicom` of a file that begins as DICOM files do; None for any other path."""
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(MAGIC_AT + len(MAGIC))
    return read_dicom(path) if is_dicom(head) else None


def dicom_slide(path: Path) -> DicomSlide | None:
    """Return the slide that a DICOM file, or a folder of DICOM files, is of; None for any other file.

    Raises:
        SlideError: the folder holds none, or several; the message says what to give.
    """
    if path.is_dir():
        slides = without_lower(dicom_slides(folder_files(path)))
        if len(slides) == 1:
            return slides[0]
        if not slides:
            raise SlideError("the folder holds no DICOM slide")
        names = ", ".join(slide.path.name for slide in slides[:3])
        raise SlideError(
            f"the folder holds {len(slides)} DICOM slides, not one; give a file of the one that is meant "
            f"({names}{' …' if len(slides) > 3 else ''})"
        )
    file = dicom_file(path)
    if file is None:
        return None
    slides = dicom_slides(folder_files(path.parent))
    return next((slide for slide in slides if path in slide.files), None)


def one_series(path: Path) -> tuple[Path, tempfile.TemporaryDirectory[str] | None]:
    """Return the path by which a reader that goes by series finds the levels of this slide and no others.

    For DICOM that is one of its files; where its series holds other pyramids too, in a temporary folder of links, which
    must be kept while the reader reads. Any other path is returned as it is.

    Raises:
        SlideError: a folder holds no DICOM slide, or several.
        RefusedSlideError: its frames are too large to be decoded.
    """
    slide = dicom_slide(path)
    largest = 0 if slide is None else max(file.frame_pixels for file in (*slide.levels, *slide.beside))
    if largest > MAX_FRAME_PIXELS:
        raise RefusedSlideError(f"its pixels are stored in frames of {largest * 3 / 1e9:.1f} GB; convert it again")
    if slide is None or slide.is_alone:
        return path if slide is None else slide.path, None
    folder = tempfile.TemporaryDirectory(prefix="histogen-dicom-")
    for file in slide.files:
        (Path(folder.name) / file.name).symlink_to(file.resolve())
    return Path(folder.name) / slide.path.name, folder
