"""Names: of files and folders, and tables from the name a user writes to the ``"module:attribute"`` it stands for.

A table entry is resolved on demand, so that naming a thing never imports it.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

from histogen.errors import ConfigError

READERS = {
    "native": "histogen.slides.native:NativeSlide",
    "image": "histogen.slides.flat:FlatSlide",
    "ngff": "histogen.slides.ngff:NgffSlide",
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


MAX_NAME = 160
"""Letters of a slide's id: what is made of it adds to them, and file systems end at 255 bytes."""
MAX_PART_BYTES = 255
"""Bytes of a file's or a folder's name on any usual file system."""
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]*")


def why_not_plain(name: str, *, most: int = MAX_NAME) -> str | None:
    """Return why ``name`` cannot name a file or a folder anywhere, and what can; None when it can."""
    if not name:
        return "is empty; give a name of letters, digits and _ . + @ -"
    if len(name) > most:
        return f"has {len(name)} letters, more than the {most} that leave room for endings; shorten it"
    if PLAIN.fullmatch(name):
        return None
    first = next((sign for sign in name if not re.match(r"[A-Za-z0-9_.+@-]", sign)), name[0])
    own = re.sub(r"[^A-Za-z0-9_.+@-]+", "_", name.replace("..", "")).strip("_.+@-")
    hint = f", such as '{own}'" if own else ""
    return f"cannot name a folder, for its {first!r}; use letters, digits and _ . + @ - (first a letter or digit){hint}"


def too_long_part(path: PurePath) -> str | None:
    """Return the part of a path that no file system takes as a name, cut to be shown; None when there is none."""
    part = next((part for part in path.parts if len(os.fsencode(part)) > MAX_PART_BYTES), None)
    return None if part is None else f"{part[:20]}… ({len(part)} letters)"


def plain_name(name: str) -> str:
    """Return ``name`` where it is plain; else with ``_`` for other letters, shortened, and a hash."""
    plain = re.sub(r"[^A-Za-z0-9_.+@-]", "_", name)
    plain = plain if re.match(r"[A-Za-z0-9_]", plain) else f"_{plain}"
    if plain == name and len(name) <= MAX_NAME:
        return name
    return f"{plain[: MAX_NAME - 7]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:6]}"


def other_spelling(name: str, names: Iterable[str]) -> str | None:
    """Return one of ``names`` that is ``name`` but for case and blanks around it; None when there is none."""
    return next((one for one in names if one != name and one.strip().casefold() == name.strip().casefold()), None)


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
