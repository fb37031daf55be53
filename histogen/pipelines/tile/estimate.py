"""``histogen plan``: how many tiles, how many bytes, how long, before anything is written."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np

from histogen.compute.client import Compute
from histogen.compute.run import run_units
from histogen.pipelines.outputs import Outcome
from histogen.pipelines.tile.config import TileConfig
from histogen.pipelines.tile.cut_shard import build_recipe
from histogen.pipelines.tile.places import build_grid, check_beside
from histogen.pipelines.tile.plan_slide import PlanUnit, open_planned, plan_tiles, tile_settings
from histogen.slides.find import find_slides
from histogen.tiles.extract import extract_tiles
from histogen.tiles.grid import Grid
from histogen.tiles.plan import SlidePlan
from histogen.tiles.source_codec import copy_tiles

SAMPLE_TILES = 64
"""Neighbouring tiles that are cut, and thrown away, to learn their bytes and seconds."""


@dataclass(frozen=True)
class Estimate:
    """What tiling would make: of one slide, or of all."""

    tiles: int
    gigabytes: float
    cpu_seconds: float


def run_plan(config: TileConfig) -> Outcome:
    """Plan every slide, write nothing; a slide that would fail is a sentence.

    Raises:
        ConfigError, ManifestError: the inputs or the settings cannot be used.
    """
    found = find_slides(config.slides)
    sources = found.slides
    check_beside(config, sources)
    units = [PlanUnit(source, config, "", (), (), ()) for source in sources]
    compute = Compute.from_config(config, threads=config.threads)
    report = run_units(estimate, units, compute=compute, description="plan", item_name="slides")
    slides = {key: [Estimate(**e) for e in result["estimates"]] for key, result in report.results}
    lines = [_line(key, _sum(estimates)) for key, estimates in slides.items()]
    total = _sum([e for estimates in slides.values() for e in estimates])
    lines.append(_line(f"{len(slides)} slides", total))
    workers = max(1, config.workers) * config.threads
    lines.append(f"about {total.cpu_seconds / workers:,.0f} s with {workers} at work; nothing was written")
    if found.left:
        lines.append(f"not taken: {found.sentence}")
    return Outcome(config.out, "\n".join(lines), tuple(str(f) for f in report.failures), {"tiles": total.tiles})


def estimate(unit: PlanUnit) -> dict[str, Any]:
    """Plan one slide and cut a few tiles from its middle."""
    slide = open_planned(unit)
    estimates = []
    try:
        for mpp in unit.config.mpps:
            grid = build_grid(slide, unit.config, mpp)
            slide_plan = plan_tiles(unit, slide, grid)
            payloads, seconds = _sample(unit, slide, grid, slide_plan)
            count = len(slide_plan.columns)
            size = float(np.mean([len(p) for p in payloads])) if payloads else 0.0
            estimates.append(
                {"tiles": count, "gigabytes": size * count / 1e9, "cpu_seconds": seconds / len(payloads) * count}
            )
    finally:
        slide.close()
    return {"estimates": estimates}


def _sample(unit: PlanUnit, slide: Any, grid: Grid, slide_plan: SlidePlan) -> tuple[list[bytes], float]:
    start = max(0, len(slide_plan.columns) // 2 - SAMPLE_TILES // 2)
    columns, rows = (v[start : start + SAMPLE_TILES] for v in (slide_plan.columns, slide_plan.rows))
    jpeg = tile_settings(slide, grid, unit.config)
    begin = time.thread_time()
    if unit.config.codec == "source":
        made = copy_tiles(slide, grid, columns, rows)
    else:
        made = extract_tiles(slide, grid, columns, rows, build_recipe(slide, grid, unit.config, jpeg))
    return [p for p in made.payloads if p is not None], time.thread_time() - begin


def _sum(estimates: list[Estimate]) -> Estimate:
    return Estimate(
        sum(e.tiles for e in estimates), sum(e.gigabytes for e in estimates), sum(e.cpu_seconds for e in estimates)
    )


def _line(name: str, e: Estimate) -> str:
    return f"{name:<40s} {e.tiles:>12,} tiles {e.gigabytes:>9.3f} GB {e.cpu_seconds:>9,.1f} CPU-s"
