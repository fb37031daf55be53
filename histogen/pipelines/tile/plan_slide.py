"""The first worker of ``histogen tile``: a slide's stores, all metadata and columns, no pixels of tiles yet."""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import histogen
from histogen.config import UNRECORDED
from histogen.errors import SlideError
from histogen.files import write_atomic
from histogen.manifest import SlideRecord
from histogen.pipelines.tile.config import COMMAND, TileConfig
from histogen.pipelines.tile.places import build_grid, files_beside, listed_places, region_of_interest, store_paths
from histogen.slides.base import BaseSlide, open_slide, require_mpp
from histogen.store.jpeg import JpegSettings
from histogen.store.layout import Column
from histogen.store.tile_store import TileStore
from histogen.tiles.grid import Grid, Placed
from histogen.tiles.plan import SlidePlan, draw_thumbnail, plan_slide
from histogen.tiles.source_codec import passthrough_level, passthrough_settings, source_encoding, source_subsampling

SCORES = ("focus", "blank")
"""Columns that only cutting fills."""
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
    """Open the slide of a unit: the manifest's mpp goes before the file's, the flag's fills in for a missing one."""
    config, source = unit.config, unit.source
    return open_slide(
        source.path, mpp=source.mpp, gap_mpp=config.slide_mpp, reader=config.reader, slide_id=source.slide_id
    )


def _plan_one(unit: PlanUnit, slide: BaseSlide, grid: Grid, path: Path) -> None:
    jpeg = tile_settings(slide, grid, unit.config)
    slide_plan = plan_tiles(unit, slide, grid)
    folder = unit.config.out / "thumbnails"
    _write_thumbnail(folder / f"{path.stem}.jpg", draw_thumbnail(slide_plan, slide))
    columns, notes = _columns(unit, slide, slide_plan)
    TileStore.create(
        path, kind="slide", store_id=path.stem, tile_px=unit.config.tile_px, mpp=grid.mpp,
        num_tiles=len(slide_plan.columns), provenance=_provenance(unit, slide, grid, notes), jpeg=jpeg, columns=columns,
    )  # fmt: skip


def plan_tiles(unit: PlanUnit, slide: BaseSlide, grid: Grid) -> SlidePlan:
    """Return which tiles of ``grid`` are kept.

    Raises:
        SlideError: none is, or the slide or its region of interest cannot be read.
    """
    config = unit.config
    roi = region_of_interest(config, unit.source, slide)
    places, notes = listed_places(config, unit.source, slide, grid)
    slide_plan = plan_slide(
        slide, grid, tissue=config.tissue, min_tissue_fraction=config.min_tissue_fraction,
        max_pen_fraction=config.max_pen_fraction, roi=roi, frame=config.frame, places=places,
    )  # fmt: skip
    return replace(slide_plan, notes=(*slide_plan.notes, *notes))


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


def _provenance(unit: PlanUnit, slide: BaseSlide, grid: Grid, notes: list[str]) -> dict[str, Any]:
    mpp = require_mpp(slide)
    stated = {"stated": "manifest", "gap filled": "flag"}.get(slide.mpp_source, slide.mpp_source)
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
            "bounds_l0": slide.bounds_l0 and list(astuple(slide.bounds_l0)),
            "flags": [*slide.flags(), *notes],
        },
        "grid": {"stride_px": grid.stride_px, "edge": grid.edge, "placed": isinstance(grid, Placed)},
        "config": unit.config.model_dump(mode="json", exclude=set(UNRECORDED | PLACE_KEYS)),
    }


def _columns(unit: PlanUnit, slide: BaseSlide, slide_plan: SlidePlan) -> tuple[dict[str, Any], list[str]]:
    """Return the columns of a store, and what had to be found out for them."""
    notes = list(slide_plan.notes)
    x_l0, y_l0 = slide_plan.positions_l0
    count = len(x_l0)
    columns: dict[str, Any] = {
        "x_l0": x_l0.astype(np.float64),
        "y_l0": y_l0.astype(np.float64),
        "tissue_fraction": slide_plan.tissue_fraction,
        "pen_fraction": slide_plan.pen_fraction,
        "content_hash": Column(np.zeros(count, np.uint64), by_shard=True),
        **{name: Column(np.full(count, np.nan, np.float32), by_shard=True) for name in SCORES},
    }
    if unit.config.stain.statistics:
        columns["stain_vectors"] = Column(np.full((count, 6), np.nan, np.float32), by_shard=True)
        columns["stain_strengths"] = Column(np.full((count, 2), np.nan, np.float32), by_shard=True)
    annotations = files_beside(unit.config, unit.source).get("annotations")
    if annotations is not None:
        names, said = _labels(unit, annotations, slide, slide_plan)
        notes += said
        columns["label"] = Column.categorical(names)
    elif unit.label_names:
        columns["label"] = Column.categorical([unit.source.label] * count, unit.label_names)
    if unit.config.annotations is not None and annotations is None:
        notes.append("has no file of annotations")
    if unit.splits:
        columns["split"] = Column.categorical([unit.source.split] * count, unit.splits, dtype="int8")
    if unit.groups:
        columns["group"] = Column.categorical([unit.source.group] * count, unit.groups, dtype="int32")
    return columns, notes


def _labels(
    unit: PlanUnit, annotations: Path, slide: BaseSlide, slide_plan: SlidePlan
) -> tuple[list[str | None], tuple[str, ...]]:
    from histogen.tiles.annotations.frame import place_areas
    from histogen.tiles.annotations.read import read_annotations
    from histogen.tiles.regions import label_tiles

    areas = read_annotations(annotations, slide)
    regions, notes = place_areas(areas, slide, slide_plan.tissue, unit.config.frame)
    size_l0, least = slide_plan.grid.size_l0, unit.config.min_label_fraction
    try:
        return label_tiles(regions, *slide_plan.positions_l0, size_l0, min_share=least), notes
    except SlideError as error:
        raise SlideError(f"annotations '{annotations}' cannot be used: {error}") from error


def _write_thumbnail(path: Path, picture: np.ndarray) -> None:
    _, encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    write_atomic(path, encoded.tobytes())
