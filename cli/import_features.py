"""``histogen import-features``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import (
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
    execute,
)

NAME = "import-features"


def command(
    tiles: Tiles = None,
    features: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of CLAM or TRIDENT, or of <slide_id>.h5.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What the embeddings are called, e.g. the encoder's name.")] = None,
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
    """Put features that CLAM or TRIDENT computed into tile stores, as embeddings.

    Example: histogen import-features demo/tiles --features runs/features --name dino-again
    """
    from histogen.pipelines import import_features as pipeline

    execute(
        pipeline.ImportFeaturesConfig, pipeline.run, file=config, overrides=set_, tiles=tiles, features=features,
        name=name, seed=seed, device=device, resume=resume, overwrite=overwrite, workers=workers, scheduler=scheduler,
        cluster=cluster, dask_report=dask_report,
    )  # fmt: skip
