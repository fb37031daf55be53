"""``histogen import-features``: features that CLAM or TRIDENT computed become embeddings of tile stores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from histogen.compute.client import Compute
from histogen.compute.run import run_units
from histogen.config import BulkConfig
from histogen.errors import OutputExistsError, StoreError
from histogen.pipelines.outputs import Outcome
from histogen.store.export_hdf5 import SUFFIX, read_features
from histogen.store.layout import check_name
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore


class ImportFeaturesConfig(BulkConfig):
    """Which features go into which stores; they go into the stores themselves, so ``out`` has no meaning here."""

    out: Path = Path()
    """Not used: each store takes its own embeddings."""
    tiles: list[Path]
    """Tile stores of slides, folders of them, or manifests."""
    features: Path
    """A folder with ``<slide_id>.h5`` for each slide."""
    name: str
    """What the embeddings are called in the stores, for example the encoder's name."""
    tolerance_px: float = Field(default=1.0, ge=0)
    """How far, in level-0 pixels, a feature's corner may be from its tile's; other tools round to whole pixels."""


@dataclass(frozen=True)
class FeatureUnit:
    """One store and its file of features."""

    store: Path
    file: Path
    rows: str
    tolerance_px: float
    num_items: int

    @property
    def key(self) -> str:
        """Name in messages."""
        return self.store.stem


def run(config: ImportFeaturesConfig) -> Outcome:
    """Import the features of every store that has none by this name yet.

    Raises:
        OutputExistsError: embeddings by this name are there and neither resume nor overwrite is set.
        StoreError: a store cannot be used.
    """
    rows = f"embeddings/{check_name(config.name, 'name')}"
    stores = TileSet.open_(list(config.tiles)).stores
    if config.overwrite:
        for store in stores:
            store.delete_rows(rows)
    done = [store for store in stores if store.is_complete(rows)]
    if done and not config.resume:
        raise OutputExistsError(
            f"store '{done[0].path}' has {rows}; pass --resume to leave it so, --overwrite to redo it"
        )
    units = [
        FeatureUnit(s.path, config.features / f"{s.store_id}{SUFFIX}", rows, config.tolerance_px, s.num_tiles)
        for s in stores
        if s not in done
    ]
    report = run_units(import_store, units, compute=Compute.from_config(config), description="import-features")
    summary = f"{rows} in {len(done) + report.done} of {len(stores)} stores, in {report.seconds:.1f} s"
    return Outcome(config.out, summary, tuple(map(str, report.failures)))


def import_store(unit: FeatureUnit) -> dict[str, Any]:
    """Write the features of one store in the order of its tiles.

    Raises:
        StoreError: the file is missing or malformed, or a tile has no feature.
    """
    store = TileStore.open_(unit.store)
    if not unit.file.exists():
        raise StoreError(f"'{unit.file}' does not exist; add it, or leave this slide out")
    features, coords = read_features(unit.file)
    corners = np.stack([store.read_rows("columns/x_l0"), store.read_rows("columns/y_l0")], axis=1)
    order = match_corners(corners, coords, unit.tolerance_px)
    if (order < 0).any():
        raise StoreError(
            f"'{unit.file}' has no feature for {int((order < 0).sum())} of {len(order)} tiles, the first at "
            f"{corners[order < 0][0].tolist()} px of level 0; tile the slide with the same grid"
        )
    store.create_rows(
        unit.rows, (store.num_tiles, features.shape[1]), np.float32, attributes={"card": {"source": "import-features"}}
    )
    for shard in range(store.num_shards):
        indices = store.shard_range(shard)
        store.write_rows(unit.rows, shard, features[order[indices.start : indices.stop]])
        store.commit(unit.rows, shard, {"count": len(indices)})
    return {"features": len(order)}


def match_corners(corners: NDArray[np.float64], coords: NDArray[np.int64], tolerance_px: float) -> NDArray[np.int64]:
    """Return for each corner [N, 2] the nearest of ``coords`` [M, 2] within the tolerance (largest axis), else -1."""
    from scipy.spatial import cKDTree

    if not len(coords):
        return np.full(len(corners), -1, np.int64)
    distance, nearest = cKDTree(coords).query(corners, p=np.inf, distance_upper_bound=tolerance_px + 1e-6)
    return np.where(np.isfinite(distance), nearest, -1).astype(np.int64)
