"""The chain of stages: its config, which stage follows which, and what each is given."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import model_validator

from histogen.config import BulkConfig, load_config, read_yaml
from histogen.pipelines.run.forecast import Reference
from histogen.shipped import find_config
from histogen.store.layout import SYNTHETIC

StageSettings = dict[str, Any]
"""Keys of one stage's config; the key ``config`` names a YAML (a path, or one under configs/) to start from."""

UNTRAINED: StageSettings = {
    "optim": {"lr": 0.0, "num_steps": 30, "warmup_epochs": 0.0, "freeze_last_layer_epochs": 0.0},
    "crops": {"num_local": 0},
    "collapse": {"every": 31},
}
"""What makes of the settings of DINO those of the same network untrained: at rate 0 no weight moves, and batch
normalisation, where there is any, gathers its statistics; with none it would lose to colour for that alone."""


class RunConfig(BulkConfig):
    """The chain: where the images come from, and for every stage what differs from its defaults."""

    slides: list[Path] = []
    """Slides, folders of slides or manifests; either these or ``images``."""
    images: Path | None = None
    """A folder of images (natural, or ready tiles) in place of slides."""
    draw: StageSettings | None = None
    """Draw slides in place of reading some: the demo."""
    labelled: Path | None = None
    """A folder of labelled images that only the benchmark reads; without it the tiles' own labels are used."""
    tile: StageSettings = {}
    import_images: StageSettings = {}
    pretrain: StageSettings = {}
    """Both encoders: DINO and Gen-DINO are trained with the same settings."""
    gen_pretrain: StageSettings = {}
    """What only Gen-DINO is given, on top of ``pretrain``."""
    embed: StageSettings = {}
    train_autoencoder: StageSettings = {}
    train_eldm: StageSettings = {}
    synthesize: StageSettings = {}
    benchmark: StageSettings = {}
    baselines: bool = True
    """Also judge the same network untrained and a colour histogram: what DINO must beat to have learnt anything."""
    reference: Reference | None = None
    """How long each stage took on a known machine: foretells how long the chain takes here."""

    @model_validator(mode="after")
    def _one_source(self) -> RunConfig:
        if bool(self.slides) + (self.images is not None) + (self.draw is not None) != 1:
            raise ValueError(
                "give one of slides, images and draw: --set slides=[FOLDER] for slides, --set images=FOLDER for images"
            )
        return self


@dataclass(frozen=True)
class Stage:
    """One stage of the chain: its name and folder, its pipeline, its settings, and what it is given."""

    name: str
    module: str
    config_class: str
    settings: Mapping[str, Any]
    given: Mapping[str, Any]
    needs_labels: bool = False


@dataclass(frozen=True)
class StageRecord:
    """What became of a stage."""

    name: str
    seconds: float
    summary: str
    failures: tuple[str, ...] = ()
    skipped: bool = False


def chain(config: RunConfig) -> list[Stage]:
    """Return the stages in order; each one's inputs are the outputs of those before it."""
    out, stages = config.out, []

    def add(name: str, module: str, config_class: str, settings: Mapping[str, Any], **given: Any) -> None:
        stages.append(Stage(name, module, config_class, settings, given, needs_labels=name == "benchmark"))

    slides, annotations = config.slides, {}
    if config.draw is not None:
        add("slides", "run.draw", "DrawConfig", config.draw, out=out / "slides")
        slides, annotations = [out / "slides"], {"annotations": out / "slides"}
    if config.images is None:
        add("tiles", "tile.command", "TileConfig", config.tile, slides=slides, out=out / "tiles",
            **annotations)  # fmt: skip
        tiles = [out / "tiles"]
    else:
        tiles = [out / "tiles.zarr"]
        add("tiles", "import_images", "ImportImagesConfig", config.import_images, folder=config.images, out=tiles[0])
    judged = tiles
    if config.labelled is not None:
        judged = [out / "labelled.zarr"]
        shared = {key: value for key, value in config.import_images.items() if key in ("tile_px", "config")}
        add("labelled", "import_images", "ImportImagesConfig", shared, folder=config.labelled, out=judged[0])
    dino, gen_dino, untrained = out / "dino", out / "gen-dino", out / "untrained"
    autoencoder, eldm = out / "autoencoder", out / "eldm"
    add("dino", "pretrain.command", "PretrainConfig", config.pretrain, tiles=tiles, out=dino)
    compared = [f"DINO={dino}", f"Gen-DINO={gen_dino}"]
    if config.baselines:
        add("untrained", "pretrain.command", "PretrainConfig", merged(config.pretrain, UNTRAINED), tiles=tiles,
            out=untrained)  # fmt: skip
        compared = ["colour=colour", f"untrained={untrained}", *compared]
    add("embed", "embed.command", "EmbedConfig", config.embed, tiles=tiles, encoder=str(dino))
    add("autoencoder", "train_autoencoder.command", "TrainAutoencoderConfig", config.train_autoencoder, tiles=tiles,
        out=autoencoder)  # fmt: skip
    add("eldm", "train_eldm.command", "TrainEldmConfig", config.train_eldm, tiles=tiles, encoder=str(dino),
        autoencoder=str(autoencoder), out=eldm)  # fmt: skip
    for kind in SYNTHETIC:
        add(kind, "synthesize.command", "SynthesizeConfig", config.synthesize, tiles=tiles, eldm=eldm, kind=kind,
            out=out / kind)  # fmt: skip
    add("gen-dino", "pretrain.command", "PretrainConfig", merged(config.pretrain, config.gen_pretrain), tiles=tiles,
        generative=out / "generative", interpolated=out / "interpolated", out=gen_dino)  # fmt: skip
    add("benchmark", "benchmark.command", "BenchmarkConfig", config.benchmark, tiles=judged,
        encoders=compared, out=out / "benchmark")  # fmt: skip
    return stages


def merged(settings: StageSettings, changes: StageSettings) -> StageSettings:
    """Return ``settings`` with ``changes`` over them, block by block."""
    result = dict(settings)
    for key, value in changes.items():
        inner = result.get(key)
        result[key] = merged(inner, value) if isinstance(inner, dict) and isinstance(value, dict) else value
    return result


def config_class_of(stage: Stage) -> type[Any]:
    """Return the class of a stage's config; in a room of several files it has its own, without torch."""
    room, _, file = stage.module.rpartition(".")
    module = f"{room}.config" if file == "command" else stage.module
    found: type[Any] = getattr(importlib.import_module(f"histogen.pipelines.{module}"), stage.config_class)
    return found


def stage_config(stage: Stage, config: RunConfig, config_class: type[Any]) -> Any:
    """Build a stage's config: its YAML, its settings, what the chain gives it, and the run's seed and device."""
    settings = dict(stage.settings)
    name = settings.pop("config", None)
    common = {"seed": config.seed, "device": config.device, **config.bulk}
    inherited = {
        key: value for key, value in common.items() if key in config_class.model_fields and key not in settings
    }
    file = find_config(name) if name else None
    written = read_yaml(file) if file else {}
    settings = merged({key: written[key] for key in settings if key in written}, settings)
    return load_config(config_class, file=file, flags={**settings, **stage.given, **inherited})
