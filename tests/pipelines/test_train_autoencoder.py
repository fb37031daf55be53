"""train-autoencoder: it learns, reports, exports, and a killed run resumes to the same weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from histogen.diffusion.autoencoder import encode_moments, to_images, to_signal
from histogen.diffusion.autoencoder_files import load_autoencoder
from histogen.diffusion.reconstruction import psnr
from histogen.errors import ConfigError, OutputExistsError
from histogen.pipelines.heldout import HeldoutSettings, split_heldout
from histogen.pipelines.train_autoencoder.command import TrainAutoencoderConfig, run
from histogen.store.tile_set import TileSet
from histogen.training.journal import read_journal

from .conftest import TINY_AUTOENCODER


def config(sources: Path, out: Path, **changes: Any) -> TrainAutoencoderConfig:
    values = {**TINY_AUTOENCODER, **changes}
    return TrainAutoencoderConfig.model_validate({"tiles": [sources], "out": out, "device": "cpu", **values})


@pytest.fixture(scope="module")
def sources(make_sources: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sources(tmp_path_factory.mktemp("sources"))


def test_it_learns_measures_and_exports(sources: Path, tmp_path: Path) -> None:
    optim = {"steps": 80, "batch": 16, "lr": 0.01, "warmup": 5, "precision": "float32"}
    outcome = run(config(sources, tmp_path / "run", optim=optim, checkpoint_every=80, loss={"gradient_weight": 0.0}))
    tiles = TileSet.open_(sources)
    _, heldout = split_heldout(len(tiles), HeldoutSettings(fraction=0.1), 0)
    model = load_autoencoder(tmp_path / "run")
    real = tiles.read_tiles(heldout)
    with torch.no_grad():
        again = to_images(model(to_signal(torch.from_numpy(real)), sample_posterior=False).sample).numpy()
    assert outcome.results["psnr"] == pytest.approx(psnr(real, again), abs=0.05)
    flat = np.broadcast_to(real.mean(axis=(0, 1, 2)).round().astype(np.uint8), real.shape)
    assert outcome.results["psnr"] > psnr(real, flat)  # better than the one best colour
    assert outcome.results["num_heldout"] == len(heldout) == 6
    moments = encode_moments(model, to_signal(torch.from_numpy(tiles.read_tiles(np.arange(len(tiles))))))
    mean = moments[:, :3].mean(dim=(0, 2, 3))
    torch.testing.assert_close(torch.tensor(model.config["latents_mean"]), mean, rtol=0.2, atol=0.1)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["status"] == "complete"
    assert record["results"]["supervision"] == "none"
    assert "PSNR" not in (tmp_path / "run" / "autoencoder" / "README.md").read_text()
    assert "psnr" in (tmp_path / "run" / "autoencoder" / "README.md").read_text()


def test_killed_and_resumed_it_ends_with_the_same_bytes(
    sources: Path, tmp_path: Path, kill_when: Callable[..., None], digest_of: Callable[..., dict[str, str]]
) -> None:
    run(config(sources, tmp_path / "whole"))
    cut = config(sources, tmp_path / "cut")
    source = (
        "from histogen.pipelines.train_autoencoder.command import *\n"
        f"run(TrainAutoencoderConfig.model_validate_json({cut.model_dump_json()!r}))"
    )
    kill_when(source, (tmp_path / "cut" / "checkpoints" / "step-00000002.json").exists)
    assert not (tmp_path / "cut" / "autoencoder").exists()
    run(cut.model_copy(update={"resume": True}))
    whole, again = (digest_of(tmp_path / name, leave_out=("config.yaml", "run.json")) for name in ("whole", "cut"))
    readme = "autoencoder/README.md"  # carries the run's name
    assert {k: v for k, v in whole.items() if k != readme} == {k: v for k, v in again.items() if k != readme}


def test_an_existing_output_is_left_alone(sources: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine").write_text("x")
    with pytest.raises(OutputExistsError):
        run(config(sources, tmp_path / "run"))
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["mine"]


def test_a_crop_larger_than_the_tiles_is_refused(sources: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="crop_px 64 exceeds"):
        run(config(sources, tmp_path / "run", crop_px=64))


def test_heldout_tiles_are_never_trained_on() -> None:
    train, heldout = split_heldout(1000, HeldoutSettings(fraction=0.05), 3)
    assert len(heldout) == 50
    assert sorted([*train, *heldout]) == list(range(1000))
    again = split_heldout(1000, HeldoutSettings(fraction=0.05), 3)[1]
    np.testing.assert_array_equal(heldout, again)
    assert (split_heldout(1000, HeldoutSettings(fraction=0.05), 4)[1] != heldout).any()


def test_the_journal_of_a_vq_autoencoder_says_how_much_of_its_codebook_is_used(sources: Path, tmp_path: Path) -> None:
    model = {**TINY_AUTOENCODER["model"], "kind": "vq", "num_codes": 24}
    optim = {**TINY_AUTOENCODER["optim"], "precision": "float32", "accumulate": 2}
    outcome = run(config(sources, tmp_path / "run", model=model, optim=optim, log_every=1))
    rows = read_journal(tmp_path / "run" / "metrics.jsonl")
    for row in rows:
        assert 1 <= row["codebook_perplexity"] <= 24 * row["codebook_used"] + 1e-4
        assert (24 * row["codebook_used"]) == pytest.approx(round(24 * row["codebook_used"]), abs=1e-4)
    loaded, tiles = load_autoencoder(tmp_path / "run"), TileSet.open_(sources)
    _, heldout = split_heldout(len(tiles), HeldoutSettings(fraction=0.1), 0)
    cells = encode_moments(loaded, to_signal(torch.from_numpy(tiles.read_tiles(heldout)))).permute(0, 2, 3, 1)
    codes = ((cells.reshape(-1, 1, 3) - loaded.quantize.embedding.weight) ** 2).sum(-1).argmin(1)
    share = np.bincount(codes.numpy(), minlength=24) / len(codes)
    used = share[share > 0]
    scores = json.loads((tmp_path / "run" / "run.json").read_text())["results"]["heldout"]
    assert scores["codebook_used"] == pytest.approx(len(used) / 24)
    assert scores["codebook_perplexity"] == pytest.approx(float(np.exp(-(used * np.log(used)).sum())), rel=1e-4)
    assert f"which use {len(used)} of 24 codes (perplexity" in outcome.summary


def test_a_kl_autoencoder_has_no_codebook_to_speak_of(sources: Path, tmp_path: Path) -> None:
    outcome = run(config(sources, tmp_path / "run"))
    assert "codes" not in outcome.summary
    assert not [key for row in read_journal(tmp_path / "run" / "metrics.jsonl") for key in row if "codebook" in key]
