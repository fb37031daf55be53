"""HDF5 as CLAM and TRIDENT write it: ``features`` [N, D] and ``coords`` [N, 2], one file per slide; and back.

``coords`` are the left top corners in level-0 pixels. Their attributes differ: TRIDENT's ``patch_size`` is in pixels at
the target magnification (with ``patch_size_level0`` beside it), CLAM's in pixels of ``patch_level``, here 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histogen.errors import StoreError
from histogen.store.export_rows import MICRONS_TIMES_POWER, Placement, embeddings_of, needed, placement_of, whole_file
from histogen.store.tile_set import TileSet

SUFFIX = ".h5"
MAX_NUMBERS = 10**10


def write_trident(tiles: TileSet, file: Path, *, encoder: str | None, images: bool) -> int:
    """Write one store as TRIDENT does; return the number of tiles."""
    return _write(tiles, file, encoder, images, _trident_attributes)


def write_clam(tiles: TileSet, file: Path, *, encoder: str | None, images: bool) -> int:
    """Write one store as CLAM does; return the number of tiles."""
    return _write(tiles, file, encoder, images, _clam_attributes)


def read_features(file: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return ``features`` float32 [N, D] and ``coords`` int64 [N, 2] of a file of CLAM's or TRIDENT's.

    Raises:
        StoreError: it is not HDF5, or has not both arrays of one length.
    """
    h5py = needed("h5py")
    try:
        with h5py.File(file, "r") as h5:
            features, coords = (read_numbers(h5, name) for name in ("features", "coords"))
    except (OSError, KeyError, ValueError) as error:
        raise StoreError(f"'{file}' is not a feature file of CLAM or TRIDENT ({error}); give one") from error
    if features.ndim == 3 and features.shape[0] == 1:  # some writers keep a batch axis
        features = features[0]
    if features.ndim != 2 or coords.shape != (len(features), 2):
        raise StoreError(f"'{file}' has features {features.shape} and coords {coords.shape}, not [N, D] and [N, 2]")
    return features.astype(np.float32), coords.astype(np.int64)


def read_numbers(h5: Any, name: str) -> NDArray[Any]:
    """Return an array of numbers of an open HDF5 file.

    Raises:
        KeyError, ValueError: there is none of that name, it holds something else, or too many.
    """
    array = h5[name]
    if not hasattr(array, "dtype") or array.dtype.kind not in "iuf":
        raise ValueError(f"'{name}' are no numbers")
    if array.size > MAX_NUMBERS:
        raise ValueError(f"'{name}' are {array.size:,} numbers")
    return np.asarray(array)


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
