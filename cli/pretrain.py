"""``histogen pretrain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import (
    CheckpointKey,
    ConfigFile,
    Device,
    Overrides,
    Overwrite,
    Resume,
    Seed,
    Tiles,
    build_config,
    finish,
    with_key,
)

NAME = "pretrain"


def command(
    tiles: Tiles = None,
    out: Annotated[Path | None, typer.Option(metavar="RUN", help="The run folder; the encoder is RUN/encoder.")] = None,
    generative: Annotated[Path | None, typer.Option(help="Generative stores of these tiles: pair views.")] = None,
    interpolated: Annotated[
        Path | None, typer.Option(help="Interpolated stores of these tiles: the disentanglement loss.")
    ] = None,
    init_from: Annotated[
        str | None,
        typer.Option(metavar="E", help="Start from these weights: a run, timm:NAME, a DINO or DINOv2 .pth file."),
    ] = None,
    checkpoint_key: CheckpointKey = None,
    config: ConfigFile = None,
    set_: Overrides = None,
    seed: Seed = None,
    device: Device = None,
    resume: Resume = False,
    overwrite: Overwrite = False,
) -> None:
    """Train an encoder on unlabelled tiles: DINO, or Gen-DINO where synthetic stores are given.

    Example: histogen pretrain demo/tiles --out runs/dino --config configs/pretrain/demo.yaml
    """
    from histogen.pipelines.pretrain.config import PretrainConfig

    given = build_config(
        PretrainConfig, file=config, overrides=set_, tiles=tiles, out=out,
        generative=generative, interpolated=interpolated, init_from=with_key(init_from, checkpoint_key), seed=seed,
        device=device,
        resume=resume, overwrite=overwrite,
    )  # fmt: skip
    from histogen.pipelines.pretrain import command as pipeline  # heavy: after the config

    finish(pipeline.run(given))
