"""GeoJSON as QuPath reads it: a tile is a detection, its label a class, its scores measurements."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from histogen.errors import StoreError
from histogen.files import whole_file
from histogen.store.export_rows import columns_of, placement_of
from histogen.store.tile_set import TileSet

NO_MEASUREMENTS = ("x_l0", "y_l0", "content_hash")
DIGITS = 6
"""Digits that a score keeps."""


def write_geojson(tiles: TileSet, out: Path, *, encoder: str | None, images: bool) -> int:
    """Write the tiles of one store for QuPath; return their number.

    Raises:
        StoreError: it is no store of a slide, or embeddings or images were asked for.
    """
    if encoder is not None or images:
        what = "images" if images else f"embeddings ('{encoder}')"
        raise StoreError(f"GeoJSON holds no {what}; leave them out, or choose another format")
    with whole_file(out / f"{tiles.stores[0].store_id}.geojson") as temporary:
        temporary.write_text(tiles_geojson(tiles))
    return len(tiles)


def tiles_geojson(tiles: TileSet, *, from_bounds: bool = True) -> str:
    """Return the tiles of a slide as a GeoJSON FeatureCollection of QuPath's tile objects, which are detections.

    Numbers go into ``measurements``, the column ``label`` into ``classification``, other names and texts into
    ``metadata``. Places are level-0 pixels from where QuPath counts: the corner of what was scanned, where a slide has
    bounds, unless ``from_bounds`` is false.
    """
    store, place = tiles.stores[0], placement_of(tiles)
    slide = store.provenance["slide"]
    left, top = (slide.get("bounds_l0") or (0, 0))[:2] if from_bounds else (0, 0)
    width, height = (store.tile_px * place.mpp / mpp for mpp in slide["mpp"])
    properties = [{"objectType": "tile", **said} for said in _said_of(tiles)]
    features = []
    for x, y, said in zip((place.x_l0 - left).tolist(), (place.y_l0 - top).tolist(), properties, strict=True):
        ring = [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "geometry": geometry, "properties": said})
    return json.dumps({"type": "FeatureCollection", "features": features}, separators=(",", ":"))


def _said_of(tiles: TileSet) -> list[dict[str, Any]]:
    """Return what QuPath is told of each tile beside its place."""
    said: list[dict[str, Any]] = [{} for _ in range(len(tiles))]
    for name, values in columns_of(tiles).items():
        if isinstance(values, np.ndarray) and values.ndim == 1 and name not in NO_MEASUREMENTS:
            for one, value in zip(said, values.tolist(), strict=True):
                if math.isfinite(value):
                    one.setdefault("measurements", {})[name] = float(f"{value:.{DIGITS}g}")
        elif isinstance(values, list):
            for one, text in zip(said, values, strict=True):
                if text and name == "label":
                    one["classification"] = {"name": text}
                elif text:
                    one.setdefault("metadata", {})[name] = text
    return said
