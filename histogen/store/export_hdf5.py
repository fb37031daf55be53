"""CLAM's and TRIDENT's folders: ``features`` [N, D] and ``coords`` [N, 2] in one HDF5 file per slide; and back.

CLAM: ``h5_files/ID.h5`` and ``pt_files/ID.pt``, the features alone. TRIDENT: ``patches/ID_patches.h5`` and
``features_ENCODER/ID.h5`` in a folder named after the tiles, ``20x_256px_0px_overlap``. ``coords`` are left top corners
in level-0 pixels. TRIDENT's ``patch_size`` is in pixels at its ``target_magnification``, CLAM's in pixels of
``patch_level``, here 0: so what CLAM is given states one magnification, and TRIDENT reads the same squares from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histogen.errors import StoreError
from histogen.files import whole_file
from histogen.store.export_rows import MICRONS_TIMES_POWER, Placement, embeddings_of, placement_of
from histogen.store.places import Owner, read_numbers, read_places
from histogen.store.tile_set import TileSet

SUFFIX = ".h5"


def find_features(folder: Path) -> Path:
    """Return the folder of ``ID.h5`` that lies in ``folder`` as CLAM and TRIDENT arrange theirs, else ``folder``.

    Raises:
        StoreError: there are several.
    """
    if any(folder.glob(f"*{SUFFIX}")):
        return folder
    patterns = ("h5_files", "features_*", "*/features_*")
    found = sorted({inner for pattern in patterns for inner in folder.glob(pattern) if any(inner.glob(f"*{SUFFIX}"))})
    if len(found) > 1:
        names = ", ".join(f"'{inner.relative_to(folder)}'" for inner in found)
        raise StoreError(f"folder '{folder}' has features in {names}; give one of these")
    return found[0] if found else folder


def write_trident(tiles: TileSet, out: Path, *, encoder: str | None, images: bool) -> int:
    """Write one store as TRIDENT does; return the number of tiles."""
    store, place = tiles.stores[0], placement_of(tiles)
    said = _attributes(tiles, place) | {
        "patch_size": store.tile_px,
        "patch_size_level0": round(place.size_l0),
        "target_magnification": round(MICRONS_TIMES_POWER / place.mpp),
        "overlap": place.overlap_px,
    }
    power, side, overlap = said["target_magnification"], store.tile_px, place.overlap_px
    folder = out / f"{power}x_{side}px_{overlap}px_overlap"
    arrays: dict[str, NDArray[Any]] = {"coords": _corners(place), **_pixels(tiles, images)}
    features = embeddings_of(tiles, encoder)
    if features is not None:
        name = encoder or tiles.embedding_names[0]
        file = folder / f"features_{name}" / f"{store.store_id}.h5"
        _write(file, {"features": features, "coords": arrays["coords"]}, said)
    _write(folder / "patches" / f"{store.store_id}_patches.h5", arrays, said)
    return len(tiles)


def write_clam(tiles: TileSet, out: Path, *, encoder: str | None, images: bool) -> int:
    """Write one store as CLAM does; return the number of tiles."""
    store, place = tiles.stores[0], placement_of(tiles)
    side, said = round(place.size_l0), _attributes(tiles, place)
    extent = [said[key] for key in ("level0_width", "level0_height") if key in said]
    said |= {
        "patch_size": side,
        "patch_size_level0": side,
        "patch_level": 0,
        "downsample": np.ones(2),
        "target_magnification": said["level0_magnification"],
        "overlap": round(place.overlap_px * place.size_l0 / store.tile_px),
        **({"level_dim": extent, "downsampled_level_dim": extent} if extent else {}),
    }
    arrays: dict[str, NDArray[Any]] = {"coords": _corners(place), **_pixels(tiles, images)}
    features = embeddings_of(tiles, encoder)
    if features is not None:
        import torch  # writes the tensor that CLAM reads

        arrays["features"] = features
        with whole_file(out / "pt_files" / f"{store.store_id}.pt") as temporary:
            torch.save(torch.from_numpy(features), temporary)
    _write(out / "h5_files" / f"{store.store_id}.h5", arrays, said)
    return len(tiles)


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
    import h5py  # here: half a second for who needs none

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


def _write(file: Path, arrays: Mapping[str, NDArray[Any]], said: Mapping[str, Any]) -> None:
    import h5py  # here: half a second for who needs none

    with whole_file(file) as temporary, h5py.File(temporary, "w") as h5:
        for name, array in arrays.items():
            h5.create_dataset(name, data=array)
        h5["coords"].attrs.update(said)


def _attributes(tiles: TileSet, place: Placement) -> dict[str, Any]:
    """Return what both tools say of a slide."""
    store = tiles.stores[0]
    width, height = store.provenance["slide"].get("extent") or (None, None)
    sides = {} if width is None else {"level0_width": width, "level0_height": height}
    return {"level0_magnification": round(place.power), "name": store.store_id, **sides}


def _corners(place: Placement) -> NDArray[np.int64]:
    return np.stack([place.x_l0, place.y_l0], axis=1).round().astype(np.int64)


def _pixels(tiles: TileSet, images: bool) -> dict[str, NDArray[np.uint8]]:
    return {"imgs": tiles.read_tiles(np.arange(len(tiles)))} if images else {}
