"""``histogen run``: the whole chain from one YAML. A stage that is done is skipped, an interrupted one goes on."""

from __future__ import annotations

import importlib
import importlib.resources
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import model_validator
from rich.console import Console

from histogen.config import BulkConfig, StageConfig, changed_keys, load_config
from histogen.errors import ConfigError
from histogen.files import write_atomic
from histogen.pipelines.outputs import CONFIG_NAME, Outcome, claim_output, finish_output, is_complete, records_folder

StageSettings = dict[str, Any]
"""Keys of one stage's config; the key ``config`` names a YAML (a path, or one under configs/) to start from."""


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

    @model_validator(mode="after")
    def _one_source(self) -> RunConfig:
        if bool(self.slides) + (self.images is not None) + (self.draw is not None) != 1:
            raise ValueError("give one of slides=…, images=… and draw=…")
        return self


@dataclass(frozen=True)
class Stage:
    """One stage of the chain: its name and folder, its pipeline, its settings, and what it is given."""

    name: str
    module: str
    config_class: str
    settings: Mapping[str, Any]
    given: Mapping[str, Any]


@dataclass(frozen=True)
class StageRecord:
    """What became of a stage."""

    name: str
    seconds: float
    summary: str
    failures: tuple[str, ...] = ()
    skipped: bool = False


def run(config: RunConfig) -> Outcome:
    """Run every stage that is not done, then write the report."""
    _claim(config)
    console = Console(stderr=True)
    records = {record.name: record for record in _read_records(config.out)}
    for number, stage in enumerate(stages := chain(config), start=1):
        console.print(f"[bold]{number}/{len(stages) + 1} {stage.name}[/bold]")
        record = run_stage(stage, config, earlier=records.get(stage.name))
        console.print(f"    {record.summary}" + (" (done before)" if record.skipped else f" · {record.seconds:,.1f} s"))
        records[stage.name] = record
        _write_records(config.out, list(records.values()))
    console.print(f"[bold]{len(stages) + 1}/{len(stages) + 1} report[/bold]")
    from histogen.pipelines.chain_report import write_chain_report

    page, summary = write_chain_report(config, list(records.values()))
    finish_output(config.out, report=str(page.relative_to(config.out)))
    failures = tuple(failure for record in records.values() for failure in record.failures)
    return Outcome(config.out, f"{summary}\nreport: {page}", failures)


def chain(config: RunConfig) -> list[Stage]:
    """Return the stages in order; each one's inputs are the outputs of those before it."""
    out, stages = config.out, []

    def add(name: str, module: str, config_class: str, settings: Mapping[str, Any], **given: Any) -> None:
        stages.append(Stage(name, module, config_class, settings, given))

    slides = config.slides
    if config.draw is not None:
        add("slides", "draw", "DrawConfig", config.draw, out=out / "slides")
        slides = [out / "slides"]
    if config.images is None:
        add("tiles", "tile", "TileConfig", config.tile, slides=slides, out=out / "tiles")
        tiles = [out / "tiles"]
    else:
        tiles = [out / "tiles.zarr"]
        add("tiles", "import_images", "ImportImagesConfig", config.import_images, folder=config.images, out=tiles[0])
    judged = tiles
    if config.labelled is not None:
        judged = [out / "labelled.zarr"]
        shared = {key: value for key, value in config.import_images.items() if key in ("tile_px", "config")}
        add("labelled", "import_images", "ImportImagesConfig", shared, folder=config.labelled, out=judged[0])
    dino, gen_dino = out / "dino", out / "gen-dino"
    autoencoder, eldm = out / "autoencoder", out / "eldm"
    add("dino", "pretrain", "PretrainConfig", config.pretrain, tiles=tiles, out=dino)
    add("embed", "embed", "EmbedConfig", config.embed, tiles=tiles, encoder=str(dino))
    add("autoencoder", "train_autoencoder", "TrainAutoencoderConfig", config.train_autoencoder, tiles=tiles,
        out=autoencoder)  # fmt: skip
    add("eldm", "train_eldm", "TrainEldmConfig", config.train_eldm, tiles=tiles, encoder=str(dino),
        autoencoder=str(autoencoder), out=eldm)  # fmt: skip
    for kind in ("generative", "interpolated"):
        add(kind, "synthesize", "SynthesizeConfig", config.synthesize, tiles=tiles, eldm=eldm, kind=kind,
            out=out / kind)  # fmt: skip
    add("gen-dino", "pretrain", "PretrainConfig", {**config.pretrain, **config.gen_pretrain}, tiles=tiles,
        generative=out / "generative", interpolated=out / "interpolated", out=gen_dino)  # fmt: skip
    add("benchmark", "benchmark", "BenchmarkConfig", config.benchmark, tiles=judged,
        encoders=[f"DINO={dino}", f"Gen-DINO={gen_dino}"], out=out / "benchmark")  # fmt: skip
    return stages


def run_stage(stage: Stage, config: RunConfig, *, earlier: StageRecord | None) -> StageRecord:
    """Run one stage unless it is done with the same settings."""
    pipeline = importlib.import_module(f"histogen.pipelines.{stage.module}")
    built = stage_config(stage, config, getattr(pipeline, stage.config_class))
    has_output = "out" in stage.given
    if has_output and is_complete(built.out):
        _check_unchanged(stage.name, built)
        if earlier is not None:
            return StageRecord(earlier.name, earlier.seconds, earlier.summary, earlier.failures, skipped=True)
    start = time.monotonic()
    go_on = built.model_copy(update={"resume": not has_output or built.out.exists()})
    execute: Callable[[StageConfig], Outcome] = pipeline.run
    outcome = execute(go_on)
    return StageRecord(stage.name, time.monotonic() - start, outcome.summary, outcome.failures)


def stage_config(stage: Stage, config: RunConfig, config_class: type[Any]) -> Any:
    """Build a stage's config: its YAML, its settings, what the chain gives it, and the run's seed and device."""
    settings = dict(stage.settings)
    name = settings.pop("config", None)
    common = {"seed": config.seed, "device": config.device, "workers": config.workers, "scheduler": config.scheduler}
    inherited = {
        key: value for key, value in common.items() if key in config_class.model_fields and key not in settings
    }
    values = {**settings, **stage.given, **inherited}
    return load_config(config_class, file=find_config(name) if name else None, flags=values)


def find_config(name: str | Path) -> Path:
    """Return the YAML called ``name``: a path, or one of those shipped in ``configs/``.

    Raises:
        ConfigError: neither exists.
    """
    if Path(name).exists():
        return Path(name)
    shipped = Path(str(importlib.resources.files("histogen.configs"))) / name
    if shipped.exists():
        return shipped
    raise ConfigError(f"config '{name}' is neither a file nor one of the shipped configs; check the name")


def _claim(config: RunConfig) -> None:
    """Claim the output; unlike a single stage, a chain goes on by itself where its settings are the same."""
    same = (config.out / CONFIG_NAME).exists() and not config.overwrite
    claim_output(config.model_copy(update={"resume": config.resume or same}), command="run")


def _check_unchanged(name: str, built: StageConfig) -> None:
    changes = changed_keys(
        yaml.safe_load((records_folder(built.out) / CONFIG_NAME).read_text()), built.model_dump(mode="json")
    )
    if changes:
        raise ConfigError(
            f"stage '{name}' in '{built.out}' was done with other settings: {'; '.join(changes)}; "
            "choose another --out, or --overwrite"
        )


def _records_path(out: Path) -> Path:
    return out / "stages.json"


def _read_records(out: Path) -> list[StageRecord]:
    path = _records_path(out)
    if not path.exists():
        return []
    return [StageRecord(**{**row, "failures": tuple(row["failures"])}) for row in json.loads(path.read_text())]


def _write_records(out: Path, records: list[StageRecord]) -> None:
    rows = [{"name": r.name, "seconds": round(r.seconds, 2), "summary": r.summary, "failures": list(r.failures)}
            for r in records]  # fmt: skip
    write_atomic(_records_path(out), json.dumps(rows, indent=1))
