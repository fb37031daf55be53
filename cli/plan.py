"""``histogen plan``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Cluster, ConfigFile, DaskReport, Overrides, Scheduler, Workers, execute

NAME = "plan"


def command(
    slides: Annotated[
        list[Path] | None, typer.Argument(metavar="SLIDES…", help="Slides, folders of slides, or manifests.")
    ] = None,
    tile_px: Annotated[int | None, typer.Option(help="Side of a tile in pixels. (default: 256)")] = None,
    mpp: Annotated[
        str | None, typer.Option(metavar="MPP", help="Microns per pixel of the tiles, or native. (default: 0.5)")
    ] = None,
    stride_px: Annotated[int | None, typer.Option(help="Step between tiles. (default: tile-px)")] = None,
    slide_mpp: Annotated[float | None, typer.Option(help="Resolution of slides that do not state theirs.")] = None,
    config: ConfigFile = None,
    set_: Overrides = None,
    workers: Workers = None,
    scheduler: Scheduler = None,
    cluster: Cluster = None,
    dask_report: DaskReport = None,
) -> None:
    """Tell what `tile` would make: tiles, gigabytes and seconds, slide by slide. Nothing is written.

    Example: histogen plan demo/slides --mpp 0.5 --tile-px 224
    """
    from histogen.pipelines.tile import estimate
    from histogen.pipelines.tile.config import TileConfig

    execute(
        TileConfig, estimate.run_plan, file=config, overrides=set_, slides=slides, tile_px=tile_px, mpp=mpp,
        stride_px=stride_px, slide_mpp=slide_mpp, workers=workers, scheduler=scheduler,
        cluster=cluster, dask_report=dask_report,
    )  # fmt: skip
