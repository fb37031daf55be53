"""Regions of a slide with classes: what share of a tile they cover, and its label."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from shapely.geometry.base import BaseGeometry

from histogen.errors import SlideError

POLYGON, MULTIPOLYGON = 3, 6
"""Shapely's numbers of the geometries that have an area; what is above 3 is made of others."""

MAX_L0 = 2.0**40
"""More pixels than any slide is wide; far beyond it areas overflow."""


@dataclass(frozen=True)
class Region:
    """An area with a class (empty: none); its geometry is a valid Polygon or MultiPolygon."""

    name: str
    geometry: BaseGeometry


def regions_of(shapes: Iterable[tuple[str, BaseGeometry | None]]) -> list[Region]:
    """Return what has an area; points, lines and what has no geometry are left out.

    An outline that crosses itself encloses all that lies within any of its loops, holes are what their outlines
    enclose, and parts that overlap are one.

    Raises:
        ValueError: a coordinate is no number of pixels.
    """
    pairs = [(name, geometry) for name, geometry in shapes if geometry is not None]
    geometries = np.array([geometry for _, geometry in pairs], dtype=object)
    coordinates, owners = shapely.get_coordinates(geometries, return_index=True)
    wrong = np.flatnonzero(~(np.abs(coordinates) < MAX_L0).all(axis=1))
    if len(wrong):
        raise ValueError(f"region {owners[wrong[0]]} has a corner at {coordinates[wrong[0]].tolist()}")
    plain = shapely.is_valid(geometries) & np.isin(shapely.get_type_id(geometries), (POLYGON, MULTIPOLYGON))
    for at in np.flatnonzero(~plain):
        geometries[at] = _polygonal(geometries[at])
    return [
        Region(name, geometry)
        for (name, _), geometry, area in zip(pairs, geometries, shapely.area(geometries), strict=True)
        if area > 0
    ]


def _polygonal(geometry: BaseGeometry) -> BaseGeometry:
    parts = np.array([geometry], dtype=object)
    while (shapely.get_type_id(parts) > POLYGON).any():
        parts = shapely.get_parts(parts)
    polygons = parts[shapely.get_type_id(parts) == POLYGON]
    return shapely.union_all(shapely.make_valid(polygons, method="structure", keep_collapsed=False))


def region_shares(
    regions: Sequence[Region], names: Sequence[str], x_l0: np.ndarray, y_l0: np.ndarray, size_l0: tuple[float, float]
) -> np.ndarray:
    """Return the share of each tile that lies in regions of each name, float64 [N, len(names)].

    Where regions of several names lie over each other the smallest counts, which is the innermost of nested ones;
    those of one name count once.

    Raises:
        SlideError: one outline has two names, or an outline cannot be laid over the tiles.
    """
    try:
        return _shares(regions, names, x_l0, y_l0, size_l0)
    except shapely.errors.ShapelyError as error:
        said = re.sub(r"^\w+(?:Exception|Error): ", "", " ".join(str(error).split()))
        raise SlideError(f"regions cannot be laid over the tiles ({said}); draw them again more simply") from error


def _shares(
    regions: Sequence[Region], names: Sequence[str], x_l0: np.ndarray, y_l0: np.ndarray, size_l0: tuple[float, float]
) -> np.ndarray:
    shares = np.zeros((len(x_l0), len(names)))
    chosen = [region for region in regions if region.name in set(names)]
    if not chosen or not len(x_l0):
        return shares
    polygons, owners = shapely.get_parts([region.geometry for region in chosen], return_index=True)
    codes = np.array([names.index(region.name) for region in chosen])[owners]
    if len(names) > 1:
        _check_twice(polygons, codes, names)
    order = np.argsort(shapely.area(polygons), kind="stable")
    polygons, codes = polygons[order], codes[order]  # the smallest first
    boxes = shapely.box(x_l0, y_l0, x_l0 + size_l0[0], y_l0 + size_l0[1])
    tiles, hits = shapely.STRtree(polygons).query(boxes, predicate="intersects")
    by_tile = np.lexsort((hits, tiles))
    tiles, hits = tiles[by_tile], hits[by_tile]
    inside = shapely.intersection(polygons[hits], boxes[tiles])
    with_area = shapely.area(inside) > 0  # the others touch their tile, and are lines that GEOS may not lay over areas
    tiles, hits, inside = tiles[with_area], hits[with_area], inside[with_area]
    for at in np.flatnonzero(~np.isin(shapely.get_type_id(inside), (POLYGON, MULTIPOLYGON))):
        inside[at] = _polygonal(inside[at])
    starts = np.flatnonzero(np.diff(tiles, prepend=-1))
    for first, last in zip(starts, [*starts[1:], len(tiles)], strict=True):
        _add_areas(shares[tiles[first]], inside[first:last], codes[hits[first:last]])
    return shares / (size_l0[0] * size_l0[1])


def _add_areas(areas: np.ndarray, parts: np.ndarray, codes: np.ndarray) -> None:
    """Add the area [len(names)] of each name within one tile; ``parts`` begin with the one that goes before others."""
    if (codes == codes[0]).all():
        areas[codes[0]] += shapely.area(parts[0] if len(parts) == 1 else shapely.union_all(parts))
        return
    covered = shapely.from_wkt("POLYGON EMPTY")
    for part, code in zip(parts, codes, strict=True):
        areas[code] += shapely.area(shapely.difference(part, covered))
        covered = shapely.union(covered, part)


def _check_twice(polygons: np.ndarray, codes: np.ndarray, names: Sequence[str]) -> None:
    """Equal outlines have equal boxes and areas, wherever they begin and however many corners lie on their edges."""
    known: dict[tuple[Any, ...], tuple[BaseGeometry, int]] = {}
    for polygon, code, area in zip(polygons, codes.tolist(), shapely.area(polygons).tolist(), strict=True):
        other, first = known.setdefault((*polygon.bounds, f"{area:.9g}"), (polygon, code))
        if first != code and shapely.equals(other, polygon):
            left, top, right, bottom = polygon.bounds
            raise SlideError(
                f"one region, from ({left:g}, {top:g}) to ({right:g}, {bottom:g}), has the classes "
                f"'{names[first]}' and '{names[code]}'; delete one of them"
            )


def roi_shares(
    regions: Sequence[Region], x_l0: np.ndarray, y_l0: np.ndarray, size_l0: tuple[float, float]
) -> np.ndarray:
    """Return the share of each tile that lies in any of ``regions``, whatever their names, float64 [N]."""
    unnamed = [Region("", region.geometry) for region in regions]
    return region_shares(unnamed, [""], x_l0, y_l0, size_l0)[:, 0]


def label_tiles(
    regions: Sequence[Region],
    x_l0: np.ndarray,
    y_l0: np.ndarray,
    size_l0: tuple[float, float],
    *,
    min_share: float = 0.5,
) -> list[str | None]:
    """Return the name that covers most of each tile, None where no name covers at least ``min_share`` of it.

    Raises:
        SlideError: one outline has two names.
    """
    known = sorted({region.name for region in regions})
    shares = region_shares(regions, known, x_l0, y_l0, size_l0)
    best = shares.argmax(1) if known else np.zeros(len(x_l0), int)
    return [
        known[b] if known and s[b] > 0 and s[b] >= min_share - 1e-9 else None
        for b, s in zip(best.tolist(), shares, strict=True)
    ]
