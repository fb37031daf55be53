"""Contract tests: subclass one in your own test suite, give it your thing, and pytest runs every promise.

They need pytest, and for :class:`StoreContract` zarr, which reads the store as a stranger would.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from histogen.errors import IncompleteStoreError, StoreError
from histogen.store.jpeg import DEFAULT_JPEG, JpegSettings, decode_jpeg, encode_jpeg
from histogen.store.layout import Column
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore


def drawn_tiles(num_tiles: int, tile_px: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return smooth random tiles, uint8 [N, H, W, 3], all different."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (num_tiles, 4, 4, 3)).astype(np.float64)
    positions = np.linspace(0, 3, tile_px)
    low = np.minimum(positions.astype(int), 2)
    weight = positions - low
    rows = coarse[:, low] * (1 - weight)[:, None, None] + coarse[:, low + 1] * weight[:, None, None]
    tiles = rows[:, :, low] * (1 - weight)[:, None] + rows[:, :, low + 1] * weight[:, None]
    return np.ascontiguousarray(tiles.round().astype(np.uint8))


class StoreContract:
    """What a writer of tile stores promises, checked against a plain array and against zarr.

    A subclass overrides :meth:`make_store` with its own writer.
    """

    NUM_TILES: ClassVar[int] = 2100
    TILE_PX: ClassVar[int] = 16
    ABSENT: ClassVar[tuple[int, ...]] = (5, 2099)
    JPEG: ClassVar[JpegSettings] = DEFAULT_JPEG

    def make_store(self, path: Path, payloads: list[bytes | None], columns: dict[str, Column]) -> TileStore:
        """Write and commit a complete store of these payloads (None: absent) and columns."""
        store = TileStore.create(
            path, kind="natural", store_id=path.stem, tile_px=self.TILE_PX, mpp=0.5, num_tiles=len(payloads),
            provenance={}, jpeg=self.JPEG, columns=columns,
        )  # fmt: skip
        for shard in store.missing_shards():
            indices = store.shard_range(shard)
            store.commit("tiles", shard, store.write_tiles(shard, payloads[indices.start : indices.stop]))
        return store

    @pytest.fixture(scope="class")
    def oracle(self) -> NDArray[np.uint8]:
        """The decoded tiles as one plain array; absent ones zero."""
        pixels = [decode_jpeg(payload) for payload in self._payloads_of_all()]
        out = np.stack(pixels)
        out[list(self.ABSENT)] = 0
        return out

    @pytest.fixture(scope="class")
    def columns(self) -> dict[str, Column]:
        """A number, a category and a text for each tile."""
        names = [None if i % 7 == 0 else "abc"[i % 3] for i in range(self.NUM_TILES)]
        return {
            "x_l0": Column(np.arange(self.NUM_TILES) * 1.5),
            "label": Column.categorical(names),
            "path": Column.text([f"bild-{i}-ä" for i in range(self.NUM_TILES)]),
        }

    @pytest.fixture(scope="class")
    def store(self, tmp_path_factory: pytest.TempPathFactory, columns: dict[str, Column]) -> TileStore:
        """The store under test, opened anew."""
        payloads: list[bytes | None] = list(self._payloads_of_all())
        for index in self.ABSENT:
            payloads[index] = None
        path = tmp_path_factory.mktemp("contract") / "s1.zarr"
        self.make_store(path, payloads, columns)
        return TileStore.open_(path)

    def test_each_tile_equals_the_plain_array(self, store: TileStore, oracle: NDArray[np.uint8]) -> None:
        """``read_tile`` gives what was written."""
        for index in (0, 1, 1023, 1024, 2047, 2098):
            np.testing.assert_array_equal(store.read_tile(index), oracle[index])

    def test_zarr_reads_the_same_pixels(self, store: TileStore, oracle: NDArray[np.uint8]) -> None:
        """Plain ``zarr.open`` reads the tiles, across shards, absent tiles as zero."""
        zarr = pytest.importorskip("zarr")
        array = zarr.open(store.path, mode="r")["tiles"]
        assert array.shape == oracle.shape
        np.testing.assert_array_equal(array[1000:1050], oracle[1000:1050])
        np.testing.assert_array_equal(array[4:7], oracle[4:7])
        np.testing.assert_array_equal(array[2090:], oracle[2090:])

    def test_zarr_reads_the_same_rows(self, store: TileStore, columns: dict[str, Column]) -> None:
        """Columns are plain arrays with plain attributes."""
        zarr = pytest.importorskip("zarr")
        group = zarr.open(store.path, mode="r")["columns"]
        for name, column in columns.items():
            np.testing.assert_array_equal(group[name][:], column.values)
            np.testing.assert_array_equal(store.read_rows(f"columns/{name}"), column.values)
        assert group["label"].attrs["categories"] == ["a", "b", "c"]

    def test_zarr_walks_the_whole_tree_without_a_warning(self, store: TileStore) -> None:
        """Nothing in the store is strange to zarr."""
        zarr = pytest.importorskip("zarr")
        members = dict(zarr.open(store.path, mode="r").members(max_depth=None))
        assert {"tiles", "columns", "embeddings", "latents", "columns/label"} <= set(members)

    def test_absent_tiles_are_known_and_left_out(self, store: TileStore, oracle: NDArray[np.uint8]) -> None:
        """A store says which tiles are absent, and a set has the others only."""
        assert np.flatnonzero(~store.tile_ok).tolist() == list(self.ABSENT)
        with pytest.raises(StoreError, match="tile 5 of store 's1' is absent"):
            store.read_tile(5)
        tiles = TileSet.open_(store.path)
        kept = np.delete(np.arange(self.NUM_TILES), self.ABSENT)
        assert len(tiles) == len(kept)
        np.testing.assert_array_equal(tiles.tile_index_of(np.arange(len(tiles))), kept)
        np.testing.assert_array_equal(tiles.read_tiles([5, 2097, 0]), oracle[[6, 2098, 0]])

    def test_the_ledger_tells_what_is_there(self, store: TileStore) -> None:
        """Notes hold count, bytes and SHA-256 of each shard file; no file in the store is temporary."""
        assert store.is_complete()
        notes = store.ledger.notes("tiles")
        assert sum(note["count"] for note in notes.values()) == self.NUM_TILES - len(self.ABSENT)
        for shard, note in notes.items():
            file = store.path / "tiles" / "c" / str(shard) / "0" / "0" / "0"
            assert file.stat().st_size == note["bytes"]
        assert not [name for _, _, names in os.walk(store.path) for name in names if ".tmp." in name]

    def test_missing_shards_are_a_listing(self, store: TileStore, tmp_path: Path) -> None:
        """A shard without its note is missing, whatever else is on disk."""
        other = TileStore.create(
            tmp_path / "t.zarr", kind="natural", store_id="t", tile_px=self.TILE_PX, mpp=None, num_tiles=2100,
            provenance={},
        )  # fmt: skip
        assert other.missing_shards() == [0, 1, 2]
        note = other.write_tiles(1, [store.read_payload(0)] * 1024)
        assert other.missing_shards() == [0, 1, 2]
        other.commit("tiles", 1, note)
        assert other.missing_shards() == [0, 2]
        with pytest.raises(IncompleteStoreError, match="has 1 of 3 shards"):
            TileSet.open_(other.path)
        assert len(TileSet.open_(other.path, allow_partial=True)) == 1024

    def test_metadata_name_the_codec_by_its_public_name(self, store: TileStore) -> None:
        """Other programs find the codec ``imagecodecs_jpeg`` with its public configuration."""
        metadata: dict[str, Any] = json.loads((store.path / "tiles" / "zarr.json").read_text())
        sharding = metadata["codecs"][0]
        assert sharding["name"] == "sharding_indexed"
        codec = sharding["configuration"]["codecs"][0]
        assert codec["name"] == "imagecodecs_jpeg"
        assert set(codec["configuration"]) <= {
            "level", "tables", "header", "colorspace_data", "colorspace_jpeg", "subsampling",
        }  # fmt: skip

    def _payloads_of_all(self) -> list[bytes]:
        return [encode_jpeg(tile, self.JPEG) for tile in drawn_tiles(self.NUM_TILES, self.TILE_PX)]
