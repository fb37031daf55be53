"""XML of other people: no document types (and so no entities), a bounded depth, plain elements."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from typing import NoReturn
from xml.parsers import expat

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

MAX_XML_BYTES = 1 << 28
MAX_DEPTH = 50
NUM_CORNERS = 128
"""Corners of the polygon that stands for an ellipse; its area is 0.04 % too small."""


def parse_xml(data: bytes) -> ElementTree.Element:
    """Return the root of a document.

    Raises:
        ValueError: it is not well formed, too large or too deep, or declares a document type.
    """
    if len(data) > MAX_XML_BYTES:
        raise ValueError(f"{len(data) >> 20} MiB of XML, more than {MAX_XML_BYTES >> 20}")
    builder, parser, depth = ElementTree.TreeBuilder(), expat.ParserCreate(), 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"elements nested more than {MAX_DEPTH} deep")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    parser.buffer_text = True
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    parser.StartDoctypeDeclHandler = _refuse_doctype
    try:
        parser.Parse(data, True)
    except expat.ExpatError as error:
        raise ValueError(f"no XML: {error}") from error
    return builder.close()


def _refuse_doctype(*_: object) -> NoReturn:
    raise ValueError("it declares a document type, which annotations do not need")


def number(text: str | None, what: str) -> float:
    """Return a number written as text, with a point or with a comma.

    Raises:
        ValueError: it is none, or not finite.
    """
    try:
        value = float((text or "").strip().replace(",", "."))
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        raise ValueError(f"{what} is {text!r}, not a number")
    return value


def polygon(corners: Iterable[tuple[float, float]]) -> BaseGeometry | None:
    """Return the area within ``corners``; None for fewer than three."""
    points = list(corners)
    return shapely.Polygon(points) if len(points) >= 3 else None


def ellipse(left: float, top: float, right: float, bottom: float) -> BaseGeometry:
    """Return the ellipse in a rectangle, as a polygon."""
    angles = np.arange(NUM_CORNERS) * (2 * np.pi / NUM_CORNERS)
    across, down = abs(right - left) / 2, abs(bottom - top) / 2
    centre = (left + right) / 2, (top + bottom) / 2
    return shapely.Polygon(np.stack([centre[0] + across * np.cos(angles), centre[1] + down * np.sin(angles)], axis=1))
