"""What cannot work is one sentence before the output is claimed: nothing long has run, nothing stands in the way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histogen.errors import ConfigError, EncoderError, HistogenError, OutputExistsError, StoreError
from histogen.pipelines.synthesize import command as synthesize
from histogen.pipelines.synthesize.command import SynthesizeConfig
from histogen.pipelines.train_autoencoder import command as train_autoencoder
from histogen.pipelines.train_autoencoder.command import TrainAutoencoderConfig
from histogen.pipelines.train_eldm import command as train_eldm
from histogen.pipelines.train_eldm.command import TrainEldmConfig
from histogen.store.jpeg import encode_jpeg
from histogen.store.tile_store import TileStore

from .conftest import TINY_AUTOENCODER, TINY_ELDM


@pytest.fixture(scope="module")
def world(make_sources: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sources/, wide.zarr of 18-px tiles, autoencoder/, eldm/ and generative/."""
    folder = tmp_path_factory.mktemp("world")
    make_sources(folder / "sources")
    wide = TileStore.create(
        folder / "wide.zarr", kind="slide", store_id="wide", tile_px=18, mpp=0.5, num_tiles=30, provenance={}
    )
    noise = np.random.default_rng(0).integers(0, 255, (30, 18, 18, 3)).astype(np.uint8)
    wide.commit("tiles", 0, wide.write_tiles(0, [encode_jpeg(tile) for tile in noise]))
    train_autoencoder.run(autoencoder(folder, folder / "autoencoder"))
    train_eldm.run(eldm(folder, folder / "eldm", optim={"steps": 2, "batch": 8}))
    synthesize.run(synthesis(folder, folder / "generative"))
    return folder


def located(world: Path, given: dict[str, Any]) -> dict[str, Any]:
    """``given`` with its tiles looked for in ``world``."""
    return {**given, "tiles": [world / name for name in given["tiles"]]}


def autoencoder(world: Path, out: Path, **changes: Any) -> TrainAutoencoderConfig:
    given = {"tiles": ["sources"], "out": out, "device": "cpu", **TINY_AUTOENCODER}
    return TrainAutoencoderConfig.model_validate(located(world, {**given, **changes}))


def eldm(world: Path, out: Path, **changes: Any) -> TrainEldmConfig:
    given = {"tiles": ["sources"], "autoencoder": str(world / "autoencoder"), "device": "cpu", "out": out}
    return TrainEldmConfig.model_validate(located(world, {**given, **TINY_ELDM, **changes}))


def synthesis(world: Path, out: Path, **changes: Any) -> SynthesizeConfig:
    given = {"tiles": ["sources"], "eldm": world / "eldm", "out": out, "micro_batch": 8, "device": "cpu"}
    return SynthesizeConfig.model_validate(located(world, {**given, **changes}))


FOUR_LEVELS = {**TINY_AUTOENCODER["model"], "channels": [4, 4, 4, 8]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": {**TINY_AUTOENCODER["optim"], "batch": 100}}, "a batch of 100 cannot be drawn from 53 tiles"),
        ({"heldout": {"fraction": 0.999}}, "59 of 59 tiles cannot be held out"),
        ({"tiles": ["wide.zarr"], "model": FOUR_LEVELS}, "18 px cannot be halved 3 times"),
        ({"tiles": ["wide.zarr"], "model": FOUR_LEVELS, "crop_px": 16}, "18 px are not whole latent cells of 8 px"),
        ({"tiles": ["generative"]}, "holds generative tiles; give the real tiles"),
    ],
)
def test_an_autoencoder_that_cannot_be_trained(
    world: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(HistogenError, match=message):
        train_autoencoder.run(autoencoder(world, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim": {**TINY_ELDM["optim"], "batch": 100}}, "a batch of 100 cannot be drawn from 53 tiles"),
        ({"optim": {**TINY_ELDM["optim"], "accumulate": 3}}, "does not split evenly"),
        ({"heldout": {"fraction": 0.999}}, "59 of 59 tiles cannot be held out"),
        ({"sampler": {"name": "heun"}, "objective": {"kind": "flow"}}, "sampler 'heun' cannot run"),
        ({"sampler": {"name": "ddim", "steps": 30}}, "ddim with 30 steps: they must divide 1000"),
        ({"model": {**TINY_ELDM["model"], "injection": "token"}, "init": "."}, r"weights '\.' are no file"),
        ({"tiles": ["generative"]}, "holds generative tiles; give the real tiles"),
    ],
)
def test_an_eldm_that_cannot_be_trained(world: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(HistogenError, match=message):
        train_eldm.run(eldm(world, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_an_eldm_of_tiles_that_are_not_whole_latent_cells(world: Path, tmp_path: Path) -> None:
    """The decoder would give them back in another size."""
    train_autoencoder.run(autoencoder(world, tmp_path / "f8", model=FOUR_LEVELS, optim={"steps": 1, "batch": 4}))
    config = eldm(world, tmp_path / "run", tiles=[world / "wide.zarr"], autoencoder=str(tmp_path / "f8"))
    with pytest.raises(ConfigError, match="18 px are not whole latent cells of 8 px"):
        train_eldm.run(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("betas", "message"), [((0.02, 0.001), "beta_start 0.02 exceeds beta_end 0.001"), ((0.001, 2), "less than 1")]
)
def test_a_noise_schedule_that_is_none(betas: tuple[float, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        eldm(Path(), Path("run"), objective=dict(zip(("beta_start", "beta_end"), betas, strict=True)))


@pytest.mark.parametrize(
    ("error", "changes", "message"),
    [
        (ConfigError, {"sampler": {"name": "flow_euler"}}, "sampler 'flow_euler' cannot run a model trained as eps or"),
        (ConfigError, {"sampler": {"name": "ddim", "steps": 30}}, "ddim with 30 steps"),
        (ConfigError, {"tiles": ["wide.zarr"]}, "the tiles have 18 px and the E-LDM in '.*eldm' makes 16 px"),
        (StoreError, {"tiles": ["generative"]}, "holds generative tiles; give the real tiles"),
        (EncoderError, {"consistency": {"measure": True, "encoder": "random:test_vit"}}, "'colour-histogram', and 'r"),
    ],
)
def test_tiles_that_cannot_be_made(
    world: Path, tmp_path: Path, error: type[HistogenError], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(error, match=message):
        synthesize.run(synthesis(world, tmp_path / "made", **changes))
    assert not (tmp_path / "made").exists()


def test_one_tile_has_no_partner(world: Path, tmp_path: Path, drawn_tiles: np.ndarray) -> None:
    one = TileStore.create(
        tmp_path / "one.zarr", kind="slide", store_id="one", tile_px=16, mpp=0.5, num_tiles=1, provenance={}
    )
    one.commit("tiles", 0, one.write_tiles(0, [encode_jpeg(drawn_tiles[0])]))
    with pytest.raises(ConfigError, match="1 tile has no partner"):
        synthesize.run(synthesis(world, tmp_path / "made", tiles=[tmp_path / "one.zarr"], kind="interpolated"))
    assert not (tmp_path / "made").exists()


def test_where_tiles_and_pictures_can_go(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be one store"):
        synthesis(world, tmp_path / "made.zarr")
    row = f"{world / 'generative' / 'A.zarr'}:3"
    with pytest.raises(ValueError, match="is no picture"):
        synthesis(world, tmp_path / "again.bmp", recreate=row)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "mine.png").write_text("mine")
    for name, overwrite in (("folder.png", False), ("folder.png", True), ("mine.png", False)):
        with pytest.raises(OutputExistsError, match=name):
            synthesize.run(synthesis(world, tmp_path / name, recreate=row, overwrite=overwrite))
    assert (tmp_path / "mine.png").read_text() == "mine"
    assert synthesize.run(synthesis(world, tmp_path / "mine.png", recreate=row, overwrite=True)).results["same"]
    assert (tmp_path / "mine.png").read_bytes().startswith(b"\x89PNG")
