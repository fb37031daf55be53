"""``where``: what is left out takes no part in any training, and nothing is made from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histogen.errors import StoreError
from histogen.pipelines.synthesize.command import SynthesizeConfig
from histogen.pipelines.synthesize.command import run as synthesize
from histogen.pipelines.train_autoencoder.command import TrainAutoencoderConfig
from histogen.pipelines.train_autoencoder.command import run as train_autoencoder
from histogen.pipelines.train_eldm.command import TrainEldmConfig
from histogen.pipelines.train_eldm.command import run as train_eldm
from histogen.store.jpeg import encode_jpeg
from histogen.store.layout import Column
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore

from .conftest import TINY_AUTOENCODER, TINY_ELDM

TRAIN = {"split": "train"}


def write(folder: Path, tiles: np.ndarray, test_tiles: np.ndarray) -> None:
    """Write two stores of 20 tiles; every third tile tests, and comes from ``test_tiles``."""
    for name, start in (("A", 0), ("B", 20)):
        testing = [i % 3 == 0 for i in range(start, start + 20)]
        store = TileStore.create(
            folder / f"{name}.zarr", kind="slide", store_id=name, tile_px=16, mpp=0.5, num_tiles=20, provenance={},
            columns={"split": Column.categorical(["test" if test else "train" for test in testing])},
        )  # fmt: skip
        chosen = [(test_tiles if test else tiles)[start + i] for i, test in enumerate(testing)]
        store.commit("tiles", 0, store.write_tiles(0, [encode_jpeg(tile) for tile in chosen]))


def train_all(folder: Path, **changes: Any) -> tuple[str, str]:
    """Train both networks on ``folder/tiles`` and return what their weights are."""
    common: dict[str, Any] = {"tiles": [folder / "tiles"], "device": "cpu", "where": TRAIN, **changes}
    given = {**common, **TINY_AUTOENCODER, "out": folder / "autoencoder"}
    train_autoencoder(TrainAutoencoderConfig.model_validate(given))
    given = {**common, **TINY_ELDM, "out": folder / "eldm", "autoencoder": str(folder / "autoencoder")}
    train_eldm(TrainEldmConfig.model_validate(given))
    records = [json.loads((folder / name / "run.json").read_text())["results"] for name in ("autoencoder", "eldm")]
    return records[0]["name"], records[1]["weights_sha256"]


@pytest.fixture(scope="module")
def world(drawn_tiles: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write(folder / "tiles", drawn_tiles, drawn_tiles)
    return folder


@pytest.fixture(scope="module")
def trained(world: Path) -> tuple[str, str]:
    return train_all(world)


def test_other_pictures_in_the_tiles_left_out_change_no_weight(
    trained: tuple[str, str], drawn_tiles: np.ndarray, tmp_path: Path
) -> None:
    write(tmp_path / "tiles", drawn_tiles, 255 - drawn_tiles[::-1])
    assert train_all(tmp_path) == trained
    write(tmp_path / "all" / "tiles", drawn_tiles, 255 - drawn_tiles[::-1])
    assert train_all(tmp_path / "all", where={})[0] != trained[0]  # taken in, they would


@pytest.mark.usefixtures("trained")
def test_tiles_are_made_from_the_chosen_ones_and_paired_among_them(world: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {"tiles": [world / "tiles"], "eldm": world / "eldm", "micro_batch": 8, "device": "cpu"}
    for kind in ("generative", "interpolated"):
        out = tmp_path / kind
        synthesize(SynthesizeConfig.model_validate({**given, "kind": kind, "where": TRAIN, "out": out}))
        made, chosen = TileSet.open_(out), TileSet.open_(world / "tiles", where=TRAIN)
        assert sorted(sources_of(made, "source")) == sorted(chosen.ids())
    assert sorted(sources_of(made, "partner")) == sorted(chosen.ids())
    synthesize(SynthesizeConfig.model_validate({**given, "out": tmp_path / "all"}))
    every, few = (TileStore.open_(tmp_path / name / "A.zarr") for name in ("all", "generative"))
    assert not few.tile_ok[3]
    assert every.tile_ok[3]
    assert few.read_payload(4) == every.read_payload(4)


def sources_of(tiles: TileSet, role: str) -> list[str]:
    names = tiles.categories(f"{role}_store")
    pairs = zip(tiles.column(f"{role}_store"), tiles.column(f"{role}_index"), strict=True)
    return [f"{names[code]}:{index}" for code, index in pairs]


def test_a_value_or_a_column_that_is_not_there_is_one_sentence(world: Path, tmp_path: Path) -> None:
    given = {"tiles": [world / "tiles"], "out": tmp_path / "run", **TINY_AUTOENCODER}
    with pytest.raises(StoreError, match="column 'split' has no value 'training'"):
        train_autoencoder(TrainAutoencoderConfig.model_validate({**given, "where": {"split": "training"}}))
    with pytest.raises(StoreError, match="has no column 'fold'; it has split"):
        train_autoencoder(TrainAutoencoderConfig.model_validate({**given, "where": {"fold": 1}}))
    with pytest.raises(StoreError, match="none of 40 tiles has {'split': \\[\\]}"):
        train_autoencoder(TrainAutoencoderConfig.model_validate({**given, "where": {"split": []}}))
    assert not (tmp_path / "run").exists()
