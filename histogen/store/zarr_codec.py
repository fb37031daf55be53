"""The Zarr v3 codec ``imagecodecs_jpeg``: what lets plain ``zarr.open`` read and write tile stores.

Name and configuration are those of the codec in imagecodecs 2026.5 and later, which needs a newer Python than ours.
zarr finds this class through the entry point ``zarr.codecs`` of the installed package.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer

from histogen.store.jpeg import JpegSettings, decode_jpeg, encode_jpeg
from histogen.store.layout import CODEC_NAME


@dataclass(frozen=True)
class JpegCodec(ArrayBytesCodec):
    """One uint8 image per chunk, [H, W], [H, W, 3] or with leading axes of length one, as a JPEG."""

    settings: JpegSettings
    is_fixed_size = False

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build the codec from its entry in ``zarr.json``."""
        return cls(JpegSettings.from_config(data.get("configuration", {})))

    def to_dict(self) -> dict[str, Any]:
        """Return the codec's entry in ``zarr.json``."""
        return {"name": CODEC_NAME, "configuration": self.settings.to_config()}

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: ArraySpec) -> int:
        """Refuse: the length of a JPEG is not known beforehand."""
        raise NotImplementedError("the length of a JPEG depends on its pixels")

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        payload = chunk_data.to_bytes()
        extent = chunk_spec.shape[-3:] if chunk_spec.shape[-1] == 3 else chunk_spec.shape[-2:]
        into = np.empty(extent, np.uint8)  # what it must be: a JPEG may say that it is of any size
        pixels = await asyncio.to_thread(decode_jpeg, payload, into, self.settings)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(pixels.reshape(chunk_spec.shape))

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        pixels = chunk_data.as_numpy_array()
        image = np.ascontiguousarray(pixels.reshape(pixels.shape[-3:]))
        payload = await asyncio.to_thread(encode_jpeg, image, self.settings)
        return chunk_spec.prototype.buffer.from_bytes(payload)
