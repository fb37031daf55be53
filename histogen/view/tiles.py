"""All tiles of all stores under one number each, and what their columns say; a store may grow or be torn meanwhile.

The number of a tile is the start of its store plus its row: it stays the same whichever tiles are there.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histogen.errors import HistogenError, StoreError
from histogen.store.jpeg import complete_jpeg
from histogen.store.layout import unpack_text
from histogen.store.row_array import RowArray
from histogen.store.tile_store import TileStore
from histogen.view.bounded import Bounded

HIDDEN = frozenset({"content_hash"})
"""Columns that say nothing to anybody who looks."""
EMBEDDING_BYTES = 256 * 2**20
"""Of embeddings that are kept in memory."""
BUILT_IN = ("kind", "store", "slide")


class Tiles:
    """The tiles of ``stores``, numbered 0 … N-1; ``problems`` collects a sentence for what could not be read."""

    def __init__(self, stores: Sequence[TileStore]) -> None:
        self.stores = tuple(stores)
        counts = [store.num_tiles for store in stores]
        self.starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self.problems: dict[str, None] = {}
        self.embeddings: Bounded[NDArray[np.float32]] = Bounded(EMBEDDING_BYTES, lambda values: values.nbytes)
        self.blocks = _blocks()
        self.is_frozen = False
        """Whether stores are taken not to change any more, as while a page is exported."""
        self._sample: NDArray[np.int64] | None = None
        self._listed: dict[tuple[int, str], tuple[int, list[str]]] = {}
        self._rows: dict[tuple[int, str], RowArray] = {}

    def __len__(self) -> int:
        return int(self.starts[-1])

    def keep_only(self, numbers: NDArray[np.int64]) -> None:
        """Show these tiles (ascending) and no others, a sample that is exported; :meth:`present` is of all still."""
        self._sample, self.blocks = numbers, _blocks()

    @property
    def is_sample(self) -> bool:
        """Whether only some tiles are shown."""
        return self._sample is not None

    def kept(self, position: int) -> NDArray[np.bool_]:
        """Return which tiles of a store may be shown, bool [n]: all, or those of the sample."""
        low, high = int(self.starts[position]), int(self.starts[position + 1])
        if self._sample is None:
            return np.ones(high - low, bool)
        return np.isin(np.arange(low, high), self._sample, assume_unique=True)

    def is_kept(self, number: int) -> bool:
        """Whether a tile may be shown."""
        if self._sample is None:
            return True
        place = int(np.searchsorted(self._sample, number))
        return place < len(self._sample) and bool(self._sample[place] == number)

    def locate(self, number: int) -> tuple[int, int]:
        """Return the position of the tile's store, and its row there.

        Raises:
            StoreError: there is no such tile.
        """
        if not 0 <= number < len(self):
            raise StoreError(f"tile {number} is asked for, of {len(self)}; reload the page")
        position = int(np.searchsorted(self.starts, number, side="right")) - 1
        return position, number - int(self.starts[position])

    def number_of(self, store_id: str, row: int) -> int | None:
        """Return the number of a tile by its store's id; None where the store is not among these."""
        position = self._positions.get(store_id)
        inside = position is not None and 0 <= row < self.stores[position].num_tiles
        return int(self.starts[position]) + row if position is not None and inside else None

    def payload(self, number: int) -> bytes:
        """Return the JPEG file of a tile, its pixels as they are stored.

        Raises:
            StoreError: it is absent, damaged, or not there yet.
        """
        position, row = self.locate(number)
        store = self.stores[position]
        return complete_jpeg(store.read_payload(row), store.jpeg)

    def pixels(self, number: int) -> NDArray[np.uint8]:
        """Return a tile, uint8 RGB [H, W, 3].

        Raises:
            StoreError: as :meth:`payload`, or it does not decode.
        """
        position, row = self.locate(number)
        return self.stores[position].read_tile(row)

    def present(self, position: int) -> NDArray[np.bool_]:
        """Return which tiles of a store are there, bool [n]; those of shards that cannot be read are not."""
        store = self.stores[position]
        found = np.zeros(store.num_tiles, bool)
        for shard in range(store.num_shards):
            rows = store.shard_range(shard)
            try:
                found[rows.start : rows.stop] = store.reader.shard(shard).present[: len(rows)]
            except HistogenError as error:
                self.note(error)
        return found

    def note(self, error: HistogenError) -> None:
        """Keep the sentence of an error, once, for the page to say."""
        self.problems[str(error)] = None

    # columns

    def rows_in(self, position: int, group: str) -> list[str]:
        """Return the arrays in ``columns`` or ``embeddings`` of a store; listed again when one was added."""
        store = self.stores[position]
        if self.is_frozen and (position, group) in self._listed:
            return self._listed[position, group][1]
        try:
            changed = (store.path / group).stat().st_mtime_ns
        except OSError:
            return []
        known, names = self._listed.get((position, group), (None, []))
        if known != changed:
            names = store.list_rows(group)
            if len(names) == sum(child.is_dir() for child in (store.path / group).iterdir()):  # none is being made
                self._listed[position, group] = changed, names
        return names

    def _open_rows(self, position: int, path: str) -> RowArray:
        if (position, path) not in self._rows:
            self._rows[position, path] = self.stores[position].rows(path)
        return self._rows[position, path]

    @cached_property
    def columns(self) -> dict[str, str]:
        """Columns that can colour tiles, to their type: ``category`` or ``number``; in order of first appearance."""
        found: dict[str, str] = dict.fromkeys(BUILT_IN, "category")
        for position, store in enumerate(self.stores):
            for name in self.rows_in(position, "columns"):
                if name in found or name in HIDDEN:
                    continue
                kind = self._type_of(store, name)
                if kind is not None:
                    found[name] = kind
        return found

    def forget_columns(self) -> None:
        """Look for columns again: one was added."""
        self.__dict__.pop("columns", None)
        self._rows.clear()

    def _type_of(self, store: TileStore, name: str) -> str | None:
        try:
            layout = store.rows(f"columns/{name}").layout
        except HistogenError as error:
            self.note(error)
            return None
        if layout.row_shape or "text" in layout.attributes:
            return None
        return "category" if "categories" in layout.attributes else "number"

    def categories(self, name: str, positions: Sequence[int] | None = None) -> list[str]:
        """Return the names of a category column, merged over stores in order; empty for numbers."""
        if self.columns.get(name) != "category":
            return []
        chosen = range(len(self.stores)) if positions is None else positions
        return list(dict.fromkeys(one for position in chosen for one in self._names(position, name)))

    def column(self, name: str, position: int, names: Sequence[str]) -> NDArray[Any]:
        """Return a column of one store: codes int32 [n] into ``names`` (-1: none), or numbers float32 [n] (NaN: none).

        Raises:
            StoreError: no store has such a column.
        """
        if name not in self.columns:
            raise StoreError(f"no store has a column '{name}'; reload the page")
        store = self.stores[position]
        is_category = self.columns[name] == "category"
        if name in BUILT_IN:
            return np.full(store.num_tiles, list(names).index(self._names(position, name)[0]), np.int32)
        values = self._read(store, f"columns/{name}")
        if values is None or values.ndim != 1:
            return np.full(store.num_tiles, -1 if is_category else np.nan, np.int32 if is_category else np.float32)
        if not is_category:
            return values.astype(np.float32)
        places = {one: code for code, one in enumerate(names)}
        own = self._names(position, name)
        table = np.array([*(places.get(one, -1) for one in own), -1], np.int32)
        return np.asarray(table[np.where((values >= 0) & (values < len(own)), values, -1)])

    def _names(self, position: int, name: str) -> list[str]:
        store = self.stores[position]
        if name == "kind":
            return [store.kind]
        if name == "store":
            return [store.store_id]
        if name == "slide":
            return [slide_of(store)]
        try:
            return list(store.rows_attributes(f"columns/{name}").get("categories", []))
        except HistogenError:
            return []

    def _read(self, store: TileStore, path: str) -> NDArray[Any] | None:
        if not (store.path / path / "zarr.json").exists():
            return None
        try:
            return store.read_rows(path)
        except HistogenError as error:
            self.note(error)
            return None

    def row(self, number: int, only: Collection[str] | None = None) -> dict[str, Any]:
        """Return what every column, or ``only`` these, says of one tile, categories and texts as strings."""
        position, row = self.locate(number)
        said: dict[str, Any] = {}
        for name in self.rows_in(position, "columns"):
            if only is not None and name not in only:
                continue
            try:
                rows = self._open_rows(position, f"columns/{name}")
                value, attributes = rows.read([row])[0], rows.layout.attributes
            except HistogenError as error:
                self.note(error)
                continue
            if "categories" in attributes:
                names = attributes["categories"]
                value = names[value] if 0 <= value < len(names) else None
            elif "text" in attributes:
                value = unpack_text(value[None])[0]
            said[name] = value
        return said

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {store.store_id: position for position, store in enumerate(self.stores)}


def _blocks() -> Bounded[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    return Bounded(EMBEDDING_BYTES, lambda block: block[0].nbytes + block[1].nbytes)


def slide_of(store: TileStore) -> str:
    """Return the id of the slide that a store was cut from, or whose tiles its own were made from."""
    said = store.provenance.get("slide")
    if isinstance(said, dict) and isinstance(said.get("slide_id"), str):
        return str(said["slide_id"])
    return store.store_id.removesuffix(f"-{store.kind}")
