"""Hamamatsu's NDPA: nanometres from the centre of the glass slide; the class is a view's title."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

from shapely.geometry.base import BaseGeometry

from histogen.slides.base import GlassCentre
from histogen.tiles.annotations.xml import ellipse, number, polygon


def read_ndpa(root: Element, centre: GlassCentre) -> Iterator[tuple[str, BaseGeometry | None]]:
    """Yield (title, geometry in level-0 pixels) of each annotation; None for what is neither closed nor a circle.

    Raises:
        ValueError: the coordinates are not in nanometres, or one is no number.
    """
    for view in root.iter("ndpviewstate"):
        unit = (view.findtext("coordformat") or "nanometers").strip()
        if unit != "nanometers":
            raise ValueError(f"its coordinates are in '{unit}', not in nanometers")
        for annotation in view.findall("annotation"):
            yield (view.findtext("title") or "").strip(), _shape(annotation, centre)


def _shape(annotation: Element, centre: GlassCentre) -> BaseGeometry | None:
    kind = annotation.get("type", "").strip().lower()
    if kind == "circle":
        x, y, radius = (number(annotation.findtext(key), key) for key in ("x", "y", "radius"))
        return ellipse(*centre.to_l0(x - radius, y - radius), *centre.to_l0(x + radius, y + radius))
    if not kind.startswith("freehand") or not _is_closed(annotation, kind):
        return None
    points = annotation.findall("pointlist/point")
    return polygon(centre.to_l0(*(number(point.findtext(key), key) for key in ("x", "y"))) for point in points)


def _is_closed(annotation: Element, kind: str) -> bool:
    said = annotation.findtext("closed")
    return said.strip() == "1" if said else "line" not in kind + annotation.get("displayname", "").lower()
