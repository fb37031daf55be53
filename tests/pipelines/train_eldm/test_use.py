"""Embeddings that tell nothing are refused before training; after it, the use of the conditioning is measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from histogen.diffusion.autoencoder import encode_moments, record_statistics, to_signal
from histogen.diffusion.autoencoder_build import build_autoencoder
from histogen.diffusion.conditioning import Conditioner
from histogen.diffusion.loss import Objective
from histogen.diffusion.pipeline_files import load_pipeline
from histogen.diffusion.settings import AutoencoderSettings, ObjectiveSettings
from histogen.encoders.timm import build_vit, export_encoder
from histogen.errors import EncoderError
from histogen.pipelines.embed.command import ensure_embeddings
from histogen.pipelines.heldout import HeldoutSettings, split_heldout
from histogen.pipelines.train_eldm.command import TrainEldmConfig, run
from histogen.pipelines.train_eldm.task import EldmTask
from histogen.pipelines.train_eldm.use import conditioning_use
from histogen.report.conditioning import conditioning_section, ignored_sentence
from histogen.seeds import derive_seed
from histogen.store.jpeg import encode_jpeg
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore

from ..conftest import TINY_AUTOENCODER, TINY_ELDM

VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}


HALVES = (np.s_[:8], np.s_[8:], np.s_[:, :8], np.s_[:, 8:])
"""The half that is bright in tiles of each kind."""


def four_kinds() -> np.ndarray:
    """60 tiles uint8 [60, 16, 16, 3]; their colour tells which half is bright."""
    tiles = np.full((60, 16, 16, 3), 60.0)
    for number, tile in enumerate(tiles):
        kind = number % 4
        tile[..., kind % 3] += (60, 60, 60, -50)[kind]
        tile[HALVES[kind]] += 100
    return np.clip(tiles + np.random.default_rng(0).normal(0, 4, tiles.shape), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one store of tiles, sources/, and vae/, an autoencoder of random features and hardly any noise."""
    folder, tiles = tmp_path_factory.mktemp("world"), four_kinds()
    store = TileStore.create(
        folder / "sources" / "A.zarr", kind="slide", store_id="A", tile_px=16, mpp=0.5, num_tiles=60, provenance={}
    )
    payloads = [encode_jpeg(tile) for tile in tiles]
    for shard in range(store.num_shards):
        rows = store.shard_range(shard)
        store.commit("tiles", shard, store.write_tiles(shard, payloads[rows.start : rows.stop]))
    torch.manual_seed(0)
    vae = build_autoencoder(AutoencoderSettings.model_validate(TINY_AUTOENCODER["model"]), tile_px=16)
    with torch.no_grad():
        vae.quant_conv.weight[3:] = 0
        vae.quant_conv.bias[3:] = -12
    means = encode_moments(vae, to_signal(torch.from_numpy(tiles)))[:, :3]
    record_statistics(vae, means.mean((0, 2, 3)), means.std((0, 2, 3)))
    vae.save_pretrained(folder / "vae")
    return folder


def config(world: Path, out: Path, **changes: Any) -> TrainEldmConfig:
    given = {"tiles": [world / "sources"], "autoencoder": str(world / "vae"), "device": "cpu"}
    return TrainEldmConfig.model_validate({**given, "out": out, **TINY_ELDM, **changes})


def write_embeddings(tiles: TileSet, name: str, change: Callable[[np.ndarray], Any]) -> None:
    """Change the stored embeddings in place."""
    for store in tiles.stores:
        rows = f"embeddings/{name}"
        values = store.read_rows(rows)
        change(values)
        for shard in range(store.num_shards):
            own = store.shard_range(shard)
            store.write_rows(rows, shard, values[own.start : own.stop])


def poke(position: int, value: float) -> Callable[[np.ndarray], None]:
    def change(values: np.ndarray) -> None:
        values[position] = value

    return change


def one_direction(values: np.ndarray) -> None:
    values[:] = np.arange(1, 1 + values.shape[1])
    values *= np.linspace(1, 2, len(values))[:, None]  # of many lengths: the length is not told


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (poke(7, np.nan), "'colour-histogram' are not finite for 2 of 59 tiles (the first: A:7)"),
        (poke(8, np.inf), "'colour-histogram' are not finite for 2 of 59 tiles (the first: A:8)"),
        (poke(3, 0), "'colour-histogram' are zero for 2 of 59 tiles (the first: A:3)"),
        (lambda values: values.fill(0), "'colour-histogram' are zero for 59 of 59 tiles (the first: A:0)"),
        (lambda values: values.fill(0.3), "'colour-histogram' are the same for all of 53 tiles"),
        (one_direction, "'colour-histogram' are the same for all of 53 tiles"),
    ],
)
def test_stored_embeddings_that_tell_nothing_are_refused_before_anything_is_claimed(
    world: Path, tmp_path: Path, make_sources: Callable[[Path], Path], change: Any, message: str
) -> None:
    tiles = TileSet.open_(make_sources(tmp_path / "sources"))
    ensure_embeddings([tmp_path / "sources"], "colour")
    write_embeddings(tiles, "colour-histogram", change)
    with pytest.raises(EncoderError) as caught:
        run(config(world, tmp_path / "run", tiles=[tmp_path / "sources"]))
    assert message in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("inputs", ["cached", "online"])
def test_an_encoder_that_says_the_same_of_every_tile_is_refused_before_training(
    world: Path, tmp_path: Path, inputs: str
) -> None:
    """Its last normalisation has gone to nothing, as after a collapse: the embedding is its bias."""
    torch.manual_seed(0)
    model = build_vit("vit_small_patch16_224", VIT)
    with torch.no_grad():
        model.norm.weight.zero_()
        model.norm.bias.normal_()
    export_encoder(
        model, tmp_path / "dull" / "encoder", name="dull", architecture="vit_small_patch16_224", arguments=VIT,
        image_px=16, mean=(0.5,) * 3, std=(0.2,) * 3, source="test", supervision="none",
    )  # fmt: skip
    with pytest.raises(EncoderError, match="by 'dull-[0-9a-f]{8}' are the same for all of 54 tiles"):
        run(config(world, tmp_path / "run", encoder=str(tmp_path / "dull"), inputs=inputs))
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_large_part_that_is_the_same_for_all_does_not_hide_what_small_ones_tell() -> None:
    embeddings = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * 1e-3
    embeddings[:, 0] = 1000
    conditioner = Conditioner(6)
    conditioner.fit(embeddings)
    told = conditioner(embeddings)
    assert float(told.square().mean()) == pytest.approx(1, rel=0.05)
    with pytest.raises(EncoderError, match="50 embeddings do not differ"):
        conditioner.fit(embeddings[:1].expand(50, 6))
    with pytest.raises(EncoderError, match="or are not finite"):
        conditioner.fit(torch.full((50, 6), torch.nan))


LONGER: dict[str, Any] = {
    "optim": {"steps": 40, "batch": 16, "lr": 0.005, "warmup": 2}, "heldout": {"fraction": 0.25},
    "watch": {"heldout_every": 40, "heldout_tiles": 15, "preview_every": None}, "checkpoint_every": 40,
    "log_every": 20,
}  # fmt: skip


@pytest.fixture(scope="module")
def used(world: Path) -> Path:
    """A run that learnt to use its conditioning."""
    torch.set_num_threads(1)
    outcome = run(config(world, world / "used", **LONGER))
    assert "warning" not in outcome.summary
    assert outcome.page == world / "used" / "report.html"
    return world / "used"


def recorded(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "run.json").read_text())["results"]["conditioning"])


def test_a_run_that_uses_its_conditioning_says_how_much(used: Path) -> None:
    use = recorded(used)
    assert use["ignored"] is False
    assert use["tiles"] == 15
    assert use["loss"]["right"] < min(use["loss"]["other"], use["loss"]["none"])
    assert use["gain"] == pytest.approx(use["loss"]["other"] - use["loss"]["right"], rel=1e-4)
    assert use["gain"] > 0.1 * use["loss"]["other"]  # what half is bright is told by nothing else
    assert use["gain_ci95"][0] > 0
    page = text_of(used / "report.html")
    assert "The embedding is used: it lowers the loss of 15 held-out tiles by" in page
    assert "conditioning ignored" not in page
    for level in use["levels"]:
        assert f"{level['loss']['right']:.4f}" in page


def text_of(page: Path) -> str:
    return " ".join(ElementTree.fromstring(page.read_text().removeprefix("<!DOCTYPE html>\n")).itertext())


def test_the_losses_are_those_of_the_exported_pipeline_by_diffusers(world: Path, used: Path) -> None:
    """Oracle: the exported network, conditioner and scheduler, one tile, level and embedding at a time."""
    use, tiles, pipeline = recorded(used), TileSet.open_(world / "sources"), load_pipeline(used)
    trained, heldout = split_heldout(len(tiles), HeldoutSettings(fraction=0.25), 0)
    generator = torch.Generator().manual_seed(derive_seed(0, "conditioning"))
    others = trained[torch.randint(len(trained), (15,), generator=generator).numpy()]
    noise = torch.randn(4, 15, *latents(pipeline, tiles, heldout[:1]).shape[1:], generator=generator)
    scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
    embeddings = torch.from_numpy(tiles.embeddings("colour-histogram"))
    losses = np.zeros((3, 4, 15))
    for k, tile in enumerate(heldout):
        latent = latents(pipeline, tiles, heldout[k : k + 1])
        for band in range(4):
            timestep = torch.tensor([250 * band + 250 * k // 15])
            noised = scheduler.add_noise(latent, noise[band, k : k + 1], timestep)
            target = scheduler.get_velocity(latent, noise[band, k : k + 1], timestep)
            own, other = (pipeline.conditioner(embeddings[[index]]) for index in (int(tile), int(others[k])))
            for number, told in enumerate((own, other, torch.zeros_like(own))):
                with torch.no_grad():
                    answer = pipeline.unet(noised, timestep, **pipeline.conditioner.inputs(told)).sample
                losses[number, band, k] = float((answer - target).square().mean())
    for name, mean in zip(("right", "other", "none"), losses.mean(axis=(1, 2)), strict=True):
        assert use["loss"][name] == pytest.approx(mean, rel=3e-3)  # latents were cached in float16
        for band, level in enumerate(use["levels"]):
            assert level["loss"][name] == pytest.approx(losses[("right", "other", "none").index(name), band].mean(),
                                                        rel=3e-3)  # fmt: skip
    low, high = use["gain_ci95"]
    assert low <= use["gain"] <= high
    for level in use["levels"]:
        alpha_bar = scheduler.alphas_cumprod[level["timesteps"]]
        np.testing.assert_allclose(level["noise"], (1 - alpha_bar).sqrt(), atol=1e-4)


def latents(pipeline: Any, tiles: TileSet, indices: np.ndarray) -> torch.Tensor:
    """The latents of tiles by diffusers' own autoencoder, standardised as its config says."""
    signal = torch.from_numpy(tiles.read_tiles(indices)).permute(0, 3, 1, 2) / 127.5 - 1
    mean, std = (
        torch.tensor(pipeline.autoencoder.config[key]).view(1, 3, 1, 1) for key in ("latents_mean", "latents_std")
    )
    with torch.no_grad():
        factor = pipeline.autoencoder.config["scaling_factor"]
        return (pipeline.autoencoder.encode(signal).latent_dist.mean - mean) * factor / std


@pytest.mark.parametrize("how", ["weights of zero", "never told"])
def test_a_run_that_ignores_its_conditioning_warns(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    changes: dict[str, Any] = {**LONGER, "optim": {"steps": 20, "batch": 8, "lr": 0.002}}
    if how == "never told":
        changes["drop"] = 1.0
    else:  # the network has no way from the embedding to its answer
        step = EldmTask.step

        def without_embedding(self: EldmTask, number: int) -> Any:
            metrics = step(self, number)
            for weights in (self.unet.class_embedding.linear_1.weight.data, *self.ema.shadow_params):
                if weights.shape == self.unet.class_embedding.linear_1.weight.shape:
                    weights.zero_()
            return metrics

        monkeypatch.setattr(EldmTask, "step", without_embedding)
    outcome = run(config(world, tmp_path / "run", **changes))
    use = recorded(tmp_path / "run")
    assert use["ignored"] is True
    if how == "weights of zero":
        assert use["loss"]["right"] == use["loss"]["other"]
        assert use["gain_ci95"] == [0, 0]
    assert "; warning: conditioning ignored: the loss of 15 held-out tiles is 0." in outcome.summary
    page = (tmp_path / "run" / "report.html").read_text()
    assert '<div class="verdict bad"><strong>conditioning ignored' in page
    assert "not trained for" not in page
    assert "conditioning: ignored" in (tmp_path / "run" / "pipeline" / "README.md").read_text()


@pytest.mark.parametrize(
    ("gains", "ignored"),
    [
        ([0.01] * 6, False),
        ([0.0005] * 6, True),  # no chance, and nothing that a tile shows
        ([-0.01] * 6, True),
        ([0.03, 0.03, 0.03, 0.03, -0.01, -0.01], True),  # of three slides, one has none
    ],
)
def test_the_verdict_over_slides(gains: list[float], ignored: bool) -> None:
    right = np.tile(np.linspace(0.5, 1.5, 6), (4, 1))
    errors = torch.from_numpy(np.stack([right, right + gains, right + 0.02]))
    weights = torch.tensor([[2.0], [1.0], [1.0], [0.0]]).expand(4, 6)
    task = SimpleNamespace(
        errors_by_conditioning=lambda: (errors, torch.zeros(4, 6), weights), heldout=np.arange(6),
        tiles=SimpleNamespace(store_of=lambda indices: indices // 2), objective=Objective(ObjectiveSettings()),
        settings=SimpleNamespace(seed=0, drop=0.0),
    )  # fmt: skip
    use = conditioning_use(task)
    assert use["ignored"] is ignored
    assert use["null_trained"] is False
    assert use["loss"] == pytest.approx({"right": 1, "other": 1 + np.mean(gains), "none": 1.02}, rel=1e-5)
    assert use["gain"] == pytest.approx(np.mean(gains), rel=1e-5)
    assert "no embedding (not trained for: drop is 0)" in conditioning_section(use).body
    assert bool(ignored_sentence(use)) is ignored
