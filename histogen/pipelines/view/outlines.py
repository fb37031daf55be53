"""What lies over a slide: the outlines of its tissue and ink, as its tiling found them, and of its annotations."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import shapely
from pydantic import ValidationError
from shapely.geometry.base import BaseGeometry

from histogen.errors import HistogenError, SlideError
from histogen.manifest import SlideRecord
from histogen.pipelines.tile.config import TileConfig
from histogen.pipelines.tile.places import files_beside
from histogen.slides.base import BaseSlide, open_slide, require_mpp
from histogen.tiles.annotations.frame import place_areas
from histogen.tiles.annotations.read import read_areas
from histogen.tiles.plan import read_overview
from histogen.tiles.tissue import TissueMask, find_tissue
from histogen.view.answers import NAME, Answers
from histogen.view.sources import recorded
from histogen.view.tiles import slide_of

FINENESS = 4000
"""Outlines keep what is larger than this part of a slide's longer side."""
Ring = list[int]
"""x0, y0, x1, y1, …: level-0 pixels."""


class Outlines:
    """The answers; those of the slides that were looked at last are kept."""

    def __init__(self, answers: Answers) -> None:
        self.tiles = answers.tiles
        self._records = {record.slide_id: record for record in answers.sources.slides}
        self._kept = lru_cache(maxsize=16)(self._find)
        answers.facts["outlines"] = sorted(self._records)
        answers.add_data(rf"outlines/({NAME})", self.outlines)

    def outlines(self, slide_id: str) -> dict[str, Any]:
        """Return rings of ``tissue`` and ``ink``, named ``annotations`` with theirs, and ``notes``, a sentence each.

        Raises:
            SlideError: there is no such slide here, or it cannot be opened.
        """
        if slide_id not in self._records:
            raise SlideError(f"the file of slide '{slide_id}' is not here; give the folder of slides too")
        return self._kept(slide_id)

    def _find(self, slide_id: str) -> dict[str, Any]:
        record, config = self._records[slide_id], self._config(slide_id)
        found: dict[str, Any] = {"tissue": [], "ink": [], "annotations": [], "notes": []}
        slide = open_slide(
            record.path, mpp=record.mpp, gap_mpp=config.slide_mpp, reader=config.reader, slide_id=slide_id
        )
        try:
            tolerance = max(slide.extent.width, slide.extent.height) / FINENESS
            overview, mpp = read_overview(slide, config.tissue.mpp, require_mpp(slide).mean)
            mask = find_tissue(overview, mpp, slide.extent, config.tissue)
            found |= {"tissue": _rings_of(mask.mask, mask), "ink": _rings_of(mask.pen, mask)}
            found["annotations"], notes = _annotations(record, config, slide, mask, tolerance)
            found["notes"] += notes
        except HistogenError as error:
            found["notes"].append(str(error))
        finally:
            slide.close()
        return found

    def _config(self, slide_id: str) -> TileConfig:
        """Return how the slide was tiled; the defaults where no folder of its stores says it."""
        for store in self.tiles.stores:
            said = recorded(store.path.parent) if store.kind == "slide" and slide_of(store) == slide_id else {}
            try:
                return TileConfig.model_validate(said)
            except ValidationError:  # another command's, or none
                continue
        return TileConfig(slides=[self._records[slide_id].path], out=Path())


def _annotations(
    record: SlideRecord, config: TileConfig, slide: BaseSlide, mask: TissueMask, tolerance: float
) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    # those that the tiling was given, or, where they are not there any more, what lies beside the slide
    here = config.annotations is not None and config.annotations.exists()
    where = config.model_copy(
        update={"annotations": config.annotations if here else record.path.parent, "roi": None, "positions": None}
    )
    file = files_beside(where, record).get("annotations")
    if file is None:
        return [], ()
    regions, notes = place_areas(read_areas(file, slide), slide, mask, config.frame)
    named: dict[str, list[Ring]] = {}
    for region in regions:
        named.setdefault(region.name or "no class", []).extend(_rings(region.geometry.simplify(tolerance)))
    return [{"name": name, "rings": rings} for name, rings in named.items()], notes


def _rings(geometry: BaseGeometry) -> Iterator[Ring]:
    for part in shapely.get_parts(geometry):
        for ring in (part.exterior, *part.interiors) if part.geom_type == "Polygon" else ():
            yield np.rint(shapely.get_coordinates(ring)).astype(int).ravel().tolist()


def _rings_of(values: np.ndarray, mask: TissueMask) -> list[Ring]:
    """Return the outlines of a map, along the outer edges of its pixels."""
    twice = values.astype(np.uint8).repeat(2, axis=0).repeat(2, axis=1)  # so that a pixel has an outline with an area
    outlines, _ = cv2.findContours(twice, cv2.RETR_LIST, cv2.CHAIN_APPROX_SIMPLE)
    corners = (cv2.approxPolyDP(outline, 1.5, True)[:, 0] for outline in outlines)
    scale = np.array(mask.pixel_l0)
    return [np.rint((points + 0.5) / 2 * scale).astype(int).ravel().tolist() for points in corners if len(points) > 2]
