"""``histogen inspect``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

NAME = "inspect"


def command(
    paths: Annotated[
        list[Path] | None, typer.Argument(metavar="PATH…", help="Stores, folders of stores, runs or slides.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Read every byte: what is damaged, and tiles that are copies.")
    ] = False,
    repair: Annotated[
        bool,
        typer.Option(
            "--repair", help="Check, and make damaged embeddings, latents and synthetic tiles anew, to the same bytes."
        ),
    ] = False,
) -> None:
    """Say what is in a store, a run or a slide.

    Example: histogen inspect demo/tiles demo/dino demo/slides/drawn-00.svs
    """
    from histogen.errors import MissingSettingError
    from histogen.pipelines import inspect as pipeline

    from .common import finish

    if not paths:
        raise MissingSettingError(["paths"])
    finish(pipeline.describe_all(paths, check=check or repair, repair=repair))
