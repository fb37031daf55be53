"""Weights in the layout of CompVis' latent-diffusion, which the paper's group uses too, as stock diffusers classes.

The shape is read off the tensors; the key maps are diffusers' own (Apache-2.0), completed by the codebook and by the
one-Linear conditioner of an embedding-conditioned model. Files: ``.safetensors``, or ``.ckpt`` and ``.pt`` that hold
tensors only (anything else in a pickle is refused).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint
from torch import Tensor

from histogen.diffusion.autoencoder import Autoencoder
from histogen.diffusion.autoencoder_build import build_autoencoder
from histogen.diffusion.denoiser import build_denoiser
from histogen.diffusion.settings import AutoencoderSettings, DenoiserSettings
from histogen.errors import ConfigError
from histogen.training.weights import read_tensors

UNET_PREFIX, AUTOENCODER_PREFIX, CONDITIONER_PREFIX = (
    "model.diffusion_model.",
    "first_stage_model.",
    "cond_stage_model.",
)
KL_SCALE = 0.18215
"""What LDM multiplies the latents of its KL-f8 by."""
State = dict[str, Tensor]


def load_ldm_denoiser(path: Path, *, embedding_dim: int, latent_px: int, num_heads: int = 1) -> UNet2DConditionModel:
    """Return the U-Net in an LDM-layout file, with the averaged weights where the file has them.

    The number of attention heads cannot be read off the weights; the published models have one. A file without the
    conditioner of embeddings [embedding_dim] (a class-conditional one, say) gets a fresh one.

    Raises:
        ConfigError: the file holds no such U-Net, or its tensors do not fit.
    """
    state = read_tensors(path)
    if f"{UNET_PREFIX}input_blocks.0.0.weight" not in state:
        state = {f"{UNET_PREFIX}{key}": value for key, value in state.items()}
    blocks = {key.removeprefix(UNET_PREFIX): value for key, value in state.items() if key.startswith(UNET_PREFIX)}
    if "input_blocks.0.0.weight" not in blocks:
        raise ConfigError(f"'{path}' holds no U-Net in latent-diffusion's layout (no input_blocks.0.0.weight)")
    unet = build_denoiser(
        _denoiser_settings(blocks, path),
        latent_channels=blocks["input_blocks.0.0.weight"].shape[1],
        latent_px=latent_px,
        embedding_dim=embedding_dim,
        num_heads=num_heads,
    )
    averaged = sum(key.startswith("model_ema.") for key in state) > 100
    converted = convert_ldm_unet_checkpoint(state, dict(unet.config), extract_ema=averaged)
    own = unet.state_dict()
    converted |= _conditioner(state, own) or {key: own[key] for key in own if key.startswith("encoder_hid_proj.")}
    _load(unet, converted, path)
    return unet


def _denoiser_settings(blocks: State, path: Path) -> DenoiserSettings:
    channels: list[int] = []
    attention: list[bool] = []
    layers, new_level = 0, True
    for number in range(1, 1 + max(int(key.split(".")[1]) for key in blocks if key.startswith("input_blocks."))):
        if f"input_blocks.{number}.0.op.weight" in blocks:
            new_level = True
            continue
        if new_level:
            channels.append(blocks[f"input_blocks.{number}.0.out_layers.3.weight"].shape[0])
            attention.append(f"input_blocks.{number}.1.norm.weight" in blocks)
            layers, new_level = 0, False
        layers += 1
    keys = [key for key in blocks if key.endswith("attn2.to_k.weight")]
    if not keys:
        raise ConfigError(f"the U-Net in '{path}' has no cross-attention; only conditional ones can be used")
    return DenoiserSettings(
        channels=tuple(channels), layers_per_block=layers, attention=tuple(attention), head_width=None,
        injection="token", cross_attention_dim=blocks[keys[0]].shape[1],
    )  # fmt: skip


def _conditioner(state: State, own: State) -> State:
    """Return the conditioner's Linear under diffusers' name; nothing when there is none of the right shape."""
    for key, weight in state.items():
        bias = state.get(f"{key.removesuffix('weight')}bias")
        fits = weight.shape == own["encoder_hid_proj.weight"].shape and bias is not None
        if key.startswith(CONDITIONER_PREFIX) and key.endswith(".weight") and fits:
            return {"encoder_hid_proj.weight": weight, "encoder_hid_proj.bias": bias}  # type: ignore[dict-item]
    return {}


def load_ldm_autoencoder(path: Path) -> Autoencoder:
    """Return the KL or VQ autoencoder in an LDM-layout file; its latent scale is LDM's own.

    Raises:
        ConfigError: the file holds none, or its tensors do not fit.
    """
    state = read_tensors(path)
    prefixed = any(key.startswith(AUTOENCODER_PREFIX) for key in state)
    prefix = AUTOENCODER_PREFIX if prefixed else ""
    wanted = re.compile(r"(encoder|decoder|quant_conv|post_quant_conv|quantize)\.")
    blocks = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    blocks = {key: value for key, value in blocks.items() if wanted.match(key)}
    if "encoder.conv_in.weight" not in blocks:
        raise ConfigError(f"'{path}' holds no autoencoder in latent-diffusion's layout (no encoder.conv_in.weight)")
    if any(re.match(r"encoder\.down\.\d+\.attn\.", key) for key in blocks):
        raise ConfigError(f"the autoencoder in '{path}' has attention in its down blocks, which cannot be imported")
    model = build_autoencoder(_autoencoder_settings(blocks), tile_px=256)
    converted = convert_ldm_vae_checkpoint(blocks, dict(model.config))
    is_vq = "quantize.embedding.weight" in blocks
    if is_vq:
        converted["quantize.embedding.weight"] = blocks["quantize.embedding.weight"]
    _load(model, converted, path)
    model.register_to_config(scaling_factor=1.0 if is_vq else KL_SCALE)
    return model


def _autoencoder_settings(blocks: State) -> AutoencoderSettings:
    is_vq = "quantize.embedding.weight" in blocks
    levels = 1 + max(int(key.split(".")[2]) for key in blocks if key.startswith("encoder.down."))
    layers = 1 + max(int(key.split(".")[4]) for key in blocks if key.startswith("encoder.down.0.block."))
    return AutoencoderSettings(
        kind="vq" if is_vq else "kl",
        channels=tuple(blocks[f"encoder.down.{level}.block.0.conv2.weight"].shape[0] for level in range(levels)),
        layers_per_block=layers,
        latent_channels=blocks["decoder.conv_in.weight"].shape[1],
        attention="encoder.mid.attn_1.q.weight" in blocks,
        num_codes=blocks["quantize.embedding.weight"].shape[0] if is_vq else 8192,
    )


def _load(model: Any, converted: State, path: Path) -> None:
    try:
        model.load_state_dict(converted, strict=True)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise ConfigError(f"the tensors of '{path}' do not fit a {type(model).__name__}: {first}") from error
