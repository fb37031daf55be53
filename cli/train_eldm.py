"""``histogen train-eldm``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import (
    CheckpointKey,
    Cluster,
    ConfigFile,
    DaskReport,
    Device,
    Overrides,
    Overwrite,
    Resume,
    Scheduler,
    Seed,
    Tiles,
    Workers,
    build_config,
    finish,
    with_key,
)

NAME = "train-eldm"


def command(
    tiles: Tiles = None,
    encoder: Annotated[
        str | None, typer.Option(metavar="E", help="The conditioning encoder: a run folder or timm:NAME.")
    ] = None,
    autoencoder: Annotated[
        str | None, typer.Option(metavar="RUN", help="A train-autoencoder run, a diffusers folder, or hf:ORG/NAME.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="The run folder.")] = None,
    checkpoint_key: CheckpointKey = None,
    config: ConfigFile = None,
    set_: Overrides = None,
    seed: Seed = None,
    device: Device = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    cluster: Cluster = None,
    dask_report: DaskReport = None,
) -> None:
    """Train the embedding-conditioned latent diffusion model (E-LDM) on unlabelled tiles.

    Example: histogen train-eldm demo/tiles --encoder demo/dino --autoencoder demo/autoencoder --out runs/eldm
    --config configs/train-eldm/demo.yaml
    """
    from histogen.pipelines.train_eldm.config import TrainEldmConfig

    given = build_config(
        TrainEldmConfig, file=config, overrides=set_, tiles=tiles, encoder=with_key(encoder,
        checkpoint_key),
        autoencoder=autoencoder, out=out, seed=seed, device=device, resume=resume, overwrite=overwrite,
        workers=workers, scheduler=scheduler, cluster=cluster, dask_report=dask_report,
    )  # fmt: skip
    from histogen.pipelines.train_eldm import command as pipeline  # heavy: after the config

    finish(pipeline.run(given))
