"""What an OME-Zarr image (NGFF 0.4 on Zarr 2, 0.5 on Zarr 3) says of itself, read from its JSON alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from histogen.errors import RefusedSlideError, SlideError
from histogen.geometry import Mpp
from histogen.slides.tiff_colours import NO_NAME, colour_order, refusal
from histogen.slides.tiff_metadata import microns

METADATA = (".zattrs", "zarr.json")
"""Where attributes lie in Zarr 2 and in Zarr 3."""
BARE = ("", "FFFFFF", "808080")
"""Colours of channels of which nobody said anything."""


class NgffLevel(NamedTuple):
    """One resolution: where its array is, and how large a pixel is along each axis, in the axis' unit."""

    path: str
    scale: tuple[float, ...]


class Ngff(NamedTuple):
    """One multiscale image."""

    folder: Path
    version: str
    axes: tuple[str, ...]
    levels: tuple[NgffLevel, ...]
    mpp: Mpp | None
    channels: tuple[Mapping[str, str], ...]
    """Names and colours, as OME-XML has them; none where it says nothing of its channels."""
    others: int
    """Images beside this one in its collection."""


def ngff_attributes(folder: Path) -> dict[str, Any] | None:
    """Return what a folder says in NGFF's words, empty where it is other Zarr; None where it is no Zarr."""
    for name in METADATA:
        try:
            content = json.loads((folder / name).read_bytes())
        except (OSError, ValueError):
            continue
        said = content.get("attributes", {}).get("ome", {}) if name == METADATA[1] else content
        return said if isinstance(said, dict) else {}
    return None


def is_ngff(folder: Path) -> bool:
    """Whether a folder is an OME-Zarr image, or a collection of images as bioformats2raw writes them."""
    said = ngff_attributes(folder) if folder.is_dir() else None
    return said is not None and ("multiscales" in said or "bioformats2raw.layout" in said)


def read_ngff(folder: Path) -> Ngff:
    """Return what an image says of itself; of a collection its first image.

    Raises:
        SlideError: it is no NGFF image.
    """
    said, others = ngff_attributes(folder) or {}, 0
    if "multiscales" not in said and "bioformats2raw.layout" in said:
        images = sorted(path for path in folder.iterdir() if path.name.isdecimal() and is_ngff(path))
        folder, others = folder / "0", len(images) - 1
        said = ngff_attributes(folder) or {}
    try:
        return _read(folder, said, max(0, others))
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise SlideError(f"'{folder.name}' is no image of OME-Zarr ({error!r}); convert it again") from error


def _read(folder: Path, said: Mapping[str, Any], others: int) -> Ngff:
    image = said["multiscales"][0]
    listed = image["axes"]
    axes = tuple(str(axis if isinstance(axis, str) else axis["name"]).lower() for axis in listed)
    if not {"y", "x"} <= set(axes) or len(set(axes)) != len(axes):
        raise ValueError(f"axes {axes}")
    whole = _scale(image, len(axes))
    levels = []
    for one in image["datasets"]:
        scale = tuple(a * b for a, b in zip(whole, _scale(one, len(axes)), strict=True))
        levels.append(NgffLevel(_within(str(one["path"])), scale))
    units = [axis.get("unit") if isinstance(axis, dict) else None for axis in listed]
    sides = [_length(levels[0].scale[axes.index(name)], units[axes.index(name)]) for name in "xy"]
    across, down = sides
    mpp = Mpp(across, down) if across and down else None
    channels = tuple(_channel(one) for one in (said.get("omero") or {}).get("channels") or ())
    version = str(said.get("version") or image.get("version") or "unknown")
    return Ngff(folder, version, axes, tuple(levels), mpp, channels, others)


def _within(path: str) -> str:
    """Return the path of an array, which must lie in the image's own folder."""
    if PurePosixPath(path).is_absolute() or PureWindowsPath(path).drive or ".." in re.split(r"[/\\]", path):
        raise ValueError(f"its array '{path}' is outside of it")
    return path


def _scale(of: Mapping[str, Any], count: int) -> tuple[float, ...]:
    for one in of.get("coordinateTransformations") or ():
        if one.get("type") == "scale":
            scale = tuple(float(value) for value in one["scale"])
            if len(scale) != count or not all(0 < value < float("inf") for value in scale):
                raise ValueError(f"scale {scale}")
            return scale
    return (1.0,) * count


def _length(value: float, unit: Any) -> float | None:
    known = microns(unit) if isinstance(unit, str) else None
    return None if known is None else value * known


def _channel(said: Mapping[str, Any]) -> dict[str, str]:
    """Return a channel in OME-XML's words, its colour as one number RGBA."""
    name, colour = str(said.get("label") or "").strip(), str(said.get("color") or "").strip().lstrip("#").upper()
    known = {} if colour in BARE else {"Color": str(int(f"{colour[:6]}FF", 16))}
    return {"Name": name, **known}


def ngff_planes(ngff: Ngff, count: int) -> tuple[tuple[int, ...], str]:
    """Return which of ``count`` channels are red, green and blue (or the one grey), and a phrase if that was assumed.

    Raises:
        RefusedSlideError: they are not the colours of a stained slide.
    """
    if count == 1:
        return (0,), ""
    order = colour_order(ngff.channels) if count == len(ngff.channels) == 3 else None
    if order is not None:
        return order, ""
    silent = all(NO_NAME.fullmatch(one["Name"]) and "Color" not in one for one in ngff.channels)
    if count == 3 and silent:
        return (0, 1, 2), "its three channels are taken for red, green and blue, of which it says nothing"
    raise RefusedSlideError(refusal(count, [one["Name"] for one in ngff.channels]))
