"""The tiles of a slide as GeoJSON, for QuPath."""

from __future__ import annotations

from histogen.files import write_atomic
from histogen.pipelines.tile.config import TileConfig
from histogen.pipelines.tile.places import store_paths
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore


def write_geojson(config: TileConfig, slide_id: str) -> None:
    """Write the tiles that each whole store of a slide holds, and what its columns say of them, for QuPath."""
    from histogen.store.export_geojson import tiles_geojson

    for path in (path for path in store_paths(config, slide_id) if (path / "zarr.json").exists()):
        if TileStore.open_(path).is_complete():
            text = tiles_geojson(TileSet.open_(path), from_bounds=config.frame != "canvas")
            write_atomic(config.out / "geojson" / f"{path.stem}.geojson", text)
