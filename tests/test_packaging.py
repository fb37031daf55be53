"""The wheel holds every folder with Python in it; the lock names no address; every config parses."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import histogen

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_package_list_names_every_folder_with_python() -> None:
    folders = {".".join(file.parent.relative_to(ROOT).parts) for file in (ROOT / "histogen").rglob("__init__.py")} | {
        "histogen.cli",
        "histogen.configs",
        "histogen.data_manifests",
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == folders
    assert not (ROOT / "histogen" / "cli").exists()
    assert not (ROOT / "histogen" / "configs").exists()


def test_every_folder_of_the_library_has_an_init() -> None:
    folders = {file.parent for file in (ROOT / "histogen").rglob("*.py")}
    assert [str(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_public_names_resolve_and_are_listed() -> None:
    for name in histogen.__all__:
        assert getattr(histogen, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        histogen.no_such_name  # noqa: B018


def test_the_lock_has_hashes_and_no_address() -> None:
    text = (ROOT / "requirements.lock").read_text()
    pins = re.findall(r"^[a-z0-9][a-z0-9._-]*==\S+", text, flags=re.MULTILINE)
    assert len(pins) > 100
    assert text.count("--hash=sha256:") >= len(pins)
    assert "://" not in text
    assert "--index" not in text


def test_the_version_is_one() -> None:
    assert PROJECT["project"]["version"] == histogen.__version__


COMMANDS = {
    "tile": "tile.config:TileConfig",
    "import-images": "import_images:ImportImagesConfig",
    "pretrain": "pretrain.config:PretrainConfig",
    "embed": "embed.config:EmbedConfig",
    "train-autoencoder": "train_autoencoder.config:TrainAutoencoderConfig",
    "train-eldm": "train_eldm.config:TrainEldmConfig",
    "synthesize": "synthesize.config:SynthesizeConfig",
    "benchmark": "benchmark.config:BenchmarkConfig",
    "fidelity": "fidelity.config:FidelityConfig",
    "export": "export:ExportConfig",
    "run": "run.command:RunConfig",
}
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: str(file.relative_to(ROOT / "configs")))
def test_every_shipped_config_is_valid_and_opens_with_its_command(file: Path) -> None:
    module, _, name = COMMANDS[file.parent.name].partition(":")
    config_class = getattr(importlib.import_module(f"histogen.pipelines.{module}"), name)
    values = yaml.safe_load(file.read_text()) or {}
    needed = {key: "x" for key, field in config_class.model_fields.items() if field.is_required()}
    listed = {"tiles", "slides", "encoders", "synthetic", "held_out"}
    if config_class.__name__ == "RunConfig":
        needed["out"] = "x"
        if not {"slides", "images", "draw"} & values.keys():
            needed["slides"] = "x"
    config_class.model_validate({**{k: ["x"] if k in listed else v for k, v in needed.items()}, **values})
    assert f"histogen {file.parent.name}" in file.read_text().split("\n\n")[0]
