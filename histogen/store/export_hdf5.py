"""HDF5 as CLAM and TRIDENT write it: ``features`` [N, D] and ``coords`` [N, 2], one file per slide; and back.

``coords`` are the left top corners in level-0 pixels. Their attributes differ: TRIDENT's ``patch_size`` is in pixels at
the target magnification (with ``patch_size_level0`` beside it), CLAM's in pixels of ``patch_level``, here 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histogen.errors import StoreError
from histogen.files import whole_file
from histogen.store.export_rows import MICRONS_TIMES_POWER, Placement, embeddings_of, needed, placement_of
from histogen.store.places import Owner, read_numbers, read_places
from histogen.store.tile_set import TileSet

SUFFIX = ".h5"


def write_trident(tiles: TileSet, file: Path, *, encoder: str | None, images: bool) -> int:
    """Write one store as TRIDENT does; return the number of tiles."""
    return _write(tiles, file, encoder, images, _trident_attributes)


def write_clam(tiles: TileSet, file: Path, *, encoder: str | None, images: bool) -> int:
    """Write one store as CLAM does; return the number of tiles."""
    return _write(tiles, file, encoder, images, _clam_attributes)


@dataclass(frozen=True)
class Features:
    """What a file of CLAM's or TRIDENT's holds of a slide."""

    features: NDArray[np.float32]
    """[N, D], finite."""
    coords: NDArray[np.int64]
    """[N, 2], left top corners in level-0 pixels."""
    side_l0: float | None
    """Side of a patch in level-0 pixels, where the file states it."""


def read_features(file: Path, owner: Owner) -> Features:
    """Return the features of a file of CLAM's or TRIDENT's, and where they are on the slide that it must be of.

    Raises:
        StoreError: it is not HDF5, has not both arrays of one length, a feature is not finite, or it is of another
            slide.
    """
    h5py = needed("h5py")
    try:
        with h5py.File(file, "r") as h5:
            features = read_numbers(h5, "features")
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise StoreError(f"'{file}' is not a feature file of CLAM or TRIDENT ({error}); give one") from error
    places = read_places(file, owner)
    coords = places.corners
    if features.ndim == 3 and features.shape[0] == 1:  # some writers keep a batch axis
        features = features[0]
    if features.ndim != 2 or len(coords) != len(features):
        raise StoreError(
            f"'{file}' has features {features.shape} {features.dtype} and coords {coords.shape}, not numbers [N, D] "
            "and [N, 2]; give another file"
        )
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes inf, and is refused
        values = features.astype(np.float32)
    broken = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(broken):
        raise StoreError(
            f"'{file}' has {len(broken)} of {len(values)} features that are not finite, the first in row {broken[0]}; "
            "compute them again"
        )
    return Features(values, coords, places.side)


def _write(tiles: TileSet, file: Path, encoder: str | None, images: bool, attributes_of: Any) -> int:
    h5py = needed("h5py")
    store, place = tiles.stores[0], placement_of(tiles)
    features = embeddings_of(tiles, encoder)
    with whole_file(file) as temporary, h5py.File(temporary, "w") as h5:
        coords = np.stack([place.x_l0, place.y_l0], axis=1).round().astype(np.int64)
        h5.create_dataset("coords", data=coords).attrs.update(attributes_of(store.store_id, store.tile_px, place))
        if features is not None:
            h5.create_dataset("features", data=features)
        if images:
            h5.create_dataset("imgs", data=tiles.read_tiles(np.arange(len(tiles))))
    return len(tiles)


def _trident_attributes(name: str, tile_px: int, place: Placement) -> dict[str, Any]:
    return {
        "patch_size": tile_px,
        "patch_size_level0": round(place.size_l0),
        "level0_magnification": round(place.power),
        "target_magnification": round(MICRONS_TIMES_POWER / place.mpp),
        "overlap": place.overlap_px,
        "name": name,
    }


def _clam_attributes(name: str, _tile_px: int, place: Placement) -> dict[str, Any]:
    return {"patch_size": round(place.size_l0), "patch_level": 0, "downsample": np.ones(2), "name": name}
