"""The door to regions drawn elsewhere: the content of a file says what it is, whatever it is called."""

from __future__ import annotations

import gzip
import json
import re
import sqlite3
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import shapely
from shapely.geometry.base import BaseGeometry

from histogen.errors import SlideError
from histogen.names import XML_ANNOTATIONS, resolve
from histogen.slides.base import BaseSlide
from histogen.tiles.annotations.annotation_store import read_annotation_store
from histogen.tiles.annotations.geojson import read_geojson
from histogen.tiles.annotations.xml import parse_xml
from histogen.tiles.regions import Region, regions_of

MAX_UNPACKED = 1 << 30
MALFORMED = (
    ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError, EOFError, OSError,
    sqlite3.Error, zlib.error, shapely.errors.ShapelyError,
)  # fmt: skip
"""What libraries raise for files that are not what they seem."""


Shapes = Iterable[tuple[str, BaseGeometry | None]]
"""What a reader yields: class (empty: none) and geometry of each drawing, None where it has no area."""


@dataclass(frozen=True)
class Areas:
    """The regions of a file, in level-0 pixels, and what is known of the corner from which they count."""

    path: Path
    regions: list[Region]
    num_flat: int
    """How many drawings have no area, such as points and lines; they are not among the regions."""
    of_qupath: bool = False
    on_glass: bool = False
    """They were counted from the glass slide's centre: where they lie is certain."""


def read_annotations(path: Path, slide: BaseSlide | None = None) -> Areas:
    """Return the areas with a class; see :func:`read_areas`.

    Raises:
        SlideError: the file is missing, malformed, or holds no area with a class.
    """
    areas = read_areas(path, slide)
    named = [region for region in areas.regions if region.name]
    if not named:
        raise SlideError(
            f"annotations '{path}' hold no area with a class ({len(areas.regions)} areas without one); "
            "set the classes and export again"
        )
    return replace(areas, regions=named)


def read_areas(path: Path, slide: BaseSlide | None = None) -> Areas:
    """Return the areas in a file; the name of one without a class is empty. Points and lines are left out.

    GeoJSON (also gzipped), TIAToolbox's AnnotationStore, and the XML of ASAP, ImageScope, HALO and Hamamatsu (which
    needs ``slide`` to know where the centre of the glass is).

    Raises:
        SlideError: the file is missing or malformed.
    """
    if not path.exists():
        raise SlideError(f"annotations '{path}' do not exist; check the path")
    kind = "annotations that can be read"
    try:
        with path.open("rb") as file:
            head = file.read(16)
        if head.startswith(b"SQLite format 3"):
            kind = "an AnnotationStore"
            return _areas(path, *read_annotation_store(path))
        data = _unpacked(path) if head.startswith(b"\x1f\x8b") else path.read_bytes()
        if data[:64].lstrip(b"\xef\xbb\xbf\xff\xfe\x00 \t\r\n").startswith(b"<"):
            kind = "annotations in XML"
            return _from_xml(path, data, slide)
        kind = "GeoJSON"
        return _areas(path, *read_geojson(data))
    except SlideError:
        raise
    except MALFORMED as error:
        raise SlideError(f"annotations '{path}' are not {kind} ({_reason(error)}); export them again") from error


def _areas(path: Path, shapes: Shapes, of_qupath: bool = False, *, on_glass: bool = False) -> Areas:
    shapes = list(shapes)
    regions = regions_of(shapes)
    return Areas(path, regions, len(shapes) - len(regions), of_qupath, on_glass)


def _from_xml(path: Path, data: bytes, slide: BaseSlide | None) -> Areas:
    root = parse_xml(data)
    if root.tag not in XML_ANNOTATIONS:
        known = ", ".join(XML_ANNOTATIONS)
        raise ValueError(f"the outermost element is <{root.tag}>, where one of {known} is known"[:200])
    read: Callable[..., Iterable[tuple[str, BaseGeometry | None]]] = resolve(
        XML_ANNOTATIONS, root.tag, what="annotations"
    )
    if root.tag != "annotations":
        return _areas(path, read(root))
    centre = None if slide is None else slide.glass_centre
    if centre is None:
        of = "" if slide is None else f" of slide '{slide.slide_id}'"
        raise SlideError(
            f"annotations '{path}' count from the centre of the glass slide, which the file{of} does not state; "
            "give them with the NDPI that they were drawn on"
        )
    return _areas(path, read(root, centre), on_glass=True)


def _unpacked(path: Path) -> bytes:
    with gzip.open(path) as stream:
        data = stream.read(MAX_UNPACKED + 1)
    if len(data) > MAX_UNPACKED:
        raise ValueError(f"more than {MAX_UNPACKED >> 20} MiB when unpacked; unpack it first")
    return data


def _reason(error: BaseException) -> str:
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | OSError):
        return " ".join(str(error).split())[:200]
    said = re.sub(r"^\w+(?:Exception|Error): ", "", f"{error}")  # GEOS begins with the name of its own
    return " ".join(said.split())[:200] or type(error).__name__
