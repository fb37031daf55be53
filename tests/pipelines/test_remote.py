"""Tile stores on object storage: a local S3 server, and the bytes of local stores."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import zarr

from histogen import lease
from histogen.config import load_config
from histogen.errors import ConfigError, HistogenError, OutputInUseError, StoreError
from histogen.pipelines.embed.command import ensure_embeddings
from histogen.pipelines.import_images import ImportImagesConfig
from histogen.pipelines.import_images import run as run_import
from histogen.pipelines.inspect import describe_all
from histogen.pipelines.pretrain.command import PretrainConfig
from histogen.pipelines.pretrain.command import run as run_pretrain
from histogen.pipelines.run.draw import DrawConfig
from histogen.pipelines.run.draw import run as run_draw
from histogen.pipelines.synthesize.command import SynthesizeConfig
from histogen.pipelines.synthesize.command import run as run_synthesize
from histogen.pipelines.tile.command import TileConfig
from histogen.pipelines.tile.command import run as run_tile
from histogen.pipelines.train_autoencoder.command import TrainAutoencoderConfig
from histogen.pipelines.train_autoencoder.command import run as run_autoencoder
from histogen.pipelines.train_eldm.command import TrainEldmConfig
from histogen.pipelines.train_eldm.command import run as run_eldm
from histogen.pipelines.view.command import open_rooms
from histogen.pipelines.view.config import ViewConfig
from histogen.remote import as_path, remove_tree, write
from histogen.store import random_access
from histogen.store.tile_set import open_tiles
from histogen.store.tile_store import TileStore

from .conftest import TINY_AUTOENCODER, TINY_ELDM

SECRET = "wJalrXUtnFEMI-never-written"
LAB = "s3://lab"
TIMED = ("config.yaml", "run.json", "report.html", "report.json")
"""What says where and when it was made; of latents, what their autoencoder is, does so too."""
PRETRAIN: dict[str, Any] = {
    "model": {
        "name": "vit_tiny_patch16_224", "arguments": {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2},
        "prototypes": 32, "head_hidden": 32, "head_bottleneck": 16,
    },
    "crops": {"global_px": 32, "local_px": 16, "num_local": 1},
    "optim": {"num_steps": 3, "batch": 8, "warmup_epochs": 0},
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _server() -> Iterator[None]:
    """Serve S3 on a free port of this machine, to this process and those that it starts."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    started = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    started.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{started.get_host_and_port()[1]}")
        patch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        storage().mkdir("lab")
        yield
    started.stop()


def storage() -> Any:
    return as_path(LAB).fs  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    run_draw(DrawConfig(out=folder / "slides", num_slides=2, width_px=1000, height_px=640))
    return folder / "slides"


@pytest.fixture(scope="module")
def both(slides: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The chain until synthetic tiles, here and there; trainings write here, into ``runs-here`` and ``runs-there``."""
    here, there = tmp_path_factory.mktemp("here"), as_path(LAB)
    for place, runs in ((here, here / "runs-here"), (there, here / "runs-there")):
        tiles = [str(place / "tiles")]
        run_tile(TileConfig(slides=[slides], out=str(place / "tiles"), tile_px=32, mpp=1.0))  # type: ignore[arg-type]
        ensure_embeddings(tiles, "colour")  # type: ignore[arg-type]
        common: dict[str, Any] = {"tiles": tiles, "device": "cpu"}
        run_autoencoder(TrainAutoencoderConfig(**TINY_AUTOENCODER, **common, out=runs / "autoencoder"))
        eldm = {**TINY_ELDM, **common, "out": runs / "eldm", "autoencoder": str(runs / "autoencoder")}
        run_eldm(TrainEldmConfig.model_validate({**eldm, "optim": {"steps": 3, "batch": 8}}))
        made = {**common, "eldm": runs / "eldm", "kind": "generative", "out": str(place / "generative")}
        run_synthesize(SynthesizeConfig.model_validate({**made, "micro_batch": 8}))
        views = {"generative": str(place / "generative")}
        run_pretrain(PretrainConfig.model_validate({**PRETRAIN, **common, **views, "out": runs / "gen-dino"}))
    return here, there


def files(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file of an output, here or there, but for those that say when and from where."""
    if not hasattr(folder, "fs"):
        found = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    else:
        place = folder.path  # type: ignore[attr-defined]
        found = {name.removeprefix(f"{place}/"): storage().cat_file(name) for name in storage().find(place)}
    said = {name for name in found if name.rpartition("/")[2] in TIMED or ("/latents/" in name and "/c/" not in name)}
    return {name: data for name, data in found.items() if name not in said}


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 4
    write(path, bytes(data))


def test_what_is_there_is_what_would_be_here(both: tuple[Path, Path]) -> None:
    here, there = both
    ours, theirs = files(here / "tiles"), files(there / "tiles")
    assert ours == theirs
    assert {"drawn-00.zarr/tiles/c/0/0/0/0", "drawn-00.zarr/embeddings/colour-histogram/c/0/0"} <= set(ours)


def test_networks_and_tiles_made_from_there_are_those_from_here(both: tuple[Path, Path]) -> None:
    here, there = both
    for run in ("autoencoder", "eldm", "gen-dino"):
        weights = [
            {name: data for name, data in files(here / runs / run).items() if name.endswith(".safetensors")}
            for runs in ("runs-here", "runs-there")
        ]
        assert weights[0] == weights[1]
        assert weights[0]
    ours, theirs = (
        {name: data for name, data in files(place / "generative").items() if "/c/" in name} for place in both
    )
    assert ours == theirs
    assert len(ours) > 4


def test_zarr_reads_it_too(both: tuple[Path, Path]) -> None:
    store = TileStore.open_(f"{LAB}/tiles/drawn-00.zarr")
    read = zarr.open_group(f"{LAB}/tiles/drawn-00.zarr", mode="r")
    np.testing.assert_array_equal(read["tiles"][3], store.read_tile(3))
    np.testing.assert_array_equal(
        read["embeddings/colour-histogram"][:], store.read_rows("embeddings/colour-histogram")
    )


def test_tiles_are_read_at_the_same_time_and_neighbours_by_one_request(
    both: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, _ = both
    asked: list[int] = []
    before = random_access.read_ranges

    def counted(path: Path, ranges: Any) -> list[bytes]:
        asked.append(len(ranges))
        return before(path, ranges)

    monkeypatch.setattr(random_access, "read_ranges", counted)
    theirs, ours = open_tiles(f"{LAB}/tiles"), open_tiles(here / "tiles")
    order = np.random.default_rng(0).permutation(len(theirs))
    np.testing.assert_array_equal(theirs.read_tiles(order, threads=2), ours.read_tiles(order))
    assert asked == [1, 1]  # one request to each shard
    monkeypatch.setattr(random_access, "NEAR_BYTES", -1)
    np.testing.assert_array_equal(theirs.read_tiles([0, 2, 9]), ours.read_tiles([0, 2, 9]))
    assert asked == [1, 1, 3]  # what lies apart is asked for at the same time
    np.testing.assert_array_equal(theirs[5], ours[5])


def test_a_flipped_bit_is_seen_and_mended(both: tuple[Path, Path], slides: Path, tmp_path: Path) -> None:
    del both
    place = as_path(f"{LAB}/damaged")
    config: dict[str, Any] = {"slides": [slides], "out": str(place), "tile_px": 32, "mpp": 1.0}
    run_tile(TileConfig(**config))
    ensure_embeddings([str(place)], "colour")  # type: ignore[list-item]
    whole = files(place)
    shard = place / "drawn-00.zarr" / "tiles" / "c" / "0" / "0" / "0" / "0"
    chunk = place / "drawn-01.zarr" / "embeddings" / "colour-histogram" / "c" / "0" / "0"
    flip(shard, 40)
    flip(chunk, 9)
    store = TileStore.open_(place / "drawn-00.zarr")
    with pytest.raises(StoreError, match=r"tile 0 of shard 's3://lab/damaged/drawn-00.zarr/tiles.* is damaged"):
        store.read_tile(0)
    with pytest.raises(StoreError, match=r"drawn-01.*differs from its checksum.*--check --repair"):
        TileStore.open_(place / "drawn-01.zarr").read_rows("embeddings/colour-histogram")
    checked = describe_all([Path(f"{LAB}/damaged")], check=True)  # as the command line gives it
    assert len(checked.failures) == 2
    assert "histogen tile --config s3://lab/damaged/config.yaml --out s3://lab/damaged --resume" in checked.failures[0]
    repaired = describe_all([place], repair=True, check=True)
    assert "repaired: shard 0 of embeddings/colour-histogram" in repaired.summary
    run_tile(TileConfig(**config, resume=True))
    assert files(place) == whole
    assert store.read_tile(0).shape == (32, 32, 3)  # the same reader: the shard is opened anew


def test_one_process_writes_there(tmp_path: Path) -> None:
    place = as_path(f"{LAB}/leased")
    holder = "import sys; from histogen.lease import take; from histogen.remote import as_path; " + (
        f"take(as_path({str(place)!r})); print('held', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen([sys.executable, "-c", holder], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(OutputInUseError, match=rf"is being written by process {process.pid} on .* since 2"):
        lease.take(place)
    process.kill()
    process.wait()
    lease.take(place)
    assert json.loads((place / lease.LEASE_NAME).read_text())["pid"] == os.getpid()
    lease.give_back(place)
    assert not (place / lease.LEASE_NAME).exists()


def test_a_killed_import_is_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(1100):
            cv2.imwrite(str(tmp_path / "images" / name / f"{number}.jpg"), rng.integers(0, 255, (16, 16, 3), np.uint8))
    config: dict[str, Any] = {"folder": tmp_path / "images", "tile_px": 16}
    run_import(ImportImagesConfig(**config, out=tmp_path / "whole"))
    out, command = f"{LAB}/killed", [sys.executable, "-m", "histogen", "import-images", str(tmp_path / "images")]
    process = subprocess.Popen([*command, "--out", out, "--set", "tile_px=16"], stderr=subprocess.DEVNULL)
    notes = as_path(out) / "images.zarr" / "ledger" / "tiles"
    while not (notes.is_dir() and list(notes.iterdir())):
        assert process.poll() is None
    process.kill()
    process.wait()
    assert files(as_path(out)) != files(tmp_path / "whole")
    run_import(ImportImagesConfig(**config, out=out, resume=True))  # type: ignore[arg-type]
    assert files(as_path(out)) == files(tmp_path / "whole")


def test_an_output_there_is_made_anew_only_when_asked(slides: Path) -> None:
    place = as_path(f"{LAB}/anew")
    config: dict[str, Any] = {"slides": [slides], "out": str(place), "tile_px": 32}
    run_tile(TileConfig(**config, mpp=1.0))
    before = files(place)
    with pytest.raises(HistogenError, match="exists; pass --resume to continue it or --overwrite"):
        run_tile(TileConfig(**config, mpp=2.0))
    assert files(place) == before
    run_tile(TileConfig(**config, mpp=2.0, overwrite=True))
    assert files(place) != before
    run_tile(TileConfig(**config, mpp=1.0, overwrite=True))
    assert files(place) == before
    remove_tree(place)
    assert not place.exists()


def test_no_secret_is_ever_written_or_said(both: tuple[Path, Path], slides: Path) -> None:
    here, _ = both
    tile = [sys.executable, "-m", "histogen", "tile", str(slides), "--tile-px", "32", "--mpp", "1", "--out"]
    runs = [
        subprocess.run(
            [*tile, out, "--workers", "1"], capture_output=True, text=True, check=False, env=os.environ | more
        )
        for out, more in ((f"{LAB}/said", {}), (f"{LAB}/said", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}))
    ]
    assert [run.returncode for run in runs] == [0, 2]
    said = "".join(run.stdout + run.stderr for run in runs)
    assert "114 tiles" in said
    assert "cannot be reached" in said
    kept = [storage().cat_file(name) for name in storage().find("lab")]
    kept += [file.read_bytes() for file in here.rglob("*") if file.is_file()]
    for secret in (SECRET, "AKIAIOSFODNN7EXAMPLE"):
        assert not any(secret.encode() in data for data in kept)
        assert secret not in said


def test_what_cannot_be_reached_or_written_is_one_sentence(
    both: tuple[Path, Path], tmp_path: Path, slides: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del both
    with pytest.raises(ConfigError, match=r"credentials belong in the environment") as refused:
        load_config(TileConfig, flags={"slides": [slides], "out": "s3://KEY:SECRET@lab/x"})
    assert "SECRET" not in str(refused.value)
    with pytest.raises(ConfigError, match=r"there is no bucket 's3://nowhere'"):
        run_tile(TileConfig(slides=[slides], out="s3://nowhere/x"))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"there is no bucket 's3://nowhere'"):
        open_tiles("s3://nowhere/x")
    with pytest.raises(StoreError, match=r"'s3://lab/nothing' does not exist"):
        open_tiles(f"{LAB}/nothing")
    with pytest.raises(ConfigError, match=r"pretrain writes to local folders, not to 's3://lab/run'"):
        run_pretrain(PretrainConfig(**PRETRAIN, tiles=[f"{LAB}/tiles"], out=f"{LAB}/run"))
    with pytest.raises(ConfigError, match=r"'s3://lab/tiles' is on object storage, and what is looked at must be here"):
        open_rooms(ViewConfig(paths=[Path(f"{LAB}/tiles")]))
    process = subprocess.run(
        [sys.executable, "-m", "histogen", "inspect", f"{LAB}/tiles"], capture_output=True, text=True, check=False,
        env={**os.environ, "AWS_ENDPOINT_URL": "http://127.0.0.1:9"},
    )  # fmt: skip
    assert process.returncode == 2
    assert "'s3://lab/tiles' cannot be reached (Could not connect" in process.stderr
    assert "Traceback" not in process.stderr
