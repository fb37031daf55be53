"""Every shipped pretraining config loads, and the published one is the defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from histogen.config import load_config
from histogen.pipelines.pretrain.command import PretrainConfig

FOLDER = Path(__file__).resolve().parents[2] / "configs" / "pretrain"
FLAGS = {"tiles": [Path("tiles")], "out": Path("run")}


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.yaml")), ids=lambda file: file.stem)
def test_a_shipped_config_loads_and_says_how_it_is_used(file: Path) -> None:
    load_config(PretrainConfig, file=file, flags=FLAGS)
    assert "histogen pretrain" in file.read_text().splitlines()[0]


def test_the_published_recipe_is_the_defaults() -> None:
    assert load_config(PretrainConfig, file=FOLDER / "dino_vits16.yaml", flags=FLAGS) == PretrainConfig(**FLAGS)
