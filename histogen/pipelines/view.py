"""``histogen view``: a page on this machine to look at slides, tiles, embeddings and synthetic tiles."""

from __future__ import annotations

import webbrowser
from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from histogen.config import StageConfig

MAX_PORT = 65535


class ViewConfig(StageConfig):
    """What is looked at, and where."""

    out: Path = Path()
    """Not used: nothing is made, but what export names."""
    paths: list[Path]
    """Stores, slides, runs, and folders of these."""
    port: int = Field(default=0, ge=0, le=MAX_PORT)
    """Port on this machine; 0 takes a free one."""
    browser: bool = True
    """Open the page in a browser."""


def run(config: ViewConfig, *, say: Callable[[str], None]) -> None:
    """Serve the page until it is interrupted; ``say`` is given its address.

    Raises:
        ConfigError, StoreError: a path cannot be used, nothing to look at is there, or the port is taken.
    """
    from histogen.view.answers import Answers
    from histogen.view.server import Server, serve
    from histogen.view.sources import find_sources

    answers = Answers(find_sources(config.paths), title=", ".join(path.name or str(path) for path in config.paths))

    def ready(server: Server) -> None:
        say(
            f"open {server.address} (Ctrl-C ends it; from elsewhere, first: ssh -L {server.port}:localhost:{server.port} …)"
        )
        if config.browser:
            webbrowser.open(server.address)

    serve(answers, port=config.port, ready=ready)
