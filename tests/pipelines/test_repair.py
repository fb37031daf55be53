"""``inspect --check --repair``: a flipped bit anywhere downstream is named, and made anew to the bytes of before."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from cli.main import app
from histogen.encoders.timm import build_vit, export_encoder
from histogen.pipelines.embed import command as embed
from histogen.pipelines.embed.config import EmbedConfig
from histogen.pipelines.import_images import ImportImagesConfig
from histogen.pipelines.import_images import run as import_images
from histogen.pipelines.inspect import describe
from histogen.pipelines.outputs import Outcome
from histogen.pipelines.synthesize.command import SynthesizeConfig
from histogen.pipelines.synthesize.command import run as synthesize
from histogen.pipelines.train_autoencoder.command import TrainAutoencoderConfig
from histogen.pipelines.train_autoencoder.command import run as run_autoencoder
from histogen.pipelines.train_eldm.command import TrainEldmConfig
from histogen.pipelines.train_eldm.command import run as run_eldm
from histogen.remote import remove_tree
from histogen.store.layout import Column
from histogen.store.tile_store import TileStore

from .conftest import TINY_AUTOENCODER, TINY_ELDM

VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 64, "depth": 1, "num_heads": 1}


def write_dino(run: Path, seed: int) -> None:
    torch.manual_seed(seed)
    export_encoder(
        build_vit("vit_small_patch16_224", VIT), run / "encoder", name="dino",
        architecture="vit_small_patch16_224", arguments=VIT, image_px=16, mean=(0.5,) * 3, std=(0.2,) * 3,
        source="test", supervision="none",
    )  # fmt: skip


@pytest.fixture(scope="module")
def made(make_sources: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sources/, dino/, autoencoder/, eldm/, generative/ and interpolated/."""
    folder = tmp_path_factory.mktemp("made")
    make_sources(folder / "sources")
    write_dino(folder / "dino", 0)
    tiles = [folder / "sources"]
    common = {"tiles": tiles, "device": "cpu"}
    trained = {**common, "out": folder / "autoencoder", **TINY_AUTOENCODER}
    run_autoencoder(TrainAutoencoderConfig.model_validate(trained))
    trained = {**common, "out": folder / "eldm", "autoencoder": str(folder / "autoencoder"), **TINY_ELDM}
    trained |= {"encoder": str(folder / "dino"), "optim": {"steps": 4, "batch": 8}}
    run_eldm(TrainEldmConfig.model_validate(trained))
    for kind in ("generative", "interpolated"):
        given = {**common, "eldm": folder / "eldm", "kind": kind, "out": folder / kind, "micro_batch": 8}
        synthesize(
            SynthesizeConfig.model_validate({**given, "sampler": {"steps": 1}, "consistency": {"measure": True}})
        )
    return folder


@pytest.fixture
def moved(made: Path, tmp_path: Path) -> Path:
    """The same, all of it in another place."""
    return Path(shutil.copytree(made, tmp_path / "moved"))


def flip(file: Path, seed: int = 0) -> None:
    data = bytearray(file.read_bytes())
    data[int(np.random.default_rng(seed).integers(len(data)))] ^= 1 << seed % 8
    file.write_bytes(data)


def damage(folder: Path, pattern: str, seed: int = 0) -> dict[Path, bytes]:
    """Flip a bit in the first file that fits and return what it was."""
    file = min(path for path in folder.glob(pattern) if path.is_file())
    was = file.read_bytes()
    flip(file, seed)
    return {file: was}


def check(path: Path, *, repair: bool = False) -> Outcome:
    return describe(path, check=True, repair=repair)


DAMAGES = {
    "embeddings": ("sources", "A.zarr/embeddings/dino-*/c/**/*"),
    "latents": ("sources", "B.zarr/latents/*/c/**/*"),
    "generative tiles": ("generative", "A.zarr/tiles/c/**/*"),
    "interpolated tiles": ("interpolated", "B.zarr/tiles/c/**/*"),
    "a planned column": ("interpolated", "A.zarr/columns/source_index/c/**/*"),
    "a planned category": ("interpolated", "A.zarr/columns/partner_store/c/**/*"),
    "what was measured": ("generative", "A.zarr/columns/consistency/c/**/*"),
}


@pytest.mark.parametrize("what", DAMAGES)
def test_a_flipped_bit_is_named_and_repaired_to_the_same_bytes(made: Path, moved: Path, what: str) -> None:
    of, pattern = DAMAGES[what]
    before = {path: path.read_bytes() for path in (moved / of).rglob("*") if path.is_file()}
    assert check(moved / of).failures == ()
    for seed in range(3):
        (file,) = damage(moved / of, pattern, seed)
        (said,) = check(moved / of).failures
        assert str(file.relative_to(moved)) in said or re.search(r"chunk|shard", said), said
        assert str(file.parents[0]).split(".zarr")[0] in said
        mended = check(moved / of, repair=True)
        assert mended.exit_code == 0, mended.failures
        assert re.search(r"repaired: shard 0 of .*, the same bytes as before", " ".join(mended.summary.split()))
        assert {path: path.read_bytes() for path in (moved / of).rglob("*") if path.is_file()} == before
    assert check(made / of).failures == ()


def test_a_category_is_repaired_by_the_names_that_its_store_has(moved: Path) -> None:
    """Stores of before name every store, in another order than those of now."""
    path = moved / "interpolated" / "A.zarr"
    store = TileStore.open_(path)
    names = store.rows_attributes("columns/partner_store")["categories"]
    codes = store.read_rows("columns/partner_store")
    of_before = ["none of these", *reversed(names)]
    told = [names[code] for code in codes]
    column = Column(np.array([of_before.index(name) for name in told], np.int32), tuple(of_before))
    remove_tree(path / "columns" / "partner_store")
    store.write_column("partner_store", column)
    (chunk,) = (path / "columns" / "partner_store" / "c").iterdir()
    whole = chunk.read_bytes()
    damage(moved / "interpolated", "A.zarr/columns/partner_store/c/**/*", 0)
    assert chunk.read_bytes() != whole
    assert check(moved / "interpolated", repair=True).exit_code == 0
    assert chunk.read_bytes() == whole


def test_all_at_once_what_others_are_made_from_first(moved: Path) -> None:
    was: dict[Path, bytes] = {}
    for of, pattern in DAMAGES.values():
        was |= damage(moved / of, pattern, 5)
    for of in ("sources", "generative", "interpolated"):
        assert check(moved / of, repair=True).exit_code == 0
    assert all(path.read_bytes() == data for path, data in was.items())


def test_what_cannot_be_repaired_says_what_to_run(moved: Path) -> None:
    was = damage(moved / "sources", DAMAGES["embeddings"][1])
    (file,) = was
    gone = moved / "elsewhere" / "dino"
    gone.parent.mkdir()
    shutil.move(moved / "dino", gone)
    mended = check(moved / "sources", repair=True)
    (said,) = mended.failures
    assert mended.exit_code == 1
    assert "stay damaged: their encoder 'dino-" in said
    assert "is not at hand" in said
    assert f"histogen embed {moved / 'sources' / 'A.zarr'} --encoder ENCODER --resume" in said
    assert file.read_bytes() != was[file]
    embed.run(EmbedConfig(tiles=[moved / "sources"], encoder=str(gone), device="cpu", resume=True))
    assert file.read_bytes() == was[file]


def test_another_encoder_in_its_place_repairs_nothing(moved: Path) -> None:
    was = damage(moved / "sources", DAMAGES["embeddings"][1])
    (file,) = was
    spoilt = file.read_bytes()
    shutil.rmtree(moved / "dino")
    write_dino(moved / "dino", 1)
    (said,) = check(moved / "sources", repair=True).failures
    assert re.search(r"their encoder is 'dino-\w+', and '.*dino' is 'dino-\w+' now", said)
    assert file.read_bytes() == spoilt


def test_real_tiles_name_the_command_that_cuts_them_again(tmp_path: Path, drawn_tiles: np.ndarray) -> None:
    from PIL import Image

    (tmp_path / "images").mkdir()
    for number, tile in enumerate(drawn_tiles[:5]):
        Image.fromarray(tile).save(tmp_path / "images" / f"{number}.png")
    config = ImportImagesConfig(folder=tmp_path / "images", out=tmp_path / "out.zarr")
    import_images(config)
    was = damage(tmp_path, "out.zarr/tiles/c/**/*")
    mended = check(tmp_path / "out.zarr", repair=True)
    assert mended.exit_code == 1
    (command,) = re.findall(r"histogen (import-images .* --resume)", mended.failures[0])
    arguments = command.replace("'", "").split()
    with pytest.raises(SystemExit) as ended:
        app(arguments)
    assert ended.value.code in (0, None)
    assert all(path.read_bytes() == data for path, data in was.items())


def test_a_reader_is_told_of_the_repair(moved: Path) -> None:
    damage(moved / "sources", DAMAGES["embeddings"][1])
    store = TileStore.open_(moved / "sources" / "A.zarr")
    with pytest.raises(Exception, match="--repair"):
        store.read_rows(f"embeddings/{store.list_rows('embeddings')[0]}")
