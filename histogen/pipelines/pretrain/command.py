"""``histogen pretrain``: DINO on tile stores; with synthetic stores of the same tiles, Gen-DINO."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
import torch

from histogen.config import Precision
from histogen.encoders.timm import IMAGENET_MEAN, IMAGENET_STD, export_encoder
from histogen.errors import ConfigError, TrainingStoppedError
from histogen.files import read_json, write_atomic
from histogen.lease import for_its_output
from histogen.pipelines.outputs import Outcome, claim_output, finish_output, is_complete, read_run
from histogen.pipelines.precision import run_precision
from histogen.pipelines.pretrain.config import PretrainConfig
from histogen.seeds import derive_seed
from histogen.ssl.augment import Normalisation
from histogen.ssl.backbone import model_arguments
from histogen.ssl.batches import BatchReader, ReadAhead
from histogen.ssl.card import write_card
from histogen.ssl.initial import start_from
from histogen.ssl.networks import DinoNetwork, build_networks
from histogen.ssl.sources import Interpolations, SyntheticTiles, link_interpolated, link_synthetic
from histogen.ssl.statistics import measure
from histogen.ssl.task import DinoTask, Schedules
from histogen.store.layout import SYNTHETIC
from histogen.store.tile_set import TileSet
from histogen.training import processes
from histogen.training.checkpoint import list_checkpoints
from histogen.training.journal import BOARD_NAME, Board
from histogen.training.loop import fit
from histogen.training.weights import weights_sha256

MAX_CHECKPOINT_STEPS = 1000
START_NAME = "init_from.json"
"""In the run folder: which keys of ``init_from`` were loaded, missing and unexpected."""


@for_its_output
def run(config: PretrainConfig) -> Outcome:
    """Train, and export the teacher's backbone to ``out/encoder``.

    Everything that can be wrong with the input is said before the first step.

    Raises:
        ConfigError, StoreError, EncoderError: an input cannot be used.
        OutputExistsError: ``out`` exists and neither resume nor overwrite is set.
        TrainingStoppedError: the loss was not finite three steps in a row, or the encoder collapsed.
    """
    with processes.process_group(config.device) as device:
        return _run(config, device)


def _run(config: PretrainConfig, device: torch.device) -> Outcome:
    tiles = TileSet.open_(config.tiles, where=config.where)
    generative, interpolations = open_synthetic(config, tiles)
    inputs = {"tiles": tiles.content_hash}
    if generative is not None:
        inputs["generative"] = generative.synthetic.content_hash
    if interpolations is not None:
        inputs["interpolated"] = interpolations.tiles.synthetic.content_hash
    precision = run_precision(config, config.optim.precision, device)
    check_input(config, tiles)
    reader = BatchReader(
        tiles, config.optim.batch, seed=config.seed, generative=generative, interpolations=interpolations,
        gen=config.gen, dis=config.dis, share=processes.share_of(config.optim.batch), threads=config.workers,
        labels=monitored_labels(config, tiles), device=device,
    )  # fmt: skip
    num_steps = config.optim.num_steps or max(1, round(config.optim.epochs * reader.steps_per_epoch))
    schedules = Schedules.build(config, num_steps=num_steps, steps_per_epoch=reader.steps_per_epoch)
    networks = build_networks(config, seed=derive_seed(config.seed, "weights"))
    started = initialise(config, networks)
    processes.main_decides(lambda: claim_output(config, command="pretrain", inputs=inputs, precision=precision))
    if is_complete(config.out):
        return _outcome(config, tiles)
    if processes.is_main():
        for sentence in remarks(config, schedules, num_steps, started, batch_norm=networks[0].has_batch_norm):
            sys.stderr.write(f"{sentence}\n")
        if started:
            write_atomic(config.out / START_NAME, json.dumps(started, indent=1))
    return _train(config, tiles, reader, schedules, num_steps, networks, device, precision, started)


def initialise(config: PretrainConfig, networks: tuple[DinoNetwork, DinoNetwork]) -> dict[str, Any]:
    """Start the networks from ``init_from``, if it is given, and return what was loaded of it.

    A run that has checkpoints needs its weights no more: it says what it recorded when it began.
    """
    if config.init_from is None:
        return {}
    recorded = config.out / START_NAME
    if config.resume and recorded.exists() and list_checkpoints(config.out / "checkpoints"):
        return read_json(recorded)
    return start_from(config.init_from, networks, partial=config.init_partial).to_json()


def remarks(
    config: PretrainConfig, schedules: Schedules, num_steps: int, started: dict[str, Any], *, batch_norm: bool
) -> list[str]:
    """Return sentences about settings that work and are likely not meant."""
    found = [f"init_from '{config.init_from}': {started['sentence']}"] if started else []
    per_epoch = f"an epoch is {schedules.steps_per_epoch:,} steps of {config.optim.batch:,}"
    for key, what, steps in (
        ("freeze_last_layer_epochs", "the head's last layer stays as it was drawn", schedules.frozen_steps),
        ("warmup_epochs", "the learning rate only rises", schedules.lr.warmup_steps),
    ):
        if steps >= num_steps:
            found.append(f"optim.{key} lasts all {num_steps:,} steps ({per_epoch}): {what}; lower it or train longer")
    if config.optim.accumulate > 1 and batch_norm:
        found.append(
            f"'{config.model.name}' normalises over each of the {config.optim.accumulate} passes of a step: "
            "optim.accumulate changes what it learns"
        )
    return found


def _train(
    config: PretrainConfig,
    tiles: TileSet,
    reader: BatchReader,
    schedules: Schedules,
    num_steps: int,
    networks: tuple[DinoNetwork, DinoNetwork],
    device: torch.device,
    precision: Precision,
    started: dict[str, Any],
) -> Outcome:
    normalisation = normalisation_of(config, tiles)
    ahead = ReadAhead(reader, num_steps=num_steps, depth=2 if config.workers else 0)
    task = DinoTask(
        config, networks, ahead, schedules, normalisation, seed=config.seed, device=device, precision=precision
    )
    start = time.monotonic()
    try:
        last = fit(
            task, run_dir=config.out, num_steps=num_steps, keep=config.keep, log_every=config.log_every,
            checkpoint_every=config.checkpoint_every or min(reader.steps_per_epoch, MAX_CHECKPOINT_STEPS),
            resume=config.resume, description=method_of(config), items_per_step=config.optim.batch, item_name="tiles",
            tensorboard=config.tensorboard,
        )  # fmt: skip
    finally:
        ahead.close()
    if processes.is_main():
        notes = {"init_from": started["sentence"]} if started else {}
        supervision = started.get("supervision", "none")
        check_embedding(config, task)
        _export(config, task, tiles, normalisation, num_steps, {**notes, **last}, time.monotonic() - start, supervision)
    processes.barrier()
    return _outcome(config, tiles)


def _export(
    config: PretrainConfig,
    task: DinoTask,
    tiles: TileSet,
    normalisation: Normalisation,
    num_steps: int,
    results: dict[str, Any],
    seconds: float,
    supervision: str,
) -> None:
    card = export_encoder(
        task.teacher.backbone, config.out / "encoder", name=config.out.resolve().name, architecture=config.model.name,
        arguments=model_arguments(config.model.name, config.model.arguments, image_px=config.crops.global_px),
        image_px=config.crops.global_px, mean=normalisation.mean,
        std=normalisation.std, source=f"histogen pretrain ({method_of(config)}), {num_steps} steps",
        supervision=supervision,
    )  # fmt: skip
    write_card(config.out, config, card, method=method_of(config), tiles=tiles, num_steps=num_steps, results=results)
    finish_output(
        config.out, encoder=card.name, method=method_of(config), steps=num_steps, tiles=len(tiles),
        seconds=seconds, timed_steps=task.num_done,  # since the last start: a resumed run does not know its past's
        tiles_per_second=task.num_done * config.optim.batch / max(seconds, 1e-9), processes=processes.world_size(),
        weights_sha256=weights_sha256(task.teacher.backbone.state_dict()), mean=list(normalisation.mean),
        std=list(normalisation.std), collapse_step=task.watch.named_at or None, **results,
    )  # fmt: skip


def check_embedding(config: PretrainConfig, task: DinoTask) -> None:
    """Raise TrainingStoppedError when the last steps broke the encoder: too few for the loss to stop the run."""
    task.teacher.eval()
    with torch.no_grad():
        blank = torch.zeros(1, 3, config.crops.global_px, config.crops.global_px, device=task.device)
        if torch.isfinite(task.teacher.backbone(blank)).all():
            return
    raise TrainingStoppedError(
        f"the encoder of '{config.out}' gives no finite embedding after the last step, and was not exported; "
        "lower the learning rate, or train in float32"
    )


def open_synthetic(config: PretrainConfig, tiles: TileSet) -> tuple[SyntheticTiles | None, Interpolations | None]:
    """Open and check the synthetic stores that ``config`` names."""
    allow = config.gen.allow_missing
    generative = interpolations = None
    if config.generative is not None:
        generative = link_synthetic(tiles, TileSet.open_(config.generative), what="generative", allow_missing=allow)
    if config.interpolated is not None:
        interpolations = link_interpolated(tiles, TileSet.open_(config.interpolated), allow_missing=allow)
    for linked in (generative, interpolations.tiles if interpolations else None):
        if linked is not None and linked.synthetic.tile_px != tiles.tile_px:
            raise ConfigError(
                f"the {linked.synthetic.kinds[0]} tiles have {linked.synthetic.tile_px} px and the tiles "
                f"{tiles.tile_px} px; make them alike"
            )
    return generative, interpolations


def check_input(config: PretrainConfig, tiles: TileSet) -> None:
    """Raise a sentence for what cannot work, before anything is written."""
    if config.tensorboard:
        Board(config.out / BOARD_NAME)  # says when it is not installed
    if len(tiles) == 0:
        raise ConfigError(f"the stores {', '.join(map(str, config.tiles))} hold no tiles; tile slides first")
    synthetic = sorted(set(SYNTHETIC) & set(tiles.kinds))
    if synthetic and len(tiles.kinds) > 1:
        raise ConfigError(
            f"the stores are of kinds {', '.join(tiles.kinds)} together; give the {synthetic[0]} ones by "
            f"--{synthetic[0]}, or alone"
        )
    for kind in ("global", "local") if config.crops.num_local else ("global",):
        px = getattr(config.crops, f"{kind}_px")
        if tiles.tile_px < px:
            raise ConfigError(
                f"tiles of {tiles.tile_px} px are smaller than the {kind} crops of {px} px; "
                f"set crops.{kind}_px to at most the tile's side"
            )
    matching = config.interpolated is not None and config.dis.pairing == "matching"
    processes.share_of(config.optim.batch, passes=config.optim.accumulate, pairs=matching)


def monitored_labels(config: PretrainConfig, tiles: TileSet) -> np.ndarray | None:
    """Return the codes of the label that the journal looks at, int64 [N], negative where a tile has none.

    Raises:
        ConfigError: the tiles have no such column.
    """
    if config.monitor_label is None:
        return None
    name = config.monitor_label
    if not tiles.has_column(name):
        raise ConfigError(f"not all tiles have a column '{name}'; leave monitor_label out, or name another")
    values = tiles.column(name)
    if not tiles.categories(name) and (values.ndim > 1 or values.dtype.kind not in "iu"):
        raise ConfigError(
            f"column '{name}' holds no labels but {values.dtype.name}{list(values.shape[1:]) or ''}; "
            "give monitor_label a column of classes"
        )
    return values.astype(np.int64)


def normalisation_of(config: PretrainConfig, tiles: TileSet) -> Normalisation:
    """Return the mean and standard deviation that ``augment.normalise`` asks for."""
    choice = config.augment.normalise
    if choice == "imagenet":
        return Normalisation(IMAGENET_MEAN, IMAGENET_STD)
    return measure(tiles) if choice == "tiles" else Normalisation(*choice)


def method_of(config: PretrainConfig) -> str:
    """Return what is trained, in words."""
    parts = [word for word, given in (("pairs", config.generative), ("disentanglement", config.interpolated)) if given]
    return f"Gen-DINO ({' + '.join(parts)})" if parts else "DINO"


def _outcome(config: PretrainConfig, tiles: TileSet) -> Outcome:
    results = read_run(config.out).get("results", {})
    collapsed = f"; COLLAPSED at step {results['collapse_step']}" if results.get("collapse_step") else ""
    summary = f"{method_of(config)} on {len(tiles):,} tiles: encoder in {config.out / 'encoder'}{collapsed}"
    return Outcome(config.out, summary, results=results)
