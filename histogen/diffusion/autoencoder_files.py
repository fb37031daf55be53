"""Autoencoders on disk: opened, whatever wrote them, and named by their weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, VQModel
from safetensors import safe_open

from histogen.diffusion.autoencoder import Autoencoder, latent_statistics, unshuffling
from histogen.diffusion.hub import readable_name
from histogen.diffusion.published import load_ldm_autoencoder
from histogen.errors import ConfigError
from histogen.files import read_json
from histogen.training.weights import usable, weights_sha256


def load_autoencoder(folder: Path, device: torch.device | str = "cpu") -> Autoencoder:
    """Open a diffusers autoencoder, frozen and in evaluation mode.

    ``folder`` is a run of train-autoencoder, a diffusers folder, or a file of weights in latent-diffusion's layout.

    Raises:
        ConfigError: there is no ``AutoencoderKL`` or ``VQModel`` there.
    """
    if folder.is_file():
        return load_ldm_autoencoder(folder).eval().requires_grad_(False).to(device)
    inner = folder / "autoencoder"
    folder = inner if (inner / "config.json").exists() else folder
    if not (folder / "config.json").exists():
        what = "holds no autoencoder (no config.json)" if folder.exists() else "does not exist"
        raise ConfigError(f"'{folder}' {what}; train one: histogen train-autoencoder TILES --out RUN")
    name = read_json(folder / "config.json").get("_class_name")
    classes = {"AutoencoderKL": AutoencoderKL, "VQModel": VQModel}
    if str(name) not in classes:
        what = f"a {name}" if name else "no network of diffusers"
        raise ConfigError(f"'{folder}' holds {what}; give an AutoencoderKL or a VQModel")
    with usable(f"autoencoder '{folder}'", "train it again, or copy it again"):
        model, found = classes[str(name)].from_pretrained(folder, output_loading_info=True, low_cpu_mem_usage=False)
        mean, std = latent_statistics(model, torch.zeros(1))
        if not (mean.isfinite().all() and std.isfinite().all() and (std > 0).all()):
            raise ConfigError(f"autoencoder '{folder}' states no mean and scale of its latents; train it again")
    if odd := [*found["missing_keys"], *found["unexpected_keys"]]:
        raise ConfigError(f"autoencoder '{folder}' lacks, or has no place for, {_some(odd)}; copy it again")
    channels = int(model.config["in_channels"])
    if 3 * unshuffling(model) ** 2 != channels:
        raise ConfigError(f"the autoencoder in '{folder}' takes {channels} channels; one of colour images takes 3")
    return model.eval().requires_grad_(False).to(device)


def run_folder(folder: Path) -> Path:
    """Return the run that ``folder`` belongs to: itself, or its parent when it is the exported autoencoder in it."""
    exported = folder.name == "autoencoder" and not (folder / "autoencoder").is_dir()
    return folder.resolve().parent if exported else folder.resolve()


def autoencoder_name(autoencoder: Autoencoder, folder: Path) -> str:
    """Return the name under which its latents are stored: the run's folder name and a digest of the weights."""
    return f"{readable_name(run_folder(folder))}-{weights_sha256(autoencoder.state_dict())[:8]}"


def check_names(model: torch.nn.Module, folder: Path) -> None:
    """Refuse a part of a pipeline of ours whose file has other tensors than the part: it would keep random ones.

    Raises:
        ConfigError: the message names them.
    """
    names: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as tensors:
            names |= set(tensors.keys())
    if odd := sorted(names ^ set(model.state_dict())):
        raise ConfigError(f"'{folder}' lacks, or has no place for, {_some(odd)}; copy it again")


def _some(names: Sequence[str]) -> str:
    return f"{len(names)} tensors ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})"
