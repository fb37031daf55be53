"""``histogen benchmark``."""

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

NAME = "benchmark"


def command(
    tiles: Tiles = None,
    encoder: Annotated[
        list[str] | None, typer.Option(metavar="[NAME=]E", help="An encoder to judge; repeatable.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where the tables go.")] = None,
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
    """Judge frozen encoders by patch classification: k-NN and a linear probe, with intervals and paired differences.

    Example: histogen benchmark demo/tiles --encoder DINO=demo/dino --encoder Gen-DINO=demo/gen-dino
    --out runs/benchmark
    """
    from histogen.pipelines.benchmark.config import BenchmarkConfig

    given = build_config(
        BenchmarkConfig, file=config, overrides=set_, tiles=tiles, encoders=with_key(encoder,
        checkpoint_key), out=out,
        seed=seed, device=device, resume=resume, overwrite=overwrite, workers=workers, scheduler=scheduler,
        cluster=cluster, dask_report=dask_report,
    )  # fmt: skip
    from histogen.pipelines.benchmark import command as pipeline  # heavy: after the config

    finish(pipeline.run(given))
