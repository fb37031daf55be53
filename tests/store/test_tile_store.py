"""The tile store against plain arrays, plain zarr, and damage."""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr

from histogen.errors import IncompleteStoreError, StoreError
from histogen.store import random_access
from histogen.store.jpeg import JpegSettings, decode_jpeg, encode_jpeg
from histogen.store.layout import Column, chunk_path, unpack_text
from histogen.store.tile_store import TileStore
from histogen.testing.contracts import StoreContract, drawn_tiles


class TestOurs(StoreContract):
    """The default writer keeps the contract."""


class TestOursWhole(StoreContract):
    """So it does with full-colour JPEGs."""

    JPEG = JpegSettings(level=95, subsampling="444")


def make(path: Path, num_tiles: int = 3, **changes: object) -> TileStore:
    values = {
        "kind": "slide", "store_id": "s", "tile_px": 16, "mpp": 0.5, "num_tiles": num_tiles, "provenance": {"a": 1},
    }  # fmt: skip
    return TileStore.create(path, **{**values, **changes})


def fill(store: TileStore, seed: int = 0) -> TileStore:
    payloads = [encode_jpeg(tile) for tile in drawn_tiles(store.num_tiles, store.tile_px, seed)]
    for shard in store.missing_shards():
        indices = store.shard_range(shard)
        store.commit("tiles", shard, store.write_tiles(shard, payloads[indices.start : indices.stop]))
    return store


def flipped(file: Path, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    file.write_bytes(data)
    random_access.forget_shards(file)  # as a process that opens the store now


@pytest.mark.parametrize("noted", [True, False])
def test_no_flipped_bit_is_read_as_truth(tmp_path: Path, noted: bool) -> None:
    """Also in stores whose notes have no checksum of each tile."""
    store = fill(make(tmp_path / "a.zarr", 6))
    right = [store.read_payload(k) for k in range(6)]
    file, note_file = chunk_path(store.path / "tiles", 0, 4), store.path / "ledger" / "tiles" / "0.json"
    note = json.loads(note_file.read_text())
    assert len(base64.b64decode(note["crc32c"])) == 4 * 6
    if not noted:
        note_file.write_text(json.dumps({key: value for key, value in note.items() if key != "crc32c"}))
    sound, refused = file.read_bytes(), 0
    for bit in np.random.default_rng(0).integers(8 * len(sound), size=120).tolist():
        flipped(file, bit)
        for k in range(6):
            try:
                found = TileStore.open_(store.path).read_payload(k)
            except StoreError as error:
                assert str(file) in str(error)  # noqa: PT017 - reading right is as good
                refused += 1
            else:
                assert found == right[k]
        file.write_bytes(sound)
        random_access.forget_shards(file)
    assert refused >= 120  # each bit is in one tile at least, or in the index of all


def test_a_tile_with_a_flipped_bit_leaves_the_others_readable(tmp_path: Path) -> None:
    store = fill(make(tmp_path / "a.zarr", 3))
    others = [store.read_payload(k) for k in (1, 2)]
    flipped(chunk_path(store.path / "tiles", 0, 4), 8 * 40)  # in the first tile
    with pytest.raises(StoreError, match=r"tile 0 of shard '.*' is damaged \(its checksum differs\); run what made"):
        store.read_tile(0)
    assert [store.read_payload(k) for k in (1, 2)] == others


def test_a_store_made_anew_under_the_same_path_is_not_read_from_the_old_one(tmp_path: Path) -> None:
    store = fill(make(tmp_path / "a.zarr"), seed=1)
    old = [store.read_payload(k) for k in range(3)]
    other = fill(make(tmp_path / "b.zarr"), seed=2)
    new = [other.read_payload(k) for k in range(3)]
    assert set(old).isdisjoint(new)
    moved = os.rename  # another process's doing: this one is told nothing
    moved(store.path, tmp_path / "old")
    moved(other.path, store.path)
    shutil.rmtree(tmp_path / "old")
    assert [store.read_payload(k) for k in range(3)] == new
    assert [TileStore.open_(store.path).read_payload(k) for k in range(3)] == new


def test_damaged_shards_lose_their_notes_and_no_others(tmp_path: Path) -> None:
    store = fill(make(tmp_path / "a.zarr", 2500))
    assert store.num_shards == 3
    assert store.forget_damaged_shards() == []
    flipped(chunk_path(store.path / "tiles", 1, 4), 1000)
    chunk_path(store.path / "tiles", 2, 4).unlink()
    assert store.missing_shards() == [2]
    assert store.forget_damaged_shards() == [1, 2]
    assert store.missing_shards() == [1, 2]


def test_attributes_come_back(tmp_path: Path) -> None:
    make(tmp_path / "a.zarr")
    store = TileStore.open_(tmp_path / "a.zarr")
    assert (store.kind, store.store_id, store.tile_px, store.mpp, store.num_tiles) == ("slide", "s", 16, 0.5, 3)
    assert store.provenance == {"a": 1}
    assert store.num_shards == 1


def test_an_empty_store_is_complete_and_readable(tmp_path: Path) -> None:
    store = make(tmp_path / "a.zarr", 0, columns={"x_l0": np.zeros(0)})
    assert store.is_complete()
    assert store.tile_ok.shape == (0,)
    assert store.read_rows("columns/x_l0").shape == (0,)
    assert zarr.open(store.path, mode="r")["tiles"].shape == (0, 16, 16, 3)


def test_the_same_tiles_give_the_same_bytes_in_every_file(tmp_path: Path) -> None:
    stores = [
        fill(make(tmp_path / name, 1030, columns={"label": Column.categorical(["b", "a"] * 515)})) for name in "ab"
    ]
    files = [sorted(p.relative_to(s.path) for p in s.path.rglob("*") if p.is_file()) for s in stores]
    assert files[0] == files[1]
    assert all((stores[0].path / f).read_bytes() == (stores[1].path / f).read_bytes() for f in files[0])


def test_making_the_same_store_again_is_harmless_and_another_is_refused(tmp_path: Path) -> None:
    fill(make(tmp_path / "a.zarr"))
    assert make(tmp_path / "a.zarr").is_complete()
    with pytest.raises(StoreError, match=r"another store is at .*\(mpp differ\)"):
        make(tmp_path / "a.zarr", mpp=0.25)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "fake"}, "kind 'fake' of store 's' is not one of slide, natural"),
        ({"store_id": "../up"}, "store id '../up' cannot name a folder"),
        ({"tile_px": 0}, "cannot have 3 tiles of 0 px"),
        ({"columns": {"x": np.zeros(2)}}, r"rows 'columns/x' of shape \(2,\) do not fit store 's' of 3"),
    ],
)
def test_what_cannot_be_made_is_one_sentence(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(StoreError, match=message):
        make(tmp_path / "a.zarr", **changes)


def test_a_store_half_made_does_not_open(tmp_path: Path) -> None:
    make(tmp_path / "a.zarr")
    (tmp_path / "a.zarr" / "zarr.json").unlink()
    with pytest.raises(StoreError, match="is not a Zarr store"):
        TileStore.open_(tmp_path / "a.zarr")


def test_strangers_do_not_open(tmp_path: Path) -> None:
    zarr.create_group(tmp_path / "z.zarr")
    with pytest.raises(StoreError, match="not a tile store of histogen"):
        TileStore.open_(tmp_path / "z.zarr")
    store = make(tmp_path / "a.zarr")
    (store.path / "tiles" / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match="is not JSON"):
        TileStore.open_(store.path)
    (store.path / "tiles" / "zarr.json").write_text("{}")
    with pytest.raises(StoreError, match="malformed metadata"):
        TileStore.open_(store.path)
    root = json.loads((store.path / "zarr.json").read_text())
    root["attributes"]["histogen"]["format"] = 99
    (store.path / "zarr.json").write_text(json.dumps(root))
    with pytest.raises(StoreError, match="has format 99"):
        TileStore.open_(store.path)


def test_damage_is_found(tmp_path: Path) -> None:
    store = fill(make(tmp_path / "a.zarr"))
    file = chunk_path(store.path / "tiles", 0, 4)
    good = file.read_bytes()
    for bad in (good[:-1], good[:20], b"", good[:-10] + b"\0" * 10):
        file.write_bytes(bad)
        random_access.forget_shards(file)
        with pytest.raises(StoreError, match="is damaged"):
            store.read_tile(0)
    file.write_bytes(b"\0" * 40 + good[40:])
    random_access.forget_shards(file)
    with pytest.raises(StoreError, match=r"tile 0 of shard .* is damaged \(its checksum differs\)"):
        store.read_tile(0)
    store.ledger.forget("tiles", 0)  # not noted yet: nothing says what it was
    random_access.forget_shards(file)
    with pytest.raises(StoreError, match=r"tile 0 of store .* does not decode"):
        store.read_tile(0)
    file.unlink()
    random_access.forget_shards(file)
    with pytest.raises(IncompleteStoreError, match="is not there yet"):
        store.read_tile(0)


def test_a_tile_of_another_size_is_refused(tmp_path: Path) -> None:
    store = make(tmp_path / "a.zarr", 1)
    store.write_tiles(0, [encode_jpeg(drawn_tiles(1, 24)[0])])
    with pytest.raises(StoreError, match=r"does not decode as 16 px RGB \(.*\(24, 24, 3\)"):
        store.read_tile(0)
    with pytest.raises(StoreError, match="does not decode"):
        store.read_tile(0, np.empty((16, 16, 3), np.uint8))


@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_out_of_range_is_refused(tmp_path: Path, index: int) -> None:
    with pytest.raises(StoreError, match=f"tile {index} is asked of store 's', which has 3"):
        fill(make(tmp_path / "a.zarr")).read_payload(index)


def test_a_wrong_number_of_payloads_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="shard 0 of store 's' has 3 tiles, 2 were given"):
        make(tmp_path / "a.zarr").write_tiles(0, [b"x", b"y"])


def test_a_shard_written_anew_is_read_anew(tmp_path: Path) -> None:
    store = fill(make(tmp_path / "a.zarr"))
    before = store.read_tile(1)
    payloads = [encode_jpeg(tile) for tile in drawn_tiles(3, 16, seed=9)]
    store.write_tiles(0, payloads)
    np.testing.assert_array_equal(store.read_tile(1), decode_jpeg(payloads[1]))
    assert not np.array_equal(store.read_tile(1), before)


def test_the_cache_of_open_shards_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_access, "MAX_OPEN_SHARDS", 2)
    stores = [fill(make(tmp_path / f"{k}.zarr", store_id=f"s{k}")) for k in range(5)]
    expected = decode_jpeg(encode_jpeg(drawn_tiles(3, 16)[2]))
    for _ in range(2):
        for store in stores:
            np.testing.assert_array_equal(store.read_tile(2), expected)
            assert len(random_access._CACHE) <= 2


# rows


def test_rows_equal_a_plain_array_in_any_order(tmp_path: Path) -> None:
    store = make(tmp_path / "a.zarr", 2500)
    values = np.random.default_rng(0).normal(size=(2500, 5)).astype(np.float16)
    store.create_rows("embeddings/dino-ab12", values.shape, "float16", attributes={"card": {"dim": 5}})
    for shard in (2, 0, 1):
        indices = store.shard_range(shard)
        store.write_rows("embeddings/dino-ab12", shard, values[indices.start : indices.stop])
    wanted = [2499, 0, 1024, 1023, 0]
    np.testing.assert_array_equal(store.read_rows("embeddings/dino-ab12", wanted), values[wanted])
    np.testing.assert_array_equal(store.read_rows("embeddings/dino-ab12"), values)
    np.testing.assert_array_equal(zarr.open(store.path, mode="r")["embeddings/dino-ab12"][:], values)
    assert store.list_rows("embeddings") == ["dino-ab12"]
    assert store.rows_attributes("embeddings/dino-ab12") == {"card": {"dim": 5}}


def test_rows_of_many_axes_equal_a_plain_array(tmp_path: Path) -> None:
    store = make(tmp_path / "a.zarr", 1025)
    values = np.random.default_rng(0).normal(size=(1025, 2, 3, 2, 2)).astype(np.float16)
    store.create_rows("latents/kl", values.shape, np.float16)
    store.write_all_rows("latents/kl", values)
    np.testing.assert_array_equal(zarr.open(store.path, mode="r")["latents/kl"][:], values)
    np.testing.assert_array_equal(store.read_rows("latents/kl", [1024, 7]), values[[1024, 7]])


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "int64", "float64"])
def test_columns_of_any_type_are_read_by_zarr(tmp_path: Path, dtype: str) -> None:
    values = np.array([1, 0, 1]).astype(dtype)
    store = make(tmp_path / "a.zarr", columns={"c": values})
    np.testing.assert_array_equal(zarr.open(store.path, mode="r")["columns/c"][:], values)
    assert store.read_rows("columns/c").dtype == values.dtype


def test_rows_not_written_yet_are_incomplete_here_and_fill_in_zarr(tmp_path: Path) -> None:
    store = make(tmp_path / "a.zarr", 1030)
    store.create_rows("columns/focus", (1030,), "float32", fill=float("nan"))
    store.write_rows("columns/focus", 1, np.ones(6))
    with pytest.raises(IncompleteStoreError, match="are not there yet"):
        store.read_rows("columns/focus")
    np.testing.assert_array_equal(store.read_rows("columns/focus", [1024, 1029]), [1, 1])
    read = zarr.open(store.path, mode="r")["columns/focus"][:]
    assert np.isnan(read[:1024]).all()
    np.testing.assert_array_equal(read[1024:], np.ones(6))
    store.create_rows("columns/focus", (1030,), "float32", fill=float("nan"))
    with pytest.raises(StoreError, match="there with other metadata"):
        store.create_rows("columns/focus", (1030,), "float64")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros(4, np.int16), "shape"),
        (np.zeros(3, np.float64), "dtype float64 do not fit"),
        (np.zeros((3, 1), np.int16), "shape"),
    ],
)
def test_rows_that_do_not_fit_are_refused(tmp_path: Path, values: np.ndarray, message: str) -> None:
    store = make(tmp_path / "a.zarr", columns={"label": np.zeros(3, np.int16)})
    with pytest.raises(StoreError, match=message):
        store.write_rows("columns/label", 0, values)


def test_rows_that_are_not_there_are_one_sentence(tmp_path: Path) -> None:
    store = make(tmp_path / "a.zarr", columns={"label": np.zeros(3, np.int16)})
    with pytest.raises(StoreError, match="has no column 'split'; it has label"):
        store.read_rows("columns/split")
    with pytest.raises(StoreError, match="are in none of columns, embeddings, latents"):
        store.create_rows("tiles/x", (3,), "int8")
    with pytest.raises(StoreError, match="rows 3 to 3 are asked of"):
        store.read_rows("columns/label", [3])
    chunk_path(store.path / "columns/label", 0, 1).write_bytes(b"x")
    with pytest.raises(StoreError, match="wrong length"):
        store.read_rows("columns/label")


def test_categories_and_texts_are_packed_and_unpacked() -> None:
    column = Column.categorical(["b", None, "a", "b"])
    assert (column.values.tolist(), column.categories) == ([1, -1, 0, 1], ("a", "b"))
    assert unpack_text(Column.text(["", "ab", "größe"]).values) == ["", "ab", "größe"]
    with pytest.raises(StoreError, match="'c' is not one of the categories a, b"):
        Column.categorical(["c"], ["a", "b"])
    with pytest.raises(StoreError, match="200 categories do not fit int8"):
        Column.categorical([f"{k}" for k in range(200)], dtype="int8")


@pytest.mark.parametrize(
    ("num_tiles", "chunks"), [(1, 1), (1024, 1), (1500, 1), (65_536, 1), (65_537, 2), (200_000, 4)]
)
def test_a_column_written_at_once_has_few_files_and_reads_the_same(tmp_path: Path, num_tiles: int, chunks: int) -> None:
    values = np.arange(num_tiles, dtype=np.float64) * 0.5
    columns = {"x": values, "later": Column(np.zeros(num_tiles, np.uint64), by_shard=True)}
    store = TileStore.create(
        tmp_path / "s.zarr", kind="slide", store_id="s", tile_px=8, mpp=1.0, num_tiles=num_tiles, provenance={},
        columns=columns,
    )  # fmt: skip
    rows = store.rows("columns/x")
    files = list((tmp_path / "s.zarr/columns/x/c").iterdir())
    assert len(files) == rows.num_chunks == chunks
    assert rows.layout.shard_rows * chunks < num_tiles + chunks  # hardly any row of the last is empty
    np.testing.assert_array_equal(store.read_rows("columns/x"), values)
    np.testing.assert_array_equal(store.read_rows("columns/x", [num_tiles - 1, 0]), values[[num_tiles - 1, 0]])
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "s.zarr/columns/x", mode="r")[:], values)
    last = store.num_shards - 1
    store.write_rows("columns/later", last, np.full(len(store.shard_range(last)), 7, np.uint64))
    assert int(store.read_rows("columns/later")[-1]) == 7
    with pytest.raises(StoreError, match="other metadata"):
        store.write_column("x", values.astype(np.float32))
    store.write_column("x", values)  # as when a plan that was cut off is made again
