"""Copies among tiles and damage are found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from histogen.errors import ConfigError
from histogen.pipelines.inspect import describe, describe_all
from histogen.store.checks import damaged_shards, first_copies
from histogen.store.jpeg import encode_jpeg
from histogen.store.layout import chunk_path
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore
from histogen.testing.contracts import drawn_tiles


def write_store(path: Path, order: list[int | None]) -> TileStore:
    """A store of the drawn tiles in this order; None is absent."""
    drawn = [encode_jpeg(tile) for tile in drawn_tiles(8, 16)]
    store = TileStore.create(
        path, kind="natural", store_id=path.stem, tile_px=16, mpp=None, num_tiles=len(order), provenance={}
    )
    store.commit("tiles", 0, store.write_tiles(0, [None if k is None else drawn[k] for k in order]))
    return store


def test_copies_are_found_within_and_across_stores(tmp_path: Path) -> None:
    write_store(tmp_path / "a.zarr", [0, 1, None, 0, 2])
    write_store(tmp_path / "b.zarr", [3, 1, 3])
    tiles = TileSet.open_(tmp_path)
    assert tiles.ids() == ["a:0", "a:1", "a:3", "a:4", "b:0", "b:1", "b:2"]
    np.testing.assert_array_equal(first_copies(tiles), [0, 1, 0, 3, 4, 1, 4])
    text = describe(tmp_path, check=True).summary
    assert "3 of 7 tiles are copies" in text
    assert "b:1 is the same as a:1" in text


def test_of_several_paths_one_that_cannot_be_described_does_not_hide_the_others(tmp_path: Path) -> None:
    store = write_store(tmp_path / "a.zarr", [0, 1])
    found = describe_all([tmp_path / "none", store.path])
    assert found.exit_code == 1
    assert found.failures == (f"'{tmp_path / 'none'}' does not exist; check the path",)
    assert found.summary == describe(store.path).summary
    with pytest.raises(ConfigError, match="does not exist"):
        describe_all([tmp_path / "none"])


def test_damage_is_named(tmp_path: Path) -> None:
    store = write_store(tmp_path / "a.zarr", [0, 1])
    assert damaged_shards(store) == []
    file = chunk_path(store.path / "tiles", 0, 4)
    data = bytearray(file.read_bytes())
    data[30] ^= 1
    file.write_bytes(data)
    assert list(map(str, damaged_shards(store))) == [f"shard '{file}' differs from its note"]
    found = describe(store.path, check=True)
    assert (found.exit_code, found.failures) == (1, (f"{damaged_shards(store)[0]}; run what made it with --resume",))
    assert store.is_complete()
    file.unlink()
    assert "is missing" in str(damaged_shards(store)[0])
    assert store.missing_shards() == [0]
