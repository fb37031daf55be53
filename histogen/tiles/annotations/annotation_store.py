"""TIAToolbox's ``AnnotationStore``: an SQLite table of geometries (WKB, mostly deflated) and properties (JSON)."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import zlib
from pathlib import Path

import shapely
from shapely.geometry.base import BaseGeometry

from histogen.tiles.annotations.geojson import QUPATH_KEYS, class_of

MAX_GEOMETRY_BYTES = 1 << 28


def read_annotation_store(path: Path) -> tuple[list[tuple[str, BaseGeometry | None]], bool]:
    """Return (class, geometry) of each annotation (None for a point, whose place alone is stored); are they QuPath's.

    The table is read directly: TIAToolbox's class needs SQLite extensions, a table does not.

    Raises:
        ValueError, KeyError, TypeError, sqlite3.Error, zlib.error, ShapelyError: it is not such a store.
    """
    with contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        packed = connection.execute("SELECT value FROM metadata WHERE key = 'compression'").fetchone()
        rows = connection.execute("SELECT geometry, properties FROM annotations").fetchall()
    is_packed = bool(packed and json.loads(packed[0]) == "zlib")
    shapes: list[tuple[str, BaseGeometry | None]] = []
    of_qupath = False
    for geometry, text in rows:
        properties = json.loads(text)
        if not isinstance(properties, dict):
            raise ValueError("the properties of an annotation are no object")
        drawn_there = any(key in properties for key in QUPATH_KEYS)
        of_qupath |= drawn_there
        name = class_of(properties, of_qupath=drawn_there)
        data = geometry and (_unpacked(geometry) if is_packed else bytes(geometry))
        shapes.append((name, shapely.from_wkb(data) if data else None))
    return shapes, of_qupath


def _unpacked(data: bytes) -> bytes:
    stream = zlib.decompressobj()
    geometry = stream.decompress(data, MAX_GEOMETRY_BYTES)
    if stream.unconsumed_tail or not stream.eof:
        raise ValueError(f"a geometry is cut or larger than {MAX_GEOMETRY_BYTES >> 20} MiB")
    return geometry
