"""``histogen tile``."""

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

NAME = "tile"


def command(
    slides: Annotated[
        list[Path] | None, typer.Argument(metavar="SLIDES…", help="Slides, folders of slides, or manifests.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of stores, or s3://BUCKET/KEY. (default: tiles)")] = None,
    tile_px: Annotated[int | None, typer.Option(help="Side of a tile in pixels. (default: 256)")] = None,
    mpp: Annotated[
        str | None, typer.Option(metavar="MPP", help="Microns per pixel of the tiles, or native. (default: 0.5)")
    ] = None,
    stride_px: Annotated[int | None, typer.Option(help="Step between tiles. (default: tile-px)")] = None,
    slide_mpp: Annotated[float | None, typer.Option(help="Resolution of slides that do not state theirs.")] = None,
    codec: Annotated[str | None, typer.Option(help="jpeg, or source: copy the slide's own JPEGs.")] = None,
    annotations: Annotated[Path | None, typer.Option(help="Regions with classes, or a folder of them.")] = None,
    roi: Annotated[Path | None, typer.Option(help="Regions to keep, in the same formats.")] = None,
    threads: Annotated[int | None, typer.Option(help="Shards cut at the same time, per worker. (default: 1)")] = None,
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
    """Cut slides into tile stores, one per slide; bad slides are reported and the others done.

    Example: histogen tile demo/slides --out runs/tiles --mpp 0.5 --tile-px 224 --workers 2
    """
    from histogen.pipelines.tile import command as pipeline

    execute(
        pipeline.TileConfig, pipeline.run, file=config, overrides=set_, slides=slides, out=out, tile_px=tile_px,
        mpp=mpp, stride_px=stride_px, slide_mpp=slide_mpp, codec=codec, annotations=annotations, roi=roi,
        threads=threads, seed=seed, device=device, resume=resume, overwrite=overwrite, workers=workers,
        scheduler=scheduler, cluster=cluster, dask_report=dask_report,
    )  # fmt: skip
