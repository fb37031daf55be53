"""Regions drawn by people (GeoJSON in QuPath's manner, TIAToolbox's AnnotationStore); tiles as GeoJSON."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from histogen.errors import SlideError

MALFORMED = (
    ValueError, KeyError, TypeError, AttributeError, OSError, sqlite3.Error, zlib.error, shapely.errors.ShapelyError,
)  # fmt: skip


@dataclass(frozen=True)
class Region:
    """A named area of a slide; its geometry is in level-0 pixels."""

    name: str
    geometry: BaseGeometry


def read_annotations(path: Path) -> list[Region]:
    """Return the named areas in a GeoJSON file or in a TIAToolbox ``AnnotationStore`` (``.db``).

    Raises:
        SlideError: the file is missing, malformed, or holds no named area.
    """
    regions = [region for region in read_areas(path) if region.name]
    if not regions:
        raise SlideError(f"annotations '{path}' hold no area with a class; name the classes and export again")
    return regions


def read_areas(path: Path) -> list[Region]:
    """Return all areas in a GeoJSON file or an ``AnnotationStore``; the name of a nameless one is empty.

    Coordinates are level-0 pixels. The name of a region is ``properties.classification.name`` (QuPath), else
    ``properties.name``, ``label`` or ``type``; points and lines are left out.

    Raises:
        SlideError: the file is missing or malformed.
    """
    if not path.exists():
        raise SlideError(f"annotations '{path}' do not exist; check the path")
    try:
        return _from_store(path) if path.suffix == ".db" else _from_geojson(path)
    except (
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OSError,
        sqlite3.Error,
        zlib.error,
        shapely.errors.ShapelyError,
    ) as error:
        kind = "an AnnotationStore" if path.suffix == ".db" else "GeoJSON"
        raise SlideError(f"annotations '{path}' are not {kind} ({error}); export them again") from error


def _from_geojson(path: Path) -> list[Region]:
    content = json.loads(path.read_text())
    features = content["features"] if isinstance(content, dict) else content
    return _regions((shape(f["geometry"]), f.get("properties") or {}) for f in features if f.get("geometry"))


def _from_store(path: Path) -> list[Region]:
    """Read the table of an ``SQLiteStore`` directly: TIAToolbox's class needs SQLite extensions, a table does not."""
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        packed = connection.execute("SELECT value FROM metadata WHERE key = 'compression'").fetchone()
        rows = connection.execute("SELECT geometry, properties FROM annotations WHERE geometry IS NOT NULL").fetchall()
    unpack = zlib.decompress if packed and json.loads(packed[0]) == "zlib" else bytes
    return _regions((shapely.from_wkb(unpack(geometry)), json.loads(properties)) for geometry, properties in rows)


def _regions(shapes: Iterable[tuple[BaseGeometry, Mapping[str, Any]]]) -> list[Region]:
    regions = []
    for geometry, properties in shapes:
        if geometry.area > 0:
            name = (properties.get("classification") or {}).get("name")
            name = name or next((properties[key] for key in ("name", "label", "type") if properties.get(key)), "")
            regions.append(Region(str(name), geometry if geometry.is_valid else shapely.make_valid(geometry)))
    return regions


def region_shares(
    regions: Sequence[Region], names: Sequence[str], x_l0: np.ndarray, y_l0: np.ndarray, size_l0: tuple[float, float]
) -> np.ndarray:
    """Return the share of each tile that lies in regions of each name, float64 [N, len(names)].

    Regions of one name may overlap; the area is that of their union.
    """
    shares = np.zeros((len(x_l0), len(names)))
    boxes = shapely.box(x_l0, y_l0, x_l0 + size_l0[0], y_l0 + size_l0[1])
    for code, name in enumerate(names):
        area = shapely.union_all([region.geometry for region in regions if region.name == name])
        parts = shapely.get_parts(area)
        tree = shapely.STRtree(parts)
        tiles, hits = tree.query(boxes, predicate="intersects")
        inside = shapely.area(shapely.intersection(parts[hits], boxes[tiles]))
        np.add.at(shares[:, code], tiles, inside / (size_l0[0] * size_l0[1]))
    return shares


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
    names: Sequence[str] | None = None,
) -> list[str | None]:
    """Return the name that covers most of each tile, None where no name covers at least ``min_share`` of it."""
    known = sorted({region.name for region in regions}) if names is None else list(names)
    shares = region_shares(regions, known, x_l0, y_l0, size_l0)
    best = shares.argmax(1) if known else np.zeros(len(x_l0), int)
    return [known[b] if known and s[b] >= min_share else None for b, s in zip(best.tolist(), shares, strict=True)]


def tiles_geojson(
    x_l0: np.ndarray, y_l0: np.ndarray, size_l0: tuple[float, float], properties: Sequence[Mapping[str, Any]]
) -> str:
    """Return tiles as a GeoJSON FeatureCollection that QuPath imports as tiles; coordinates are level-0 pixels."""
    features = []
    for x, y, values in zip(x_l0.tolist(), y_l0.tolist(), properties, strict=True):
        right, bottom = x + size_l0[0], y + size_l0[1]
        ring = [[x, y], [right, y], [right, bottom], [x, bottom], [x, y]]
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [ring]},
                "properties": {"objectType": "tile", **values},
            }
        )
    return json.dumps({"type": "FeatureCollection", "features": features}, separators=(",", ":"))
