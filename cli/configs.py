"""``histogen configs``."""

from __future__ import annotations

from typing import Annotated

import typer

NAME = "configs"


def command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Print this one, or list those of a command.")
    ] = None,
) -> None:
    """List the configs that come with histogen, which `--config NAME` takes.

    Example: histogen configs pretrain/histopathology
    """
    from histogen.pipelines import configs as pipeline

    from .common import finish

    finish(pipeline.describe(name))
