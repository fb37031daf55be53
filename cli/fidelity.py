"""``histogen fidelity``."""

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

NAME = "fidelity"


def command(
    tiles: Tiles = None,
    synthetic: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]DIR", help="Synthetic tiles to judge; repeatable.")
    ] = None,
    held_out: Annotated[
        list[Path] | None, typer.Option(metavar="TILES", help="Real tiles that the E-LDM has not seen; repeatable.")
    ] = None,
    encoder: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]E", help="An encoder that looks at the tiles; repeatable.")
    ] = None,
    eldm: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="The train-eldm run that made them: adds pictures and unconditional tiles."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the tables and the page go.")] = None,
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
    """Judge synthetic tiles against held-out real ones: distances, likeness to their sources, copies of training tiles.

    Example: histogen fidelity demo/tiles --synthetic demo/generative --held-out test-tiles/ --encoder demo/dino
    --out runs/fidelity
    """
    from histogen.pipelines.fidelity.config import FidelityConfig

    given = build_config(
        FidelityConfig, file=config, overrides=set_, tiles=tiles, synthetic=synthetic,
        held_out=held_out, encoders=with_key(encoder, checkpoint_key), eldm=eldm, out=out, seed=seed, device=device,
        resume=resume,
        overwrite=overwrite, workers=workers, scheduler=scheduler, cluster=cluster, dask_report=dask_report,
    )  # fmt: skip
    from histogen.pipelines.fidelity import command as pipeline  # heavy: after the config

    finish(pipeline.run(given))
