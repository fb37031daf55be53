"""Positions of CLAM and TRIDENT: where the tiles of a slide lie, in level-0 pixels, whatever the file counts in.

``coords`` [N, 2] are left top corners in level-0 pixels; TRIDENT says a tile's side there (``patch_size_level0``), CLAM
in pixels of ``patch_level`` (``patch_size``, with that level's ``downsample``). CLAM's first files hold ``imgs`` whose
attributes say this, and their ``coords`` count in pixels of that level.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histogen.errors import StoreError
from histogen.geometry import Extent
from histogen.slides.base import BaseSlide, Level, slide_id_of
from histogen.store.tile_store import TileStore

SAME_SCALE = 0.01
"""Two statements of one downsample may differ by so much: some take it from rounded extents."""
MAX_L0 = 2**53
SMALL_BYTES = 2**26
MAX_PACKING = 100
"""An array of HDF5 may be as much larger than what is stored of it, beyond :data:`SMALL_BYTES`; gzip makes less of
features, and of the coordinates of a grid."""


@dataclass(frozen=True)
class Owner:
    """The slide that a file must be of, as far as it is known."""

    slide_id: str
    names: frozenset[str]
    extent: Extent | None = None
    levels: tuple[Level, ...] = ()

    @classmethod
    def of_slide(cls, slide: BaseSlide) -> Owner:
        """Return what an open slide says of itself."""
        path = slide.path
        names = frozenset({slide.slide_id, path.stem, path.name, slide_id_of(path)})
        return cls(slide.slide_id, names, slide.extent, slide.levels)

    @classmethod
    def of_store(cls, store: TileStore) -> Owner:
        """Return what a store says of its slide; of the slide's levels it knows none."""
        said = store.provenance.get("slide") or {}
        file = Path(said.get("name", ""))
        names = frozenset({store.store_id, said.get("slide_id", ""), file.name, file.stem} - {""})
        return cls(store.store_id, names, Extent(*said["extent"]) if "extent" in said else None)


@dataclass(frozen=True)
class Places:
    """Left and top int64 [N, 2], and a tile's side where the file says it; level-0 pixels."""

    corners: NDArray[np.int64]
    side: float | None

    @property
    def spacing(self) -> int:
        """The least distance between two columns or two rows of tiles; 0 where there is one of each."""
        steps = [np.diff(np.unique(self.corners[:, axis])) for axis in (0, 1)]
        return int(min((step.min() for step in steps if len(step)), default=0))


def read_places(file: Path, owner: Owner) -> Places:
    """Return where the tiles in a file of CLAM's or TRIDENT's lie on its slide; corners are rounded to whole pixels.

    Raises:
        StoreError: it is not HDF5, has no coordinates, or was made for another slide.
    """
    import h5py  # here: half a second for who needs none

    try:
        with h5py.File(file, "r") as h5:
            coords, images = read_numbers(h5, "coords"), h5.get("imgs")
            said = {**h5.attrs, **h5["coords"].attrs}
            is_old = isinstance(images, h5py.Dataset) and "patch_level" in images.attrs and "patch_level" not in said
            if is_old:
                said |= dict(images.attrs) | {"patch_size": images.shape[1]}
    except (OSError, KeyError, RuntimeError, TypeError, ValueError, IndexError) as error:
        raise StoreError(f"'{file}' has no coordinates of CLAM or TRIDENT ({error}); give a file that does") from error
    try:
        _check_name(said, owner.names)
        scale = _scale(said, owner)
        side = _side(said, scale)
        if not is_old:
            return Places(_corners(coords, 1.0), side)
        if scale is None:
            raise ValueError("it counts in pixels of a level of which it states no downsample; give a file that does")
        reduced = _custom(said)
        return Places(_corners(coords, scale * reduced), side and side * reduced)
    except ValueError as error:
        raise StoreError(f"'{file}' cannot say where tiles of slide '{owner.slide_id}' lie: {error}") from error


def read_numbers(h5: Any, name: str) -> NDArray[Any]:
    """Return an array of numbers of an open HDF5 file.

    Raises:
        KeyError, ValueError: there is none of that name, it holds something else, or too many.
    """
    array = h5[name]
    if not hasattr(array, "dtype") or array.dtype.kind not in "iuf":
        raise ValueError(f"'{name}' are no numbers")
    check_stored(array, name)
    return np.asarray(array)


def check_stored(array: Any, name: str) -> None:
    """Refuse an array of HDF5 that says that it is far larger than what is stored of it.

    Raises:
        ValueError: it does.
    """
    if array.nbytes > max(SMALL_BYTES, MAX_PACKING * array.id.get_storage_size()):
        raise ValueError(f"'{name}' {list(array.shape)} is {array.nbytes:,} bytes, hardly any of which are stored")


def _corners(coords: NDArray[Any], scale: float) -> NDArray[np.int64]:
    if coords.ndim == 3 and coords.shape[0] == 1:  # some writers keep a batch axis
        coords = coords[0]
    if coords.ndim != 2 or coords.shape[1] != 2 or not len(coords):
        raise ValueError(f"its coords {coords.shape} are not [N, 2] of at least one tile; give another file")
    corners = coords.astype(np.float64) * scale
    wrong = np.flatnonzero(~(np.abs(corners) < MAX_L0).all(axis=1))
    if len(wrong):
        raise ValueError(f"it has coords {coords[wrong[0]].tolist()} in row {wrong[0]}; give numbers of pixels")
    return np.rint(corners).astype(np.int64)


def _check_name(said: Mapping[str, Any], names: frozenset[str]) -> None:
    for key in ("name", "wsi_name"):
        name = said.get(key)
        name = name.decode(errors="replace") if isinstance(name, bytes) else name
        if not isinstance(name, str) or not name:
            continue
        last = re.split(r"[/\\]", name)[-1]
        if not any(last == n or last.startswith(f"{n}@") for n in names):
            raise ValueError(
                f"it is of slide '{name}' (its {key}); give the file of this slide, or, if the slide was renamed, "
                f"slide_id '{last}' in a manifest"
            )


def _scale(said: Mapping[str, Any], owner: Owner) -> float | None:
    """Level-0 pixels per pixel of the level that the file counts in; None where that is not known."""
    whole, extent = (_number(said, "level0_width"), _number(said, "level0_height")), owner.extent
    if extent and None not in whole and not _is_extent(whole, extent):
        raise ValueError(
            f"it is of a slide of {whole[0]:g} x {whole[1]:g} px, not {extent.width} x {extent.height}; give its own"
        )
    level = _number(said, "patch_level")
    if level is None:
        return None
    stated, known = _mean(said, "downsample"), _known_scale(said, owner, int(level))
    scale = 1.0 if level == 0 else stated or known
    if scale is None and owner.levels:
        raise ValueError(f"its patch_level is {level:g}, of which it states no downsample; give a file that does")
    if known is not None and scale is not None and abs(scale / known - 1) > SAME_SCALE:
        raise ValueError(
            f"its level {level:g} is {scale:g} times coarser than level 0, the slide's is {known:g} times; give the "
            "file of this slide"
        )
    return known or scale


def _known_scale(said: Mapping[str, Any], owner: Owner, level: int) -> float | None:
    """How many times coarser the level is according to the slide; by its extent where the file states it."""
    sides, extent, stated = _pair(said, "level_dim"), owner.extent, _mean(said, "downsample")
    if sides is None or extent is None:
        return owner.levels[level].downsample if level < len(owner.levels) else None
    found = [one.downsample for one in owner.levels if _is_extent(sides, one.extent)]
    if found:
        return found[0]
    if stated is None and not owner.levels and min(sides) > 0:
        across, down = extent.width / sides[0], extent.height / sides[1]
        stated = across if abs(across / down - 1) <= SAME_SCALE else None
    if stated and _is_extent([side * stated for side in sides], extent, stated):
        return None if owner.levels else stated
    there = ", ".join(f"{one.extent.width} x {one.extent.height}" for one in owner.levels)
    raise ValueError(
        f"its level_dim is {sides[0]:g} x {sides[1]:g} px, which no level of the slide is "
        f"({there or f'level 0 is {extent.width} x {extent.height}'}); give the file of this slide"
    )


def _side(said: Mapping[str, Any], scale: float | None) -> float | None:
    side, size = _number(said, "patch_size_level0"), _number(said, "patch_size")
    if side is None and size is not None and scale is not None:
        side = size * scale
    if side is not None and side <= 0:
        raise ValueError(f"its tiles are {side:g} px wide; give another file")
    return side


def _custom(said: Mapping[str, Any]) -> float:
    """How many times CLAM's first version reduced what it had read from the level."""
    whole, reduced = _pair(said, "level_dim"), _pair(said, "downsampled_level_dim")
    return float(round(whole[0] / reduced[0])) if whole and reduced and reduced[0] >= 1 else 1.0


def _is_extent(sides: Any, extent: Extent, slack: float = 1.0) -> bool:
    return all(abs(a - b) <= slack for a, b in zip(sides, (extent.width, extent.height), strict=True))


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:60]} …"


def _number(said: Mapping[str, Any], key: str) -> float | None:
    values = _values(said, key)
    if values is not None and (len(values) != 1 or values[0] < 0):
        raise ValueError(f"its {key} is {_short(values.tolist())}, not a number; give another file")
    return None if values is None else float(values[0])


def _pair(said: Mapping[str, Any], key: str) -> list[float] | None:
    values = _values(said, key)
    if values is not None and len(values) != 2:
        raise ValueError(f"its {key} is {_short(values.tolist())}, not a width and a height; give another file")
    return None if values is None else values.tolist()


def _mean(said: Mapping[str, Any], key: str) -> float | None:
    values = _values(said, key)
    if values is not None and (not len(values) or values.min() <= 0):
        raise ValueError(f"its {key} is {_short(values.tolist())}; give another file")
    return None if values is None else float(np.prod(values) ** (1 / len(values)))


def _values(said: Mapping[str, Any], key: str) -> NDArray[np.float64] | None:
    if key not in said:
        return None
    values = np.atleast_1d(np.asarray(said[key]))
    if values.dtype.kind not in "iuf" or values.ndim != 1 or not np.isfinite(values).all():
        raise ValueError(f"its {key} is {_short(said[key])}, not a number; give another file")
    return values.astype(np.float64)
