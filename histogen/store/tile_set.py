"""Many tile stores as one indexable set, without torch or zarr."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from histogen.errors import StoreError
from histogen.names import other_spelling
from histogen.remote import is_remote
from histogen.store.find import find_stores
from histogen.store.layout import unpack_text
from histogen.store.merging import (
    categories_of,
    check_distinct,
    common_tile_px,
    complete_rows,
    present_tiles,
    recode,
)
from histogen.store.tile_store import TileStore

if TYPE_CHECKING:
    from torch.utils.data import Dataset

STORES_AT_A_TIME = 16
"""On object storage."""

R = TypeVar("R")
Paths = Path | str | Sequence[Path | str]
Where = Mapping[str, Any]


class TileSet:
    """The tiles of several stores in order, absent ones left out; index 0 … N-1.

    It holds paths and indices only: pickling and forking are cheap and safe.
    """

    def __init__(self, stores: Sequence[TileStore], selected: Sequence[NDArray[np.int64] | None]) -> None:
        self.stores = tuple(stores)
        self._selected = tuple(selected)
        counts = [s.num_tiles if i is None else len(i) for s, i in zip(stores, selected, strict=True)]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._num_tiles = int(self._starts[-1])
        self.tile_px = common_tile_px(self.stores)

    @classmethod
    def open_(cls, paths: Paths, *, where: Where | None = None, allow_partial: bool = False) -> TileSet:
        """Open a store, a folder of stores, a manifest of stores (.csv), or several of these.

        ``where`` keeps the tiles whose columns have the given value or one of the given values, for example
        ``{"split": "train", "label": ["tumour", "stroma"]}``; categories by name. ``allow_partial`` leaves out the
        tiles of shards that are not there yet.

        Raises:
            StoreError: nothing is found, tile sizes differ, a column is missing, or ``where`` leaves no tile.
            IncompleteStoreError: a store is not finished and ``allow_partial`` is false.
        """
        stores = list(_of_each(TileStore.open_, find_stores(paths)))
        check_distinct(stores)
        tiles = cls(stores, list(_of_each(lambda store: present_tiles(store, allow_partial), stores)))
        chosen = tiles.where(where) if where else tiles
        if where and not len(chosen):
            raise StoreError(f"none of {len(tiles):,} tiles has {dict(where)}; check where")
        return chosen

    def __len__(self) -> int:
        return self._num_tiles

    def __repr__(self) -> str:
        return f"TileSet({len(self)} tiles of {self.tile_px} px from {len(self.stores)} stores)"

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of the stores, each once."""
        return tuple(sorted({store.kind for store in self.stores}))

    # which tile of which store

    def store_of(self, indices: ArrayLike) -> NDArray[np.int64]:
        """Return the position in ``stores`` of each tile."""
        return np.searchsorted(self._starts, self._checked(indices), side="right") - 1

    def tile_index_of(self, indices: ArrayLike) -> NDArray[np.int64]:
        """Return the index of each tile in its own store."""
        wanted = self._checked(indices)
        owners = self.store_of(wanted)
        local = wanted - self._starts[owners]
        if all(selected is None for selected in self._selected):
            return local
        for owner, here in grouped(owners):
            selected = self._selected[owner]
            if selected is not None:
                local[here] = selected[local[here]]
        return local

    def range_of(self, position: int) -> range:
        """Return the indices of the tiles of the store at ``position`` in ``stores``."""
        return range(int(self._starts[position]), int(self._starts[position + 1]))

    def ids(self, indices: ArrayLike | None = None) -> list[str]:
        """Return ``"<store_id>:<index in the store>"`` of each tile."""
        wanted = self._all(indices)
        names = [store.store_id for store in self.stores]
        pairs = zip(self.store_of(wanted).tolist(), self.tile_index_of(wanted).tolist(), strict=True)
        return [f"{names[owner]}:{index}" for owner, index in pairs]

    def index_of(self, store_id: str, tile_index: int) -> int:
        """Return the index in this set of tile ``tile_index`` of store ``store_id``.

        Raises:
            StoreError: the set has no such store or tile.
        """
        owner = self._owner_of_id.get(store_id)
        if owner is None:
            raise StoreError(f"store '{store_id}' is not in this set of {len(self.stores)} stores; open it too")
        selected = self._selected[owner]
        local = int(tile_index) if selected is None else int(np.searchsorted(selected, tile_index))
        size = int(self._starts[owner + 1] - self._starts[owner])
        if not 0 <= local < size or (selected is not None and selected[local] != tile_index):
            raise StoreError(f"tile {tile_index} of store '{store_id}' is not in this set")
        return int(self._starts[owner]) + local

    def subset(self, indices: ArrayLike) -> TileSet:
        """Return the set of these tiles, in store order, each once."""
        wanted = np.unique(self._checked(indices))
        owners, local = self.store_of(wanted), self.tile_index_of(wanted)
        bounds = np.searchsorted(owners, np.arange(len(self.stores) + 1))
        parts = [(s, local[a:b]) for s, a, b in zip(self.stores, bounds[:-1], bounds[1:], strict=True) if b > a]
        return TileSet([s for s, _ in parts] or self.stores[:1], [p for _, p in parts] or [np.zeros(0, np.int64)])

    def where(self, conditions: Where) -> TileSet:
        """Return the tiles whose columns have the given value, or one of the given values.

        Values of a categorical column are names; ``1`` is the name '1'.

        Raises:
            StoreError: no tile can have such a value.
        """
        keep = np.ones(len(self), bool)
        for name, wanted in conditions.items():
            values = [wanted] if isinstance(wanted, str) or not isinstance(wanted, Sequence) else list(wanted)
            keep &= np.isin(self.column(name), self._codes(name, values))
        return self.subset(np.flatnonzero(keep))

    # pixels

    def read_payload(self, index: int) -> bytes:
        """Return the JPEG of tile ``index`` as stored."""
        store, local = self._locate(index)
        return store.read_payload(local)

    def __getitem__(self, index: int) -> NDArray[np.uint8]:
        """Return tile ``index``, uint8 RGB [H, W, 3]."""
        store, local = self._locate(index)
        return store.read_tile(local)

    def read_tiles(
        self, indices: ArrayLike, *, threads: int = 1, out: NDArray[np.uint8] | None = None
    ) -> NDArray[np.uint8]:
        """Return tiles, uint8 RGB [B, H, W, 3], in the order asked for; into ``out`` when given."""
        wanted = self._checked(indices)
        if out is None:
            out = np.empty((len(wanted), self.tile_px, self.tile_px, 3), np.uint8)
        owners, local = self.store_of(wanted).tolist(), self.tile_index_of(wanted).tolist()
        if any(self.stores[owner].reader.is_remote for owner in set(owners)):
            return self._read_remote(owners, local, threads, out)

        def read(part: range) -> None:
            for k in part:
                self.stores[owners[k]].read_tile(local[k], out[k])

        if threads <= 1:
            read(range(len(wanted)))
        else:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(read, [range(t, len(wanted), threads) for t in range(threads)]))
        return out

    def _read_remote(
        self, owners: list[int], local: list[int], threads: int, out: NDArray[np.uint8]
    ) -> NDArray[np.uint8]:
        """Read tiles of which some are on object storage: those of several stores at the same time."""
        places = {owner: here.tolist() for owner, here in grouped(np.array(owners, np.int64))}

        def read(owner: int) -> None:
            own = places[owner]
            pixels = np.empty((len(own), self.tile_px, self.tile_px, 3), np.uint8)
            self.stores[owner].read_tiles([local[k] for k in own], pixels, pool)
            out[own] = pixels

        with ThreadPoolExecutor(max(1, threads)) as pool, ThreadPoolExecutor(STORES_AT_A_TIME) as stores:
            list(stores.map(read, places))
        return out

    # what is known of each tile

    def has_column(self, name: str) -> bool:
        """Whether every store has column ``name``."""
        return all(_of_each(lambda store: (store.path / "columns" / name / "zarr.json").exists(), self.stores))

    def column(self, name: str) -> NDArray[Any]:
        """Return column ``name`` [N] (or [N, k]); codes of a categorical column refer to :meth:`categories`."""
        merged = self._merged_categories(name)
        codes = None if merged is None else {one: code for code, one in enumerate(merged)}

        def read(store: TileStore, selected: NDArray[np.int64] | None) -> NDArray[Any]:
            values = store.read_rows(f"columns/{name}", selected)
            return values if codes is None else recode(values, categories_of(store, name), codes)

        return np.concatenate(list(_of_each(read, self.stores, self._selected)))

    def categories(self, name: str) -> list[str]:
        """Return the names of the codes of column ``name``, merged over the stores; empty when not categorical."""
        return self._merged_categories(name) or []

    def texts(self, name: str) -> list[str]:
        """Return a text column, for example ``path``, as strings."""
        parts = _of_each(lambda store, rows: store.read_rows(f"columns/{name}", rows), self.stores, self._selected)
        return [text for part in parts for text in unpack_text(part)]

    def read_rows(self, path: str, indices: ArrayLike | None = None) -> NDArray[Any]:
        """Return rows of ``path`` (``embeddings/…``, ``latents/…``, ``columns/…``) in the order asked for.

        Categorical columns come with their own store's codes; use :meth:`column` for merged ones.
        """
        wanted = self._all(indices)
        owners, local = self.store_of(wanted), self.tile_index_of(wanted)
        out: NDArray[Any] | None = None
        groups = list(grouped(owners))
        stores, places = [self.stores[owner] for owner, _ in groups], [here for _, here in groups]
        read = _of_each(lambda store, here: store.read_rows(path, local[here]), stores, places)
        for here, values in zip(places, read, strict=True):
            if out is None:
                out = np.empty((len(wanted), *values.shape[1:]), values.dtype)
            elif out.shape[1:] != values.shape[1:]:
                raise StoreError(f"rows '{path}' are {out.shape[1:]} and {values.shape[1:]} in two stores; remake one")
            out[here] = values
        return np.empty((0, *self.stores[0].rows(path).layout.row_shape), np.float32) if out is None else out

    @property
    def embedding_names(self) -> list[str]:
        """Encoders whose embeddings every store has, complete."""
        names = set.intersection(*_of_each(lambda store: set(complete_rows(store, "embeddings")), self.stores))
        return sorted(names)

    def embeddings(self, name: str | None = None) -> NDArray[np.float32]:
        """Return the embeddings float32 [N, D] by encoder ``name``, which may be left out when there is one only.

        Raises:
            StoreError: a store has none by that name, or it must be said which.
        """
        known = self.embedding_names
        if name is None and not known:
            raise StoreError("not every store has embeddings by one encoder; run embed")
        if name is None and len(known) > 1:
            raise StoreError(f"these stores have embeddings by {', '.join(known)}; say which (--encoder)")
        if name is not None and name not in known:
            raise StoreError(f"not every store has complete embeddings by '{name}' (all have: {known}); run embed")
        return self.read_rows(f"embeddings/{name or known[0]}").astype(np.float32, copy=False)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over the stores' content hashes and which tiles are selected."""
        digest = hashlib.sha256()
        for store, selected in zip(self.stores, self._selected, strict=True):
            digest.update(store.content_hash.encode())
            digest.update(b"all" if selected is None else selected.astype("<i8").tobytes())
        return digest.hexdigest()

    def as_torch_dataset(self) -> Dataset[Any]:
        """Return a map-style torch dataset of uint8 tensors [3, H, W]; torch is imported here."""
        from histogen.store.torch_view import TorchTiles

        return TorchTiles(self)

    # inner

    def _locate(self, index: int) -> tuple[TileStore, int]:
        if not -self._num_tiles <= index < self._num_tiles:
            raise IndexError(f"tile {index} of {self._num_tiles}")
        index = index % self._num_tiles
        owner = int(self._starts.searchsorted(index, side="right")) - 1
        local = index - int(self._starts[owner])
        selected = self._selected[owner]
        return self.stores[owner], local if selected is None else int(selected[local])

    def _checked(self, indices: ArrayLike) -> NDArray[np.int64]:
        wanted = np.atleast_1d(np.asarray(indices, dtype=np.int64))
        if wanted.size and not (int(wanted.min()) >= 0 and int(wanted.max()) < self._num_tiles):
            raise IndexError(f"tiles {wanted.min()} to {wanted.max()} of {self._num_tiles}")
        return wanted

    def _all(self, indices: ArrayLike | None) -> NDArray[np.int64]:
        return np.arange(self._num_tiles) if indices is None else self._checked(indices)

    @cached_property
    def _owner_of_id(self) -> dict[str, int]:
        return {store.store_id: position for position, store in enumerate(self.stores)}

    def _merged_categories(self, name: str) -> list[str] | None:
        lists = list(_of_each(lambda store: categories_of(store, name), self.stores))
        if all(names is None for names in lists):
            return None
        return list(dict.fromkeys(name for names in lists for name in names or ()))

    def _codes(self, name: str, values: Sequence[Any]) -> list[Any]:
        names = self._merged_categories(name)
        if names is None:
            wrong = [value for value in values if isinstance(value, str | bool)]
            if wrong:
                raise StoreError(f"column '{name}' has no value {wrong[0]!r}; it has numbers only")
            return list(values)
        # a number is the name that looks like it, never a code: which class has which code is nobody's choice
        values = [str(value) for value in values]
        unknown = [value for value in values if value not in names]
        if unknown:
            shown = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
            raise StoreError(f"column '{name}' has no value '{unknown[0]}'; it has {shown}")
        for value in values if name == "split" else ():
            other = other_spelling(value, names)
            if other is not None and other not in values:
                raise StoreError(
                    f"column 'split' has '{other}' beside '{value}'; write where={{split: [{value}, {other}]}} to have "
                    "both, or spell them alike where the tiles were made from"
                )
        return [names.index(value) for value in values]


def _of_each(function: Callable[..., R], stores: Sequence[Any], *more: Sequence[Any]) -> Iterator[R]:
    """Return ``function`` of each store, or path of one, and its part of ``more``; on object storage many at once."""
    if any(is_remote(getattr(store, "path", store)) for store in stores):
        with ThreadPoolExecutor(STORES_AT_A_TIME) as pool:
            yield from pool.map(function, stores, *more)
    else:
        yield from map(function, stores, *more)


def grouped(owners: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Return each of ``owners`` once, ascending, and where it stands, int64 ascending; one sort, however many."""
    order = np.argsort(owners, kind="stable")
    found, starts = np.unique(owners[order], return_index=True)
    bounds = [*starts.tolist(), len(order)]
    for number, owner in enumerate(found.tolist()):
        yield owner, order[bounds[number] : bounds[number + 1]]


def open_tiles(paths: Paths, *, where: Where | None = None, allow_partial: bool = False) -> TileSet:
    """Open tile stores as one set; see :meth:`TileSet.open_`."""
    return TileSet.open_(paths, where=where, allow_partial=allow_partial)
