"""``histogen encoders``."""

from __future__ import annotations

from typing import Annotated

import typer

NAME = "encoders"


def command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show the card of this one.")] = None,
) -> None:
    """List the published encoders that `--encoder NAME` takes, and what each needs.

    Example: histogen encoders uni2
    """
    from histogen.pipelines import encoders as pipeline

    from .common import finish

    finish(pipeline.describe(name))
