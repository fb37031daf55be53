"""``histogen tile``: slides become tile stores, one per slide. Two shard maps: plan the slides, then cut the shards."""

from __future__ import annotations

import hashlib
import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from histogen.compute.client import Compute, Kept
from histogen.compute.run import run_units
from histogen.errors import ConfigError, SlideError
from histogen.files import remove_temporaries, write_atomic
from histogen.lease import for_its_output
from histogen.manifest import SlideRecord
from histogen.pipelines.outputs import Outcome, claim_output, finish_output, shards_to_make
from histogen.pipelines.tile.config import COMMAND, TileConfig
from histogen.pipelines.tile.cut_shard import ShardUnit, cut_shard
from histogen.pipelines.tile.geojson import write_geojson
from histogen.pipelines.tile.places import check_beside, files_beside, store_paths
from histogen.pipelines.tile.plan_slide import PlanUnit, plan
from histogen.report.tiling import SlideRow, slide_rows, totals, write_tiling_page
from histogen.slides.find import Found, find_slides, fingerprint
from histogen.store.tile_store import TileStore
from histogen.tiles.stain import build_normaliser

LOCATED = frozenset({"slides", "annotations", "roi", "positions"})
"""Settings that say where inputs are: resume compares what is there."""
REPORT_NAME = "report.json"
PAGE_NAME = "report.html"

__all__ = ["TileConfig", "run"]


@for_its_output
def run(config: TileConfig) -> Outcome:
    """Tile the slides that are not done; a slide that fails is a sentence, the others are done.

    Raises:
        ConfigError, ManifestError, OutputExistsError: the inputs, the settings or the output cannot be used.
    """
    found = find_slides(config.slides)
    sources = found.slides
    _check_files(config, sources)
    prints = {source.slide_id: _fingerprint(source) for source in sources}
    out = claim_output(
        config, command=COMMAND, inputs={**prints, **_stated(config, sources)}, located=LOCATED, makes_stores=True,
        is_used=lambda name: any((path / "zarr.json").exists() for path in store_paths(config, name.partition("/")[0])),
    )  # fmt: skip
    remove_temporaries(out)
    units = _plan_units(config, sources, prints)
    with ExitStack() as stack:
        compute = Kept(Compute.from_config(config, threads=config.threads), stack)
        planned = run_units(
            plan, units, compute=compute, description="plan", item_name="slides", items_done=len(sources) - len(units)
        )
        shards, done = _shard_units(config, sources)
        cut = run_units(cut_shard, shards, compute=compute, description="tile", item_name="tiles", items_done=done)
    for source in sources if config.geojson else ():
        write_geojson(config, source.slide_id)
    rows = slide_rows(
        [(source.slide_id, source.path, store_paths(config, source.slide_id)) for source in sources],
        failures={failure.key: failure.sentence for failure in planned.failures},
        shard_failures=[str(failure) for failure in cut.failures],
    )
    report: dict[str, Any] = {
        **totals(rows),
        "seconds": {"plan": round(planned.seconds, 2), "tile": round(cut.seconds, 2)},
    }
    report["not_taken"] = {str(one.path): one.reason for one in found.left}
    write_atomic(out / REPORT_NAME, json.dumps({**report, "slides": [row.as_dict() for row in rows]}, indent=1))
    write_tiling_page(out / PAGE_NAME, rows, report, thumbnails=out / "thumbnails")
    sentences = tuple(sentence for row in rows for sentence in row.failures)
    if not cut.failures:
        finish_output(out, tiles=report["tiles"], failures=len(sentences))
    return Outcome(
        config.out,
        _summary(config, rows, cut.seconds, found),
        sentences,
        {"tiles": report["tiles"]},
        page=out / PAGE_NAME,
    )


def _check_files(config: TileConfig, sources: list[SlideRecord]) -> None:
    """Refuse, before anything is made, files in the settings that are not there or cannot be used."""
    check_beside(config, sources)
    target = config.stain.target
    if target is not None and not target.exists():
        raise ConfigError(f"stain.target '{target}' does not exist; check the path")
    build_normaliser(config.stain)


def _stated(config: TileConfig, sources: list[SlideRecord]) -> dict[str, str]:
    """Return what is stated about each slide beside its file: by the manifest, and by files (their hashes)."""
    stated: dict[str, str] = {}
    target = config.stain.target and _digest(config.stain.target)
    for source in sources:
        values = {key: getattr(source, key) for key in ("mpp", "label", "split", "group")}
        values |= {key: _digest(path) for key, path in files_beside(config, source).items() if path.is_file()}
        values |= {"stain.target": target}
        stated |= {f"{source.slide_id}/{key}": str(value) for key, value in values.items() if value is not None}
    return stated


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _fingerprint(source: SlideRecord) -> str:
    try:
        return fingerprint(source.path)
    except (OSError, SlideError):
        return "unreadable"


def _is_planned(config: TileConfig, source: SlideRecord) -> bool:
    return all((path / "zarr.json").exists() for path in store_paths(config, source.slide_id))


def _plan_units(config: TileConfig, sources: list[SlideRecord], prints: dict[str, str]) -> list[PlanUnit]:
    splits = tuple(sorted({s.split for s in sources if s.split}))
    groups = tuple(sorted({s.group for s in sources if s.group}))
    labels = tuple(sorted({s.label for s in sources if s.label}))
    return [
        PlanUnit(source, config, prints[source.slide_id], labels, splits, groups)
        for source in sources
        if not _is_planned(config, source)
    ]


def _shard_units(config: TileConfig, sources: list[SlideRecord]) -> tuple[list[ShardUnit], int]:
    """The shards that are not there yet, and how many tiles the others hold; a listing per store."""
    units, done = [], 0
    for source in sources:
        for path in store_paths(config, source.slide_id):
            if not (path / "zarr.json").exists():
                continue
            store = TileStore.open_(path)
            missing = [
                ShardUnit(path, source.path, shard, len(store.shard_range(shard)))
                for shard in shards_to_make(store, resume=config.resume)
            ]
            done += store.num_tiles - sum(unit.num_items for unit in missing)
            units += missing
    return units, done


def _summary(config: TileConfig, rows: list[SlideRow], seconds: float, found: Found) -> str:
    failed = len({row.slide_id for row in rows if row.failures})
    whole = len({row.slide_id for row in rows}) - failed
    tiles = sum(row.tiles for row in rows)
    text = f"{config.out}: {tiles:,} tiles of {whole} slides in {seconds:.1f} s"
    if not whole and not tiles:
        text = f"{config.out}: no slide could be tiled"
    flagged = [row for row in rows if row.flags]
    if flagged:
        others = f" and {len(flagged) - 1} more" if len(flagged) > 1 else ""
        text += f"; to be looked at: {flagged[0].slide_id} ({'; '.join(flagged[0].flags)}){others}"
    if found.left:
        text += f"; not taken: {found.sentence}"
    return f"{text}; {failed} slides have failures" if failed else text
