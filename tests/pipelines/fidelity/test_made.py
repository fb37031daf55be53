"""``fidelity --eldm``: pictures made on the spot as ``synthesize`` makes them, and a baseline that knows no source."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import imagecodecs
import numpy as np
import pytest
import torch

from histogen.diffusion.pipeline_files import load_pipeline
from histogen.diffusion.settings import SamplerSettings
from histogen.encoders.registry import load_encoder
from histogen.errors import ConfigError
from histogen.evaluation.fidelity import frechet_distance
from histogen.pipelines.fidelity import command as fidelity
from histogen.pipelines.fidelity.made import Maker
from histogen.pipelines.synthesize import command as synthesize
from histogen.pipelines.train_autoencoder.command import TrainAutoencoderConfig
from histogen.pipelines.train_autoencoder.command import run as run_autoencoder
from histogen.pipelines.train_eldm.command import TrainEldmConfig
from histogen.pipelines.train_eldm.command import run as run_eldm
from histogen.seeds import derive_seed
from histogen.store.jpeg import encode_jpeg
from histogen.store.tile_set import TileSet

from ..conftest import TINY_AUTOENCODER, TINY_ELDM


@pytest.fixture(scope="module")
def world(make_sources: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with sources/, eldm/ and the generative tiles of store A; store B is held out."""
    folder = tmp_path_factory.mktemp("world")
    make_sources(folder / "sources")
    common: dict[str, Any] = {"tiles": [folder / "sources" / "A.zarr"], "device": "cpu"}
    given = {**common, "out": folder / "autoencoder", **TINY_AUTOENCODER}
    run_autoencoder(TrainAutoencoderConfig.model_validate(given))
    given = {**common, "out": folder / "eldm", "autoencoder": str(folder / "autoencoder"), **TINY_ELDM}
    run_eldm(TrainEldmConfig.model_validate({**given, "optim": {"steps": 4, "batch": 8}}))
    given = {**common, "out": folder / "generative", "eldm": folder / "eldm", "micro_batch": 8, "decode_batch": 4}
    synthesize.run(synthesize.SynthesizeConfig.model_validate(given))
    return folder


def config(world: Path, out: Path) -> fidelity.FidelityConfig:
    given = {
        "tiles": [world / "sources" / "A.zarr"], "held_out": [world / "sources" / "B.zarr"], "out": out,
        "synthetic": [f"generative={world / 'generative'}"], "encoders": ["colour"], "eldm": world / "eldm",
        "device": "cpu", "compare": {"kernel_subsets": 5, "kernel_subset_size": 10},
    }  # fmt: skip
    return fidelity.FidelityConfig.model_validate(given)


def test_tiles_made_on_the_spot_are_those_of_the_store(world: Path) -> None:
    stored, real = TileSet.open_(world / "generative"), TileSet.open_(world / "sources" / "A.zarr")
    maker = Maker.open_(world / "eldm", {"generative": stored}, "cpu")
    embeddings = torch.from_numpy(real.embeddings())[:3]
    made = maker.make(embeddings, stored.column("seed")[:3].tolist())
    assert [encode_jpeg(tile, stored.stores[0].jpeg) for tile in made] == [stored.read_payload(k) for k in range(3)]


def test_unconditional_tiles_are_a_baseline_and_the_page_shows_what_was_made(world: Path, tmp_path: Path) -> None:
    outcome = fidelity.run(config(world, tmp_path / "out"))
    by_name = {one["name"]: one for one in outcome.results["encoders"][0]["sets"]}
    assert list(by_name) == ["generative", "unconditional", "training tiles", "nearest real tile"]
    seeds = [derive_seed(0, "unconditional", k) for k in range(40)]
    unguided = SamplerSettings(steps=3, guidance=1.0)
    images = load_pipeline(world / "eldm")(
        torch.ones(40, load_encoder("colour").card.dim), seeds, sampler=unguided, micro_batch=8, decode_batch=4,
        unconditional=True,
    )  # fmt: skip
    seen = load_encoder("colour")(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    held_out = TileSet.open_(world / "sources" / "B.zarr").embeddings()
    assert by_name["unconditional"]["frechet"] == pytest.approx(frechet_distance(held_out, seen), rel=1e-5)

    text = (tmp_path / "out" / "fidelity.html").read_text().removeprefix("<!DOCTYPE html>\n")
    sections = {section.get("id"): section for section in ElementTree.fromstring(text).iter("section")}
    assert len(list(sections["real-and-generative-tiles"].iter("img"))) == 16 * 4
    shown = sections["interpolated-tiles"]
    captions = [caption.text for caption in shown.iter("figcaption")]
    assert captions[:7] == ["source", "α = 1", "α = 0.75", "α = 0.5", "α = 0.25", "α = 0", "partner"]
    pictures = [
        imagecodecs.jpeg8_decode(base64.b64decode(str(image.get("src")).split(",")[1])) for image in shown.iter("img")
    ]
    assert len(pictures) == 8 * 7
    pair = str(captions[7])
    rows = [int(name.split(":")[1]) for name in pair.split(" and ")]
    real = TileSet.open_(world / "sources" / "A.zarr")
    ends = load_pipeline(world / "eldm")(
        torch.from_numpy(real.embeddings()[rows]), [derive_seed(0, "picture between", pair)] * 2,
        sampler=SamplerSettings(steps=3), micro_batch=8, decode_batch=4,
    )  # fmt: skip
    expected = [real[rows[0]], ends[0], ends[1], real[rows[1]]]
    for picture, tile in zip([pictures[k] for k in (0, 1, 5, 6)], expected, strict=True):
        assert np.abs(picture.astype(int) - tile.astype(int)).mean() < 6  # the page's own JPEG


def test_another_eldm_is_refused(world: Path, tmp_path: Path) -> None:
    load_pipeline(world / "eldm").save_pretrained(tmp_path / "other")
    weights = next((tmp_path / "other" / "conditioner").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ConfigError, match="is not the E-LDM that made 'generative'"):
        fidelity.run(config(world, tmp_path / "out").model_copy(update={"eldm": tmp_path / "other"}))
    assert not (tmp_path / "out").exists()
