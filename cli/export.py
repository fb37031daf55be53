"""``histogen export``."""

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

NAME = "export"


def command(
    tiles: Tiles = None,
    format_: Annotated[
        str | None, typer.Option("--format", help="trident, clam, webdataset, parquet, anndata or geojson.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the files go.")] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Embeddings to take along: a name, or the run that made them.")
    ] = None,
    images: Annotated[bool, typer.Option("--images", help="Put the images into the files too.")] = False,
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
    """Write tile stores in the formats of other tools.

    Example: histogen export demo/tiles --format trident --encoder demo/dino --out runs/features
    """
    from histogen.pipelines import export as pipeline

    execute(
        pipeline.ExportConfig, pipeline.run, file=config, overrides=set_, tiles=tiles, format=format_, out=out,
        encoder=encoder, images=images, seed=seed, device=device, resume=resume, overwrite=overwrite, workers=workers,
        scheduler=scheduler, cluster=cluster, dask_report=dask_report,
    )  # fmt: skip
