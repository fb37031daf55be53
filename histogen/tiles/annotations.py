"""Regions drawn by people (GeoJSON in QuPath's manner) and the label they give a tile."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from histogen.errors import SlideError


@dataclass(frozen=True)
class Region:
    """A named area of a slide; its geometry is in level-0 pixels."""

    name: str
    geometry: BaseGeometry


def read_geojson(path: Path) -> list[Region]:
    """Return the polygons of a GeoJSON file whose coordinates are level-0 pixels.

    The name of a region is ``properties.classification.name`` (QuPath), else ``properties.name`` or
    ``properties.label``; nameless ones, points and lines are left out.

    Raises:
        SlideError: the file is missing, not GeoJSON, or holds no named area.
    """
    try:
        content = json.loads(path.read_text())
        features = content["features"] if isinstance(content, dict) else content
        regions = [region for feature in features if (region := _region(feature)) is not None]
    except FileNotFoundError as error:
        raise SlideError(f"annotations '{path}' do not exist; check the path") from error
    except (ValueError, KeyError, TypeError, AttributeError, shapely.errors.ShapelyError) as error:
        raise SlideError(f"annotations '{path}' are not GeoJSON ({error}); export a FeatureCollection") from error
    if not regions:
        raise SlideError(f"annotations '{path}' hold no area with a class; name the classes and export again")
    return regions


def _region(feature: dict[str, Any]) -> Region | None:
    properties = feature.get("properties") or {}
    classification = properties.get("classification") or {}
    name = classification.get("name") or properties.get("name") or properties.get("label")
    geometry = shape(feature["geometry"])
    if not name or geometry.area == 0:
        return None
    return Region(str(name), geometry if geometry.is_valid else shapely.make_valid(geometry))


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
