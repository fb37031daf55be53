"""The chain: every stage once on drawn slides, skipped when done, refused when its settings changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histogen.errors import ConfigError
from histogen.pipelines.run.chain import RunConfig
from histogen.pipelines.run.command import run
from histogen.store.tile_set import open_tiles

TINY: dict[str, Any] = {
    "draw": {"num_slides": 3, "width_px": 1024, "height_px": 768, "region_um": 150.0},
    "tile": {"tile_px": 32, "mpp": 2.0, "min_label_fraction": 0.3},
    "pretrain": {
        "model": {
            "name": "vit_tiny_patch16_224",
            "arguments": {"patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2},
            "prototypes": 32, "head_hidden": 32, "head_bottleneck": 16,
        },
        "crops": {"global_px": 32, "local_px": 16, "num_local": 1},
        "optim": {"num_steps": 4, "batch": 8, "warmup_epochs": 0},
    },
    "train_autoencoder": {
        "model": {"channels": [8, 16], "layers_per_block": 1, "latent_channels": 2, "norm_groups": 4,
                  "attention": False},
        "optim": {"steps": 4, "batch": 4}, "heldout": {"most": 8},
    },
    "train_eldm": {
        "variants": 1,
        "model": {"channels": [16, 32], "layers_per_block": 1, "attention": [False, True], "head_width": 8,
                  "norm_groups": 4, "cross_attention_dim": 16},
        "optim": {"steps": 4, "batch": 4}, "sampler": {"steps": 2}, "heldout": {"most": 8},
        "watch": {"heldout_every": 4, "heldout_tiles": 4, "preview_every": 4},
    },
    "synthesize": {"micro_batch": 16},
    "benchmark": {"test_share": 0.34},
}  # fmt: skip


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("chain") / "run"
    assert run(RunConfig(out=out, **TINY)).failures == ()
    return out


def test_every_stage_leaves_its_output_and_the_page_shows_the_measured_figures(done: Path) -> None:
    stages = [row["name"] for row in json.loads((done / "stages.json").read_text())]
    assert stages == [
        "slides", "tiles", "dino", "embed", "autoencoder", "eldm", "generative", "interpolated", "gen-dino",
        "benchmark",
    ]  # fmt: skip
    page = (done / "report.html").read_text()
    benchmark = json.loads((done / "benchmark" / "benchmark.json").read_text())
    for encoder in benchmark["encoders"]:
        assert f"{100 * encoder['knn']['balanced_accuracy']:.1f}" in page
    assert page.count("data:image/") > 50
    assert 'src="http' not in page


def test_synthetic_stores_name_their_sources_and_partners(done: Path) -> None:
    tiles = open_tiles(done / "tiles")
    made = open_tiles(done / "interpolated")
    assert len(made) == len(tiles)
    stores, partners = made.categories("source_store"), made.categories("partner_store")
    pairs = {
        (f"{stores[a]}:{i}", f"{partners[b]}:{j}")
        for a, i, b, j in zip(
            *(made.column(n) for n in ("source_store", "source_index", "partner_store", "partner_index")), strict=True
        )
    }
    assert {source for source, _ in pairs} == set(tiles.ids())
    assert all(source != partner for source, partner in pairs)
    alpha = made.column("alpha")
    assert alpha.min() >= 0.3
    assert alpha.max() <= 0.7
    assert np.ptp(alpha) > 0.2


def test_a_second_run_skips_what_is_done_and_keeps_every_byte(done: Path) -> None:
    before = {path: path.read_bytes() for path in done.rglob("*.safetensors")}
    assert before
    outcome = run(RunConfig(out=done, **TINY))
    assert "report:" in outcome.summary
    assert {path: path.read_bytes() for path in done.rglob("*.safetensors")} == before


def test_other_settings_are_refused_and_named(done: Path) -> None:
    with pytest.raises(ConfigError, match=r"draw\.num_slides: 3 -> 4"):
        run(RunConfig(out=done, **{**TINY, "draw": {**TINY["draw"], "num_slides": 4}}))


def test_one_source_of_images_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give one of slides"):
        RunConfig(out=tmp_path)
    with pytest.raises(ValueError, match="give one of slides"):
        RunConfig(out=tmp_path, images=tmp_path, draw={})
