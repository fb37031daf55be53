"""histogen: from whole-slide images to a stronger self-supervised encoder (Gen-SIS, arXiv 2412.01672).

The public names are resolved on first use, so that ``import histogen`` loads neither torch nor zarr.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "HistogenError": "histogen.errors",
    "TileSet": "histogen.store.tile_set",
    "TileStore": "histogen.store.tile_store",
    "load_encoder": "histogen.encoders.registry",
    "open_slide": "histogen.slides.base",
    "open_tiles": "histogen.store.tile_set",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'histogen' has no attribute '{name}'")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
