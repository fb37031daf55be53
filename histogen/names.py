"""Tables from the name a user writes to the ``"module:attribute"`` that it stands for.

A table entry is resolved on demand, so that naming a thing never imports it.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from histogen.errors import ConfigError

READERS = {
    "native": "histogen.slides.native:NativeSlide",
    "image": "histogen.slides.flat:FlatSlide",
    "openslide": "histogen.slides.openslide:OpenSlideSlide",
    "tiatoolbox": "histogen.slides.tiatoolbox:TiatoolboxSlide",
}
"""Slide readers, in the order in which ``auto`` tries them."""

XML_ANNOTATIONS = {
    "ASAP_Annotations": "histogen.tiles.annotations.asap:read_asap",
    "Annotations": "histogen.tiles.annotations.layers:read_layers",
    "annotations": "histogen.tiles.annotations.ndpa:read_ndpa",
}
"""Readers of annotations in XML, by the document's outermost element: ASAP, ImageScope and HALO, Hamamatsu."""

AREA_SUFFIXES = (".geojson", ".json", ".geojson.gz", ".json.gz", ".db", ".xml", ".ndpa", ".annotations")
"""How the names of annotations end that lie in a folder, one for each slide; their content says what they are."""


def resolve(table: Mapping[str, str], name: str, *, what: str) -> Any:
    """Return the object that ``name`` stands for in ``table``.

    Raises:
        ConfigError: the name is not in the table; the message lists the nearest or all names.
    """
    if name not in table:
        near = difflib.get_close_matches(name, table, n=1)
        hint = f"did you mean '{near[0]}'" if near else f"use one of {', '.join(sorted(table))}"
        raise ConfigError(f"unknown {what} '{name}'; {hint}")
    module, _, attribute = table[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
