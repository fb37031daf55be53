"""``histogen train-autoencoder``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import ConfigFile, Device, Overrides, Overwrite, Resume, Seed, Tiles, build_config, finish

NAME = "train-autoencoder"


def command(
    tiles: Tiles = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="The run folder.")] = None,
    config: ConfigFile = None,
    set_: Overrides = None,
    seed: Seed = None,
    device: Device = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train the autoencoder of the latent diffusion model on the same unlabelled tiles; no outside data.

    Example: histogen train-autoencoder demo/tiles --out runs/autoencoder --config configs/train-autoencoder/demo.yaml
    """
    from histogen.pipelines.train_autoencoder.config import TrainAutoencoderConfig

    given = build_config(
        TrainAutoencoderConfig, file=config, overrides=set_, tiles=tiles, out=out, seed=seed,
        device=device, resume=resume, overwrite=overwrite,
    )  # fmt: skip
    from histogen.pipelines.train_autoencoder import command as pipeline  # heavy: after the config

    finish(pipeline.run(given))
