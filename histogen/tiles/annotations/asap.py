"""ASAP's XML: outlines in level-0 pixels of the whole canvas; the class is the group that an annotation is part of."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from shapely.geometry.base import BaseGeometry

from histogen.tiles.annotations.xml import number, polygon

WITH_AREA = ("Polygon", "Rectangle", "Spline")
"""A spline is taken for the polygon through its points; dots, point sets and measurements have no area."""


def read_asap(root: Element) -> Iterator[tuple[str, BaseGeometry | None]]:
    """Yield (class, geometry) of each annotation; None for what has no area.

    Raises:
        ValueError: a coordinate is no number.
    """
    for annotation in root.iter("Annotation"):
        corners = sorted(annotation.iter("Coordinate"), key=lambda c: number(c.get("Order"), "an Order"))
        shape = polygon((number(c.get("X"), "an X"), number(c.get("Y"), "a Y")) for c in corners)
        group = annotation.get("PartOfGroup", "").strip()
        yield "" if group == "None" else group, shape if annotation.get("Type") in WITH_AREA else None
