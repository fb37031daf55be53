"""``embed``: values, bytes that depend on nothing but the tiles and the encoder, resume."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from histogen.encoders.base import Encoder, EncoderCard
from histogen.encoders.registry import load_encoder
from histogen.encoders.timm import build_vit, export_encoder
from histogen.errors import ConfigError, EncoderError, OutputExistsError
from histogen.pipelines import export
from histogen.pipelines.embed import command as embed
from histogen.pipelines.embed.command import EmbedConfig, ensure_embeddings
from histogen.store.jpeg import encode_jpeg
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore

ARGUMENTS = {"img_size": 16, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1}


def make_store(path: Path, num_tiles: int = 21, *, absent: tuple[int, ...] = (), seed: int = 0) -> TileStore:
    rng = np.random.default_rng(seed)
    store = TileStore.create(
        path, kind="slide", store_id=path.stem, tile_px=16, mpp=0.5, num_tiles=num_tiles, provenance={}
    )
    tiles = rng.integers(0, 256, (num_tiles, 16, 16, 3), dtype=np.uint8)
    payloads = [None if i in absent else encode_jpeg(tile) for i, tile in enumerate(tiles)]
    for shard in range(store.num_shards):
        store.commit("tiles", shard, store.write_tiles(shard, [payloads[i] for i in store.shard_range(shard)]))
    return store


def write_encoder(run: Path, seed: int) -> str:
    torch.manual_seed(seed)
    export_encoder(
        build_vit("vit_small_patch16_224", ARGUMENTS), run / "encoder", name="run",
        architecture="vit_small_patch16_224", arguments=ARGUMENTS, image_px=16, mean=(0.5,) * 3, std=(0.2,) * 3,
        source="test", supervision="none",
    )  # fmt: skip
    return str(run)


@pytest.fixture
def encoder(tmp_path: Path) -> str:
    return write_encoder(tmp_path / "run", 0)


def config(store: Path, encoder: str, **changes: object) -> EmbedConfig:
    return EmbedConfig(tiles=[store], encoder=encoder, batch=4, **changes)


def rows_bytes(store: Path) -> dict[str, bytes]:
    files = [p for p in [*store.glob("embeddings/**/*"), *store.glob("ledger/embeddings/**/*")] if p.is_file()]
    return {str(p.relative_to(store)): p.read_bytes() for p in files}


def test_embeddings_equal_the_encoder_on_each_tile(tmp_path: Path, encoder: str) -> None:
    make_store(tmp_path / "a.zarr", absent=(3, 20))
    outcome = embed.run(config(tmp_path / "a.zarr", encoder, precision="float32"))
    tiles = TileSet.open_(tmp_path / "a.zarr")
    assert outcome.exit_code == 0
    assert len(tiles) == 19
    loaded = load_encoder(encoder)
    assert tiles.embedding_names == [loaded.card.name] == [outcome.results["name"]]
    with torch.no_grad():
        expected = loaded(torch.from_numpy(tiles.read_tiles(range(19))).permute(0, 3, 1, 2))
    np.testing.assert_allclose(tiles.embeddings(), expected.numpy(), atol=1e-5)
    assert TileStore.open_(tmp_path / "a.zarr").rows_attributes(f"embeddings/{loaded.card.name}")["card"]["dim"] == 64


def test_an_export_takes_the_embeddings_of_the_run_that_made_them(tmp_path: Path, encoder: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    make_store(tmp_path / "a.zarr")
    embed.run(config(tmp_path / "a.zarr", encoder))
    embed.run(config(tmp_path / "a.zarr", write_encoder(tmp_path / "other", 1)))
    tiles = {"tiles": [tmp_path / "a.zarr"], "format": "parquet"}
    export.run(export.ExportConfig(**tiles, out=tmp_path / "features", encoder=encoder))
    (file,) = (tmp_path / "features").glob("*.parquet")
    written = np.array(parquet.read_table(file)["embedding"].to_pylist())
    expected = TileSet.open_(tmp_path / "a.zarr").embeddings(load_encoder(encoder).card.name)
    np.testing.assert_array_equal(written, expected)


def test_existing_embeddings_are_left_alone_resumed_or_redone(tmp_path: Path, encoder: str) -> None:
    store = make_store(tmp_path / "a.zarr")
    embed.run(config(store.path, encoder))
    before = rows_bytes(store.path)
    with pytest.raises(OutputExistsError, match="pass --resume to add what is missing"):
        embed.run(config(store.path, encoder))
    embed.run(config(store.path, encoder, resume=True))
    embed.run(config(store.path, encoder, overwrite=True))
    assert rows_bytes(store.path) == before


def test_ensure_embeddings_computes_once(tmp_path: Path, encoder: str) -> None:
    store = make_store(tmp_path / "a.zarr")
    name = ensure_embeddings([store.path], encoder)
    chunk = next(store.path.glob(f"embeddings/{name}/c/0*/*"))
    stamp = chunk.stat().st_mtime_ns
    assert ensure_embeddings([store.path], encoder) == name
    assert chunk.stat().st_mtime_ns == stamp


def test_a_worker_that_outlives_a_training_embeds_with_the_new_weights(tmp_path: Path, encoder: str) -> None:
    """This process keeps encoders from run to run, as the workers of a cluster do."""
    store = make_store(tmp_path / "a.zarr")
    for seed in (0, 1):
        write_encoder(Path(encoder), seed)
        name = ensure_embeddings([store.path], encoder, precision="float32")
        loaded = load_encoder(encoder)
        assert name == loaded.card.name
        tiles = TileSet.open_(store.path)
        expected = loaded(torch.from_numpy(tiles.read_tiles(range(21))).permute(0, 3, 1, 2))
        np.testing.assert_allclose(tiles.embeddings(name), expected.numpy(), atol=1e-5)


def test_weights_that_change_during_the_run_fail_its_shards(
    tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, inner = make_store(tmp_path / "a.zarr"), embed.run_units

    def changed_meanwhile(*given: object, **named: object) -> object:
        write_encoder(Path(encoder), 2)
        return inner(*given, **named)

    monkeypatch.setattr(embed, "run_units", changed_meanwhile)
    outcome = embed.run(config(store.path, encoder))
    assert outcome.exit_code == 1
    assert re.fullmatch(r"a/0: encoder '.*run' is 'run-\w{8}' now, not 'run-\w{8}'; run again", outcome.failures[0])


def test_bytes_do_not_depend_on_where_and_in_what_order_shards_are_made(
    tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histogen.store.layout.SHARD_TILES", 6)
    whole, workers, killed = (make_store(tmp_path / d / "a.zarr") for d in ("whole", "workers", "killed"))
    embed.run(config(whole.path, encoder))
    embed.run(config(workers.path, encoder, workers=2))
    assert rows_bytes(workers.path) == rows_bytes(whole.path)
    script = f"""
import sys, time
from pathlib import Path
from histogen.pipelines import export
from histogen.pipelines.embed import command as embed
inner = embed.embed_images
embed.embed_images = lambda *a, **k: (time.sleep(0.3), inner(*a, **k))[1]
embed.run(embed.EmbedConfig(tiles=[Path({str(killed.path)!r})], encoder={encoder!r}, batch=4))
"""
    child = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(killed.path.glob("ledger/embeddings/*/1.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert 0 < len(list(killed.path.glob("ledger/embeddings/*/*.json"))) < 4
    embed.run(config(killed.path, encoder, resume=True))
    assert rows_bytes(killed.path) == rows_bytes(whole.path)


def test_bytes_do_not_depend_on_threads(tmp_path: Path, encoder: str) -> None:
    written, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        store = make_store(tmp_path / str(threads) / "a.zarr")
        embed.run(config(store.path, encoder))
        written.append(rows_bytes(store.path))
    torch.set_num_threads(before)
    assert written[0] == written[1]


def test_bad_input_is_said_before_any_work(tmp_path: Path, encoder: str) -> None:
    store = make_store(tmp_path / "a.zarr")
    with pytest.raises(EncoderError, match="neither a folder nor a file"):
        embed.run(config(store.path, str(tmp_path / "nothing")))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="torch sees no GPU"):
            embed.run(config(store.path, encoder, device="cuda"))
    assert rows_bytes(store.path).keys() == {"embeddings/zarr.json"}


def test_a_damaged_tile_fails_its_shard_only(tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("histogen.store.layout.SHARD_TILES", 6)
    store = make_store(tmp_path / "a.zarr")
    inner = TileStore.read_tile

    def read(self: TileStore, index: int, out: np.ndarray | None = None) -> np.ndarray:
        if index == 7:
            from histogen.errors import StoreError

            raise StoreError("tile 7 does not decode")
        return inner(self, index, out)

    monkeypatch.setattr(TileStore, "read_tile", read)
    outcome = embed.run(config(store.path, encoder))
    assert outcome.failures == ("a/1: tile 7 does not decode",)
    assert outcome.exit_code == 1
    assert TileStore.open_(store.path).missing_shards(f"embeddings/{outcome.results['name']}") == [1]


class Given(torch.nn.Module):
    """A network whose embedding of a tile is its mean colour, scaled; tiles brighter than ``limit`` give NaN."""

    def __init__(self, scale: float, limit: float) -> None:
        super().__init__()
        self.scale, self.limit = scale, limit

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean = x.mean(dim=(2, 3))
        return torch.where(mean.mean(dim=1, keepdim=True) > self.limit, torch.nan, mean * self.scale)


def given(monkeypatch: pytest.MonkeyPatch, *, scale: float = 1.0, limit: float = 1e9, dim: int = 3) -> None:
    """Let every spec stand for :class:`Given`."""
    card = EncoderCard("given", dim, 16, (0.0,) * 3, (1.0,) * 3, "", "test", "none")
    monkeypatch.setattr(embed, "load_encoder", lambda *_: Encoder(Given(scale, limit), card))
    embed._cached_encoder.cache_clear()


def test_embeddings_that_are_not_finite_are_refused_by_tile_and_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store(tmp_path / "a.zarr")
    means = TileSet.open_(store.path).read_tiles(range(21)).mean(axis=(1, 2, 3)) / 255
    assert means[0] < means.max()
    given(monkeypatch, limit=float(np.sort(means)[-2:].mean()))
    outcome = embed.run(config(store.path, "given"))
    named = f"no finite embedding of tile {means.argmax()} of store 'a' (1 of 21 tiles of the shard)"
    assert named in outcome.failures[0]
    assert outcome.exit_code == 1
    assert store.list_rows("embeddings") == [], "nothing half-made is left"
    given(monkeypatch, scale=1e6)
    with pytest.raises(EncoderError, match=r"tile 0 of store 'a' .* more than float16 holds; use dtype=float32"):
        embed.run(config(store.path, "given", dtype="float16"))
    assert not embed.run(config(store.path, "given")).failures
    before = rows_bytes(store.path)
    given(monkeypatch, limit=-1)
    with pytest.raises(EncoderError, match="no finite embedding of tile 0 of store 'a'"):
        embed.run(config(store.path, "given", overwrite=True))
    given(monkeypatch, dim=4)
    with pytest.raises(EncoderError, match=r"gives \[1, 3\] for 1 tiles, not one embedding \[1, 4\]"):
        embed.run(config(store.path, "given", overwrite=True))
    assert rows_bytes(store.path) == before, "what was there is there until new embeddings can be made"


def test_what_was_made_in_another_way_is_used_and_gone_on_with_as_it_was(
    tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histogen.store.layout.SHARD_TILES", 6)
    stores = [make_store(tmp_path / name / "a.zarr") for name in ("done", "begun", "whole")]
    settings = {"precision": "bfloat16", "dtype": "float16"}
    for store in stores:
        name = embed.run(config(store.path, encoder, **settings)).results["name"]
    before = rows_bytes(stores[2].path)
    (stores[1].path / f"ledger/embeddings/{name}/2.json").unlink()
    chunk = stores[1].rows(f"embeddings/{name}").chunk_file(2)
    chunk.write_bytes(bytes(len(chunk.read_bytes())))
    for store in stores[:2]:
        assert ensure_embeddings([store.path], encoder) == name
        assert rows_bytes(store.path) == before
    with pytest.raises(OutputExistsError, match="made with precision bfloat16, not float32, dtype float16"):
        embed.run(config(stores[0].path, encoder, precision="float32", resume=True))
    embed.run(config(stores[0].path, encoder, precision="float32", overwrite=True))
    assert TileStore.open_(stores[0].path).rows_attributes(f"embeddings/{name}")["precision"] == "float32"
