"""XML with a layer per class: Aperio ImageScope's, and HALO's ``.annotations``; level-0 pixels of the whole canvas.

Both hold Annotation (the layer) > Regions > Region > Vertices. ImageScope writes a region's type as a number, HALO as a
word. A region with ``NegativeROA`` is a hole in the larger regions of its layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element

import shapely
from shapely.geometry.base import BaseGeometry

from histogen.tiles.annotations.xml import ellipse, number, polygon

OUTLINES, RECTANGLES, ELLIPSES = {"0", "polygon"}, {"1", "rectangle"}, {"2", "ellipse"}
WITHOUT_AREA = {"3", "4", "5", "arrow", "ruler", "pin", "line"}


def read_layers(root: Element) -> Iterator[tuple[str, BaseGeometry | None]]:
    """Yield (class, geometry) of each region that is no hole; None for what has no area.

    Raises:
        ValueError: a coordinate is no number, or a region has an unknown type.
    """
    for layer in root.iter("Annotation"):
        drawn: list[tuple[str, BaseGeometry | None]] = []
        holes: list[BaseGeometry] = []
        for region in layer.iter("Region"):
            geometry = _shape(region)
            if geometry is not None:
                geometry = shapely.make_valid(geometry, method="structure", keep_collapsed=False)
            if region.get("NegativeROA", "0").strip().lower() not in ("1", "true"):
                drawn.append((_name(layer, region), geometry))
            elif geometry is not None:
                holes.append(geometry)
        for name, geometry in drawn:
            cut = [hole for hole in holes if geometry is not None and hole.area < geometry.area]
            yield name, shapely.difference(geometry, shapely.union_all(cut)) if cut else geometry


def _name(layer: Element, region: Element) -> str:
    """The layer's name; ImageScope's users also write it into the attribute Description, or into a region's text."""
    said = [a.get("Value", "") for a in layer.findall("Attributes/Attribute") if a.get("Name") == "Description"]
    texts = (layer.get("Name", ""), *said, region.get("Text", ""))
    return next((text.strip() for text in texts if text.strip()), "")


def _shape(region: Element) -> BaseGeometry | None:
    kind = region.get("Type", "0").strip().lower()
    corners = [
        (number(vertex.get("X"), "an X"), number(vertex.get("Y"), "a Y"))
        for vertices in region.findall("Vertices")
        for vertex in vertices
    ]
    if kind in WITHOUT_AREA or len(corners) < 2:
        return None
    if kind in OUTLINES or (kind in RECTANGLES and len(corners) > 2):
        return polygon(corners)
    if kind not in RECTANGLES | ELLIPSES:
        raise ValueError(f"a region has the type '{region.get('Type')}'")
    columns, rows = zip(*corners, strict=True)
    box = min(columns), min(rows), max(columns), max(rows)
    return shapely.box(*box) if kind in RECTANGLES else ellipse(*box)
