"""synthesize: the contract of a tile, resume, partners, recreation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from histogen.diffusion.conditioning import slerp
from histogen.diffusion.pipeline_files import load_pipeline, pipeline_sha256
from histogen.diffusion.settings import SamplerSettings
from histogen.errors import ConfigError, StoreError
from histogen.pipelines.synthesize import command as synthesize
from histogen.pipelines.synthesize.command import SynthesizeConfig, run
from histogen.pipelines.train_autoencoder.command import TrainAutoencoderConfig
from histogen.pipelines.train_autoencoder.command import run as run_autoencoder
from histogen.pipelines.train_eldm.command import TrainEldmConfig
from histogen.pipelines.train_eldm.command import run as run_eldm
from histogen.store.jpeg import encode_jpeg
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore

from ..conftest import TINY_AUTOENCODER, TINY_ELDM

ENCODER = "embeddings/colour-histogram"


@pytest.fixture(scope="module")
def world(make_sources: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sources/, autoencoder/ and eldm/."""
    folder = tmp_path_factory.mktemp("world")
    make_sources(folder / "sources")
    common = {"tiles": [folder / "sources"], "device": "cpu"}
    run_autoencoder(
        TrainAutoencoderConfig.model_validate({**common, "out": folder / "autoencoder", **TINY_AUTOENCODER})
    )
    trained = {"out": folder / "eldm", "autoencoder": str(folder / "autoencoder"), **TINY_ELDM}
    run_eldm(TrainEldmConfig.model_validate({**common, **trained, "optim": {"steps": 4, "batch": 8}}))
    return folder


def config(world: Path, out: Path, **changes: Any) -> SynthesizeConfig:
    given = {"tiles": [world / "sources"], "eldm": world / "eldm", "out": out, "micro_batch": 8, "device": "cpu"}
    return SynthesizeConfig.model_validate({**given, **changes})


@pytest.fixture(scope="module")
def generative(world: Path) -> Path:
    run(config(world, world / "generative", per_source=2))
    return world / "generative"


@pytest.fixture(scope="module")
def interpolated(world: Path) -> Path:
    run(config(world, world / "interpolated", kind="interpolated"))
    return world / "interpolated"


def test_generative_tiles_know_their_sources(world: Path, generative: Path) -> None:
    store, source = TileStore.open_(generative / "B.zarr"), TileStore.open_(world / "sources" / "B.zarr")
    assert (store.kind, store.store_id, store.mpp, store.num_tiles) == ("generative", "B-generative", 0.5, 40)
    np.testing.assert_array_equal(store.read_rows("columns/source_index"), np.repeat(np.arange(20), 2))
    categories = store.rows_attributes("columns/source_store")["categories"]
    assert {categories[code] for code in store.read_rows("columns/source_store")} == {"B"}
    assert categories == ["B"]  # what it was made from, not all stores that there are
    np.testing.assert_array_equal(store.tile_ok, np.repeat(source.tile_ok, 2))
    assert not store.tile_ok[10]
    assert len(TileSet.open_(generative)) == 2 * len(TileSet.open_(world / "sources"))
    seeds = TileSet.open_(generative).column("seed")
    assert len(np.unique(seeds)) == len(seeds)
    assert store.provenance["sampler"]["steps"] == 3  # what the train-eldm run recommends
    assert store.provenance["supervision"] == "none"


def test_a_generative_tile_is_the_pipelines_answer_to_its_own_row(world: Path, generative: Path) -> None:
    store, source = TileStore.open_(generative / "A.zarr"), TileStore.open_(world / "sources" / "A.zarr")
    pipeline, row = load_pipeline(world / "eldm"), 33
    embedding = torch.from_numpy(source.read_rows(ENCODER, [row // 2]))
    seed = int(store.read_rows("columns/seed", [row])[0])
    image = pipeline(embedding, [seed], sampler=SamplerSettings(steps=3), micro_batch=8)[0]
    assert store.read_payload(row) == encode_jpeg(image, store.jpeg)


def test_an_interpolated_tile_is_conditioned_on_slerp_with_alpha_the_weight_of_its_source(
    world: Path, interpolated: Path
) -> None:
    store, sources = TileStore.open_(interpolated / "A.zarr"), TileSet.open_(world / "sources")
    row = 21
    code, index = (int(store.read_rows(f"columns/partner_{what}", [row])[0]) for what in ("store", "index"))
    name = store.rows_attributes("columns/partner_store")["categories"][code]
    partner = sources.index_of(name, index)
    alpha = float(store.read_rows("columns/alpha", [row])[0])
    assert 0.3 <= alpha <= 0.7
    first, second = (torch.from_numpy(sources.read_rows(ENCODER, [i])) for i in (sources.index_of("A", row), partner))
    seed = int(store.read_rows("columns/seed", [row])[0])
    image = load_pipeline(world / "eldm")(
        slerp(first, second, alpha), [seed], sampler=SamplerSettings(steps=3), micro_batch=8
    )[0]
    assert store.read_payload(row) == encode_jpeg(image, store.jpeg)


def test_partners_are_a_perfect_matching_over_all_stores(interpolated: Path) -> None:
    tiles = TileSet.open_(interpolated)
    names = tiles.categories("source_store")
    ids = [
        f"{names[code]}:{i}" for code, i in zip(tiles.column("source_store"), tiles.column("source_index"), strict=True)
    ]
    partners = [
        f"{names[code]}:{i}"
        for code, i in zip(tiles.column("partner_store"), tiles.column("partner_index"), strict=True)
    ]
    partner_of = dict(zip(ids, partners, strict=True))
    assert len(partner_of) == 59
    assert sorted(partners) == sorted(ids)
    assert all(a != b for a, b in partner_of.items())
    assert sum(partner_of[partner_of[a]] != a for a in ids) == 3  # 59 is odd: one ring of three


def test_bytes_do_not_depend_on_workers(
    world: Path, interpolated: Path, tmp_path: Path, digest_of: Callable[..., dict[str, str]]
) -> None:
    run(config(world, tmp_path / "two", kind="interpolated", workers=2))
    left_out = ("config.yaml",)
    assert digest_of(tmp_path / "two", leave_out=left_out) == digest_of(interpolated, leave_out=left_out)


def test_tiles_do_not_depend_on_which_other_tiles_are_made(world: Path, generative: Path, tmp_path: Path) -> None:
    run(config(world, tmp_path / "only", tiles=[world / "sources" / "B.zarr"], per_source=1))
    few, many = TileStore.open_(tmp_path / "only" / "B.zarr"), TileStore.open_(generative / "B.zarr")
    for tile in (0, 7, 19):
        assert few.read_payload(tile) == many.read_payload(2 * tile)


def test_a_worker_that_outlives_a_training_makes_tiles_of_the_new_weights(world: Path, tmp_path: Path) -> None:
    """This process keeps networks from run to run, as the workers of a cluster do."""
    given = {"tiles": [world / "sources"], "autoencoder": str(world / "autoencoder"), **TINY_ELDM, "device": "cpu"}
    made = []
    for seed in (0, 1):
        values = {**given, "out": tmp_path / "eldm", "seed": seed, "overwrite": True, "optim": {"steps": 2, "batch": 8}}
        run_eldm(TrainEldmConfig.model_validate(values))
        run(config(world, tmp_path / str(seed), eldm=tmp_path / "eldm"))
        store = TileStore.open_(tmp_path / str(seed) / "A.zarr")
        assert store.provenance["eldm_weights_sha256"] == pipeline_sha256(load_pipeline(tmp_path / "eldm"))
        again = config(world, tmp_path / f"{seed}.png", eldm=tmp_path / "eldm", recreate=f"{store.path}:3")
        assert run(again).results["same"]
        made.append(store.read_payload(3))
    assert made[0] != made[1]


def test_killed_and_resumed_it_ends_with_the_same_bytes(
    world: Path, tmp_path: Path, kill_when: Callable[..., None], digest_of: Callable[..., dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("histogen.store.layout.SHARD_TILES", 8)
    run(config(world, tmp_path / "whole"))
    cut = config(world, tmp_path / "cut")
    source = (
        "import histogen.store.layout; histogen.store.layout.SHARD_TILES = 8\n"
        "from histogen.pipelines.synthesize.command import *\n"
        f"run(SynthesizeConfig.model_validate_json({cut.model_dump_json()!r}))"
    )
    kill_when(source, (tmp_path / "cut" / "A.zarr" / "ledger" / "tiles" / "1.json").exists)
    store = TileStore.open_(tmp_path / "cut" / "A.zarr")
    assert store.num_shards == 5
    assert TileStore.open_(tmp_path / "cut" / "B.zarr").missing_shards()
    run(cut.model_copy(update={"resume": True}))
    left_out = ("config.yaml",)
    assert digest_of(tmp_path / "cut", leave_out=left_out) == digest_of(tmp_path / "whole", leave_out=left_out)


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_any_tile_can_be_made_again_from_its_row(world: Path, interpolated: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"again{suffix}"
    outcome = run(config(world, out, recreate=f"{interpolated / 'B.zarr'}:7"))
    assert outcome.results["same"]
    if suffix == ".jpg":
        assert out.read_bytes() == TileStore.open_(interpolated / "B.zarr").read_payload(7)


@pytest.mark.parametrize("spec", ["nowhere", ":5", "store:x"])
def test_a_row_that_cannot_be_read_is_refused(world: Path, tmp_path: Path, spec: str) -> None:
    with pytest.raises(ConfigError, match="STORE:INDEX"):
        run(config(world, tmp_path / "x.png", recreate=spec))


@pytest.mark.parametrize(
    ("store", "message"),
    [
        ("interpolated/B.zarr:20", "tile 20 is asked of store 'B-interpolated', which has 20"),
        ("interpolated/B.zarr:5", "tile 5 of store 'B-interpolated' is absent"),
        ("sources/B.zarr:7", "holds no synthetic tiles"),
    ],
)
@pytest.mark.usefixtures("interpolated")
def test_a_tile_that_was_not_made_is_refused(world: Path, tmp_path: Path, store: str, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        run(config(world, tmp_path / "x.png", recreate=str(world / store)))
    assert not (tmp_path / "x.png").exists()


def test_consistency_is_recorded_and_filters(world: Path, tmp_path: Path) -> None:
    run(config(world, tmp_path / "all", consistency={"measure": True}))
    measured = TileSet.open_(tmp_path / "all").column("consistency")
    assert np.isfinite(measured).all()
    assert (np.abs(measured) <= 1 + 1e-6).all()
    least = float(np.median(measured))
    run(config(world, tmp_path / "some", consistency={"least": least}))
    kept = TileSet.open_(tmp_path / "some")
    assert len(kept) == int((measured >= np.float32(least)).sum())
    assert kept.column("consistency").min() >= np.float32(least)
    store = TileStore.open_(tmp_path / "some" / "A.zarr")
    np.testing.assert_array_equal(
        store.read_rows("columns/consistency"),
        TileStore.open_(tmp_path / "all" / "A.zarr").read_rows("columns/consistency"),
    )


def test_consistency_depends_on_no_thread_count(world: Path, tmp_path: Path) -> None:
    measured = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        run(config(world, tmp_path / str(threads), consistency={"measure": True}))
        measured.append(TileSet.open_(tmp_path / str(threads)).column("consistency"))
    np.testing.assert_array_equal(*measured)


def test_a_group_is_encoded_while_the_next_is_sampled(
    world: Path, generative: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here no JPEG of the first group is finished before the second is asked for; nobody waits for it."""
    asked, second, real_sample = [], threading.Event(), synthesize.sample_rows

    def sample(*given: Any) -> np.ndarray:
        asked.append(len(given[1]))
        if len(asked) == 2:
            second.set()
        return real_sample(*given)

    def encode(*given: Any) -> bytes:
        assert second.wait(60)
        assert threading.current_thread() is not threading.main_thread()
        return encode_jpeg(*given)

    monkeypatch.setattr(synthesize, "GROUP", 16)
    monkeypatch.setattr(synthesize, "sample_rows", sample)
    monkeypatch.setattr(synthesize, "encode_jpeg", encode)
    run(config(world, tmp_path / "grouped", tiles=[world / "sources" / "A.zarr"], per_source=2))
    assert asked == [16] * 5
    made, whole = (TileStore.open_(folder / "A.zarr") for folder in (tmp_path / "grouped", generative))
    assert [made.read_payload(row) for row in range(80)] == [whole.read_payload(row) for row in range(80)]


def test_neighbours_as_partners(world: Path, tmp_path: Path) -> None:
    run(config(world, tmp_path / "near", kind="interpolated", pairing="neighbours", nearest=1, alpha={"law": "fixed"}))
    tiles, sources = TileSet.open_(tmp_path / "near"), TileSet.open_(world / "sources")
    unit = sources.embeddings() / np.linalg.norm(sources.embeddings(), axis=1, keepdims=True)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    names = tiles.categories("partner_store")
    partners = zip(tiles.column("partner_store"), tiles.column("partner_index"), strict=True)
    chosen = [sources.index_of(names[code], int(index)) for code, index in partners]
    np.testing.assert_array_equal(chosen, similarity.argmax(axis=1))
    assert set(tiles.column("alpha").tolist()) == {0.5}
