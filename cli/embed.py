"""``histogen embed``."""

from __future__ import annotations

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

NAME = "embed"


def command(
    tiles: Tiles = None,
    encoder: Annotated[
        str | None,
        typer.Option(
            metavar="E",
            help="A run, a published encoder (uni2, uni2@FILE, card.yaml), timm:NAME, transformers:FOLDER.",
        ),
    ] = None,
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
    """Write an embedding of every tile into its store.

    Example: histogen embed demo/tiles --encoder demo/gen-dino --workers 2
    """
    from histogen.pipelines.embed.config import EmbedConfig

    given = build_config(
        EmbedConfig, file=config, overrides=set_, tiles=tiles, encoder=with_key(encoder,
        checkpoint_key), seed=seed,
        device=device, resume=resume, overwrite=overwrite, workers=workers, scheduler=scheduler,
        cluster=cluster, dask_report=dask_report,
    )  # fmt: skip
    from histogen.pipelines.embed import command as pipeline  # heavy: after the config

    finish(pipeline.run(given))
