"""``histogen import-features``: features that CLAM or TRIDENT computed become embeddings of tile stores."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from histogen.compute.client import Compute
from histogen.compute.run import run_units
from histogen.config import BulkConfig, StorePath
from histogen.errors import ConfigError, OutputExistsError, StoreError
from histogen.pipelines.outputs import Outcome, only_writer
from histogen.pipelines.recorded import forget_damaged
from histogen.store.export_hdf5 import SUFFIX, Features, find_features, read_features
from histogen.store.export_rows import placement_of, tiles_of
from histogen.store.layout import check_name
from histogen.store.places import Owner
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore


class ImportFeaturesConfig(BulkConfig):
    """Which features go into which stores; they go into the stores themselves, so ``out`` has no meaning here."""

    out: Path = Path()
    """Not used: each store takes its own embeddings."""
    tiles: list[StorePath]
    """Tile stores of slides, folders of them, or manifests."""
    features: Path
    """A folder with ``<slide_id>.h5`` for each slide, or the one that CLAM or TRIDENT put it into."""
    name: str
    """What the embeddings are called in the stores, for example the encoder's name."""
    tolerance_px: float = Field(default=1.0, ge=0)
    """How far, in level-0 pixels, a feature's corner and side may be from its tile's; other tools round them."""
    patch_size_l0: float | None = Field(default=None, gt=0)
    """Side of the patches in level-0 pixels, for files that do not state it (``patch_size_level0``)."""


@dataclass(frozen=True)
class FeatureUnit:
    """One store and its file of features."""

    store: Path
    file: Path
    rows: str
    tolerance_px: float
    patch_size_l0: float | None
    overwrite: bool
    num_items: int

    @property
    def key(self) -> str:
        """Name in messages."""
        return self.store.stem


def run(config: ImportFeaturesConfig) -> Outcome:
    """Import the features of every store that has none by this name yet.

    Raises:
        ConfigError: there is no folder of features.
        OutputExistsError: embeddings by this name are there and neither resume nor overwrite is set.
        StoreError: a store cannot be used, or the folder has features of several kinds.
    """
    if not config.features.is_dir():
        raise ConfigError(
            f"features '{config.features}' is no folder; give the one with a file for each slide, <slide_id>{SUFFIX}"
        )
    folder = find_features(config.features)
    rows = f"embeddings/{check_name(config.name, 'name')}"
    stores = TileSet.open_(list(config.tiles)).stores
    for store in stores if config.resume else ():
        forget_damaged(store, rows)
    done = [] if config.overwrite else [store for store in stores if store.is_complete(rows)]
    if done and not config.resume:
        raise OutputExistsError(
            f"store '{done[0].path}' has {rows}; pass --resume to leave it so, --overwrite to redo it"
        )
    units = [
        FeatureUnit(
            s.path,
            folder / f"{s.store_id}{SUFFIX}",
            rows,
            config.tolerance_px,
            config.patch_size_l0,
            config.overwrite,
            s.num_tiles,
        )  # fmt: skip
        for s in stores
        if s not in done
    ]
    report = run_units(import_store, units, compute=Compute.from_config(config), description="import-features")
    summary = f"{rows} in {len(done) + report.done} of {len(stores)} stores, in {report.seconds:.1f} s"
    return Outcome(config.out, "; ".join([summary, *_remarks(dict(report.results))]), tuple(map(str, report.failures)))


def _remarks(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return what of the files was not used, and what they do not state."""
    unused = {key: result["unused"] for key, result in results.items() if result["unused"]}
    silent = [key for key, result in results.items() if not result["sized"]]
    remarks = []
    if unused:
        most = max(unused, key=lambda key: unused[key])
        remarks.append(
            f"{sum(unused.values()):,} features lie where no tile is and were not used "
            f"({unused[most]:,} of them of '{most}')"
        )
    if silent:
        remarks.append(
            f"the files of {len(silent)} stores ('{silent[0]}') do not state the size of their patches, which was "
            "taken to be the tiles' (set patch_size_l0 to have it compared)"
        )
    return remarks


def import_store(unit: FeatureUnit) -> dict[str, Any]:
    """Write the features of one store in the order of its tiles; those of before go when the new ones are known good.

    Raises:
        StoreError: the file is missing or malformed, holds what is not finite or other patches than the tiles, or a
            tile has no feature.
    """
    store = TileStore.open_(unit.store)
    if not unit.file.exists():
        raise StoreError(f"'{unit.file}' does not exist; add it, or leave this slide out")
    found = read_features(unit.file, Owner.of_store(store))
    place = placement_of(tiles_of(store))
    side = found.side_l0 or unit.patch_size_l0
    if side is not None and abs(side - place.size_l0) > unit.tolerance_px:
        raise StoreError(
            f"'{unit.file}' has features of patches of {side:g} px of level 0, the tiles of store '{store.store_id}' "
            f"are {place.size_l0:g} px; compute the features of these very tiles, or tile the slide as they were cut"
        )
    corners = np.stack([store.read_rows("columns/x_l0"), store.read_rows("columns/y_l0")], axis=1)
    order = match_corners(corners, found.coords, unit.tolerance_px)
    missing = (order < 0) & store.tile_ok
    if missing.any():
        raise StoreError(
            f"'{unit.file}' has no feature for {int(missing.sum())} of {len(order)} tiles, the first at "
            f"{corners[missing][0].tolist()} px of level 0; tile the slide with the same grid"
        )
    _check_apart(unit.file, found, order)
    features = np.where(order[:, None] < 0, np.float32(0), found.features[order])
    card = {"source": "import-features", "file": unit.file.name}
    with only_writer([store], unit.rows, anew=unit.overwrite):
        store.create_rows(unit.rows, features.shape, np.float32, attributes={"card": card})
        for shard in range(store.num_shards):
            indices = store.shard_range(shard)
            values = features[indices.start : indices.stop]
            store.write_rows(unit.rows, shard, values)
            digest = hashlib.sha256(values.tobytes()).hexdigest()
            store.commit(unit.rows, shard, {"count": len(indices), "sha256": digest})
    used = len(set(order.tolist()) - {-1})
    return {"features": len(order), "unused": len(found.coords) - used, "sized": side is not None}


def _check_apart(file: Path, found: Features, order: NDArray[np.int64]) -> None:
    """Refuse two features of one place, where one of them is a tile's: nothing says which is meant."""
    places, first, counts = np.unique(found.coords, axis=0, return_index=True, return_counts=True)
    for place, row in zip(places[counts > 1], first[counts > 1], strict=True):
        rows = np.flatnonzero((found.coords == place).all(axis=1))
        if np.isin(rows, order).any() and (found.features[rows] != found.features[row]).any():
            raise StoreError(
                f"'{file}' has {len(rows)} features at {place.tolist()} px of level 0 that differ (rows "
                f"{', '.join(map(str, rows[:3]))}); leave one of them"
            )


def match_corners(corners: NDArray[np.float64], coords: NDArray[np.int64], tolerance_px: float) -> NDArray[np.int64]:
    """Return for each corner [N, 2] the nearest of ``coords`` [M, 2] within the tolerance (largest axis), else -1."""
    from scipy.spatial import cKDTree

    if not len(coords):
        return np.full(len(corners), -1, np.int64)
    distance, nearest = cKDTree(coords).query(corners, p=np.inf, distance_upper_bound=tolerance_px + 1e-6)
    return np.where(np.isfinite(distance), nearest, -1).astype(np.int64)
