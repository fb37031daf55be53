"""train-eldm: the latent cache, exact resume, and what a run leaves behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import torch

from histogen.compute.client import Compute
from histogen.diffusion.autoencoder import dihedral, encode_moments, to_signal
from histogen.diffusion.autoencoder_files import load_autoencoder
from histogen.diffusion.conditioning import Conditioner
from histogen.diffusion.pipeline_files import load_pipeline, pipeline_sha256
from histogen.encoders.registry import load_encoder
from histogen.errors import ConfigError
from histogen.pipelines.heldout import HeldoutSettings, split_heldout
from histogen.pipelines.synthesize import command as synthesize
from histogen.pipelines.train_autoencoder.command import TrainAutoencoderConfig
from histogen.pipelines.train_autoencoder.command import run as run_autoencoder
from histogen.pipelines.train_eldm import command as train_eldm
from histogen.pipelines.train_eldm.command import TrainEldmConfig, run
from histogen.pipelines.train_eldm.latents import ensure_latents
from histogen.pipelines.train_eldm.task import EldmTask, OnlineInputs
from histogen.store.tile_set import TileSet
from histogen.training.journal import read_journal

from ..conftest import TINY_AUTOENCODER, TINY_ELDM


@pytest.fixture(scope="module")
def world(make_sources: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sources/ and autoencoder/."""
    folder = tmp_path_factory.mktemp("world")
    make_sources(folder / "sources")
    values = {"tiles": [folder / "sources"], "out": folder / "autoencoder", "device": "cpu", **TINY_AUTOENCODER}
    run_autoencoder(TrainAutoencoderConfig.model_validate(values))
    return folder


def config(world: Path, out: Path, **changes: Any) -> TrainEldmConfig:
    given = {"tiles": [world / "sources"], "autoencoder": str(world / "autoencoder"), "device": "cpu"}
    return TrainEldmConfig.model_validate({**given, "out": out, **TINY_ELDM, **changes})


def test_cached_latents_are_the_direct_encoding_of_every_variant(world: Path) -> None:
    tiles = TileSet.open_(world / "sources")
    rows = ensure_latents(
        tiles, world / "autoencoder", variants=8, device="cpu", precision="float32", compute=Compute()
    )
    model = load_autoencoder(world / "autoencoder")
    wanted = np.array([0, 17, 39, 40, 50])
    cached = tiles.read_rows(rows, wanted)
    images = torch.from_numpy(tiles.read_tiles(wanted)).permute(0, 3, 1, 2)
    for variant in range(8):
        direct = encode_moments(model, to_signal(dihedral(images, variant).permute(0, 2, 3, 1)))
        np.testing.assert_allclose(cached[:, variant], direct.numpy(), rtol=2e-3, atol=2e-3)  # float16
    # a flipped latent is another thing: this is why variants are encoded anew
    flipped = np.flip(cached[:, 0, :3], axis=-1)
    assert np.abs(flipped - cached[:, 4, :3]).max() > 0.02


def test_the_cache_is_made_once_and_is_the_same_wherever_it_is_made(
    world: Path, make_sources: Callable[[Path], Path], tmp_path: Path, digest_of: Callable[..., dict[str, str]]
) -> None:
    digests = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        tiles = TileSet.open_(make_sources(tmp_path / str(threads)))
        rows = ensure_latents(
            tiles, world / "autoencoder", variants=2, device="cpu", precision="float32", compute=Compute()
        )
        digests.append(digest_of(tmp_path / str(threads)))
        chunk = next((tmp_path / str(threads) / "A.zarr" / rows / "c").rglob("0"))
        before = chunk.stat().st_mtime_ns
        ensure_latents(tiles, world / "autoencoder", variants=2, device="cpu", precision="float32", compute=Compute())
        assert chunk.stat().st_mtime_ns == before
    assert digests[0] == digests[1]


@pytest.fixture(scope="module")
def whole(world: Path) -> Path:
    """An uninterrupted run."""
    torch.set_num_threads(1)
    run(config(world, world / "whole"))
    return world / "whole"


def test_a_run_leaves_a_pipeline_its_curves_its_previews_and_its_provenance(whole: Path) -> None:
    pipeline = load_pipeline(whole)
    assert pipeline.config["encoder_name"] == "colour-histogram"
    assert pipeline.config["supervision"] == "none"
    assert pipeline.tile_px == 16
    record = json.loads((whole / "run.json").read_text())["results"]
    assert record["supervision"] == {"denoiser": "none", "encoder": "none (no weights)", "autoencoder": "none"}
    assert record["weights_sha256"] == pipeline_sha256(pipeline)
    assert pipeline.config["sampler"] == record["sampler"]
    assert {path.name for path in (whole / "pipeline").rglob("*.py")} == {"eldm_pipeline.py", "eldm_conditioner.py"}
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4, 6, 8]
    assert ["heldout_loss" in row for row in rows] == [False, True, False, True]
    assert {"loss_t0", "loss_t3"} <= rows[0].keys()
    pictures = [imagecodecs.png_decode(path.read_bytes()) for path in sorted((whole / "previews").iterdir())]
    assert len(pictures) == 2
    real = [picture[:16, :16] for picture in pictures]
    np.testing.assert_array_equal(real[0], real[1])  # the same sources in every preview


def test_killed_and_resumed_it_ends_with_the_same_bytes(
    world: Path, whole: Path, tmp_path: Path, kill_when: Callable[..., None],
    digest_of: Callable[..., dict[str, str]],
) -> None:  # fmt: skip
    cut = config(world, tmp_path / "cut")
    source = (
        "from histogen.pipelines.train_eldm.command import *\n"
        f"run(TrainEldmConfig.model_validate_json({cut.model_dump_json()!r}))"
    )
    kill_when(source, (tmp_path / "cut" / "checkpoints" / "step-00000002.json").exists)
    assert not (tmp_path / "cut" / "pipeline").exists()
    run(cut.model_copy(update={"resume": True}))
    left_out = ("config.yaml", "run.json", "README.md")  # they name the folder
    assert digest_of(tmp_path / "cut", leave_out=left_out) == digest_of(whole, leave_out=left_out)
    assert results_of(tmp_path / "cut") == results_of(whole)
    run(cut.model_copy(update={"resume": True}))  # nothing is left to do, and nothing is lost
    assert results_of(tmp_path / "cut") == results_of(whole)
    assert results_of(whole)["training"]["loss"] > 0


def results_of(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "run.json").read_text())["results"])


def test_the_exported_weights_are_the_average_and_not_the_last(whole: Path) -> None:
    task = torch.load(whole / "checkpoints" / "step-00000008.pt", weights_only=True)["task"]
    exported = load_pipeline(whole).unet
    for weight, averaged in zip(exported.parameters(), task["ema"]["shadow_params"], strict=True):
        torch.testing.assert_close(weight, averaged, rtol=0, atol=0)
    assert any((weight != task["unet"][name]).any() for name, weight in exported.named_parameters())


def test_the_average_follows_its_recurrence(world: Path, tmp_path: Path) -> None:
    """Rebuilt from the weights after every step: decay min(ema_decay, (1 + n) / (10 + n)) at update n, from 0."""
    run(config(world, tmp_path / "run", optim={**TINY_ELDM["optim"], "steps": 4}, checkpoint_every=1, keep=9))
    states = [torch.load(path, weights_only=True)["task"] for path in sorted((tmp_path / "run").rglob("step-*.pt"))]
    name = "conv_in.weight"
    position = list(states[0]["unet"]).index(name)
    average = states[0]["ema"]["shadow_params"][position].double()
    for n, state in enumerate(states[1:], start=1):
        decay = min(0.9, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * state["unet"][name].double()
        torch.testing.assert_close(state["ema"]["shadow_params"][position].double(), average, rtol=1e-5, atol=1e-7)


def test_cached_and_online_inputs_train_the_same_model(world: Path, tmp_path: Path) -> None:
    """The colour histogram does not change when a tile is turned, so both ways see the same inputs (up to float16)."""
    losses = []
    for inputs in ("cached", "online"):
        out = tmp_path / inputs
        run(config(world, out, inputs=inputs, variants=8, optim={**TINY_ELDM["optim"], "precision": "float32"}))
        losses.append(json.loads((out / "run.json").read_text())["results"]["heldout"]["heldout_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_online_inputs_are_of_the_very_image(world: Path) -> None:
    """The network sees where things lie: its embedding of a turned tile is another one."""
    tiles = TileSet.open_(world / "sources")
    autoencoder, encoder = load_autoencoder(world / "autoencoder"), load_encoder("random:test_vit")
    inputs = OnlineInputs(tiles, autoencoder, encoder, torch.device("cpu"), "float32")
    wanted, variants = np.array([3, 17, 44]), np.array([0, 6, 3])
    moments, embeddings = inputs.batch(wanted, variants)
    for k, (tile, variant) in enumerate(zip(wanted, variants, strict=True)):
        turned = np.rot90(tiles[int(tile)], variant % 4, axes=(0, 1))
        turned = np.ascontiguousarray(turned[:, ::-1] if variant >= 4 else turned)[None]
        seen = encoder(torch.from_numpy(turned).permute(0, 3, 1, 2))[0]
        torch.testing.assert_close(embeddings[k], seen, rtol=1e-3, atol=1e-4)
        direct = encode_moments(autoencoder, to_signal(torch.from_numpy(turned)))[0]
        torch.testing.assert_close(moments[k], direct, rtol=1e-3, atol=1e-4)
    assert (embeddings - inputs.batch(wanted, np.zeros(3, np.int64))[1])[1:].abs().max() > 0.01


@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_other_objectives_and_injections_run(world: Path, tmp_path: Path, kind: str) -> None:
    injection = {"eps": "token", "flow": "adaln"}[kind]
    model = {**TINY_ELDM["model"], "injection": injection}
    outcome = run(config(world, tmp_path / "run", objective={"kind": kind}, model=model))
    assert 0 < outcome.results["heldout_loss"] < 5
    made = load_pipeline(tmp_path / "run").scheduler
    assert made.config["num_train_timesteps"] == 1000


def test_accumulation_gives_the_same_step(world: Path, tmp_path: Path) -> None:
    """The norm of the gradient tells: AdamW and clipping would hide a gradient that is four times too large."""
    losses, norms = [], []
    for accumulate in (1, 4):
        optim = {**TINY_ELDM["optim"], "precision": "float32", "accumulate": accumulate}
        outcome = run(config(world, tmp_path / str(accumulate), optim=optim, log_every=1))
        losses.append(outcome.results["heldout_loss"])
        rows = read_journal(tmp_path / str(accumulate) / "metrics.jsonl")
        norms.append([row["gradient_norm"] for row in rows])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert norms[0] == pytest.approx(norms[1], rel=2e-3)


def test_heldout_tiles_train_nothing(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the weights nor the standardisation of the conditioning see one."""
    fitted: list[torch.Tensor] = []
    prepared: list[np.ndarray] = []
    trained: set[int] = set()
    standardise, prepare, train = Conditioner.fit, EldmTask._prepare, EldmTask._train

    def fit(self: Conditioner, embeddings: torch.Tensor) -> None:
        fitted.append(embeddings)
        standardise(self, embeddings)

    def prepare_these(self: EldmTask, indices: np.ndarray, *given: Any) -> Any:
        prepared.append(indices)
        return prepare(self, indices, *given)

    def train_on_them(self: EldmTask, *given: Any) -> Any:
        trained.update(prepared[-1].tolist())
        return train(self, *given)

    monkeypatch.setattr(Conditioner, "fit", fit)
    monkeypatch.setattr(EldmTask, "_prepare", prepare_these)
    monkeypatch.setattr(EldmTask, "_train", train_on_them)
    tiles = TileSet.open_(world / "sources")
    _, heldout = split_heldout(len(tiles), HeldoutSettings(fraction=0.1), 0)
    run(config(world, tmp_path / "run"))
    others = np.setdiff1d(np.arange(len(tiles)), heldout)
    assert trained <= set(others.tolist())
    assert len(trained) >= 48  # an epoch of full batches
    expected = torch.from_numpy(tiles.embeddings("colour-histogram")[others])
    torch.testing.assert_close(fitted[0], expected, rtol=0, atol=0)


def test_a_missing_autoencoder_is_one_sentence(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no autoencoder .*; train one: histogen train-autoencoder"):
        run(config(world, tmp_path / "run", autoencoder=str(tmp_path)))


def test_a_start_from_outside_weights_needs_the_published_injection(world: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="injection=token"):
        run(config(world, tmp_path / "run", init=str(tmp_path / "outside.safetensors")))


def test_an_encoder_that_labels_made_is_recorded_and_said_of_every_tile(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labelled = load_encoder("colour")
    labelled.card = replace(labelled.card, supervision="ImageNet-21k labels")
    monkeypatch.setattr(train_eldm, "load_encoder", lambda *_: labelled)
    run(config(world, tmp_path / "run", optim={"steps": 1, "batch": 4}))
    supervision = {"denoiser": "none", "encoder": "ImageNet-21k labels", "autoencoder": "none"}
    assert results_of(tmp_path / "run")["supervision"] == supervision
    overall = "denoiser: none; encoder: ImageNet-21k labels; autoencoder: none"
    assert load_pipeline(tmp_path / "run").config["supervision"] == overall
    made = {"tiles": [world / "sources"], "eldm": tmp_path / "run", "out": tmp_path / "made", "device": "cpu"}
    synthesize.run(synthesize.SynthesizeConfig.model_validate({**made, "sampler": {"steps": 1}}))
    assert {store.provenance["supervision"] for store in TileSet.open_(tmp_path / "made").stores} == {overall}


def test_weights_to_start_from_are_recorded(world: Path, tmp_path: Path) -> None:
    started = config(world, tmp_path / "run", init="somewhere/outside.ckpt")
    assert train_eldm._supervision(started, "none")["denoiser"] == "unknown (started from 'outside.ckpt')"
    started = started.model_copy(update={"init_supervision": "ImageNet labels"})
    assert train_eldm._supervision(started, "none")["denoiser"] == "ImageNet labels (started from 'outside.ckpt')"


def test_an_autoencoder_from_outside_is_recorded(world: Path, tmp_path: Path) -> None:
    load_autoencoder(world / "autoencoder").save_pretrained(tmp_path / "vae")
    run(config(world, tmp_path / "run", autoencoder=str(tmp_path / "vae")))
    record = json.loads((tmp_path / "run" / "run.json").read_text())["results"]["supervision"]
    assert record["autoencoder"] == "unknown (weights from outside: 'vae')"
    assert load_pipeline(tmp_path / "run").config["supervision"].startswith("denoiser: none; encoder: none")
