"""Names of the hub: found in the hub's cache without a network, one sentence where they are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from histogen.diffusion.autoencoder_build import build_autoencoder
from histogen.diffusion.autoencoder_files import autoencoder_name, load_autoencoder
from histogen.diffusion.hub import local_path, short_name
from histogen.diffusion.settings import AutoencoderSettings
from histogen.errors import ConfigError
from histogen.training.weights import read_tensors

COMMIT = "31f26fdeee1355a5c34592e401dd41e45d25a493"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache with one repository in it, laid out as the hub's library does; and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    snapshot = tmp_path / "models--an-org--vae-mse" / "snapshots" / COMMIT
    for folder, seed in ((snapshot, 0), (snapshot / "inner", 1)):
        torch.manual_seed(seed)
        shape = AutoencoderSettings(channels=(8, 16), layers_per_block=1, latent_channels=3, norm_groups=4)
        build_autoencoder(shape, tile_px=16).save_pretrained(folder)
    save_file({"a": torch.arange(3.0)}, snapshot / "ldm.safetensors")
    refs = tmp_path / "models--an-org--vae-mse" / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    return snapshot


def test_a_repository_a_folder_and_a_file_in_it_are_found(cache: Path) -> None:
    weights = {}
    for spec, folder in (("hf:an-org/vae-mse", cache), ("hf:an-org/vae-mse/inner", cache / "inner")):
        model = load_autoencoder(local_path(spec))
        own = read_tensors(folder / "diffusion_pytorch_model.safetensors")
        assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
        weights[spec] = autoencoder_name(model, local_path(spec))
    assert all(name.startswith("vae-mse-") for name in weights.values())
    assert len(set(weights.values())) == 2
    assert read_tensors(local_path("hf:an-org/vae-mse/ldm.safetensors"))["a"].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("spec", ["hf:an-org/other", "hf:an-org/other/vae", "hf:an-org/vae-mse/other.safetensors"])
def test_what_is_not_in_the_cache_is_one_sentence_without_a_network(spec: str) -> None:
    with pytest.raises(ConfigError, match=f"'{spec}' is not in the local cache and the hub cannot be reached"):
        local_path(spec)


@pytest.mark.usefixtures("cache")
def test_names_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="write hf:ORG/NAME"):
        local_path("hf:alone")
    with pytest.raises(ConfigError, match="the hub does not give 'hf:a b/c'"):
        local_path("hf:a b/c")
    with pytest.raises(ConfigError, match="nothing' does not exist; train one: histogen train-autoencoder"):
        load_autoencoder(local_path("hf:an-org/vae-mse/nothing"))


def test_anything_else_is_a_path() -> None:
    assert local_path("runs/autoencoder") == Path("runs/autoencoder")
    assert short_name("runs/autoencoder") == "autoencoder"
    assert short_name("hf:an-org/vae-mse") == "hf:an-org/vae-mse"
