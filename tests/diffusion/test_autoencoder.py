"""Images to latents and back, moments, statistics, turns; losses and scores against plain definitions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from safetensors.torch import load_file, save_file

from histogen.diffusion.autoencoder import (
    decode_latents,
    dihedral,
    downsampling,
    draw_latents,
    encode_moments,
    latent_statistics,
    record_statistics,
    standardize,
    to_images,
    to_signal,
    unstandardize,
)
from histogen.diffusion.autoencoder_build import build_autoencoder
from histogen.diffusion.autoencoder_files import load_autoencoder
from histogen.diffusion.reconstruction import gradient_loss, psnr, reconstruct, reconstruction_loss, ssim
from histogen.diffusion.settings import AutoencoderSettings, ReconstructionSettings
from histogen.errors import ConfigError

TINY = {"channels": (8, 16), "layers_per_block": 1, "latent_channels": 3, "norm_groups": 4, "attention": False}


def tiny(kind: str) -> AutoencoderKL | VQModel:
    torch.manual_seed(0)
    return build_autoencoder(AutoencoderSettings(kind=kind, num_codes=32, **TINY), tile_px=16).eval()


def test_images_survive_the_way_to_signal_and_back(images: np.ndarray) -> None:
    signal = to_signal(torch.from_numpy(images))
    assert float(signal.min()) >= -1
    assert float(signal.max()) <= 1
    np.testing.assert_array_equal(to_images(signal).numpy(), images)


def test_dihedral_variants_against_numpy(images: np.ndarray) -> None:
    image = images[0]
    turned = [dihedral(torch.from_numpy(image).permute(2, 0, 1), v).permute(1, 2, 0).numpy() for v in range(8)]
    for variant, made in enumerate(turned):
        expected = np.rot90(image, variant % 4)
        np.testing.assert_array_equal(made, expected[:, ::-1] if variant >= 4 else expected)
    assert len({made.tobytes() for made in turned}) == 8


def test_moments_are_the_posterior_and_draws_follow_it(images: np.ndarray) -> None:
    model, signal = tiny("kl"), to_signal(torch.from_numpy(images[:2]))
    moments = encode_moments(model, signal)
    with torch.no_grad():
        posterior = model.encode(signal).latent_dist
    torch.testing.assert_close(moments, torch.cat([posterior.mean, posterior.logvar], 1), rtol=0, atol=0)
    noise = torch.randn(posterior.mean.shape)
    torch.testing.assert_close(draw_latents(3, moments, noise), posterior.mean + posterior.std * noise)
    torch.testing.assert_close(draw_latents(3, moments, None), posterior.mean, rtol=0, atol=0)


def test_the_latent_of_a_vq_model_is_the_one_before_quantisation(images: np.ndarray) -> None:
    model, signal = tiny("vq"), to_signal(torch.from_numpy(images[:2]))
    moments = encode_moments(model, signal)
    with torch.no_grad():
        expected = model.quant_conv(model.encoder(signal))
    torch.testing.assert_close(moments, expected, rtol=0, atol=0)
    torch.testing.assert_close(draw_latents(3, moments, torch.ones_like(moments)), expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_statistics_live_in_the_config_and_survive_saving(kind: str, tmp_path: Path) -> None:
    model = tiny(kind)
    mean, std = torch.tensor([0.5, -1.0, 2.0]), torch.tensor([2.0, 0.5, 1.0])
    record_statistics(model, mean, std)
    model.save_pretrained(tmp_path / "autoencoder")
    loaded = load_autoencoder(tmp_path)
    latents = mean.view(1, 3, 1, 1) + std.view(1, 3, 1, 1) * torch.randn(400, 3, 4, 4)
    seen = standardize(loaded, latents)
    torch.testing.assert_close(unstandardize(loaded, seen), latents, rtol=0, atol=1e-5)
    if kind == "kl":
        assert float(seen.mean(dim=(0, 2, 3)).abs().max()) < 0.06
        assert float((seen.std(dim=(0, 2, 3)) - 1).abs().max()) < 0.06
    else:
        assert float(seen.square().mean()) == pytest.approx(1, abs=0.06)
    measured_mean, measured_std = latent_statistics(loaded, latents)
    assert measured_mean.shape[1] == measured_std.shape[1] == (3 if kind == "kl" else 1)


def test_decoding_standardised_latents_equals_the_autoencoders_own_decoding(images: np.ndarray) -> None:
    model = tiny("kl")
    record_statistics(model, torch.tensor([0.5, -1.0, 2.0]), torch.tensor([2.0, 0.5, 1.0]))
    with torch.no_grad():
        raw = model.encode(to_signal(torch.from_numpy(images[:3]))).latent_dist.mean
        expected = to_images(model.decode(raw).sample)
    difference = decode_latents(model, standardize(model, raw)).int() - expected.int()
    assert int(difference.abs().max()) <= 1


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_a_few_steps_lower_the_loss(kind: str, images: np.ndarray) -> None:
    model, signal = tiny(kind).train(), to_signal(torch.from_numpy(images))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for step in range(15):
        noise = torch.randn(len(signal), 3, 8, 8, generator=torch.Generator().manual_seed(step))
        answer, latent_loss = reconstruct(model, signal, noise=noise)
        terms = reconstruction_loss(signal, answer, latent_loss, ReconstructionSettings(), is_vq=kind == "vq")
        optimizer.zero_grad()
        terms["loss"].backward()
        optimizer.step()
        losses.append(float(terms["loss"].detach()))
    assert losses[-1] < 0.8 * losses[0]


def test_kl_in_nats_per_element_against_torch_distributions(images: np.ndarray) -> None:
    model, signal = tiny("kl"), to_signal(torch.from_numpy(images[:2]))
    with torch.no_grad():
        posterior = model.encode(signal).latent_dist
        _, measured = reconstruct(model, signal, noise=torch.zeros_like(posterior.mean))
    exact = torch.distributions.kl_divergence(
        torch.distributions.Normal(posterior.mean, posterior.std), torch.distributions.Normal(0.0, 1.0)
    )
    assert float(measured) == pytest.approx(float(exact.mean()), rel=1e-4)


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_squares_of_pixels_become_channels_on_the_way_in_and_pixels_on_the_way_out(
    kind: str, images: np.ndarray, tmp_path: Path
) -> None:
    """Oracle: numpy's rearrangement in front of and behind the stock diffusers network."""
    torch.manual_seed(0)
    settings = AutoencoderSettings(kind=kind, num_codes=32, unshuffle=2, **TINY)
    build_autoencoder(settings, tile_px=16).save_pretrained(tmp_path)
    model = load_autoencoder(tmp_path)
    assert downsampling(model) == 4
    signal = to_signal(torch.from_numpy(images[:2]))
    batch, _, height, width = signal.shape
    cells = signal.numpy().reshape(batch, 3, height // 2, 2, width // 2, 2).transpose(0, 1, 3, 5, 2, 4)
    moments = encode_moments(model, signal)
    with torch.no_grad():
        given = torch.from_numpy(np.ascontiguousarray(cells.reshape(batch, 12, height // 2, width // 2)))
        own = model.encode(given)
        expected = own.latents if kind == "vq" else own.latent_dist.parameters.clamp(-30, 20)
        torch.testing.assert_close(moments, expected, rtol=1e-5, atol=1e-5)
        raw = moments[:, :3]
        answer = model.decode(raw).sample.numpy().reshape(batch, 3, 2, 2, height // 2, width // 2)
    pixels = answer.transpose(0, 1, 4, 2, 5, 3).reshape(batch, 3, height, width)
    np.testing.assert_array_equal(
        decode_latents(model, standardize(model, raw)).numpy(), to_images(torch.from_numpy(pixels)).numpy()
    )


def test_an_autoencoder_of_grey_images_is_refused(tmp_path: Path) -> None:
    AutoencoderKL(in_channels=1, out_channels=1, block_out_channels=(8,), norm_num_groups=4).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="takes 1 channels; one of colour images takes 3"):
        load_autoencoder(tmp_path)


def test_gradient_loss_against_numpy() -> None:
    first, second = np.random.default_rng(0).normal(size=(2, 2, 3, 8, 8))
    error, total = first - second, 0.0
    for scale in (1, 2, 4):
        pooled = error.reshape(2, 3, 8 // scale, scale, 8 // scale, scale).mean(axis=(3, 5))
        total += np.abs(np.diff(pooled, axis=-1)).mean() + np.abs(np.diff(pooled, axis=-2)).mean()
    measured = gradient_loss(torch.from_numpy(first), torch.from_numpy(second))
    assert float(measured) == pytest.approx(total / 3, rel=1e-12)


def test_scores_against_scikit_image(images: np.ndarray) -> None:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    noisy = np.clip(images.astype(int) + np.random.default_rng(0).integers(-20, 20, images.shape), 0, 255)
    noisy = noisy.astype(np.uint8)
    pairs = list(zip(images, noisy, strict=True))
    assert psnr(images, noisy) == pytest.approx(np.mean([peak_signal_noise_ratio(a, b) for a, b in pairs]))
    expected = np.mean([structural_similarity(a, b, channel_axis=-1, data_range=255) for a, b in pairs])
    assert ssim(images, noisy) == pytest.approx(expected)


def test_shapes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="halved"):
        build_autoencoder(AutoencoderSettings(**{**TINY, "channels": (8, 8, 8, 8)}), tile_px=20)
    with pytest.raises(ConfigError, match="train-autoencoder"):
        load_autoencoder(tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(ConfigError, match="UNet2DModel"):
        load_autoencoder(tmp_path)


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_an_autoencoder_whose_tensors_do_not_fit_is_one_sentence(kind: str, tmp_path: Path) -> None:
    """Diffusers would put random numbers in the place of those that are missing."""
    tiny(kind).save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    renamed = {("encoder.conv_in.bios" if key == "encoder.conv_in.bias" else key): v for key, v in state.items()}
    for content, message in (
        (renamed, r"lacks, or has no place for, 2 tensors \(encoder.conv_in.bias, encoder.conv_in.bios\)"),
        ({**state, "encoder.conv_in.bias": torch.zeros(9)}, "autoencoder '.*' cannot be used .*conv_in.bias"),
    ):
        save_file(content, file, metadata={"format": "pt"})
        with pytest.raises(ConfigError, match=message) as caught:
            load_autoencoder(tmp_path)
        assert "\n" not in str(caught.value)
    file.write_bytes(b"\xff" * 400)
    with pytest.raises(ConfigError, match="autoencoder '.*' cannot be used"):
        load_autoencoder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="config.json' is not JSON"):
        load_autoencoder(tmp_path)


def test_the_names_that_diffusers_has_given_up_are_read_as_before(tmp_path: Path) -> None:
    """Autoencoders of the hub have attention under older names."""
    torch.manual_seed(0)
    model = build_autoencoder(AutoencoderSettings(**{**TINY, "attention": True}), tile_px=16).eval()
    model.save_pretrained(tmp_path)
    file, older = tmp_path / "diffusion_pytorch_model.safetensors", {}
    for key, value in load_file(file).items():
        for new, old in (("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")):
            key = key.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
        older[key] = value
    assert any("proj_attn" in key for key in older)
    save_file(older, file, metadata={"format": "pt"})
    loaded = load_autoencoder(tmp_path).state_dict()
    assert all(torch.equal(value, loaded[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("said", [{"latents_std": [1.0, 0.0, 1.0]}, {"latents_mean": [0.0, "1,5", 0.0]}])
def test_statistics_that_cannot_be_are_refused(said: dict[str, list], tmp_path: Path) -> None:
    model = tiny("kl")
    record_statistics(model, torch.zeros(3), torch.ones(3))
    model.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **said}))
    with pytest.raises(ConfigError, match="autoencoder '.*' (cannot be used|states no mean and scale)"):
        load_autoencoder(tmp_path)
