"""``histogen import-images``."""

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
    Workers,
    execute,
)

NAME = "import-images"


def command(
    folder: Annotated[
        Path | None, typer.Argument(metavar="FOLDER", help="Images: class folders, a flat folder, or with splits.csv.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The tile store to write, for example images.zarr.")] = None,
    manifest: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="The published set in FOLDER (nct-crc-he-100k, …): its labels, and whether all is there.",
        ),
    ] = None,
    tile_px: Annotated[
        int | None, typer.Option(help="Side in pixels. (default: the images' own if all are equal squares, else 256)")
    ] = None,
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
    """Put a folder of images into a tile store, so that every other command can read them.

    Example: histogen import-images demo/tiles/thumbnails --out runs/thumbnails.zarr --tile-px 256
    """
    from histogen.pipelines import import_images as pipeline

    execute(
        pipeline.ImportImagesConfig, pipeline.run, file=config, overrides=set_, folder=folder, out=out,
        manifest=manifest, tile_px=tile_px, seed=seed, device=device, resume=resume, overwrite=overwrite,
        workers=workers, scheduler=scheduler, cluster=cluster, dask_report=dask_report,
    )  # fmt: skip
