"""What every export shares: the rows of one store as named columns, and files that are whole or absent."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histogen.errors import MissingDependencyError, StoreError
from histogen.store.layout import unpack_text
from histogen.store.merging import recode
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore

MICRONS_TIMES_POWER = 10.0
"""mpp x magnification: 0.25 at 40x, 0.5 at 20x; what other tools state where a slide gives no power."""


@dataclass(frozen=True)
class Placement:
    """Where the tiles of a slide store are: level-0 pixels and the two resolutions, microns per pixel."""

    x_l0: NDArray[np.float64]
    y_l0: NDArray[np.float64]
    size_l0: float
    mpp: float
    mpp_l0: float
    power: float
    overlap_px: int


def tiles_of(store: TileStore) -> TileSet:
    """Return the tiles of one store that are there."""
    return TileSet.open_(store.path)


def placement_of(tiles: TileSet) -> Placement:
    """Return where the tiles of a slide store are.

    Raises:
        StoreError: the store is not one of a slide.
    """
    store = tiles.stores[0]
    slide = store.provenance.get("slide")
    if store.kind != "slide" or store.mpp is None or not isinstance(slide, dict) or not tiles.has_column("x_l0"):
        raise StoreError(f"store '{store.path}' ({store.kind}) has no places on a slide; export it as parquet instead")
    try:
        x, y = (float(value) for value in slide["mpp"])
        stated = float(slide.get("objective_power") or 0)
        stride = int(store.provenance.get("grid", {}).get("stride_px", store.tile_px))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise StoreError(f"store '{store.path}' does not say how its slide was tiled; make it again") from error
    mpp_l0 = math.sqrt(x * y) if min(x, y) > 0 else 0.0
    if not (0 < mpp_l0 < math.inf and 0 <= stated < math.inf):
        raise StoreError(f"store '{store.path}' says that its slide has {x:g} x {y:g} mpp; make it again")
    return Placement(
        x_l0=tiles.column("x_l0"),
        y_l0=tiles.column("y_l0"),
        size_l0=store.tile_px * store.mpp / mpp_l0,
        mpp=store.mpp,
        mpp_l0=mpp_l0,
        power=stated or MICRONS_TIMES_POWER / mpp_l0,
        overlap_px=store.tile_px - stride,
    )


def columns_of(tiles: TileSet) -> dict[str, NDArray[Any] | list[Any]]:
    """Return every column of one store: categories by name (None for none), texts as strings, numbers as they are."""
    store = tiles.stores[0]
    columns: dict[str, NDArray[Any] | list[Any]] = {}
    for name in store.list_rows("columns"):
        attributes = store.rows_attributes(f"columns/{name}")
        values = tiles.read_rows(f"columns/{name}")
        if "categories" in attributes:
            own = attributes["categories"]
            columns[name] = [
                [*own, None][code] for code in recode(values, own, {name: code for code, name in enumerate(own)})
            ]
        elif "text" in attributes:
            columns[name] = unpack_text(values)
        else:
            columns[name] = values
    return columns


def embeddings_of(tiles: TileSet, encoder: str | None) -> NDArray[np.float32] | None:
    """Return the embeddings by ``encoder``, or by the only one there is, or None when there are none.

    Raises:
        StoreError: the encoder is not among them, or there are several and none was named.
    """
    return tiles.embeddings(encoder) if encoder or tiles.embedding_names else None


def needed(module: str) -> Any:
    """Import an optional package.

    Raises:
        MissingDependencyError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise MissingDependencyError(f"{package} is not installed; run pip install 'histogen[exports]'") from error
