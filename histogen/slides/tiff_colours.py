"""What the samples of a TIFF stand for: the colours of a stained slide, grey, or dyes, which are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from histogen.errors import RefusedSlideError
from histogen.slides.tiff_metadata import OmeImage

GREY = (0, 1)
"""PhotometricInterpretation of samples that have no colour of their own: white is zero, black is zero."""
NAMES = {"red": 0, "r": 0, "green": 1, "g": 1, "blue": 2, "b": 2}
COLOURS = {(255, 0, 0): 0, (0, 255, 0): 1, (0, 0, 255): 2}
NO_NAME = re.compile(r"(channel|ch|c|image|plane)?[\s_:#.-]*\d*([:.]\d+)*", re.IGNORECASE)
"""What tools write where a channel has no name."""
DYE = ("Fluor", "EmissionWavelength", "ExcitationWavelength")
"""What OME says of channels of fluorescence only."""
MAX_PAGES = 64
"""Directories that are looked at for further planes of the first one's extent."""


def colour_planes(tiff: Any, ome: OmeImage) -> tuple[int, int, int] | None:
    """Return which grey channels are red, green and blue; None where samples are colours already, or plain grey.

    Raises:
        RefusedSlideError: its channels are not those of a stained slide, or do not say so.
    """
    first = tiff.pages.first
    if first.photometric not in GREY:
        names = [channel.get("Name", "") for channel in ome.channels]
        are_dyes = len(names) > 1 and any(not NO_NAME.fullmatch(n) for n in names) and not colour_order(ome.channels)
        if first.samplesperpixel > 4 or are_dyes:
            raise RefusedSlideError(refusal(max(first.samplesperpixel, len(names)), names))
        return None
    channels: Sequence[Mapping[str, str]] = ome.channels
    count = sum(int(channel.get("SamplesPerPixel", "1")) for channel in channels)
    if not channels:
        said = (tiff.imagej_metadata or {}).get("channels", 1) if tiff.is_imagej else 1
        same = 0 if tiff.is_imagej or tiff.is_ome else num_same(tiff)
        count = max(int(said), same, first.samplesperpixel - _num_alpha(first))
    if count == 1:
        return None
    order = colour_order(channels) if len(channels) == count == 3 else None
    if order is None:
        raise RefusedSlideError(refusal(count, [channel.get("Name", "") for channel in channels]))
    return order


def colour_order(channels: Sequence[Mapping[str, str]]) -> tuple[int, int, int] | None:
    """Return which of three channels of OME are red, green and blue; None where they are not, or do not say so."""
    names = [channel.get("Name", "").strip() for channel in channels]
    found = [NAMES.get(name.lower()) for name in names]
    if any(NO_NAME.fullmatch(name) is None for name in names) and None in found:
        return None
    if None in found:
        if any(key in channel for channel in channels for key in DYE):
            return None
        found = [_colour(channel.get("Color")) for channel in channels]
    if found == [None] * 3 and all(_is_bright(channel) for channel in channels):
        return (0, 1, 2)
    if sorted(found, key=str) != [0, 1, 2]:
        return None
    return (found.index(0), found.index(1), found.index(2))


def _colour(value: str | None) -> int | None:
    """Which of red, green, blue OME's colour is: RGBA as a signed 32-bit number."""
    try:
        rgba = int(value or "") & 0xFFFFFFFF
    except ValueError:
        return None
    return COLOURS.get((rgba >> 24 & 255, rgba >> 16 & 255, rgba >> 8 & 255))


def _is_bright(channel: Mapping[str, str]) -> bool:
    return channel.get("ContrastMethod") == "Brightfield" or channel.get("IlluminationType") == "Transmitted"


def num_same(tiff: Any) -> int:
    """Return how many directories, the first one included, have the first one's extent and samples (64 at most)."""
    first = tiff.pages.first
    others = (tiff.pages[index] for index in range(1, min(len(tiff.pages), MAX_PAGES)))
    return 1 + sum(page.shape == first.shape and not page.subfiletype & 1 for page in others)


def _num_alpha(page: Any) -> int:
    return sum(int(kind) in (1, 2) for kind in page.extrasamples)


def refusal(count: int, names: Sequence[str]) -> str:
    """Return why ``count`` channels of these names are not read."""
    named = [name for name in names if name]
    if count == 3 and not any(NO_NAME.fullmatch(name) is None for name in named):
        return (
            "its 3 channels do not say that they are red, green and blue; name them so, or export it as RGB "
            "(raw2ometiff --rgb)"
        )
    listed = f" ({', '.join(named[:8])}{' …' if len(named) > 8 else ''})" if named else ""
    return f"its {count} channels{listed} are not the red, green and blue of a stained slide; give a bright-field slide"
