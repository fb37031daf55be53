"""How several stores become one set: which tiles are there, and categories under one list of names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histogen.errors import IncompleteStoreError, StoreError
from histogen.store.layout import TILES
from histogen.store.tile_store import TileStore


def common_tile_px(stores: Sequence[TileStore]) -> int:
    """Return the side that the tiles of all stores share.

    Raises:
        StoreError: there is no store, or two differ.
    """
    if not stores:
        raise StoreError("a tile set needs at least one store; none was given")
    first = stores[0]
    other = next((store for store in stores if store.tile_px != first.tile_px), None)
    if other is not None:
        raise StoreError(
            f"store '{other.path}' has tiles of {other.tile_px} px, '{first.path}' of {first.tile_px} px; "
            "make them with one tile_px"
        )
    return first.tile_px


def check_distinct(stores: Sequence[TileStore]) -> None:
    """Raise a StoreError when two stores have one id: their tiles could not be told apart."""
    seen: dict[str, Path] = {}
    for store in stores:
        if store.store_id in seen:
            raise StoreError(f"'{seen[store.store_id]}' and '{store.path}' are both store '{store.store_id}'; give one")
        seen[store.store_id] = store.path


def present_tiles(store: TileStore, allow_partial: bool) -> NDArray[np.int64] | None:
    """Return the indices of the tiles that are there; None stands for all.

    Raises:
        IncompleteStoreError: shards are missing and ``allow_partial`` is false.
    """
    notes = store.ledger.notes(TILES)
    if len(notes) < store.num_shards and not allow_partial:
        raise IncompleteStoreError(
            f"store '{store.path}' has {len(notes)} of {store.num_shards} shards; finish it with --resume"
        )
    if sum(int(note["count"]) for note in notes.values()) == store.num_tiles:
        return None
    kept = [np.zeros(0, np.int64)]
    for shard in sorted(notes):
        indices = store.shard_range(shard)
        kept.append(indices.start + np.flatnonzero(store.reader.shard(shard).present[: len(indices)]))
    return np.concatenate(kept)


def complete_rows(store: TileStore, group: str) -> list[str]:
    """Return the arrays of ``group`` of which every shard is done."""
    return [name for name in store.list_rows(group) if store.is_complete(f"{group}/{name}")]


def categories_of(store: TileStore, name: str) -> list[str] | None:
    """Return the names of the codes of a column, None when it is not categorical."""
    return store.rows_attributes(f"columns/{name}").get("categories")


def recode(values: NDArray[Any], own: list[str] | None, merged: Mapping[str, int]) -> NDArray[Any]:
    """Return the codes of ``merged`` for codes into ``own``; -1 stays -1.

    Raises:
        StoreError: a code has no name.
    """
    count = len(own or ())
    if values.dtype.kind not in "iu" or (values.size and not (values.min() >= -1 and values.max() < count)):
        raise StoreError(
            f"a column of {count} categories holds other codes than -1 to {count - 1}; make the store again"
        )
    table = np.array([*(merged[name] for name in own or ()), -1], dtype=np.int64)
    return table[values]
