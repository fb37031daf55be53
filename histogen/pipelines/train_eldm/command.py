"""``train-eldm``: the embedding-conditioned latent diffusion model, on unlabelled tiles only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError

from histogen.compute.client import Compute
from histogen.config import Precision
from histogen.diffusion.autoencoder import Autoencoder, check_tile_px, downsampling, latent_channels
from histogen.diffusion.autoencoder_files import autoencoder_name, load_autoencoder, run_folder
from histogen.diffusion.cards import eldm_card
from histogen.diffusion.conditioning import Conditioner
from histogen.diffusion.hub import local_path, short_name
from histogen.diffusion.loss import build_scheduler
from histogen.diffusion.pipeline_files import pipeline_sha256, save_pipeline
from histogen.diffusion.sampling import build_sampler
from histogen.diffusion.settings import SamplerSettings
from histogen.encoders.registry import load_encoder
from histogen.errors import ConfigError
from histogen.files import write_atomic
from histogen.lease import for_its_output
from histogen.pipelines.embed.command import ensure_embeddings
from histogen.pipelines.heldout import open_real, split_heldout
from histogen.pipelines.outputs import Outcome, claim_output, finish_output, read_run
from histogen.pipelines.precision import run_precision
from histogen.pipelines.train_eldm.config import TrainEldmConfig
from histogen.pipelines.train_eldm.latents import ensure_latents
from histogen.pipelines.train_eldm.task import CachedInputs, EldmSettings, EldmTask, Inputs, OnlineInputs
from histogen.pipelines.train_eldm.told import check_embeddings
from histogen.pipelines.train_eldm.use import conditioning_use
from histogen.pipelines.trainer import train
from histogen.report.conditioning import ignored_sentence, write_eldm_page
from histogen.report.stages import Curve, Training
from histogen.store.tile_set import TileSet
from histogen.training import processes
from histogen.training.journal import JOURNAL_NAME
from histogen.training.sampler import TileOrder

COMMAND = "train-eldm"
NUM_CONDITIONER = 20_000
PAGE_NAME = "report.html"


@for_its_output
def run(config: TrainEldmConfig) -> Outcome:
    """Embed and encode what is missing, train, and export the pipeline with the averaged weights.

    Started by `torchrun`, the processes share every step; the first one does all else.
    """
    with processes.process_group(config.device) as device:
        return _run(config, device)


def _run(config: TrainEldmConfig, device: torch.device) -> Outcome:
    tiles = open_real(config.tiles, where=config.where)
    weights = local_path(config.autoencoder)
    autoencoder = load_autoencoder(weights, device)
    encoder_card = load_encoder(config.encoder).card
    names = {"encoder": encoder_card.name, "autoencoder": autoencoder_name(autoencoder, weights)}
    trained, heldout = split_heldout(len(tiles), config.heldout, config.seed)
    check_settings(config, tiles, autoencoder, len(trained))
    unet = _initial(config, autoencoder, embedding_dim=encoder_card.dim, tile_px=tiles.tile_px)
    hashes = {"tiles": tiles.content_hash, **names}
    precision = run_precision(config, config.optim.precision, device)
    told_before = names["encoder"] in tiles.embedding_names
    if told_before:
        check_embeddings(tiles, names["encoder"], trained)
    processes.main_decides(lambda: claim_output(config, command=COMMAND, inputs=hashes, precision=precision))
    with processes.main_first():
        if processes.is_main():
            ensure_embeddings(
                config.tiles, config.encoder,
                precision=precision, device=config.device, **config.bulk,
            )  # fmt: skip
        if not told_before:
            check_embeddings(tiles, names["encoder"], trained)
        inputs = _inputs(config, tiles, names["encoder"], autoencoder, device, precision)
    task = EldmTask(
        _settings(config),
        inputs,
        _conditioner(config, tiles, names["encoder"], trained),
        autoencoder,
        trained,
        heldout,
        tiles=tiles,
        run_dir=config.out,
        device=device,
        precision=precision,
        unet=unet,
    )
    last = train(config, task, command=COMMAND)
    supervision = _supervision(config, encoder_card.supervision)
    return _export(config, task, names, supervision, last)


def check_settings(config: TrainEldmConfig, tiles: TileSet, autoencoder: Autoencoder, num_train: int) -> None:
    """Raise ConfigError for what would fail hours later, before the output is claimed and anything is computed."""
    processes.share_of(config.optim.batch, passes=config.optim.accumulate)
    check_tile_px(autoencoder, tiles.tile_px)
    TileOrder(num_train, config.optim.batch, seed=0)
    build_sampler(config.sampler, build_scheduler(config.objective))


def _export(
    config: TrainEldmConfig, task: EldmTask, names: dict[str, str], supervision: dict[str, str],
    last: dict[str, float],
) -> Outcome:  # fmt: skip
    heldout, use = task.heldout_loss(), conditioning_use(task)
    task.use_average()
    label_free = all(text.startswith("none") for text in supervision.values())
    overall = "none" if label_free else "; ".join(f"{part}: {text}" for part, text in supervision.items())
    pipeline = task.pipeline(encoder_name=names["encoder"], supervision=overall)
    facts: dict[str, Any] = {
        **names,
        "supervision": supervision,
        "objective": config.objective.kind,
        "injection": config.model.injection,
        "steps": config.optim.steps,
        "parameters": sum(parameter.numel() for parameter in task.unet.parameters()),
        "held-out loss": round(heldout["heldout_loss"], 5),
        "conditioning": "ignored" if use["ignored"] else "used",
    }
    page = config.out / PAGE_NAME
    if processes.is_main():
        save_pipeline(pipeline, config.out / "pipeline")
        write_atomic(config.out / "pipeline" / "README.md", eldm_card(config.out.name, facts))
        _write_page(page, config, use, {"held-out loss": facts["held-out loss"], **names})
        finish_output(
            config.out,
            **names,
            supervision=supervision,
            heldout=heldout,
            conditioning=use,
            training=last,
            processes=processes.world_size(),
            weights_sha256=pipeline_sha256(pipeline),
            sampler=config.sampler.model_dump(mode="json"),
        )
    processes.barrier()
    warning = ignored_sentence(use)
    return Outcome(
        config.out,
        f"E-LDM of {facts['parameters'] / 1e6:,.1f} M parameters after {config.optim.steps:,} steps: "
        f"held-out loss {heldout['heldout_loss']:.4f}; supervision: {overall}"
        + (f"; warning: {warning}" if warning else ""),
        results={**heldout, "conditioning": use},
        page=page,
    )


def _write_page(page: Path, config: TrainEldmConfig, use: dict[str, Any], facts: dict[str, Any]) -> None:
    previews = sorted((config.out / "previews").glob("step-*.png"))
    training = Training("E-LDM", [Curve("E-LDM", config.out / JOURNAL_NAME)])
    write_eldm_page(page, use, training, facts=facts, preview=previews[-1] if previews else None)


def _settings(config: TrainEldmConfig) -> EldmSettings:
    shared = ("model", "objective", "optim", "watch", "sampler", "drop", "ema_decay", "seed")
    return EldmSettings(**{key: getattr(config, key) for key in shared})


def _inputs(
    config: TrainEldmConfig, tiles: TileSet, encoder_name: str, autoencoder: Autoencoder, device: torch.device,
    precision: Precision,
) -> Inputs:  # fmt: skip
    if config.inputs == "online":
        return OnlineInputs(tiles, autoencoder, load_encoder(config.encoder, device), device, precision)
    compute = Compute.from_config(config)
    weights = local_path(config.autoencoder)
    rows = ensure_latents(
        tiles, weights, variants=config.variants, device=config.device, precision=precision, compute=compute
    )
    return CachedInputs(tiles, rows, encoder_name, latent_channels(autoencoder))


def _conditioner(config: TrainEldmConfig, tiles: TileSet, name: str, train: np.ndarray) -> Conditioner:
    some = train[:: max(1, len(train) // NUM_CONDITIONER)]
    embeddings = torch.from_numpy(tiles.read_rows(f"embeddings/{name}", some).astype(np.float32))
    conditioner = Conditioner(embeddings.shape[1], config.model.injection)
    conditioner.fit(embeddings)
    return conditioner


def _initial(config: TrainEldmConfig, autoencoder: Autoencoder, *, embedding_dim: int, tile_px: int) -> Any:
    """Return the U-Net to start from, or None for random weights."""
    if config.init is None:
        return None
    if config.model.injection != "token":
        raise ConfigError("weights of latent-diffusion take one token; set model.injection=token, or leave init out")
    from histogen.diffusion.published import load_ldm_denoiser

    latent_px, channels = tile_px // downsampling(autoencoder), latent_channels(autoencoder)
    unet = load_ldm_denoiser(local_path(config.init), embedding_dim=embedding_dim, latent_px=latent_px)
    if unet.config["in_channels"] != channels:
        raise ConfigError(
            f"'{config.init}' works on {unet.config['in_channels']} latent channels, the autoencoder has "
            f"{channels}; use the autoencoder it was trained with"
        )
    return unet


def _supervision(config: TrainEldmConfig, encoder: str) -> dict[str, str]:
    recorded = read_run(run_folder(local_path(config.autoencoder))).get("results", {}).get("supervision")
    started = None if config.init is None else f"{config.init_supervision} (started from '{short_name(config.init)}')"
    return {
        "denoiser": started or "none",
        "encoder": encoder,
        "autoencoder": recorded or f"unknown (weights from outside: '{short_name(config.autoencoder)}')",
    }


def recorded_sampler(run: Path) -> SamplerSettings:
    """Return the sampler that the run in ``run`` recommends.

    Raises:
        ConfigError: the run is not complete.
    """
    record = read_run(run).get("results", {})
    if "sampler" not in record:
        raise ConfigError(f"'{run}' is not a finished run of train-eldm; finish it with --resume")
    try:
        return SamplerSettings.model_validate(record["sampler"])
    except ValidationError as error:
        raise ConfigError(f"the sampler recorded in '{run}' cannot be used; set sampler, or train it again") from error
