"""``histogen run``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Cluster, DaskReport, Device, Overrides, Overwrite, Resume, Scheduler, Seed, Workers, execute

NAME = "run"


def command(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="YAML of the chain, such as configs/run/quick.yaml.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where every stage's output goes.")] = None,
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
    """Run the whole chain from one YAML; a stage that is done is skipped, an interrupted one goes on.

    Example: histogen run configs/run/quick.yaml --set slides=[demo/slides] --out runs/quick
    """
    from histogen.errors import MissingSettingError
    from histogen.pipelines.run import command as pipeline

    if config is None:
        raise MissingSettingError(["config"])
    execute(
        pipeline.RunConfig, pipeline.run, file=config, overrides=set_, out=out, seed=seed, device=device,
        resume=resume, overwrite=overwrite, workers=workers, scheduler=scheduler,
        cluster=cluster, dask_report=dask_report,
    )  # fmt: skip
