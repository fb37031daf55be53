"""A tile depends on model, settings, embedding and seed alone; and a saved pipeline is the same pipeline."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from histogen.config import Precision
from histogen.diffusion.micro_batch import map_micro_batches
from histogen.diffusion.pipeline import EldmPipeline, starting_noise
from histogen.diffusion.pipeline_files import load_pipeline, pipeline_sha256
from histogen.diffusion.settings import SamplerSettings
from histogen.errors import ConfigError, HistogenError

SAMPLER = SamplerSettings(steps=4, interval=(0.0, 1.0))


@pytest.fixture(scope="module")
def asked() -> tuple[torch.Tensor, list[int]]:
    return torch.randn(11, 6, generator=torch.Generator().manual_seed(3)), [1000 + 7 * k for k in range(11)]


@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_a_tile_does_not_depend_on_its_neighbours_position_padding_or_threads(
    tiny_pipeline: EldmPipeline, asked: tuple[torch.Tensor, list[int]], precision: Precision
) -> None:
    embeddings, seeds = asked
    settings = {"sampler": SAMPLER, "micro_batch": 4, "decode_batch": 3, "precision": precision}
    together = tiny_pipeline(embeddings, seeds, **settings)
    order = np.random.default_rng(0).permutation(len(seeds))
    shuffled = tiny_pipeline(embeddings[order], [seeds[k] for k in order], **settings)
    np.testing.assert_array_equal(shuffled, together[order])
    for k in (0, 5, 10):
        alone = tiny_pipeline(embeddings[k : k + 1], seeds[k : k + 1], **settings)
        np.testing.assert_array_equal(alone[0], together[k])
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            np.testing.assert_array_equal(tiny_pipeline(embeddings, seeds, **settings), together)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert len({tile.tobytes() for tile in together}) == len(seeds)


def test_denoiser_and_decoder_see_passes_of_their_own_fixed_heights(
    tiny_pipeline: EldmPipeline, asked: tuple[torch.Tensor, list[int]]
) -> None:
    heights: dict[str, set[int]] = {"unet": set(), "decoder": set()}
    watched = (("unet", tiny_pipeline.unet.conv_in), ("decoder", tiny_pipeline.autoencoder.decoder))
    hooks = [
        module.register_forward_pre_hook(lambda _, given, name=name: heights[name].add(len(given[0])))
        for name, module in watched
    ]
    sampler = SamplerSettings(steps=4, interval=(0.3, 0.7))
    tiny_pipeline(*asked, sampler=sampler, micro_batch=4, decode_batch=3)
    for hook in hooks:
        hook.remove()
    assert heights == {"unet": {4, 8}, "decoder": {3}}  # 8: a guided step, told and untold together


def test_seed_embedding_and_guidance_matter(tiny_pipeline: EldmPipeline, asked: tuple[torch.Tensor, list[int]]) -> None:
    embeddings, seeds = asked
    one = tiny_pipeline(embeddings[:1], [1], sampler=SAMPLER)
    assert (one != tiny_pipeline(embeddings[:1], [2], sampler=SAMPLER)).any()
    assert (one != tiny_pipeline(embeddings[1:2], [1], sampler=SAMPLER)).any()
    unguided = SamplerSettings(steps=4, guidance=1.0)
    assert (one != tiny_pipeline(embeddings[:1], [1], sampler=unguided)).any()


def test_unconditional_sampling_ignores_the_embedding(
    tiny_pipeline: EldmPipeline, asked: tuple[torch.Tensor, list[int]]
) -> None:
    embeddings, _ = asked
    first = tiny_pipeline(embeddings[:2], [5, 6], sampler=SAMPLER, unconditional=True)
    second = tiny_pipeline(embeddings[2:4], [5, 6], sampler=SAMPLER, unconditional=True)
    np.testing.assert_array_equal(first, second)


def test_guidance_zero_is_the_null_that_training_drops_to(
    tiny_pipeline: EldmPipeline, asked: tuple[torch.Tensor, list[int]]
) -> None:
    """Guidance 0 everywhere leaves the null's answer, which must be what the dropped conditioning gives."""
    embeddings, seeds = asked
    nothing = SamplerSettings(steps=4, guidance=0.0, interval=(0.0, 1.0))
    guided = tiny_pipeline(embeddings[:4], seeds[:4], sampler=nothing, micro_batch=4, precision="float32")
    plain = SamplerSettings(steps=4, guidance=1.0)
    dropped = tiny_pipeline(
        embeddings[:4], seeds[:4], sampler=plain, micro_batch=4, precision="float32", unconditional=True
    )
    assert np.abs(guided.astype(int) - dropped).max() <= 1  # a doubled batch may round otherwise


def test_saved_and_loaded_it_makes_the_same_tiles(
    tiny_pipeline: EldmPipeline, asked: tuple[torch.Tensor, list[int]], tmp_path: Path
) -> None:
    embeddings, seeds = asked
    tiny_pipeline.save_pretrained(tmp_path / "pipeline")
    loaded = load_pipeline(tmp_path)
    assert pipeline_sha256(loaded) == pipeline_sha256(tiny_pipeline)
    assert loaded.config["encoder_name"] == "e"
    assert loaded.tile_px == 16
    np.testing.assert_array_equal(
        loaded(embeddings, seeds, sampler=SAMPLER), tiny_pipeline(embeddings, seeds, sampler=SAMPLER)
    )
    files = {path.name for path in (tmp_path / "pipeline").rglob("*") if path.is_file()}
    assert files == {"model_index.json", "config.json", "scheduler_config.json", "diffusion_pytorch_model.safetensors"}


def test_every_network_is_a_stock_diffusers_class(tiny_pipeline: EldmPipeline, tmp_path: Path) -> None:
    tiny_pipeline.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert index["autoencoder"] == ["diffusers", "AutoencoderKL"]
    assert index["scheduler"] == ["diffusers", "DDPMScheduler"]
    assert UNet2DConditionModel.from_pretrained(tmp_path / "unet").config["sample_size"] == 8
    config = AutoencoderKL.from_pretrained(tmp_path / "autoencoder").config
    # diffusers' own pipelines decode z * latents_std / scaling_factor + latents_mean, or z / scaling_factor
    assert config["latents_mean"] == pytest.approx([0.5, -1.0, 0.2])
    assert np.array(config["latents_std"]) / config["scaling_factor"] == pytest.approx([2.0, 0.5, 1.0])
    z = np.random.default_rng(0).normal([0.5, -1.0, 0.2], [2.0, 0.5, 1.0], (200_000, 3))
    assert config["scaling_factor"] * z.std() == pytest.approx(1, abs=0.01)


def test_what_is_not_an_eldm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="train-eldm"):
        load_pipeline(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with pytest.raises(ConfigError, match="another kind"):
        load_pipeline(tmp_path)


def test_embeddings_and_seeds_must_match(tiny_pipeline: EldmPipeline) -> None:
    with pytest.raises(ConfigError, match="one seed per embedding"):
        tiny_pipeline(torch.zeros(2, 6), [1], sampler=SAMPLER)


def test_starting_noise_is_standard_normal_and_the_seeds_own() -> None:
    noise = starting_noise(5, (3, 64, 64))
    assert abs(float(noise.mean())) < 0.03
    assert abs(float(noise.std()) - 1) < 0.03
    assert not torch.equal(noise, starting_noise(6, (3, 64, 64)))
    assert torch.equal(noise, starting_noise(5, (3, 64, 64)))


def test_micro_batches_keep_order_and_drop_padding() -> None:
    rows, heights = torch.arange(10.0).view(10, 1), []

    def double(part: torch.Tensor) -> torch.Tensor:
        heights.append(len(part))
        assert torch.get_num_threads() == 1
        return part * 2

    made = map_micro_batches(double, rows, micro_batch=4, device=torch.device("cpu"))
    assert made.flatten().tolist() == [2.0 * k for k in range(10)]
    assert heights == [4, 4, 4]


def without(tensor: str, name: str = "other") -> Callable[[Path], None]:
    def change(file: Path) -> None:
        state = load_file(file)
        state[name] = state.pop(tensor)
        save_file(state, file, metadata={"format": "pt"})

    return change


def said(**values: Any) -> Callable[[Path], None]:
    return lambda file: file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("model_index.json", lambda file: file.write_text("{"), "model_index.json' is not JSON"),
        ("model_index.json", lambda file: file.write_text("[]"), "holds no names and values"),
        ("model_index.json", said(unet=["diffusers", "NoSuchClass"]), "E-LDM '.*' cannot be used"),
        (f"unet/{WEIGHTS}", without("conv_in.weight"), "E-LDM '.*' cannot be used|conv_in.weight"),
        (
            f"conditioner/{WEIGHTS}",
            without("mean"),
            r"lacks, or has no place for, 2 tensors \(mean, other\)",
        ),
        (f"unet/{WEIGHTS}", lambda file: file.write_bytes(file.read_bytes()[:500]), "E-LDM '.*' cannot be used"),
        ("conditioner/config.json", said(embedding_dim=-3), "E-LDM '.*' cannot be used"),
        ("conditioner/config.json", said(injection="loud"), "unknown injection 'loud'"),
        ("scheduler/scheduler_config.json", said(prediction_type=3), "predicts '3' cannot be sampled"),
        ("scheduler/scheduler_config.json", said(beta_start="small"), "E-LDM '.*' cannot be used"),
    ],
)
def test_a_pipeline_that_somebody_changed_is_one_sentence(
    tiny_pipeline: EldmPipeline, tmp_path: Path, file: str, change: Callable[[Path], None], message: str
) -> None:
    """A part without all of its tensors would keep what it was built with, and say nothing."""
    tiny_pipeline.save_pretrained(tmp_path / "pipeline")
    load_pipeline(tmp_path)
    change(tmp_path / "pipeline" / file)
    with pytest.raises(HistogenError, match=message) as caught:
        load_pipeline(tmp_path)
    assert "\n" not in str(caught.value)
