"""JPEG tiles: the settings that a store keeps, encoding and decoding (libjpeg-turbo through imagecodecs).

Decoding releases the GIL, so that threads help. The Zarr codec of the same name is in ``zarr_codec.py``; it is kept
apart because the reading path needs no zarr.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import NDArray

from histogen.errors import ConfigError

SUBSAMPLINGS = ("444", "422", "420", "440", "411", "410", "441")


ADOBE_RGB = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"
"""APP14 segment with colour transform 0: the three components are red, green and blue."""


@dataclass(frozen=True)
class JpegSettings:
    """How the tiles of one store are encoded, and what is needed to decode them.

    The fields are the configuration keys of the Zarr codec ``imagecodecs_jpeg``. ``level`` is libjpeg's quality.
    ``tables`` (a JPEG stream of tables only) and ``colorspace_jpeg`` serve abbreviated streams that were copied
    from a slide; ``None`` lets libjpeg decide.
    """

    level: int | None = 90
    subsampling: str | None = "420"
    tables: bytes | None = None
    header: bytes | None = None
    colorspace_data: str | None = None
    colorspace_jpeg: str | None = None

    def __post_init__(self) -> None:
        """Refuse what libjpeg would clamp or ignore."""
        if self.level is not None and not 1 <= self.level <= 100:
            raise ConfigError(f"JPEG level {self.level} is not between 1 and 100; choose one that is, 90 is usual")
        if self.subsampling is not None and self.subsampling not in SUBSAMPLINGS:
            raise ConfigError(f"JPEG subsampling '{self.subsampling}' is not one of {', '.join(SUBSAMPLINGS)}")

    def to_config(self) -> dict[str, Any]:
        """Return the codec's configuration in ``zarr.json``: what is set, bytes as base64."""
        values = {key: getattr(self, key) for key in self.__dataclass_fields__}
        return {
            k: base64.b64encode(v).decode() if isinstance(v, bytes) else v for k, v in values.items() if v is not None
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> JpegSettings:
        """Read the settings back; keys that only other programs' encoders know are left out."""
        values: dict[str, Any] = {"level": None, "subsampling": None}
        values |= {key: config[key] for key in cls.__dataclass_fields__ if config.get(key) is not None}
        for key in ("tables", "header"):
            if isinstance(values.get(key), str):
                values[key] = base64.b64decode(values[key])
        return cls(**values)

    @property
    def is_plain(self) -> bool:
        """Whether each payload is a complete JPEG file that any decoder reads right."""
        return self.tables is None and self.header is None and self.colorspace_jpeg is None


DEFAULT_JPEG = JpegSettings()


def encode_jpeg(tile: NDArray[np.uint8], settings: JpegSettings = DEFAULT_JPEG) -> bytes:
    """Encode a tile, uint8 RGB [H, W, 3]; the same pixels and settings give the same bytes."""
    payload = imagecodecs.jpeg8_encode(
        np.ascontiguousarray(tile),
        level=settings.level,
        subsampling=settings.subsampling,
        colorspace=settings.colorspace_data,
        outcolorspace=settings.colorspace_jpeg,
    )
    return bytes(payload)


def decode_jpeg(
    payload: bytes, out: NDArray[np.uint8] | None = None, settings: JpegSettings | None = None
) -> NDArray[np.uint8]:
    """Decode one payload to uint8 [H, W, 3], into ``out`` when given.

    Raises:
        imagecodecs.Jpeg8Error: the payload is damaged, or is not of the extent of ``out``.
    """
    if settings is None or settings.is_plain:
        return imagecodecs.jpeg8_decode(payload, out=out)
    if settings.header is not None:
        payload = b"".join((settings.header, payload, b"\xff\xd9"))
    return imagecodecs.jpeg8_decode(
        payload,
        tables=settings.tables,
        colorspace=settings.colorspace_jpeg,
        outcolorspace=settings.colorspace_data,
        out=out,
    )


def complete_jpeg(payload: bytes, settings: JpegSettings) -> bytes:
    """Return ``payload`` as a JPEG file that any decoder reads right, without touching its pixels.

    An abbreviated stream gets its tables, and RGB components get Adobe's marker, which says that they are RGB.
    """
    if settings.is_plain:
        return payload
    if settings.header is not None:
        payload = b"".join((settings.header, payload, b"\xff\xd9"))
    tables = settings.tables[2:-2] if settings.tables is not None else b""  # without start and end of image
    marker = ADOBE_RGB if settings.colorspace_jpeg == "RGB" else b""
    return b"".join((payload[:2], marker, tables, payload[2:]))
