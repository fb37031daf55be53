"""``histogen tile``: slides become tile stores, one per slide. Two shard maps: plan the slides, then cut the shards."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from pydantic import Field, model_validator

import histogen
from histogen.compute.client import Compute
from histogen.compute.run import run_units
from histogen.config import UNRECORDED, BulkConfig, Settings
from histogen.errors import HistogenError, SlideError
from histogen.files import remove_temporaries, write_atomic
from histogen.geometry import Extent, Mpp
from histogen.pipelines.outputs import Outcome, claim_output, finish_output
from histogen.slides.base import BaseSlide, open_slide, require_mpp
from histogen.slides.find import SlideSource, find_slides, fingerprint
from histogen.store.jpeg import JpegSettings
from histogen.store.layout import TILES, Column
from histogen.store.tile_store import TileStore
from histogen.tiles.annotations import label_tiles, read_geojson
from histogen.tiles.extract import extract_tiles
from histogen.tiles.grid import Grid
from histogen.tiles.plan import SlidePlan, draw_thumbnail, plan_slide
from histogen.tiles.spec import QualitySettings, TissueSettings

COMMAND = "tile"
REPORT_NAME = "report.json"
SCORES = ("focus", "blank")


class TileJpegConfig(Settings):
    """How tiles are encoded."""

    level: int = Field(default=90, ge=1, le=100)
    """libjpeg's quality; an unaligned re-encode at 90 keeps an H&E tile within about 43 dB of its source (measured)."""
    subsampling: Literal["420", "422", "444"] = "420"
    """Chroma subsampling; 4:2:0 is what most scanners write."""


class TileConfig(BulkConfig):
    """Slides and the tiles to cut from them."""

    out: Path = Path("tiles")
    slides: list[Path]
    """Slides, folders of slides (of DICOM files), manifests."""
    tile_px: int = Field(default=256, ge=8)
    """Side of a tile, pixels; 256 leaves room to crop the 224 of a ViT."""
    mpp: float | Literal["native"] = 0.5
    """Microns per pixel of the tiles; 0.5 is 20x, the usual of pathology encoders. ``native``: each slide's own."""
    stride_px: int | None = Field(default=None, ge=1)
    """Step between tiles, pixels; default: tile_px, no overlap."""
    edge: Literal["drop", "pad"] = "drop"
    """Tiles that reach over the slide's border: left out, or filled with white."""
    max_enlargement: float = Field(default=2.0, ge=1)
    """How many times coarser than the tiles a slide may be; beyond it tiles would show interpolation, not tissue."""
    reader: Literal["auto", "native", "openslide", "tiatoolbox"] = "auto"
    slide_mpp: float | None = Field(default=None, gt=0)
    """Microns per pixel of level 0 of slides that do not state theirs; a manifest's goes before, a file's after it."""
    tissue: TissueSettings = TissueSettings()
    min_tissue_fraction: float = Field(default=0.5, ge=0, le=1)
    max_pen_fraction: float = Field(default=0.0, ge=0, le=1)
    """Largest share of ink in a kept tile."""
    quality: QualitySettings = QualitySettings()
    jpeg: TileJpegConfig = TileJpegConfig()
    annotations: Path | None = None
    """GeoJSON with named regions: a file (for one slide), or a folder with one per slide, named like the slide."""
    min_label_fraction: float = Field(default=0.5, ge=0, le=1)
    """Share of a tile that a region's name must cover to become its label."""

    @model_validator(mode="after")
    def _positive(self) -> TileConfig:
        if isinstance(self.mpp, float) and self.mpp <= 0:
            raise ValueError(f"mpp {self.mpp} is not above zero")
        return self


@dataclass(frozen=True)
class PlanUnit:
    """One slide to plan."""

    source: SlideSource
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


def run(config: TileConfig) -> Outcome:
    """Tile the slides that are not done; a slide that fails is a sentence, the others are done.

    Raises:
        ConfigError, ManifestError, OutputExistsError: the inputs, the settings or the output cannot be used.
    """
    sources = find_slides(config.slides)
    prints = {source.slide_id: _fingerprint(source) for source in sources}
    out = claim_output(config, command=COMMAND, inputs=prints)
    remove_temporaries(out)
    compute = Compute.from_config(config)
    planned = run_units(
        plan, _plan_units(config, sources, prints), compute=compute, description="plan", item_name="slides",
        items_done=sum(_is_planned(out, source) for source in sources),
    )  # fmt: skip
    failures = {failure.key: failure.sentence for failure in planned.failures}
    units, done = _shard_units(out, sources)
    cut = run_units(cut_shard, units, compute=compute, description="tile", item_name="tiles", items_done=done)
    shard_failures = [str(failure) for failure in cut.failures]
    report = build_report(out, sources, failures, shard_failures)
    report["seconds"] = {"plan": round(planned.seconds, 2), "tile": round(cut.seconds, 2)}
    write_atomic(out / REPORT_NAME, json.dumps(report, indent=1))
    sentences = tuple(sentence for row in report["slides"] for sentence in row["failures"])
    if not shard_failures:
        finish_output(out, tiles=report["tiles"], failures=len(sentences))
    return Outcome(out, _summary(out, report, cut.seconds), sentences, {"tiles": report["tiles"]})


def store_path(out: Path, slide_id: str) -> Path:
    """Return where the store of a slide is."""
    return out / f"{slide_id}.zarr"


def _fingerprint(source: SlideSource) -> str:
    try:
        return fingerprint(source.path)
    except OSError:
        return "unreadable"


def _is_planned(out: Path, source: SlideSource) -> bool:
    return (store_path(out, source.slide_id) / "zarr.json").exists()


def _plan_units(config: TileConfig, sources: list[SlideSource], prints: dict[str, str]) -> list[PlanUnit]:
    splits = tuple(sorted({s.split for s in sources if s.split}))
    groups = tuple(sorted({s.group for s in sources if s.group}))
    labels = tuple(sorted({s.label for s in sources if s.label}))
    return [
        PlanUnit(source, config, prints[source.slide_id], labels, splits, groups)
        for source in sources
        if not _is_planned(config.out, source)
    ]


def _shard_units(out: Path, sources: list[SlideSource]) -> tuple[list[ShardUnit], int]:
    """The shards that are not there yet, and how many tiles the others hold; a listing per slide."""
    units, done = [], 0
    for source in sources:
        if not _is_planned(out, source):
            continue
        store = TileStore.open_(store_path(out, source.slide_id))
        missing = [
            ShardUnit(store.path, source.path, shard, len(store.shard_range(shard))) for shard in store.missing_shards()
        ]
        done += store.num_tiles - sum(unit.num_items for unit in missing)
        units += missing
    return units, done


def plan(unit: PlanUnit) -> dict[str, Any]:
    """Plan one slide and make its store, all metadata and columns, no tiles yet. The thumbnail is written first."""
    config, source = unit.config, unit.source
    stated = source.mpp or (Mpp(config.slide_mpp, config.slide_mpp) if config.slide_mpp else None)
    slide = open_slide(source.path, mpp=stated, reader=config.reader, slide_id=source.slide_id)
    try:
        slide_plan = plan_slide(
            slide, build_grid(slide, config), tissue=config.tissue,
            min_tissue_fraction=config.min_tissue_fraction, max_pen_fraction=config.max_pen_fraction,
        )  # fmt: skip
    finally:
        slide.close()
    _write_thumbnail(config.out / "thumbnails" / f"{source.slide_id}.jpg", draw_thumbnail(slide_plan))
    store = TileStore.create(
        store_path(config.out, source.slide_id),
        kind="slide",
        store_id=source.slide_id,
        tile_px=config.tile_px,
        mpp=slide_plan.grid.mpp,
        num_tiles=len(slide_plan.columns),
        provenance=_provenance(unit, slide, slide_plan.grid),
        jpeg=JpegSettings(level=config.jpeg.level, subsampling=config.jpeg.subsampling),
        columns=_columns(unit, slide_plan),
    )
    return {"tiles": store.num_tiles}


def build_grid(slide: BaseSlide, config: TileConfig) -> Grid:
    """Return the grid of tiles over ``slide``.

    Raises:
        MissingMppError: the slide's resolution is not known.
        SlideError: the slide is so coarse that its tiles would be enlarged beyond ``max_enlargement``.
    """
    mpp = require_mpp(slide)
    target = mpp.mean if config.mpp == "native" else float(config.mpp)
    if mpp.mean > target * config.max_enlargement:
        raise SlideError(
            f"slide '{slide.slide_id}' is at {mpp.mean:.4g} microns per pixel, {mpp.mean / target:.3g} times coarser "
            f"than the tiles; choose a coarser mpp, or raise max_enlargement ({config.max_enlargement:g})"
        )
    stride = config.tile_px if config.stride_px is None else config.stride_px
    return Grid(slide.extent, mpp, config.tile_px, stride, target, config.edge)


def _provenance(unit: PlanUnit, slide: BaseSlide, grid: Grid) -> dict[str, Any]:
    mpp = require_mpp(slide)
    return {
        "command": COMMAND,
        "histogen": histogen.__version__,
        "slide": {
            "name": unit.source.path.name,
            "fingerprint": unit.fingerprint,
            "vendor": slide.vendor,
            "reader": slide.reader_name,
            "extent": [slide.extent.width, slide.extent.height],
            "mpp": [mpp.x, mpp.y],
            "mpp_source": _mpp_source(unit, slide),
            "objective_power": slide.objective_power,
            "flags": list(slide.flags()),
        },
        "grid": {"stride_px": grid.stride_px, "edge": grid.edge},
        "config": unit.config.model_dump(mode="json", exclude=set(UNRECORDED) | {"slides", "annotations"}),
    }


def _mpp_source(unit: PlanUnit, slide: BaseSlide) -> str:
    return "manifest" if unit.source.mpp else "flag" if unit.config.slide_mpp else slide.mpp_source


def _columns(unit: PlanUnit, slide_plan: SlidePlan) -> dict[str, Any]:
    x_l0, y_l0 = slide_plan.positions_l0
    count = len(x_l0)
    columns: dict[str, Any] = {
        "x_l0": x_l0.astype(np.float64),
        "y_l0": y_l0.astype(np.float64),
        "tissue_fraction": slide_plan.tissue_fraction,
        "pen_fraction": slide_plan.pen_fraction,
        **{name: np.full(count, np.nan, np.float32) for name in SCORES},
    }
    annotations = _annotations_of(unit.source, unit.config.annotations)
    if annotations is not None:
        names = label_tiles(
            read_geojson(annotations), x_l0, y_l0, slide_plan.grid.size_l0, min_share=unit.config.min_label_fraction
        )
        columns["label"] = Column.categorical(names)
    elif unit.label_names:
        columns["label"] = Column.categorical([unit.source.label] * count, unit.label_names)
    if unit.splits:
        columns["split"] = Column.categorical([unit.source.split] * count, unit.splits, dtype="int8")
    if unit.groups:
        columns["group"] = Column.categorical([unit.source.group] * count, unit.groups, dtype="int32")
    return columns


def _annotations_of(source: SlideSource, where: Path | None) -> Path | None:
    """The manifest's file, else the given file, else the slide's file in the given folder; none is no labels."""
    if source.annotations is not None or where is None:
        return source.annotations
    if not where.is_dir():
        return where
    found = (where / f"{name}.geojson" for name in (source.slide_id, source.path.stem, source.path.name))
    return next((path for path in found if path.exists()), None)


def _write_thumbnail(path: Path, picture: np.ndarray) -> None:
    _, encoded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    write_atomic(path, encoded.tobytes())


def cut_shard(unit: ShardUnit) -> dict[str, Any]:
    """Cut, encode and write the tiles of one shard; a pure function of the slide and the store's metadata."""
    cv2.setNumThreads(1)
    store = TileStore.open_(unit.store)
    settings = TileConfig.model_validate({**store.provenance["config"], "slides": []})
    grid = _grid_of(store)
    indices = list(store.shard_range(unit.shard))
    x_l0, y_l0 = (store.read_rows(f"columns/{name}", indices) for name in ("x_l0", "y_l0"))
    columns, rows = grid.cells_at(x_l0, y_l0)
    slide = _open_cached(unit.slide, store.store_id, store.provenance["slide"]["reader"], unit.slide.stat().st_mtime_ns)
    extracted = extract_tiles(slide, grid, columns, rows, store.jpeg, settings.quality)
    for name in SCORES:
        store.write_rows(f"columns/{name}", unit.shard, getattr(extracted, name))
    note = store.write_tiles(unit.shard, extracted.payloads)
    if extracted.unreadable:
        note["unreadable"] = {str(indices[at]): sentence for at, sentence in sorted(extracted.unreadable.items())}
    if extracted.dropped:
        note["dropped"] = extracted.dropped
    store.commit(TILES, unit.shard, note)
    return {}


@functools.lru_cache(maxsize=2)
def _open_cached(path: Path, slide_id: str, reader: str, _mtime_ns: int) -> BaseSlide:
    """Neighbouring shards of a slide share its directory and what is decoded already."""
    return open_slide(path, reader=reader, slide_id=slide_id)


def _grid_of(store: TileStore) -> Grid:
    slide, grid = store.provenance["slide"], store.provenance["grid"]
    if store.mpp is None:
        raise SlideError(f"store '{store.path}' states no mpp; make it again")
    return Grid(Extent(*slide["extent"]), Mpp(*slide["mpp"]), store.tile_px, grid["stride_px"], store.mpp, grid["edge"])


def build_report(
    out: Path, sources: list[SlideSource], failures: dict[str, str], shard_failures: list[str]
) -> dict[str, Any]:
    """Return what became of every slide, from the stores and their ledgers: a resumed run reports the same."""
    rows = [_report_row(out, source, failures, shard_failures) for source in sources]
    return {"tiles": sum(row["tiles"] for row in rows), "slides": rows}


def _report_row(out: Path, source: SlideSource, failures: dict[str, str], shard_failures: list[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"slide_id": source.slide_id, "path": str(source.path), "tiles": 0, "failures": []}
    if source.slide_id in failures:
        row["failures"].append(failures[source.slide_id])
        return row
    try:
        store = TileStore.open_(store_path(out, source.slide_id))
    except HistogenError as error:
        row["failures"].append(str(error))
        return row
    notes = store.ledger.notes(TILES)
    unreadable = {int(i): s for note in notes.values() for i, s in note.get("unreadable", {}).items()}
    dropped: dict[str, int] = {}
    for note in notes.values():
        for reason, number in note.get("dropped", {}).items():
            dropped[reason] = dropped.get(reason, 0) + number
    row |= {key: store.provenance["slide"][key] for key in ("vendor", "reader", "mpp", "mpp_source", "flags")}
    row |= {"tiles": sum(note["count"] for note in notes.values()), "planned": store.num_tiles, "dropped": dropped}
    row["failures"] = [f"tile {i} of slide '{source.slide_id}': {s}" for i, s in sorted(unreadable.items())]
    row["failures"] += [text for text in shard_failures if text.startswith(f"{source.slide_id}/")]
    return row


def _summary(out: Path, report: dict[str, Any], seconds: float) -> str:
    failed = sum(bool(row["failures"]) for row in report["slides"])
    text = f"{out}: {report['tiles']:,} tiles of {len(report['slides']) - failed} slides in {seconds:.1f} s"
    return f"{text}; {failed} slides have failures, see {out / REPORT_NAME}" if failed else text
