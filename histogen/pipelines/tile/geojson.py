"""The tiles of a slide as GeoJSON, for QuPath."""

from __future__ import annotations

import numpy as np

from histogen.files import write_atomic
from histogen.pipelines.tile.config import TileConfig
from histogen.pipelines.tile.places import grid_of, store_paths
from histogen.pipelines.tile.plan_slide import SCORES
from histogen.store.tile_store import TileStore


def write_geojson(config: TileConfig, slide_id: str) -> None:
    """Write the tiles that each whole store of a slide holds, and what its columns say of them, for QuPath."""
    from histogen.tiles.regions import tiles_geojson

    for path in (path for path in store_paths(config, slide_id) if (path / "zarr.json").exists()):
        store = TileStore.open_(path)
        if not store.is_complete():
            continue
        kept = np.flatnonzero(store.tile_ok)
        x_l0, y_l0 = (store.read_rows(f"columns/{name}", kept) for name in ("x_l0", "y_l0"))
        names = ("tissue_fraction", "pen_fraction", *SCORES)
        columns = [np.round(store.read_rows(f"columns/{name}", kept).astype(float), 4).tolist() for name in names]
        values = ({n: v for n, v in zip(names, row, strict=True) if v == v} for row in zip(*columns, strict=True))
        bounds = store.provenance["slide"].get("bounds_l0")
        left, top = bounds[:2] if bounds and config.frame != "canvas" else (0, 0)
        text = tiles_geojson(x_l0 - left, y_l0 - top, grid_of(store).size_l0, list(values))
        write_atomic(config.out / "geojson" / f"{path.stem}.geojson", text)
