"""What a TIFF says of itself: its resolution, its objective, and in OME-XML its channels."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histogen.geometry import Mpp

MICRONS = {
    "m": 1e6, "meter": 1e6, "metre": 1e6, "dm": 1e5, "cm": 1e4, "centimeter": 1e4, "centimetre": 1e4, "mm": 1e3,
    "millimeter": 1e3, "millimetre": 1e3, "µm": 1.0, "um": 1.0, "micron": 1.0, "micrometer": 1.0, "micrometre": 1.0,
    "nm": 1e-3, "nanometer": 1e-3, "nanometre": 1e-3, "pm": 1e-6, "å": 1e-4, "ångström": 1e-4, "angstrom": 1e-4,
    "inch": 25400.0, "inches": 25400.0, "in": 25400.0, '"': 25400.0, "thou": 25.4, "mil": 25.4, "ft": 304800.0,
}  # fmt: skip
"""Microns of a unit of length, as OME, ImageJ and the tools around them spell it."""


OFFICE_DPI = (600, 720, 1200, 2400)
"""Dots per inch that scanners of paper and their software write, finer than 50 microns."""


def is_tiff(path: Path) -> bool:
    """Whether a file begins as TIFF or BigTIFF files do."""
    with path.open("rb") as file:
        return is_tiff_head(file.read(4))


def is_tiff_head(head: bytes) -> bool:
    """Whether these are the first bytes of a TIFF or BigTIFF."""
    return head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def microns(unit: str) -> float | None:
    """Return the microns of a unit of length, None where it is none; both µ (U+00B5, U+03BC) and both Å are known."""
    name = unit.strip().replace("\\u00B5", "\u00b5").replace("\u03bc", "\u00b5").replace("\u212b", "\u00e5").lower()
    return MICRONS.get(name) or MICRONS.get(name.removesuffix("s"))


def plausible_tag_mpp(x: float, y: float) -> bool:
    """Whether a TIFF resolution tag can be a slide's: scanners' cameras, not the 72 or 300 dpi of office software."""
    office = any(abs(25400 / side / dpi - 1) < 1e-3 for side in (x, y) for dpi in OFFICE_DPI)
    return 0.05 <= x <= 50 and 0.05 <= y <= 50 and not office


def number(text: str | None) -> float | None:
    """A positive number, or None; some files write a decimal comma."""
    try:
        value = float((text or "").replace(",", "."))
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def aperio(description: str) -> tuple[float | None, Mpp | None]:
    """Objective power and mpp of an Aperio description: ``…|AppMag = 20|MPP = 0.4990|…``."""
    values = dict(re.findall(r"\|\s*([^|=]+?)\s*=\s*([^|]*?)\s*(?=\||$)", description))
    power, mpp = number(values.get("AppMag")), number(values.get("MPP"))
    return power, Mpp(mpp, mpp) if mpp else None


@dataclass(frozen=True)
class OmeImage:
    """What OME-XML says of its first image."""

    mpp: Mpp | None = None
    bits: int | None = None
    channels: tuple[Mapping[str, str], ...] = ()
    planes: int = 1
    """Focal planes times points in time."""
    power: float | None = None


def read_ome(xml: str) -> OmeImage:
    """Return what OME-XML says; what it leaves out, or says in an unknown unit, is None. The unit is µm by default."""
    try:
        root = ElementTree.fromstring(xml)
    except ElementTree.ParseError:
        return OmeImage()
    pixels = next((node for node in root.iter() if _name(node) == "Pixels"), None)
    if pixels is None:
        return OmeImage()
    sizes = [number(pixels.get(f"PhysicalSize{axis}")) for axis in "XY"]
    units = [microns(pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XY"]
    lengths = [size * unit for size, unit in zip(sizes, units, strict=True) if size and unit]
    bits, planes = number(pixels.get("SignificantBits")), [number(pixels.get(f"Size{axis}")) or 1 for axis in "ZT"]
    powers = [number(node.get("NominalMagnification")) for node in root.iter() if _name(node) == "Objective"]
    return OmeImage(
        mpp=Mpp(*lengths) if len(lengths) == 2 else None,
        bits=int(bits) if bits else None,
        channels=tuple(dict(node.attrib) for node in pixels if _name(node) == "Channel"),
        planes=int(planes[0] * planes[1]),
        power=powers[0] if len(powers) == 1 else None,
    )


def _name(node: ElementTree.Element) -> str:
    return node.tag.rpartition("}")[2]


def tag_mpp(page: Any) -> Mpp | None:
    """Resolution tags (pixels per inch or centimetre); None where they cannot be a scanner's."""
    return _per_unit(page, {2: 25400.0, 3: 10000.0}.get(_integer(page.resolutionunit) or 0))


def imagej_mpp(page: Any, metadata: Mapping[str, Any]) -> Mpp | None:
    """ImageJ's resolution: the tags count pixels per unit that its description names."""
    unit = metadata.get("unit")
    return _per_unit(page, microns(unit) if isinstance(unit, str) else None)


def _per_unit(page: Any, unit: float | None) -> Mpp | None:
    try:
        across, down = (float(value) for value in page.resolution or (0, 0))
    except (TypeError, ValueError):  # the tag holds text, or one half of a ratio
        return None
    if unit is None or not across > 0 or not down > 0:
        return None
    mpp = Mpp(unit / across, unit / down)
    return mpp if plausible_tag_mpp(mpp.x, mpp.y) else None


def _integer(value: Any) -> int | None:
    try:
        return int(value)
    except (TypeError, ValueError):
        return None
