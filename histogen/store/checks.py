"""Checks over what is stored: exact duplicates among tiles, and what is not as it was written."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histogen.errors import StoreError
from histogen.store.layout import ROW_GROUPS, TILES, chunk_path
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import HASHING_THREADS, TileStore


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


@dataclass(frozen=True)
class Damage:
    """A unit of a store that is not as it was written: shard ``shard`` of ``array`` (``tiles``, ``embeddings/…``)."""

    store: Path
    array: str
    shard: int
    sentence: str

    def __str__(self) -> str:
        return self.sentence


def damages(store: TileStore) -> list[Damage]:
    """Return what of a store is damaged, tiles, columns, embeddings and latents; reads every byte."""
    arrays = [f"{group}/{name}" for group in ROW_GROUPS for name in store.list_rows(group)]
    return damaged_shards(store) + [damage for array in arrays for damage in damaged_rows(store, array, by_note=True)]


def damaged_shards(store: TileStore) -> list[Damage]:
    """Return the finished shards of tiles whose file is missing or differs from its note; reads every byte."""
    found = []
    for shard, note in store.ledger.notes(TILES).items():
        file = chunk_path(store.path / TILES, shard, 4)
        if not file.is_file():
            found.append(Damage(store.path, TILES, shard, f"shard '{file}' is missing"))
        elif hashlib.sha256(file.read_bytes()).hexdigest() != note["sha256"]:
            found.append(Damage(store.path, TILES, shard, f"shard '{file}' differs from its note"))
    return found


def damaged_rows(store: TileStore, array: str, *, by_note: bool = False) -> list[Damage]:
    """Return the written chunks of a row array that cannot be read as they were written; reads every byte.

    A chunk is compared with its checksum. ``by_note`` compares it with the SHA-256 in its note too, as is always done
    where it has no checksum; a chunk with neither counts as sound.
    """
    rows, notes = store.rows(array), store.ledger.notes(array)
    if array.startswith("columns/"):  # of these there are no notes
        wanted = [shard for shard in range(rows.num_chunks) if rows.chunk_file(shard).exists()]
    else:
        wanted = list(notes)

    def look(shard: int) -> Damage | None:
        try:
            values = rows.chunk(shard)
        except StoreError as error:
            return Damage(store.path, array, shard, str(error))
        digest = notes.get(shard, {}).get("sha256")
        if digest is None or (rows.layout.checksum and not by_note):
            return None
        if hashlib.sha256(values[: len(store.shard_range(shard))]).hexdigest() == digest:  # type: ignore[arg-type]
            return None
        return Damage(store.path, array, shard, str(rows.damaged(shard, "differs from its note")))

    with ThreadPoolExecutor(HASHING_THREADS) as pool:
        return [damage for damage in pool.map(look, wanted) if damage is not None]


def forget_damaged_rows(store: TileStore, array: str) -> list[int]:
    """Take back the notes of the damaged chunks of ``array``, so that they are made anew, and return them, in order."""
    damaged = [damage.shard for damage in damaged_rows(store, array)]
    for shard in damaged:
        store.ledger.forget(array, shard)
    return damaged
