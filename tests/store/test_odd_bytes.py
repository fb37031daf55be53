"""Stores that somebody changed: every reader of them ends in values or in one sentence that names the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histogen.errors import StoreError
from histogen.pipelines.inspect import describe
from histogen.store.export_rows import columns_of, placement_of
from histogen.store.jpeg import encode_jpeg
from histogen.store.layout import Column
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of 6 tiles with a categorical, a text and a number column, and embeddings."""
    made = TileStore.create(
        tmp_path / "S.zarr", kind="slide", store_id="S", tile_px=16, mpp=0.5, num_tiles=6,
        provenance={"slide": {"mpp": [0.5, 0.5]}, "grid": {"stride_px": 16}},
        columns={
            "label": Column.categorical(["a", "b", None] * 2), "path": Column.text(list("pqrstu")),
            "x_l0": np.arange(6.0), "y_l0": np.arange(6.0),
        },
    )  # fmt: skip
    made.commit(
        "tiles", 0, made.write_tiles(0, [encode_jpeg(np.full((16, 16, 3), 40 * i, np.uint8)) for i in range(6)])
    )
    made.create_rows("embeddings/e", (6, 4), "float16")
    made.write_rows("embeddings/e", 0, np.ones((6, 4)))
    made.commit("embeddings/e", 0, {"count": 6})
    return made.path


def read_all(path: Path) -> None:
    describe(path, check=True)
    tiles = TileSet.open_(path)
    tiles.read_tiles(range(len(tiles)))
    for name in ("label", "x_l0"):
        tiles.column(name)
    tiles.texts("path"), tiles.embeddings("e"), columns_of(tiles), placement_of(tiles)  # noqa: B018 - are read


def changed(keys: tuple[str | int, ...], value: Any) -> Callable[[Path], None]:
    def change(file: Path) -> None:
        tree = json.loads(file.read_text())
        node = tree
        for key in keys[:-1]:
            node = node[key]
        node[keys[-1]] = value
        file.write_text(json.dumps(tree))

    return change


def test_as_it_is_it_is_read(store: Path) -> None:
    read_all(store)


def write_rows(values: np.ndarray) -> Callable[[Path], None]:
    """Write the first chunk of the array that has the file, and its checksum."""
    return lambda file: TileStore.open_(file.parents[4]).write_rows("/".join(file.parts[-5:-3]), 0, values)


ROOT = ("attributes", "histogen")


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("zarr.json", changed((*ROOT, "kind"), ["slide"]), r"malformed metadata \(kind\)"),
        ("zarr.json", changed((*ROOT, "store_id"), "../../evil"), r"malformed metadata \(store_id\)"),
        ("zarr.json", changed((*ROOT, "tile_px"), 0), r"malformed metadata \(tile_px\)"),
        ("zarr.json", changed((*ROOT, "num_tiles"), 1e300), r"malformed metadata \(num_tiles\)"),
        ("zarr.json", changed((*ROOT, "num_tiles"), True), r"malformed metadata \(num_tiles\)"),
        ("zarr.json", changed((*ROOT, "shard_tiles"), 0), r"malformed metadata \(shard_tiles\)"),
        ("zarr.json", changed((*ROOT, "mpp"), float("nan")), r"malformed metadata \(mpp\)"),
        ("zarr.json", changed((*ROOT, "provenance"), []), r"malformed metadata \(provenance\)"),
        ("zarr.json", changed((*ROOT, "format"), {}), r"has format \{\}, this histogen reads 1"),
        ("zarr.json", changed(("attributes",), 5), "not a tile store of histogen"),
        ("zarr.json", lambda file: file.write_text("[" * 5000), r"is not JSON \(maximum recursion depth"),
        ("zarr.json", changed((*ROOT, "provenance", "slide", "mpp"), None), "does not say how its slide was tiled"),
        ("zarr.json", changed((*ROOT, "provenance", "slide", "mpp"), [0.5]), "does not say how its slide was tiled"),
        ("zarr.json", changed((*ROOT, "provenance", "slide", "mpp"), [0, 1]), "its slide has 0 x 1 mpp"),
        ("tiles/zarr.json", changed(("codecs", 0, "configuration"), 3), "malformed metadata of its tiles"),
        ("tiles/zarr.json", changed(("shape", 0), 7), r"has tiles \(7, 16, 16, 3\)"),
        ("columns/x_l0/zarr.json", changed(("shape",), []), "not an array of a tile store: its shape cannot be"),
        ("columns/x_l0/zarr.json", changed(("shape",), [[6]]), "its shape cannot be"),
        ("columns/x_l0/zarr.json", changed(("shape",), [-6]), "its shape cannot be"),
        ("embeddings/e/zarr.json", changed(("shape",), [6, 2**31]), "has the wrong length"),
        ("columns/x_l0/zarr.json", changed(("data_type",), "object"), "its data_type cannot be"),
        ("columns/x_l0/zarr.json", changed(("data_type",), ["float64"]), "its data_type cannot be"),
        ("columns/x_l0/zarr.json", changed(("chunk_grid",), ["configuration"]), "its chunk_shape cannot be"),
        ("columns/x_l0/zarr.json", changed(("fill_value",), "many"), "its fill_value cannot be"),
        ("columns/x_l0/zarr.json", changed(("codecs",), [1]), "its codecs are not 'bytes' and 'crc32c'"),
        ("columns/x_l0/zarr.json", changed(("codecs",), 1), "its codecs are not 'bytes' and 'crc32c'"),
        ("columns/label/zarr.json", changed(("attributes",), 7), "its attributes cannot be"),
        ("columns/label/zarr.json", changed(("attributes", "categories"), ["a", ["b"]]), "its attributes cannot be"),
        ("columns/label/zarr.json", changed(("attributes", "categories"), ["a"]), "1 categories holds other codes"),
        ("columns/path/c/0/0", write_rows(np.full((6, 1), 255, np.uint8)), "not UTF-8"),
        ("columns/path/c/0/0", lambda file: file.write_bytes(b"\xff" * 10), "differs from its checksum"),
        ("columns/x_l0/c/0", lambda file: file.write_bytes(bytes(53)), "wrong length .53 bytes, not 52"),
        ("embeddings/e/c/0/0", lambda file: file.write_bytes(b""), "chunk .* has the wrong length"),
        ("ledger/tiles/0.json", lambda file: file.write_text("[1]"), "does not say what a note says"),
        ("ledger/tiles/0.json", changed(("count",), "6"), "does not say what a note says"),
        ("ledger/tiles/0.json", lambda file: file.write_bytes(b"\xff\xfe"), "is not JSON"),
    ],
)  # fmt: skip
def test_metadata_that_cannot_be_are_named(store: Path, file: str, change: Callable[[Path], None], said: str) -> None:
    change(store / file)
    with pytest.raises(StoreError, match=said) as caught:
        read_all(store)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["zarr.json", "columns/x_l0/zarr.json", "columns/x_l0/c/0", "ledger/tiles/0.json"])
def test_a_folder_where_a_file_should_be(store: Path, file: str) -> None:
    (store / file).unlink()
    (store / file).mkdir()
    with pytest.raises(StoreError, match="cannot be read"):
        read_all(store)


def test_a_folder_where_a_shard_should_be(store: Path) -> None:
    shard = store / "tiles" / "c" / "0" / "0" / "0" / "0"
    shard.unlink()
    shard.mkdir()
    assert describe(store, check=True).failures == (f"shard '{shard}' is missing; run what made it with --resume",)
