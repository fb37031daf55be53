"""``histogen synthesize``."""

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
    build_config,
    finish,
)

NAME = "synthesize"


def command(
    tiles: Tiles = None,
    eldm: Annotated[Path | None, typer.Option(metavar="RUN", help="A train-eldm run.")] = None,
    kind: Annotated[str | None, typer.Option(help="generative or interpolated.")] = None,
    recreate: Annotated[
        str | None,
        typer.Option(metavar="STORE:INDEX", help="Make one synthetic tile again, into --out (.jpg or .png)."),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder of synthetic tile stores.")] = None,
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
    """Make a generative or interpolated tile for every tile, each reproducible from its own row.

    Example: histogen synthesize demo/tiles --eldm demo/eldm --kind generative --out runs/generative --workers 2
    """
    from histogen.pipelines.synthesize.config import SynthesizeConfig

    given = build_config(
        SynthesizeConfig, file=config, overrides=set_, tiles=tiles, eldm=eldm, kind=kind,
        recreate=recreate,
        out=out, seed=seed, device=device, resume=resume, overwrite=overwrite, workers=workers, scheduler=scheduler,
        cluster=cluster, dask_report=dask_report,
    )  # fmt: skip
    from histogen.pipelines.synthesize import command as pipeline  # heavy: after the config

    finish(pipeline.run(given))
