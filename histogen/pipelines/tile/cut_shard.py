"""The second worker of ``histogen tile``: cut, encode and write the tiles of one shard."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from histogen.pipelines.tile.config import TileConfig
from histogen.pipelines.tile.places import grid_of
from histogen.pipelines.tile.plan_slide import SCORES
from histogen.slides.base import BaseSlide, open_slide
from histogen.store.jpeg import JpegSettings
from histogen.store.layout import TILES
from histogen.store.tile_store import TileStore
from histogen.tiles.extract import Extracted, Recipe, extract_tiles
from histogen.tiles.grid import Grid
from histogen.tiles.source_codec import copy_tiles, source_encoding
from histogen.tiles.stain import build_normaliser, stain_statistics


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
