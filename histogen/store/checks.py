"""Checks over what is stored: exact duplicates among tiles, and shards that differ from their notes."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from histogen.store.layout import TILES, chunk_path
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore


def first_copies(tiles: TileSet) -> NDArray[np.int64]:
    """Return for each tile the index [N] of the first tile with the same bytes; its own when there is none before it.

    Bytes are compared by a hash of 128 bits, 16 bytes of memory per tile. Two JPEGs of the same pixels count as copies
    only when they were encoded alike, as they are when they were cut from the same slide with the same settings.
    """
    digests = np.empty((len(tiles), 2), np.uint64)
    for index in range(len(tiles)):
        digest = hashlib.blake2b(tiles.read_payload(index), digest_size=16).digest()
        digests[index] = np.frombuffer(digest, np.uint64)
    keys = digests.view(np.dtype((np.void, 16))).ravel()
    _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
    return first[inverse].astype(np.int64)


def damaged_shards(store: TileStore) -> list[str]:
    """Return a sentence for each finished shard whose file is missing or differs from its note; reads every byte."""
    sentences = []
    for shard, note in store.ledger.notes(TILES).items():
        file = chunk_path(store.path / TILES, shard, 4)
        if not file.is_file():
            sentences.append(f"shard '{file}' is missing; run what made it with --resume")
        elif hashlib.sha256(file.read_bytes()).hexdigest() != note["sha256"]:
            sentences.append(f"shard '{file}' differs from its note; run what made it with --resume")
    return sentences
