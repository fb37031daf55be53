"""GeoJSON, as QuPath writes it and as others do: a FeatureCollection, a Feature, a geometry, or a list of these."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

CLASS_KEYS = ("class", "label", "type", "name")
"""Properties that name a class in files of others than QuPath, in this order."""
QUPATH_KEYS = ("classification", "objectType", "isLocked")


def read_geojson(data: bytes) -> tuple[list[tuple[str, BaseGeometry | None]], bool]:
    """Return (class, geometry) of each feature, and whether QuPath wrote them.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, RecursionError: it is not GeoJSON.
    """
    features = list(_features(json.loads(data)))
    shapes: list[tuple[str, BaseGeometry | None]] = []
    for index, feature in enumerate(features):
        properties = feature.get("properties") or {}
        if not isinstance(properties, dict):
            raise ValueError(f"the properties of feature {index} are no object")
        geometry = feature.get("geometry")
        shapes.append((class_of(properties, of_qupath=_of_qupath(feature)), shape(geometry) if geometry else None))
    return shapes, any(_of_qupath(feature) for feature in features)


def _features(content: Any) -> Iterator[dict[str, Any]]:
    if isinstance(content, list):
        for item in content:
            if not isinstance(item, dict):
                raise ValueError("the list holds something else than features")
            yield from _features(item)
    elif isinstance(content, dict) and "features" in content:
        if not isinstance(content["features"], list):
            raise ValueError("its 'features' are no list")
        yield from _features(content["features"])
    elif isinstance(content, dict) and (content.get("type") == "Feature" or "geometry" in content):
        yield content
    elif isinstance(content, dict) and ("coordinates" in content or "geometries" in content):
        yield {"geometry": content}
    else:
        raise ValueError("no features are in it")


def _of_qupath(feature: Mapping[str, Any]) -> bool:
    properties = feature.get("properties") or {}
    return str(feature.get("id", "")).startswith("Path") or any(key in properties for key in QUPATH_KEYS)


def class_of(properties: Mapping[str, Any], *, of_qupath: bool) -> str:
    """Return the class of an object from its properties, empty where it has none.

    QuPath keeps it in ``classification``; ``name`` is what an object of QuPath is called, which is not its class.

    Raises:
        ValueError: it is neither text nor a number.
    """
    name = _qupath_class(properties.get("classification"))
    keys = CLASS_KEYS[:-1] if of_qupath else CLASS_KEYS
    return name or next((text for key in keys if (text := _text(key, properties.get(key)))), "")


def _qupath_class(said: Any) -> str:
    """A derived class is named as in QuPath, ``Tumor: Positive``, however it is written."""
    if not isinstance(said, dict):
        return _text("classification", None if said is None else said if isinstance(said, str) else [said])
    names = said.get("names")
    if names:
        texts = [_text("names", name) for name in ([names] if isinstance(names, str) else names)]
        return ": ".join(text for text in texts if text)
    name, above = _text("name", said.get("name")), _qupath_class(said.get("parentClass"))
    if not above or not name or name == above or name.startswith(f"{above}:"):
        return name or above
    return f"{above}: {name}"


def _text(key: str, value: Any) -> str:
    if value is None or isinstance(value, str):
        return (value or "").strip()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"'{key}' is {value!r}, not the name of a class"[:200])
    return str(int(value) if value == int(value) else value)
