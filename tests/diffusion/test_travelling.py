"""An E-LDM's folder makes its tiles with diffusers alone: the same bytes, in a process that cannot import histogen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from histogen.diffusion.autoencoder import record_statistics
from histogen.diffusion.autoencoder_build import build_autoencoder
from histogen.diffusion.conditioning import Conditioner, slerp
from histogen.diffusion.denoiser import build_denoiser
from histogen.diffusion.loss import build_scheduler
from histogen.diffusion.pipeline import EldmPipeline
from histogen.diffusion.pipeline_files import load_pipeline, save_pipeline
from histogen.diffusion.settings import AutoencoderSettings, DenoiserSettings, ObjectiveSettings, SamplerSettings

STRANGER = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "histogen":
            raise ImportError(f"{name} is not here")
sys.meta_path.insert(0, Blocked())
import numpy, torch
from diffusers import DiffusionPipeline
embeddings, seeds = torch.from_numpy(numpy.load("embeddings.npy")), [5, 2**40, 7]
for name in ("adaln", "token"):
    pipeline = DiffusionPipeline.from_pretrained(name, trust_remote_code=True)
    numpy.save(f"{name}.recommended.npy", pipeline(embeddings, seeds))
    numpy.save(f"{name}.asked.npy", pipeline(embeddings, seeds, sampler={"steps": 3, "guidance": 4.0}))
    module = sys.modules[type(pipeline.conditioner).__module__]
    numpy.save(f"{name}.between.npy", module.slerp(embeddings[0], embeddings[1], 0.3).numpy())
assert not any(name.split(".")[0] == "histogen" for name in sys.modules)
"""


def make(injection: str) -> EldmPipeline:
    """A KL model of v for ``adaln``; a VQ model of a flow, on squares of pixels, for ``token``."""
    torch.manual_seed(1)
    token = injection == "token"
    shape = AutoencoderSettings(
        kind="vq" if token else "kl", unshuffle=2 if token else 1, num_codes=16,
        channels=(8,) if token else (8, 16), layers_per_block=1, latent_channels=3, norm_groups=4, attention=False,
    )  # fmt: skip
    autoencoder = build_autoencoder(shape, tile_px=16).eval()
    record_statistics(autoencoder, torch.tensor([0.5, -1.0, 0.2]), torch.tensor([2.0, 0.5, 1.0]))
    settings = DenoiserSettings(
        channels=(16, 32), layers_per_block=1, head_width=16, norm_groups=8, injection=injection, cross_attention_dim=8
    )
    conditioner = Conditioner(6, injection)
    conditioner.fit(torch.randn(50, 6) + 1)
    sampler = SamplerSettings(name="flow_euler" if token else "unipc", steps=4, interval=(0.0, 1.0))
    return EldmPipeline(
        build_denoiser(settings, latent_channels=3, latent_px=8, embedding_dim=6).eval(),
        autoencoder, build_scheduler(ObjectiveSettings(kind="flow" if token else "v")), conditioner,
        sampler=sampler.model_dump(mode="json"),
    )  # fmt: skip


@pytest.fixture(scope="module")
def abroad(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pipelines, and the tiles a stranger made of them."""
    folder = tmp_path_factory.mktemp("abroad")
    np.save(folder / "embeddings.npy", np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32))
    for injection in ("adaln", "token"):
        save_pipeline(make(injection), folder / injection)
    environment = {**os.environ, "HF_HOME": str(folder / "home"), "HF_MODULES_CACHE": str(folder / "modules")}
    done = subprocess.run(
        [sys.executable, "-c", STRANGER], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "might require the following packages" not in done.stderr
    return folder


@pytest.mark.parametrize("name", ["adaln", "token"])
def test_a_stranger_makes_the_very_tiles(abroad: Path, name: str) -> None:
    pipeline, embeddings = load_pipeline(abroad / name), torch.from_numpy(np.load(abroad / "embeddings.npy"))
    recommended = SamplerSettings.model_validate(pipeline.config["sampler"])
    asked = recommended.model_copy(update={"steps": 3, "guidance": 4.0})
    tiles = {}
    for way, sampler in (("recommended", recommended), ("asked", asked)):
        tiles[way] = np.load(abroad / f"{name}.{way}.npy")
        np.testing.assert_array_equal(pipeline(embeddings, [5, 2**40, 7], sampler=sampler), tiles[way])
    assert tiles["asked"].shape == (3, 16, 16, 3)
    assert (tiles["asked"] != tiles["recommended"]).any()
    between = slerp(embeddings[0], embeddings[1], 0.3).numpy()
    np.testing.assert_array_equal(np.load(abroad / f"{name}.between.npy"), between)


def test_the_code_in_the_folder_is_never_run_here(abroad: Path, tmp_path: Path) -> None:
    save_pipeline(make("adaln"), tmp_path)
    for file in tmp_path.rglob("*.py"):
        file.write_text("raise SystemExit('ran')")
    assert load_pipeline(tmp_path).tile_px == 16
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    assert index["_class_name"] == ["eldm_pipeline", "EldmPipeline"]


def test_every_name_in_the_code_that_travels_is_defined_there(abroad: Path) -> None:
    files = [str(file) for file in (abroad / "adaln").rglob("*.py")]
    assert len(files) == 2
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert not any("import histogen" in Path(file).read_text() for file in files)
