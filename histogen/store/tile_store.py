"""One tile store: the tiles of one slide (or of one folder of images), their columns, embeddings and latents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from histogen.errors import StoreError
from histogen.remote import as_path, remove_tree
from histogen.store import layout
from histogen.store.jpeg import DEFAULT_JPEG, JpegSettings, decode_jpeg
from histogen.store.layout import TILES, ArrayLayout, Column, as_column
from histogen.store.ledger import Ledger
from histogen.store.random_access import ShardReader, forget_shards
from histogen.store.row_array import RowArray
from histogen.store.shard_file import write_shard

HASHING_THREADS = 4


class TileStore:
    """A Zarr v3 group of tiles, uint8 RGB [N, H, W, 3], and what is known of each. See :mod:`.layout`."""

    def __init__(self, path: Path, attributes: Mapping[str, Any], jpeg: JpegSettings) -> None:
        self.path = path
        self.attributes = dict(attributes)
        self.jpeg = jpeg
        self.kind: str = attributes["kind"]
        self.store_id: str = attributes["store_id"]
        self.tile_px: int = attributes["tile_px"]
        self.mpp: float | None = attributes["mpp"]
        self.num_tiles: int = attributes["num_tiles"]
        self.shard_tiles: int = attributes["shard_tiles"]
        self.provenance: dict[str, Any] = attributes["provenance"]
        self.reader = ShardReader(path / TILES, self.num_tiles, self.shard_tiles)
        self.ledger = Ledger(path / "ledger")

    @classmethod
    def create(
        cls,
        path: Path,
        *,
        kind: str,
        store_id: str,
        tile_px: int,
        mpp: float | None,
        num_tiles: int,
        provenance: Mapping[str, Any],
        jpeg: JpegSettings = DEFAULT_JPEG,
        columns: Mapping[str, Column | ArrayLike] | None = None,
    ) -> TileStore:
        """Write all metadata and the columns of a new store, the root last, so that it opens only when whole.

        ``mpp`` is in microns per pixel, None where pixels have no physical size. ``columns`` are [N] or [N, k].
        Creating the same store again is harmless.

        Raises:
            StoreError: a value cannot be used, or another store is there already.
        """
        attributes = {
            "format": layout.FORMAT,
            "kind": kind,
            "store_id": layout.check_name(store_id, "store id"),
            "tile_px": int(tile_px),
            "mpp": None if mpp is None else float(mpp),
            "num_tiles": int(num_tiles),
            "shard_tiles": layout.shard_tiles_of(num_tiles),
            "provenance": dict(provenance),
        }
        if kind not in layout.KINDS:
            raise StoreError(f"kind '{kind}' of store '{store_id}' is not one of {', '.join(layout.KINDS)}")
        if tile_px <= 0 or num_tiles < 0:
            raise StoreError(f"store '{store_id}' cannot have {num_tiles} tiles of {tile_px} px")
        store = cls(path, attributes, jpeg)
        store._check_absent_or_same()
        for group in layout.ROW_GROUPS:
            layout.write_metadata(path / group, layout.group_metadata())
        layout.write_metadata(path / "ledger", layout.ledger_metadata())
        layout.write_metadata(path / TILES, layout.tiles_metadata(num_tiles, tile_px, jpeg.to_config()))
        for name, values in (columns or {}).items():
            store.write_column(name, values)
        layout.write_metadata(path, layout.group_metadata({"histogen": attributes}))
        return store

    @classmethod
    def open_(cls, path: Path | str) -> TileStore:
        """Open a store without reading a tile.

        Raises:
            StoreError: it is not a tile store, or its metadata are malformed.
        """
        path = as_path(path)
        said = layout.read_metadata(path).get("attributes")
        attributes = said.get("histogen") if isinstance(said, Mapping) else None
        if attributes is None:
            raise StoreError(f"'{path}' is a Zarr store but not a tile store of histogen; check the path")
        layout.check_attributes(attributes, path)
        try:
            tiles = layout.read_metadata(path / TILES)
            shape = tuple(tiles["shape"])
            codec = tiles["codecs"][0]["configuration"]["codecs"][0]
            store, name = cls(path, attributes, JpegSettings.from_config(codec["configuration"])), codec["name"]
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise StoreError(f"store '{path}' has malformed metadata of its tiles ({error}); make it again") from error
        expected = (store.num_tiles, store.tile_px, store.tile_px, 3)
        if shape != expected or name != layout.CODEC_NAME:
            raise StoreError(f"store '{path}' has tiles {shape} as {name}, its attributes say {expected}")
        return store

    def __repr__(self) -> str:
        return f"TileStore('{self.path}', {self.kind}, {self.num_tiles} tiles of {self.tile_px} px)"

    @property
    def content_hash(self) -> str:
        """SHA-256 over the store's id, its number of tiles and the notes of its shards."""
        facts = [self.store_id, self.num_tiles, self.ledger.notes(TILES)]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    @property
    def num_shards(self) -> int:
        """Number of shards, the last one perhaps not full."""
        return -(-self.num_tiles // self.shard_tiles)

    def shard_range(self, shard: int) -> range:
        """Return the tile indices of ``shard``.

        Raises:
            StoreError: there is no such shard.
        """
        if not 0 <= shard < self.num_shards:
            raise StoreError(f"shard {shard} is asked of store '{self.store_id}', which has {self.num_shards}")
        start = shard * self.shard_tiles
        return range(start, min(start + self.shard_tiles, self.num_tiles))

    # tiles

    def write_tiles(self, shard: int, payloads: Sequence[bytes | None]) -> dict[str, Any]:
        """Write the JPEGs of one shard atomically and return its note for :meth:`commit`; None is an absent tile.

        Raises:
            StoreError: there are not as many payloads as the shard has tiles.
        """
        expected = len(self.shard_range(shard))
        if len(payloads) != expected:
            raise StoreError(
                f"shard {shard} of store '{self.store_id}' has {expected} tiles, {len(payloads)} were given"
            )
        path = layout.chunk_path(self.path / TILES, shard, 4)
        self.ledger.forget(TILES, shard)  # of what was there before
        note = write_shard(path, payloads, self.shard_tiles)
        forget_shards(path)
        return note

    def read_payload(self, index: int) -> bytes:
        """Return the JPEG of tile ``index`` as stored; see :func:`histogen.store.jpeg.complete_jpeg` for copied ones.

        Raises:
            StoreError: out of range, absent, or damaged; IncompleteStoreError when its shard is not there yet.
        """
        if not 0 <= index < self.num_tiles:
            raise StoreError(f"tile {index} is asked of store '{self.store_id}', which has {self.num_tiles}")
        payload = self.reader.payload(index)
        if not payload:
            raise StoreError(f"tile {index} of store '{self.store_id}' is absent; leave it out (see tile_ok)")
        return payload

    def read_tile(self, index: int, out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
        """Return tile ``index``, uint8 RGB [H, W, 3].

        Raises:
            StoreError: as :meth:`read_payload`, or its JPEG does not decode.
        """
        return self._decoded(index, self.read_payload(index), out)

    def read_tiles(self, indices: Sequence[int], out: NDArray[np.uint8], pool: Executor) -> None:
        """Read tiles into ``out``, uint8 RGB [B, H, W, 3], by the threads of ``pool``; errors as :meth:`read_tile`."""
        if not self.reader.is_remote:
            list(pool.map(lambda k: self.read_tile(indices[k], out[k]), range(len(indices))))
            return
        payloads = self.reader.payloads(indices)
        if b"" in payloads:
            self.read_payload(indices[payloads.index(b"")])  # which says that it is absent
        list(pool.map(lambda k: self._decoded(indices[k], payloads[k], out[k]), range(len(indices))))

    def _decoded(self, index: int, payload: bytes, out: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
        if out is None:  # decoded into what it must be: a JPEG may say that it is of any size
            out = np.empty((self.tile_px, self.tile_px, 3), np.uint8)
        try:
            return decode_jpeg(payload, out, self.jpeg)
        except (imagecodecs.Jpeg8Error, ValueError) as error:
            raise StoreError(
                f"tile {index} of store '{self.path}' does not decode as {self.tile_px} px RGB ({error}); remake it"
            ) from error

    @cached_property
    def tile_ok(self) -> NDArray[np.bool_]:
        """Which tiles are there, bool [N]; reads the index of every shard."""
        shards = [self.reader.shard(s).present[: len(self.shard_range(s))] for s in range(self.num_shards)]
        return np.concatenate(shards) if shards else np.zeros(0, bool)

    # rows: columns, embeddings, latents

    def create_rows(
        self,
        path: str,
        shape: Sequence[int],
        dtype: DTypeLike,
        *,
        attributes: Mapping[str, Any] | None = None,
        fill: float = 0,
        chunk_rows: int | None = None,
    ) -> None:
        """Make the row array ``path`` (for example ``embeddings/dino-ab12``) of ``shape`` [N, …]; its rows are absent.

        A chunk holds the rows of a shard of tiles, or ``chunk_rows``.

        Raises:
            StoreError: the shape does not begin with N, or an array with other metadata is there already.
        """
        self._check_rows(path)
        if not shape or shape[0] != self.num_tiles:
            raise StoreError(
                f"rows '{path}' of shape {tuple(shape)} do not fit store '{self.store_id}' of {self.num_tiles}"
            )
        rows = chunk_rows or self.shard_tiles
        array = ArrayLayout(tuple(shape), np.dtype(dtype), rows, fill, dict(attributes or {}))
        folder = self.path / path
        before = [replace(array, shard_rows=r, checksum=c) for r in (rows, self.shard_tiles) for c in (True, False)]
        if not (folder / "zarr.json").exists():
            layout.write_metadata(folder, array.metadata())
        elif layout.read_metadata(folder) not in [one.metadata() for one in before]:
            raise StoreError(f"rows '{path}' of store '{self.path}' are there with other metadata; use another name")

    def _check_rows(self, path: str) -> None:
        """Refuse a path of rows that leads elsewhere."""
        group, _, name = path.partition("/")
        if group not in layout.ROW_GROUPS:
            raise StoreError(f"rows '{path}' are in none of {', '.join(layout.ROW_GROUPS)}; begin the path with one")
        layout.check_name(name, "array")

    def write_rows(self, path: str, shard: int, values: ArrayLike) -> None:
        """Write the rows of one shard of ``path``, atomically."""
        self.rows(path).write(shard, values)

    def write_all_rows(self, path: str, values: ArrayLike) -> None:
        """Write every row of ``path``."""
        values, rows = np.asarray(values), self.rows(path)
        if len(values) != self.num_tiles:
            raise StoreError(f"{len(values)} rows do not fit '{path}' of store '{self.store_id}' of {self.num_tiles}")
        rows.write_all(values)

    def delete_rows(self, path: str) -> None:
        """Delete the row array ``path`` and its notes, the notes first; harmless when it is not there."""
        self._check_rows(path)
        for folder in (self.path / "ledger" / path, self.path / path):
            remove_tree(folder)

    def write_column(self, name: str, values: Column | ArrayLike) -> None:
        """Make the column ``name`` and write all of it."""
        column = as_column(values)
        self.create_rows(
            f"columns/{name}", column.values.shape, column.values.dtype, attributes=column.attributes,
            chunk_rows=None if column.by_shard else layout.column_rows_of(self.num_tiles),
        )  # fmt: skip
        self.write_all_rows(f"columns/{name}", column.values)

    def read_rows(self, path: str, indices: ArrayLike | None = None) -> NDArray[Any]:
        """Return rows ``indices`` (default all) of ``path``, for example ``columns/label``."""
        return self.rows(path).read(indices)

    def rows(self, path: str) -> RowArray:
        """Return the row array ``path``.

        Raises:
            StoreError: there is none; the message lists those of its group.
        """
        folder = self.path / path
        if not (folder / "zarr.json").exists():
            known = ", ".join(self.list_rows(path.partition("/")[0])) or "none"
            what = f"column '{path.removeprefix('columns/')}'" if path.startswith("columns/") else f"rows '{path}'"
            raise StoreError(f"store '{self.path}' has no {what}; it has {known}")
        return RowArray.open_(folder)

    def rows_attributes(self, path: str) -> dict[str, Any]:
        """Return the attributes of the row array ``path``."""
        return dict(self.rows(path).layout.attributes)

    def list_rows(self, group: str) -> list[str]:
        """Return the names of the arrays in ``columns``, ``embeddings`` or ``latents``."""
        folder = self.path / group
        return sorted(p.name for p in folder.iterdir() if (p / "zarr.json").exists()) if folder.is_dir() else []

    # the ledger

    def commit(self, stage: str, shard: int, note: Mapping[str, Any]) -> None:
        """Note that ``shard`` of ``stage`` is done; call it last."""
        self.ledger.commit(stage, shard, note)

    def missing_shards(self, stage: str = TILES) -> list[int]:
        """Return the shards of ``stage`` that have no note yet, or of tiles no file any more; nothing is opened."""
        done = self.ledger.done(stage)
        if stage == TILES:
            done = {shard for shard in done if layout.chunk_path(self.path / TILES, shard, 4).exists()}
        return [shard for shard in range(self.num_shards) if shard not in done]

    def forget_damaged_shards(self) -> list[int]:
        """Take back the notes of shards of tiles that differ from them, so that they are made anew; reads every byte.

        Returns:
            The shards, in order.
        """
        notes = self.ledger.notes(TILES)
        with ThreadPoolExecutor(HASHING_THREADS) as pool:
            sound = list(pool.map(self._is_as_noted, notes, notes.values()))
        damaged = [shard for shard, is_sound in zip(notes, sound, strict=True) if not is_sound]
        for shard in damaged:
            self.ledger.forget(TILES, shard)
        if damaged:
            forget_shards(self.path / TILES)
        return damaged

    def _is_as_noted(self, shard: int, note: Mapping[str, Any]) -> bool:
        try:
            data = layout.chunk_path(self.path / TILES, shard, 4).read_bytes()
        except FileNotFoundError:
            return False
        return hashlib.sha256(data).hexdigest() == note["sha256"]

    def is_complete(self, stage: str = TILES) -> bool:
        """Whether every shard of ``stage`` is done."""
        return not self.missing_shards(stage)

    def _check_absent_or_same(self) -> None:
        if not (self.path / "zarr.json").exists():
            return
        there = layout.read_metadata(self.path).get("attributes", {}).get("histogen", {})
        differs = [key for key, value in self.attributes.items() if there.get(key) != value]
        if differs:
            raise StoreError(f"another store is at '{self.path}' ({', '.join(differs)} differ); choose another path")
