"""One shard file of compressed tiles: built in memory, written whole or not at all."""

from __future__ import annotations

import base64
import hashlib
from array import array
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np

from histogen.files import write_atomic
from histogen.store.layout import ABSENT


def pack_shard(payloads: Sequence[bytes | None], num_entries: int) -> bytes:
    """Return the bytes of a Zarr ``sharding_indexed`` shard: payloads in order, then the index and its CRC-32C.

    ``None`` or empty marks an absent tile; entries beyond ``payloads`` (the last shard's) are absent.
    """
    lengths = np.zeros(num_entries, np.uint64)
    lengths[: len(payloads)] = [len(p) if p else 0 for p in payloads]
    ends = np.cumsum(lengths)
    index = np.full((num_entries, 2), ABSENT, dtype="<u8")
    present = lengths > 0
    index[present, 0] = (ends - lengths)[present]
    index[present, 1] = lengths[present]
    tail = index.tobytes()
    return b"".join([*(p for p in payloads if p), tail, google_crc32c.value(tail).to_bytes(4, "little")])


def write_shard(path: Path, payloads: Sequence[bytes | None], num_entries: int) -> dict[str, Any]:
    """Write a shard atomically and return its note: tiles present, bytes, SHA-256 of the file, CRC-32C of each tile."""
    data = pack_shard(payloads, num_entries)
    sums = np.array([google_crc32c.value(p) if p else 0 for p in payloads], dtype="<u4")
    write_atomic(path, data)
    return {
        "count": sum(bool(p) for p in payloads),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "crc32c": base64.b64encode(sums.tobytes()).decode(),
    }


def tile_sums(note: Mapping[str, Any]) -> array[int] | None:
    """Return the CRC-32C of each tile of a shard by its note; None where the note is of before they were noted.

    Raises:
        ValueError: what the note has in their place is something else.
    """
    if "crc32c" not in note:
        return None
    sums = array("I")
    sums.frombytes(np.frombuffer(base64.b64decode(note["crc32c"], validate=True), "<u4").astype(np.uint32).tobytes())
    return sums
