"""The settings of ``histogen view``."""

from __future__ import annotations

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
    encoders: list[str] = []
    """Whose embeddings are shown: runs, or names as ``histogen inspect`` tells them; by default all there are."""
    port: int = Field(default=0, ge=0, le=MAX_PORT)
    """Port on this machine; 0 takes a free one."""
    browser: bool = True
    """Open the page in a browser."""
    export: Path | None = None
    """A folder to write the page to, with at most 5,000 tiles, instead of serving it."""
