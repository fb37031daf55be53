"""``histogen demo``."""

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

NAME = "demo"


def command(
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the demo goes. (default: demo)")] = None,
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
    """Draw slides, run the whole of Gen-SIS on them, and report whether Gen-DINO beat DINO (minutes, on a laptop).

    Example: histogen demo --out demo
    """
    from histogen.pipelines.run import command as pipeline

    execute(
        pipeline.RunConfig, pipeline.run, file=config or Path("run/demo.yaml"), overrides=set_,
        out=out or Path("demo"), seed=seed, device=device, resume=resume, overwrite=overwrite, workers=workers,
        scheduler=scheduler, cluster=cluster, dask_report=dask_report,
    )  # fmt: skip
