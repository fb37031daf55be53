"""Row arrays are verified: what is damaged is refused, what is of before checksums is read, and zarr agrees."""

from __future__ import annotations

import json
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import zarr

from histogen.errors import StoreError
from histogen.store.row_array import RowArray, checksum
from histogen.store.tile_store import TileStore

ROWS = "latents/kl"
SHAPE = (40, 2, 3)


def make(path: Path) -> TileStore:
    store = TileStore.create(path, kind="slide", store_id="S", tile_px=16, mpp=0.5, num_tiles=40, provenance={})
    store.create_rows(ROWS, SHAPE, "float16")
    store.write_all_rows(ROWS, np.random.default_rng(0).normal(size=SHAPE).astype(np.float16))
    return store


def make_as_before(path: Path) -> TileStore:
    """The store as it was written before rows had checksums."""
    store = make(path)
    values = store.read_rows(ROWS)
    file = path / ROWS / "zarr.json"
    metadata = json.loads(file.read_text())
    metadata["codecs"] = metadata["codecs"][:1]
    file.write_text(json.dumps(metadata))
    store.write_all_rows(ROWS, values)
    return store


def flip(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)


@pytest.fixture(autouse=True)
def _small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("histogen.store.layout.SHARD_TILES", 16)


def test_a_flipped_bit_is_refused_by_rows_store_and_what_mends_it(tmp_path: Path) -> None:
    store = make(tmp_path / "S.zarr")
    expected, rng = store.read_rows(ROWS), np.random.default_rng(1)
    for _ in range(100):
        shard = int(rng.integers(3))
        file, first = store.rows(ROWS).chunk_file(shard), 16 * shard
        flip(file, bit := int(rng.integers(8 * file.stat().st_size)))
        said = (
            f"rows {first} to {min(first + 15, 39)} of '{ROWS}' of store '{store.path}' are damaged (chunk '{file}' "
            f"differs from its checksum); mend them: histogen inspect {store.path} --check --repair"
        )
        for wanted in (None, [first], [39 - first]):
            if wanted is None or wanted[0] // 16 == shard:
                with pytest.raises(StoreError) as caught:
                    store.read_rows(ROWS, wanted)
                assert str(caught.value) == said
            else:
                np.testing.assert_array_equal(store.read_rows(ROWS, wanted), expected[wanted])
        with pytest.raises(ValueError, match="checksum"):
            zarr.open(store.path, mode="r")[ROWS][:]
        flip(file, bit)
    np.testing.assert_array_equal(store.read_rows(ROWS), expected)


def test_a_chunk_is_compared_once_and_anew_when_it_was_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, compared = make(tmp_path / "S.zarr"), []

    def counted(file: BinaryIO, num_bytes: int) -> int:
        compared.append(file.name)
        return checksum(file, num_bytes)

    monkeypatch.setattr("histogen.store.row_array.checksum", counted)
    for _ in range(3):
        store.read_rows(ROWS)
    assert compared == [str(store.rows(ROWS).chunk_file(shard)) for shard in range(3)]
    store.write_rows(ROWS, 1, np.ones((16, 2, 3), np.float16))
    assert (store.read_rows(ROWS, [16]) == 1).all()
    assert len(compared) == 4


def test_rows_of_before_checksums_are_read_and_gone_on_with(tmp_path: Path) -> None:
    store = make_as_before(tmp_path / "S.zarr")
    expected = store.read_rows(ROWS)
    np.testing.assert_array_equal(expected, make(tmp_path / "T.zarr").read_rows(ROWS))
    store.create_rows(ROWS, SHAPE, "float16")
    store.write_rows(ROWS, 1, expected[16:32])
    assert store.rows(ROWS).chunk_file(1).stat().st_size == 16 * 6 * 2
    assert RowArray.open_(store.path / ROWS).layout.checksum is False
    np.testing.assert_array_equal(zarr.open(store.path, mode="r")[ROWS][:], expected)


def test_a_whole_array_is_synchronised_chunk_by_chunk_and_its_folder_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the time of planning ten million tiles was the folder's, once per chunk."""
    store, synchronised = make(tmp_path / "S.zarr"), []
    monkeypatch.setattr("histogen.files._synchronise", lambda path: synchronised.append(path))
    store.write_all_rows(ROWS, np.zeros(SHAPE, np.float16))
    folders = [path for path in synchronised if path.is_dir()]
    assert len(synchronised) - len(folders) == 3
    assert folders == sorted({store.rows(ROWS).chunk_file(shard).parent for shard in range(3)})
    assert synchronised[-len(folders) :] == folders
