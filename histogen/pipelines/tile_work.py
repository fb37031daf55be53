"""The two workers of ``histogen tile``: plan a slide (its stores, no pixels of tiles yet), and cut one shard."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import histogen
from histogen.config import UNRECORDED
from histogen.errors import SlideError
from histogen.files import write_atomic
from histogen.geometry import Extent, Mpp
from histogen.manifest import SlideRecord
from histogen.pipelines.tile_config import TileConfig
from histogen.slides.base import BaseSlide, open_slide, require_mpp
from histogen.store.jpeg import JpegSettings
from histogen.store.layout import TILES, Column
from histogen.store.tile_store import TileStore
from histogen.tiles.extract import Extracted, Recipe, extract_tiles
from histogen.tiles.grid import Grid, Placed
from histogen.tiles.plan import SlidePlan, draw_thumbnail, plan_slide
from histogen.tiles.source_codec import (
    copy_tiles,
    passthrough_level,
    passthrough_settings,
    source_encoding,
    source_subsampling,
)
from histogen.tiles.stain import build_normaliser, stain_statistics

COMMAND = "tile"
SCORES = ("focus", "blank")
AREAS, PLACES = (".geojson", ".db"), (".h5", "_patches.h5")
"""How the names of the files end that lie beside others, one per slide."""
PLACE_KEYS = frozenset({"slides", "annotations", "roi", "positions", "mpp", "geojson"})
"""Keys of the config that a store does not keep: paths, and what it states otherwise."""


@dataclass(frozen=True)
class PlanUnit:
    """One slide to plan."""

    source: SlideRecord
    config: TileConfig
    fingerprint: str
    label_names: tuple[str, ...]
    splits: tuple[str, ...]
    groups: tuple[str, ...]
    num_items: int = 1

    @property
    def key(self) -> str:
        """Name in messages."""
        return self.source.slide_id


@dataclass(frozen=True)
class ShardUnit:
    """One shard to cut; the store knows the rest."""

    store: Path
    slide: Path
    shard: int
    num_items: int

    @property
    def key(self) -> str:
        """Name in messages."""
        return f"{self.store.stem}/{self.shard}"


def store_paths(config: TileConfig, slide_id: str) -> list[Path]:
    """Return where the stores of a slide are, one for each resolution."""
    if len(config.mpps) == 1:
        return [config.out / f"{slide_id}.zarr"]
    return [config.out / f"mpp-{mpp}" / f"{slide_id}@{mpp}.zarr" for mpp in config.mpps]


def plan(unit: PlanUnit) -> dict[str, Any]:
    """Plan one slide and make its stores, all metadata and columns, no tiles yet. The thumbnail is written first."""
    slide = open_planned(unit)
    try:
        failed = []
        for mpp, path in zip(unit.config.mpps, store_paths(unit.config, unit.source.slide_id), strict=True):
            try:
                if not (path / "zarr.json").exists():
                    _plan_one(unit, slide, build_grid(slide, unit.config, mpp), path)
            except SlideError as error:
                failed.append(str(error) if len(unit.config.mpps) == 1 else f"at {mpp} mpp: {error}")
        if failed:
            raise SlideError("; ".join(failed))
    finally:
        slide.close()
    return {}


def open_planned(unit: PlanUnit) -> BaseSlide:
    """Open the slide of a unit with the mpp that the manifest or the flag states."""
    config, source = unit.config, unit.source
    stated = source.mpp or (Mpp(config.slide_mpp, config.slide_mpp) if config.slide_mpp else None)
    return open_slide(source.path, mpp=stated, reader=config.reader, slide_id=source.slide_id)


def _plan_one(unit: PlanUnit, slide: BaseSlide, grid: Grid, path: Path) -> None:
    jpeg = tile_settings(slide, grid, unit.config)
    slide_plan = plan_tiles(unit, slide, grid)
    folder = unit.config.out / "thumbnails"
    _write_thumbnail(folder / f"{path.stem}.jpg", draw_thumbnail(slide_plan, slide))
    columns = _columns(unit, slide_plan)
    TileStore.create(
        path, kind="slide", store_id=path.stem, tile_px=unit.config.tile_px, mpp=grid.mpp,
        num_tiles=len(slide_plan.columns), provenance=_provenance(unit, slide, grid), jpeg=jpeg, columns=columns,
    )  # fmt: skip


def plan_tiles(unit: PlanUnit, slide: BaseSlide, grid: Grid) -> SlidePlan:
    """Return which tiles of ``grid`` are kept.

    Raises:
        SlideError: none is, or the slide or its region of interest cannot be read.
    """
    config = unit.config
    areas = files_beside(config, unit.source).get("roi")
    if config.roi is not None and areas is None:
        raise SlideError(f"slide '{unit.source.slide_id}' has no region of interest in '{config.roi}'; add its GeoJSON")
    roi = None
    if areas is not None:
        from histogen.tiles.annotations import read_areas

        roi = read_areas(areas)
    return plan_slide(
        slide, grid, tissue=config.tissue, min_tissue_fraction=config.min_tissue_fraction,
        max_pen_fraction=config.max_pen_fraction, roi=roi, places=_read_places(unit, grid),
    )  # fmt: skip


def _read_places(unit: PlanUnit, grid: Grid) -> np.ndarray | None:
    """Return left and top, int64 [N, 2], of the tiles that the user's file lists; None when there is no such file.

    Raises:
        SlideError: the slide has no file, or its tiles are more than 1 % larger or smaller than those asked for.
        StoreError: the file cannot be used.
    """
    if unit.config.positions is None:
        return None
    from histogen.store.export_hdf5 import read_places

    file = files_beside(unit.config, unit.source).get("positions")
    if file is None:
        raise SlideError(
            f"slide '{unit.source.slide_id}' has no positions in '{unit.config.positions}'; add its HDF5 file"
        )
    places, side = read_places(file)
    outside = (places < 0).any(axis=1) | (places >= (grid.slide_extent.width, grid.slide_extent.height)).any(axis=1)
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        extent = f"{grid.slide_extent.width} x {grid.slide_extent.height} px"
        raise SlideError(
            f"'{file}' has {int(outside.sum())} tiles outside of slide '{unit.source.slide_id}' ({extent}), the "
            f"first in row {row} at {places[row].tolist()}; give the file of this slide"
        )
    if side is not None and abs(side / grid.size_l0[0] - 1) > 0.01:
        raise SlideError(
            f"'{file}' lists tiles of {side:g} px of level 0, {grid.tile_px} px at {grid.mpp:g} mpp are "
            f"{grid.size_l0[0]:.4g}; set mpp={side * grid.slide_mpp.x / grid.tile_px:.6g}, or another tile_px"
        )
    return places


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


def tile_settings(slide: BaseSlide, grid: Grid, config: TileConfig) -> JpegSettings:
    """Return how the tiles of this slide are encoded.

    Raises:
        SlideError: the slide's own encoding is asked for and does not fit.
    """
    if config.codec == "source":
        level = passthrough_level(slide, grid)
        return passthrough_settings(slide.tiff_levels[level])  # type: ignore[attr-defined]
    if config.jpeg.level == "source":
        return JpegSettings(None, source_encoding(slide, grid).subsampling)
    subsampling = config.jpeg.subsampling
    return JpegSettings(config.jpeg.level, source_subsampling(slide, grid) if subsampling == "source" else subsampling)


def _provenance(unit: PlanUnit, slide: BaseSlide, grid: Grid) -> dict[str, Any]:
    mpp = require_mpp(slide)
    stated = "manifest" if unit.source.mpp else "flag" if unit.config.slide_mpp else slide.mpp_source
    return {
        "command": COMMAND,
        "histogen": histogen.__version__,
        "slide": {
            "slide_id": unit.source.slide_id,
            "name": unit.source.path.name,
            "fingerprint": unit.fingerprint,
            "vendor": slide.vendor,
            "reader": slide.reader_name,
            "extent": [slide.extent.width, slide.extent.height],
            "mpp": [mpp.x, mpp.y],
            "mpp_source": stated,
            "objective_power": slide.objective_power,
            "flags": list(slide.flags()),
        },
        "grid": {"stride_px": grid.stride_px, "edge": grid.edge, "placed": isinstance(grid, Placed)},
        "config": unit.config.model_dump(mode="json", exclude=set(UNRECORDED | PLACE_KEYS)),
    }


def _columns(unit: PlanUnit, slide_plan: SlidePlan) -> dict[str, Any]:
    x_l0, y_l0 = slide_plan.positions_l0
    count = len(x_l0)
    columns: dict[str, Any] = {
        "x_l0": x_l0.astype(np.float64),
        "y_l0": y_l0.astype(np.float64),
        "tissue_fraction": slide_plan.tissue_fraction,
        "pen_fraction": slide_plan.pen_fraction,
        "content_hash": np.zeros(count, np.uint64),
        **{name: np.full(count, np.nan, np.float32) for name in SCORES},
    }
    if unit.config.stain.statistics:
        columns["stain_vectors"] = np.full((count, 6), np.nan, np.float32)
        columns["stain_strengths"] = np.full((count, 2), np.nan, np.float32)
    annotations = files_beside(unit.config, unit.source).get("annotations")
    if annotations is not None:
        from histogen.tiles.annotations import label_tiles, read_annotations

        names = label_tiles(
            read_annotations(annotations), x_l0, y_l0, slide_plan.grid.size_l0,
            min_share=unit.config.min_label_fraction,
        )  # fmt: skip
        columns["label"] = Column.categorical(names)
    elif unit.label_names:
        columns["label"] = Column.categorical([unit.source.label] * count, unit.label_names)
    if unit.splits:
        columns["split"] = Column.categorical([unit.source.split] * count, unit.splits, dtype="int8")
    if unit.groups:
        columns["group"] = Column.categorical([unit.source.group] * count, unit.groups, dtype="int32")
    return columns


def files_beside(config: TileConfig, source: SlideRecord) -> dict[str, Path]:
    """Return the files, by setting, that say something of a slide."""
    found = {
        "annotations": source.annotations or _beside(source, config.annotations, AREAS),
        "roi": _beside(source, config.roi, AREAS),
        "positions": _beside(source, config.positions, PLACES),
    }
    return {key: path for key, path in found.items() if path is not None}


def _beside(source: SlideRecord, where: Path | None, suffixes: Iterable[str]) -> Path | None:
    """Return ``where`` when it is a file, else the slide's file in the folder ``where``, else None."""
    if where is None or not where.is_dir():
        return where
    names = (source.slide_id, source.path.stem, source.path.name)
    found = (where / f"{name}{suffix}" for suffix in suffixes for name in names)
    return next((path for path in found if path.exists()), None)


def _write_thumbnail(path: Path, picture: np.ndarray) -> None:
    _, encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    write_atomic(path, encoded.tobytes())


def cut_shard(unit: ShardUnit) -> dict[str, Any]:
    """Cut, encode and write the tiles of one shard; a pure function of the slide and the store's metadata."""
    cv2.setNumThreads(1)
    store = TileStore.open_(unit.store)
    indices = list(store.shard_range(unit.shard))
    extracted = _extract(store, unit, indices)
    for name in SCORES:
        scores = getattr(extracted, name)
        if not np.isnan(scores).all():  # as they are in a new store
            store.write_rows(f"columns/{name}", unit.shard, scores)
    if extracted.stains is not None:
        store.write_rows("columns/stain_vectors", unit.shard, extracted.stains[:, :6])
        store.write_rows("columns/stain_strengths", unit.shard, extracted.stains[:, 6:])
    hashes = np.array([content_hash(payload) for payload in extracted.payloads], np.uint64)
    store.write_rows("columns/content_hash", unit.shard, hashes)
    note = store.write_tiles(unit.shard, extracted.payloads)
    if extracted.unreadable:
        note["unreadable"] = {str(indices[at]): sentence for at, sentence in sorted(extracted.unreadable.items())}
    if extracted.dropped:
        note["dropped"] = extracted.dropped
    if extracted.measured:
        note["squared_error"] = [extracted.squared_error, extracted.measured]
    store.commit(TILES, unit.shard, note)
    return {}


def _extract(store: TileStore, unit: ShardUnit, indices: list[int]) -> Extracted:
    provenance = store.provenance
    settings = TileConfig.model_validate({**provenance["config"], "slides": [], "mpp": store.mpp})
    grid = grid_of(store)
    x_l0, y_l0 = (store.read_rows(f"columns/{name}", indices) for name in ("x_l0", "y_l0"))
    columns, rows = grid.cells_at(x_l0, y_l0)
    modified, reader = unit.slide.stat().st_mtime_ns, provenance["slide"]["reader"]
    slide_id = provenance["slide"]["slide_id"]
    slide = _OPEN.slide(unit.slide, slide_id, reader, modified)
    if settings.codec == "source":
        return copy_tiles(slide, grid, columns, rows)
    return extract_tiles(slide, grid, columns, rows, build_recipe(slide, grid, settings, store.jpeg))


def build_recipe(slide: BaseSlide, grid: Grid, config: TileConfig, jpeg: JpegSettings) -> Recipe:
    """Return what becomes of the pixels of this slide's tiles.

    Raises:
        ConfigError: the reference of the stain normalisation cannot be read.
        SlideError: the slide's own encoding is asked for and does not fit.
    """
    encode = source_encoding(slide, grid).encode if config.jpeg.level == "source" else None
    stains = stain_statistics if config.stain.statistics else None
    return Recipe(jpeg, config.quality, build_normaliser(config.stain), encode, stains)


def write_geojson(config: TileConfig, slide_id: str) -> None:
    """Write the tiles that each whole store of a slide holds, and what its columns say of them, for QuPath."""
    from histogen.tiles.annotations import tiles_geojson

    for path in (path for path in store_paths(config, slide_id) if (path / "zarr.json").exists()):
        store = TileStore.open_(path)
        if not store.is_complete():
            continue
        kept = np.flatnonzero(store.tile_ok)
        x_l0, y_l0 = (store.read_rows(f"columns/{name}", kept) for name in ("x_l0", "y_l0"))
        names = ("tissue_fraction", "pen_fraction", *SCORES)
        columns = [np.round(store.read_rows(f"columns/{name}", kept).astype(float), 4).tolist() for name in names]
        values = ({n: v for n, v in zip(names, row, strict=True) if v == v} for row in zip(*columns, strict=True))
        text = tiles_geojson(x_l0, y_l0, grid_of(store).size_l0, list(values))
        write_atomic(config.out / "geojson" / f"{path.stem}.geojson", text)


def content_hash(payload: bytes | None) -> int:
    """Return the first 8 bytes of the SHA-256 of a tile's JPEG; 0 for an absent tile."""
    return int.from_bytes(hashlib.sha256(payload).digest()[:8], "little") if payload else 0


class _OpenSlides(threading.local):
    """The slide that each thread cuts: neighbouring shards share its directory and what is decoded already."""

    def __init__(self) -> None:
        self._open: dict[tuple[Path, str, str, int], BaseSlide] = {}

    def slide(self, path: Path, slide_id: str, reader: str, modified: int) -> BaseSlide:
        """Return this thread's handle of a slide, and close the one before."""
        key = (path, slide_id, reader, modified)
        if key not in self._open:
            while self._open:
                self._open.popitem()[1].close()
            self._open[key] = open_slide(path, reader=reader, slide_id=slide_id)
        return self._open[key]


_OPEN = _OpenSlides()


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
