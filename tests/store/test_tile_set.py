"""Many stores as one: indices, columns, selection, and survival of fork, spawn and threads."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import histogen
from histogen.errors import StoreError
from histogen.store.jpeg import decode_jpeg, encode_jpeg
from histogen.store.layout import Column
from histogen.store.tile_set import TileSet, grouped
from histogen.store.tile_store import TileStore
from histogen.testing.contracts import drawn_tiles

SIZES = {"a": 1500, "b": 0, "c": 7}
ABSENT = {"a": (0, 1030), "b": (), "c": (6,)}
LABELS = {"a": ["tumour", "stroma", None], "b": [], "c": ["stroma", "fat"]}
TILE_PX = 16


def write_store(folder: Path, name: str) -> tuple[TileStore, list[bytes]]:
    count = SIZES[name]
    tiles = drawn_tiles(count, TILE_PX, seed=ord(name))
    payloads = [encode_jpeg(tile) for tile in tiles]
    labels = [LABELS[name][i % len(LABELS[name])] for i in range(count)]
    store = TileStore.create(
        folder / f"{name}.zarr", kind="slide" if name == "a" else "natural", store_id=name, tile_px=TILE_PX, mpp=0.5,
        num_tiles=count, provenance={},
        columns={
            "label": Column.categorical(labels),
            "x_l0": np.arange(count, dtype=np.float64),
            "path": Column.text([f"{name}/{i}" for i in range(count)]),
            **({"only_a": np.zeros(count)} if name == "a" else {}),
        },
    )  # fmt: skip
    store.create_rows("embeddings/e1", (count, 3), "float16")
    store.write_all_rows("embeddings/e1", np.arange(count * 3).reshape(count, 3).astype(np.float16) % 100)
    for shard in range(store.num_shards):
        indices = store.shard_range(shard)
        given_ = [None if i in ABSENT[name] else payloads[i] for i in indices]
        store.commit("tiles", shard, store.write_tiles(shard, given_))
        store.commit("embeddings/e1", shard, {})
    return store, payloads


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    for name in SIZES:
        write_store(folder, name)
    return folder


@pytest.fixture(scope="module")
def kept() -> list[tuple[str, int]]:
    """What the set holds, written down independently: (store, index in it)."""
    return [(name, i) for name, count in SIZES.items() for i in range(count) if i not in ABSENT[name]]


@pytest.fixture(scope="module")
def oracle(kept: list[tuple[str, int]]) -> np.ndarray:
    """The pixels of the set as one plain array."""
    tiles = {name: drawn_tiles(count, TILE_PX, seed=ord(name)) for name, count in SIZES.items()}
    return np.stack([decode_jpeg(encode_jpeg(tiles[name][i])) for name, i in kept])


@pytest.fixture
def tiles(folder: Path) -> TileSet:
    return histogen.open_tiles(folder)


def test_the_set_is_the_stores_in_order_without_absent_tiles(tiles: TileSet, kept: list[tuple[str, int]]) -> None:
    assert len(tiles) == len(kept)
    assert tiles.ids() == [f"{name}:{i}" for name, i in kept]
    assert tiles.kinds == ("natural", "slide")
    assert tiles.texts("path") == [f"{name}/{i}" for name, i in kept]
    assert [tiles.index_of(name, i) for name, i in kept] == list(range(len(kept)))


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_read_equals_the_plain_array(tiles: TileSet, oracle: np.ndarray, data: st.DataObject) -> None:
    wanted = data.draw(st.lists(st.integers(0, len(oracle) - 1), max_size=12))
    threads = data.draw(st.sampled_from([1, 3]))
    np.testing.assert_array_equal(tiles.read_tiles(wanted, threads=threads), oracle[wanted].reshape(-1, 16, 16, 3))
    for index in wanted[:3]:
        np.testing.assert_array_equal(tiles[index], oracle[index])
        np.testing.assert_array_equal(decode_jpeg(tiles.read_payload(index)), oracle[index])


def test_reading_into_an_array_of_ones_own(tiles: TileSet, oracle: np.ndarray) -> None:
    out = np.zeros((4, 16, 16, 3), np.uint8)
    assert tiles.read_tiles([9, 3, 3, 1400], out=out) is out
    np.testing.assert_array_equal(out, oracle[[9, 3, 3, 1400]])


def test_columns_are_merged_and_categories_recoded(tiles: TileSet, kept: list[tuple[str, int]]) -> None:
    names = tiles.categories("label")
    codes = tiles.column("label")
    assert names == ["stroma", "tumour", "fat"]
    expected = [LABELS[name][i % len(LABELS[name])] for name, i in kept]
    assert [None if code < 0 else names[code] for code in codes] == expected
    np.testing.assert_array_equal(tiles.column("x_l0"), [i for _, i in kept])
    assert tiles.categories("x_l0") == []
    assert tiles.has_column("label")
    assert not tiles.has_column("only_a")


def test_rows_come_in_the_order_asked_for(tiles: TileSet, kept: list[tuple[str, int]]) -> None:
    expected = np.array([[3 * i, 3 * i + 1, 3 * i + 2] for _, i in kept], dtype=np.float16) % 100
    np.testing.assert_array_equal(tiles.embeddings(), expected)
    assert tiles.embeddings("e1").dtype == np.float32
    np.testing.assert_array_equal(tiles.read_rows("embeddings/e1", [1500, 0, 3]), expected[[1500, 0, 3]])
    assert tiles.embedding_names == ["e1"]
    with pytest.raises(StoreError, match="not every store has complete embeddings by 'e2'"):
        tiles.embeddings("e2")


def test_a_subset_and_a_condition_select_the_same_tiles(tiles: TileSet, kept: list[tuple[str, int]]) -> None:
    wanted = [k for k, (name, i) in enumerate(kept) if LABELS[name][i % len(LABELS[name])] in ("fat", "tumour")]
    by_name = tiles.where({"label": ["fat", "tumour"]})
    assert by_name.ids() == tiles.subset(wanted).ids() == [tiles.ids()[k] for k in wanted]
    assert set(by_name.where({"label": "fat"}).ids()) == {"c:1", "c:3", "c:5"}
    assert tiles.where({"x_l0": [1.0, 4.0], "label": "stroma"}).ids() == ["a:1", "a:4", "c:4"]
    np.testing.assert_array_equal(by_name.embeddings(), tiles.embeddings()[wanted])
    assert len(tiles.subset([])) == 0
    assert by_name.content_hash != tiles.content_hash
    with pytest.raises(StoreError, match="column 'label' has no value 'bone'"):
        tiles.where({"label": "bone"})
    with pytest.raises(StoreError, match="tile 0 of store 'a' is not in this set"):
        tiles.index_of("a", 0)


def numbered(path: Path, classes: list[str]) -> TileSet:
    """Classes of 2, 3, … tiles in one store without pixels."""
    labels = [name for size, name in enumerate(classes, start=2) for _ in range(size)]
    TileStore.create(
        path, kind="natural", store_id="n", tile_px=16, mpp=None, num_tiles=len(labels), provenance={},
        columns={"label": Column.categorical(labels), "x": np.arange(len(labels))},
    )  # fmt: skip
    return TileSet.open_(path, allow_partial=True)


def codes_of(tiles: TileSet, wanted: object) -> list[int]:
    return tiles._codes("label", wanted if isinstance(wanted, list) else [wanted])


def test_a_number_stands_for_the_class_of_that_name_never_for_a_code(tmp_path: Path) -> None:
    tiles = numbered(tmp_path / "n.zarr", ["1", "2", "3", "10"])
    names = tiles.categories("label")
    for wanted, called in ((1, ["1"]), ("2", ["2"]), ([1, 10], ["1", "10"])):
        assert [names[code] for code in codes_of(tiles, wanted)] == called
    for wrong in (0, True, False, 1.0, "4"):
        with pytest.raises(StoreError, match=f"column 'label' has no value '{wrong}'; it has 1, 10, 2, 3"):
            tiles.where({"label": wrong})
    for wrong in (True, "1"):
        with pytest.raises(StoreError, match="column 'x' has no value .*; it has numbers only"):
            tiles.where({"x": wrong})
    named = numbered(tmp_path / "m.zarr", ["yes", "no"])
    for wrong in (True, 0, 1):  # YAML's yes, and codes
        with pytest.raises(StoreError, match="it has no, yes"):
            named.where({"label": wrong})


def test_a_condition_may_be_given_when_opening(folder: Path) -> None:
    assert len(TileSet.open_(folder, where={"label": "fat"})) == 3


def test_a_split_in_two_spellings_is_chosen_by_both_or_refused(tmp_path: Path) -> None:
    for name, split in (("a", "train"), ("b", "Train"), ("c", "test ")):
        TileStore.create(
            tmp_path / f"{name}.zarr", kind="natural", store_id=name, tile_px=16, mpp=None, num_tiles=2, provenance={},
            columns={"split": Column.categorical([split] * 2)},
        )  # fmt: skip
    tiles = TileSet.open_(tmp_path, allow_partial=True)
    with pytest.raises(
        StoreError, match=r"'split' has 'Train' beside 'train'; write where=\{split: \[train, Train\]\}"
    ):
        tiles.where({"split": "train"})
    for wanted in (["train", "Train"], "test "):
        assert len(tiles.where({"split": wanted})) == 0  # no shard is there yet; the choice is taken


def test_indices_out_of_range_are_refused(tiles: TileSet) -> None:
    for index in (len(tiles), -len(tiles) - 1):
        with pytest.raises(IndexError):
            tiles[index]
    with pytest.raises(IndexError):
        tiles.read_tiles([len(tiles)])
    np.testing.assert_array_equal(tiles[-1], tiles[len(tiles) - 1])


def test_a_set_opens_from_stores_folders_and_manifests(folder: Path, tmp_path: Path, tiles: TileSet) -> None:
    manifest = tmp_path / "stores.csv"
    rows = [os.path.relpath(folder / f"{name}.zarr", tmp_path) for name in "abc"]
    manifest.write_text("path\n" + "\n".join(rows) + "\n")
    for paths in (str(folder), [folder / "a.zarr", folder / "b.zarr", folder / "c.zarr"], manifest, folder.parent):
        if paths == folder.parent and len(list(folder.parent.glob("*/*.zarr"))) != len(SIZES):
            continue  # other tests' stores are beside ours
        assert TileSet.open_(paths).content_hash == tiles.content_hash


def test_what_does_not_open_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        TileSet.open_(tmp_path / "nothing")
    with pytest.raises(StoreError, match=r"no tile store \(\*.zarr\) is in"):
        TileSet.open_(tmp_path)
    with pytest.raises(StoreError, match="no tile store was given"):
        TileSet.open_([])
    TileStore.create(tmp_path / "d.zarr", kind="slide", store_id="d", tile_px=32, mpp=None, num_tiles=0, provenance={})
    with pytest.raises(StoreError, match=r"d.zarr' has tiles of 32 px, .*a.zarr' of 16 px"):
        TileSet.open_([folder / "a.zarr", tmp_path / "d.zarr"])
    with pytest.raises(StoreError, match="are both store 'a'"):
        TileSet.open_([folder / "a.zarr", write_store(tmp_path, "a")[0].path])


def test_a_pickled_set_is_small_and_reads_the_same(tiles: TileSet, oracle: np.ndarray) -> None:
    tiles.read_tiles([0, 1400])
    data = bytes(ForkingPickler.dumps(tiles))
    assert len(data) < 40_000
    np.testing.assert_array_equal(ForkingPickler.loads(data).read_tiles([0, 1400]), oracle[[0, 1400]])


def _read_and_sum(tiles: TileSet, indices: list[int], results: object) -> None:
    results.put([int(tiles[i].sum()) for i in indices])


def test_children_read_right_after_a_fork_of_a_reader_in_use(tiles: TileSet, oracle: np.ndarray) -> None:
    tiles.read_tiles(range(0, len(tiles), 100), threads=2)
    context = multiprocessing.get_context("fork")
    jobs = []
    for k in range(3):
        results = context.SimpleQueue()
        indices = list(range(k, len(tiles), 37))
        process = context.Process(target=_read_and_sum, args=(tiles, indices, results))
        process.start()
        tiles.read_tiles(indices)
        jobs.append((process, results, indices))
    for process, results, indices in jobs:
        assert results.get() == [int(oracle[i].sum()) for i in indices]
        process.join()
        assert process.exitcode == 0


def test_reading_needs_neither_zarr_nor_torch(folder: Path) -> None:
    code = (
        "import sys, histogen; t = histogen.open_tiles(sys.argv[1]); t.read_tiles([0, 5]); t.column('label'); "
        "bad = {'zarr', 'torch', 'dask', 'numcodecs', 'pydantic'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, timeout=60)


@pytest.mark.parametrize("batched", [False, True])
def test_a_torch_loader_with_forked_workers_reads_every_tile_once(
    tiles: TileSet, oracle: np.ndarray, batched: bool
) -> None:
    torch = pytest.importorskip("torch")
    data = torch.utils.data
    dataset = tiles.as_torch_dataset()
    np.testing.assert_array_equal(dataset[3].numpy().transpose(1, 2, 0), oracle[3])
    sampling = {"batch_size": 256}
    if batched:
        sampling = {"sampler": data.BatchSampler(range(len(dataset)), 256, drop_last=False), "batch_size": None}
    loader = data.DataLoader(dataset, num_workers=2, multiprocessing_context="fork", **sampling)
    for _ in range(2):
        pixels = torch.cat(list(loader)).permute(0, 2, 3, 1).numpy()
        np.testing.assert_array_equal(pixels, oracle)


@pytest.mark.parametrize("owners", [[], [4], [3, 1, 3, 0, 1, 3], [-1, 2, -1]])
def test_grouped_is_where_each_owner_stands(owners: list[int]) -> None:
    found = {owner: here.tolist() for owner, here in grouped(np.array(owners, np.int64))}
    assert found == {owner: [k for k, one in enumerate(owners) if one == owner] for owner in sorted(set(owners))}
    assert list(found) == sorted(set(owners))
