"""Where things are: a slide's stores, the files beside it, the grid of its tiles, regions and listed places."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from histogen.errors import ConfigError, SlideError
from histogen.geometry import Extent, Mpp
from histogen.manifest import SlideRecord
from histogen.names import AREA_SUFFIXES
from histogen.pipelines.tile.config import TileConfig
from histogen.slides.base import BaseSlide, require_mpp
from histogen.store.tile_store import TileStore
from histogen.tiles.grid import Grid, Placed

PLACES = (".h5", "_patches.h5")
"""How the names of the files end that lie beside others, one per slide."""


def store_paths(config: TileConfig, slide_id: str) -> list[Path]:
    """Return where the stores of a slide are, one for each resolution."""
    if len(config.mpps) == 1:
        return [config.out / f"{slide_id}.zarr"]
    return [config.out / f"mpp-{mpp}" / f"{slide_id}@{mpp}.zarr" for mpp in config.mpps]


def files_beside(config: TileConfig, source: SlideRecord) -> dict[str, Path]:
    """Return the files, by setting, that say something of a slide."""
    found = {
        "annotations": source.annotations or _beside(source, config.annotations, AREA_SUFFIXES),
        "roi": _beside(source, config.roi, AREA_SUFFIXES),
        "positions": _beside(source, config.positions, PLACES),
    }
    return {key: path for key, path in found.items() if path is not None}


def _beside(source: SlideRecord, where: Path | None, suffixes: Iterable[str]) -> Path | None:
    """Return ``where`` when it is a file, else the slide's file in the folder ``where``, else None."""
    if where is None or not where.is_dir():
        return where
    names = (source.slide_id, source.path.stem, source.path.name)
    endings = [spelled for suffix in suffixes for spelled in (suffix, suffix.upper())]
    there = [path for end in endings for name in names if (path := where / f"{name}{end}").is_file()]
    files = {(stat.st_dev, stat.st_ino): path for path in reversed(there) if (stat := path.stat())}
    found = list(reversed(files.values()))
    if len(found) > 1:
        raise ConfigError(
            f"'{found[0]}' and '{found[1].name}' are both of slide '{source.slide_id}'; keep one of them in the folder"
        )
    return found[0] if found else None


def check_beside(config: TileConfig, sources: Sequence[SlideRecord]) -> None:
    """Refuse files beside the slides that are not there, are one for several slides, or are of none of them.

    Raises:
        ConfigError: the setting is named, and what to do.
    """
    settings = {"annotations": config.annotations, "roi": config.roi, "positions": config.positions}
    for name, path in ((name, path) for name, path in settings.items() if path is not None):
        if not path.exists():
            raise ConfigError(f"{name} '{path}' does not exist; check the path")
        if path.is_file() and len(sources) > 1:
            raise ConfigError(
                f"{name} '{path}' is one file, and there are {len(sources)} slides; give a folder with a file for each "
                f"(such as {sources[0].slide_id}{''.join(path.suffixes[-1:])})"
            )
    where = config.annotations
    if where is None or not where.is_dir() or any("annotations" in files_beside(config, source) for source in sources):
        return
    there = sorted(path.name for path in where.iterdir())
    holds = f"it holds {', '.join(there[:3])}{' and others' if len(there) > 3 else ''}" if there else "it is empty"
    raise ConfigError(
        f"annotations '{where}' have no file of any of the {len(sources)} slides ({holds}); name them as the slides, "
        f"such as {sources[0].slide_id}{AREA_SUFFIXES[0]} (or {', '.join(AREA_SUFFIXES[1:])})"
    )


def build_grid(slide: BaseSlide, config: TileConfig, mpp: float | str) -> Grid:
    """Return the grid of tiles over ``slide``.

    Raises:
        MissingMppError: the slide's resolution is not known.
        SlideError: the slide is so coarse that its tiles would be enlarged beyond ``max_enlargement``.
    """
    slide_mpp = require_mpp(slide)
    target = slide_mpp.mean if mpp == "native" else float(mpp)
    if slide_mpp.mean > target * config.max_enlargement:
        raise SlideError(
            f"slide '{slide.slide_id}' is at {slide_mpp.mean:.4g} microns per pixel, {slide_mpp.mean / target:.3g} "
            f"times coarser than the tiles; choose a coarser mpp, or raise max_enlargement ({config.max_enlargement:g})"
        )
    stride = config.tile_px if config.stride_px is None else config.stride_px
    made = Grid if config.positions is None else Placed
    return made(slide.extent, slide_mpp, config.tile_px, stride, target, config.edge)


def grid_of(store: TileStore) -> Grid:
    """Return the grid on which the tiles of a store lie.

    Raises:
        SlideError: the store was not made by ``histogen tile``.
    """
    slide, grid = store.provenance.get("slide"), store.provenance.get("grid")
    if store.mpp is None or slide is None or grid is None:
        raise SlideError(f"store '{store.path}' does not say how it was tiled; make it again")
    made = Placed if grid.get("placed") else Grid
    return made(Extent(*slide["extent"]), Mpp(*slide["mpp"]), store.tile_px, grid["stride_px"], store.mpp, grid["edge"])


def region_of_interest(config: TileConfig, source: SlideRecord, slide: BaseSlide) -> Any:
    """Return the areas outside of which nothing of a slide is kept; None when there are none.

    Raises:
        SlideError: the slide has no file in the folder of regions, or its file cannot be read.
    """
    areas = files_beside(config, source).get("roi")
    if config.roi is not None and areas is None:
        raise SlideError(f"slide '{source.slide_id}' has no region of interest in '{config.roi}'; add its file")
    if areas is None:
        return None
    from histogen.tiles.annotations.read import read_areas

    return read_areas(areas, slide)


def listed_places(
    config: TileConfig, source: SlideRecord, slide: BaseSlide, grid: Grid
) -> tuple[np.ndarray | None, tuple[str, ...]]:
    """Return left and top, int64 [N, 2], of the tiles that the user's file lists (None when there is no such file).

    Beside them: what the file leaves open.

    Raises:
        SlideError: the slide has no file, or its tiles are more than 1 % larger or smaller than those asked for.
        StoreError: the file cannot be used.
    """
    if config.positions is None:
        return None, ()
    from histogen.store.places import Owner, read_places

    file = files_beside(config, source).get("positions")
    if file is None:
        raise SlideError(f"slide '{source.slide_id}' has no positions in '{config.positions}'; add its HDF5 file")
    found = read_places(file, Owner.of_slide(slide))
    places, side = found.corners, found.side
    outside = (places < 0).any(axis=1) | (places >= (grid.slide_extent.width, grid.slide_extent.height)).any(axis=1)
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        extent = f"{grid.slide_extent.width} x {grid.slide_extent.height} px"
        raise SlideError(
            f"'{file}' has {int(outside.sum())} tiles outside of slide '{source.slide_id}' ({extent}), the "
            f"first in row {row} at {places[row].tolist()}; give the file of this slide"
        )
    if side is not None and abs(side / grid.size_l0[0] - 1) > 0.01:
        raise SlideError(
            f"'{file}' lists tiles of {side:g} px of level 0, {grid.tile_px} px at {grid.mpp:g} mpp are "
            f"{grid.size_l0[0]:.4g}; set mpp={side * grid.slide_mpp.x / grid.tile_px:.6g}, or another tile_px"
        )
    if side is None:
        apart = f"{found.spacing} px of level 0 apart, tiles {grid.size_l0[0]:.4g} px wide"
        return places, (f"'{file.name}' does not say how large its tiles are (it has them {apart})",)
    return places, ()
