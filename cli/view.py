"""``histogen view``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import ConfigFile, Device, Overrides, Overwrite, Seed, build_config

NAME = "view"


def command(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH…", help="Stores, slides, runs, and folders of these.")
    ] = None,
    encoder: Annotated[
        list[str] | None,
        typer.Option(metavar="E", help="Whose embeddings to show: a run, or a name; repeatable. (default: all)"),
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port on this machine. (default: a free one)")] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address only.")] = False,
    export: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write the page, with up to 5,000 tiles, to open without a server."),
    ] = None,
    config: ConfigFile = None,
    set_: Overrides = None,
    seed: Seed = None,
    device: Device = None,
    overwrite: Overwrite = False,
) -> None:
    """Open a page to look at slides, tiles, embeddings, synthetic tiles and trainings.

    Example: histogen view demo
    """
    from histogen.pipelines.view.config import ViewConfig

    given = build_config(
        ViewConfig, file=config, overrides=set_, paths=paths, encoders=encoder, port=port, export=export, seed=seed,
        browser=False if no_browser else None, device=device, overwrite=overwrite,
    )  # fmt: skip
    from histogen.pipelines.view.command import run  # heavy: after the config

    run(given, say=typer.echo)
