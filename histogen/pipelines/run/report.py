"""The report of a chain: gathers what the stages left on disk, samples the pictures, writes one page."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import histogen
from histogen.errors import HistogenError
from histogen.files import write_atomic
from histogen.pipelines.benchmark.command import load_task
from histogen.pipelines.benchmark.config import BenchmarkConfig
from histogen.pipelines.outputs import CONFIG_NAME, read_run
from histogen.pipelines.run.chain import RunConfig, StageRecord, chain, stage_config
from histogen.pipelines.run.neighbours import find_neighbours, judged_encoders
from histogen.pipelines.run.recognised import recognise
from histogen.pipelines.view.command import open_rooms
from histogen.pipelines.view.config import ViewConfig
from histogen.report.benchmark import difference_sentence, interval_text
from histogen.report.run_report import write_report
from histogen.report.samples import recognised_sentence
from histogen.report.stages import (
    Curve,
    InterpolationRow,
    Neighbours,
    RunReport,
    SlidePicture,
    SourceRow,
    StageTime,
    Story,
    Training,
)
from histogen.report.story import findings
from histogen.seeds import derive_seed, numpy_rng
from histogen.store.tile_set import TileSet, open_tiles
from histogen.training.journal import JOURNAL_NAME
from histogen.view.export import export

REPORT_NAME, FIGURES_NAME, ROOMS_NAME = "report.html", "report.json", "view"
NUM_SOURCES = 16
NUM_SAMPLES = 3
NUM_INTERPOLATIONS = 6
ROOM_TILES = 120
"""Tiles of the page of ``histogen view`` beside the report: some seconds' work."""
ALPHAS = (1.0, 0.75, 0.5, 0.25, 0.0)
TILES_PER_SLIDE = 8


def write_chain_report(config: RunConfig, records: Sequence[StageRecord]) -> tuple[Path, str]:
    """Write the page of the chain in ``config.out`` and return it with the lines to print last."""
    out = config.out
    tiles = open_tiles(out / ("tiles" if config.images is None else "tiles.zarr"))
    sources, interpolations = sample_pictures(tiles, config)
    benchmark_file = out / "benchmark" / "benchmark.json"
    benchmark = json.loads(benchmark_file.read_text()) if benchmark_file.exists() else None
    neighbours, recognised = looked_at(config, tiles, benchmark)
    look = ["histogen", "view", str(out)]
    report = RunReport(
        title="Gen-SIS, from tiles to encoders",
        subtitle=f"histogen {histogen.__version__} · {out} · to look around in all of it: {shlex.join(look)}",
        rooms=export_rooms(config),
        story=story(config, tiles, benchmark, recognised),
        neighbours=neighbours,
        recognised=recognised,
        facts={"tiles": f"{len(tiles):,}", "stores": len(tiles.stores), "tile side": f"{tiles.tile_px} px"},
        slides=slide_pictures(tiles, out / "tiles" / "thumbnails", seed=config.seed),
        sources=sources,
        interpolations=interpolations,
        conditioning=read_run(out / "eldm").get("results", {}).get("conditioning"),
        training=trainings(out),
        benchmark=benchmark,
        stages=[StageTime(r.name, r.seconds, r.summary, r.failures) for r in records],
        configs={path.parent.name: path.read_text() for path in sorted(out.glob(f"*/{CONFIG_NAME}"))},
        provenance=provenance(config, tiles),
    )
    figures = {
        "benchmark": benchmark and {key: benchmark[key] for key in ("encoders", "differences", "clusters", "notes")},
        "same_class_among_nearest": neighbours and {"k": neighbours.count, **neighbours.shares},
        "generative_tiles_recognised": recognised,
        "seconds": {r.name: round(r.seconds, 1) for r in records},
    }
    write_atomic(out / FIGURES_NAME, json.dumps(figures, indent=1))
    return write_report(out / REPORT_NAME, report), "\n".join(last_lines(benchmark, recognised))


def looked_at(
    config: RunConfig, tiles: TileSet, benchmark: Mapping[str, Any] | None
) -> tuple[Neighbours | None, dict[str, Any] | None]:
    """Return the nearest tiles under each judged encoder, and how well generative tiles are recognised.

    Both need labels. The second needs generative tiles of the judged ones: it is left out where others were judged.
    """
    if benchmark is None:
        return None, None
    stage = next(stage for stage in chain(config) if stage.name == "benchmark")
    settings: BenchmarkConfig = stage_config(stage, config, BenchmarkConfig)
    judged = open_tiles(settings.tiles)
    task = load_task(judged, settings)
    encoders = judged_encoders(benchmark)
    neighbours = find_neighbours(judged, task, encoders, seed=config.seed)
    if config.labelled is not None or "DINO" not in encoders:
        return neighbours, None
    made = open_tiles(config.out / "generative")
    return neighbours, recognise(
        tiles, task, made, encoder=config.out / "dino", rows=encoders["DINO"], seed=config.seed
    )


def story(
    config: RunConfig, tiles: TileSet, benchmark: Mapping[str, Any] | None, recognised: Mapping[str, Any] | None
) -> Story:
    """Return what a reader who has never heard of Gen-SIS must know of this run."""
    what = {True: "images", False: "slides"}[config.images is not None]
    number = len(tiles.stores)
    if config.draw is not None:
        first = (
            f"{number} slides were drawn by this program, with six kinds of tissue, each slide with stains and a "
            f"scanner of its own. No slide is real, and each training lasts a minute or two: this shows how the method "
            "works, not how well."
        )
    else:
        first = f"The {what} given were read; trainings were as long as their configs say."
    done = [
        first,
        f"{len(tiles):,} tiles of {tiles.tile_px} x {tiles.tile_px} pixels were cut from them.",
        "An encoder learnt from the tiles without any labels (DINO): it turns a tile into a list of numbers that are "
        "alike for tiles that look alike.",
        "A diffusion model learnt to draw a tile from these numbers alone. It drew a new tile for each tile, and tiles "
        "between pairs of tiles.",
        "A second encoder (Gen-DINO) learnt from real and drawn tiles together. This is the method Gen-SIS.",
    ]
    found = ["The encoders were not compared: the tiles have no labels."] if benchmark is None else findings(benchmark)
    if recognised is not None:
        found.append(recognised_sentence(recognised))
    following = ["Run the same on your own slides, at the same small size; then take a longer recipe, and a GPU:"]
    commands = [
        "histogen run run/quick --set slides=[my_slides/] --out runs/quick",
        "histogen tile my_slides/ --out tiles/",
        "histogen pretrain tiles/ --out runs/dino --config pretrain/histopathology",
    ]
    return Story(done, found, following, commands)


def last_lines(benchmark: Mapping[str, Any] | None, recognised: Mapping[str, Any] | None) -> list[str]:
    """Return k-NN accuracy of each encoder with its interval, and the differences, as measured."""
    if benchmark is None:
        return ["the encoders were not compared: the tiles have no labels; pass --set labelled=FOLDER"]
    lines = []
    for encoder in benchmark["encoders"]:
        score = interval_text(encoder["knn"]["balanced_accuracy"], encoder["knn"]["ci95"])
        lines.append(f"{encoder['name']:<9} k-NN balanced accuracy {score} %")
    wanted = "knn.balanced_accuracy"
    lines += [difference_sentence(d) for d in benchmark["differences"] if d["metric"] == wanted]
    return lines if recognised is None else [*lines, recognised_sentence(recognised)]


def export_rooms(config: RunConfig) -> str:
    """Export the page of ``histogen view`` with some tiles; return its address from the report, empty without one."""
    folder = config.out / ROOMS_NAME
    try:
        rooms = open_rooms(ViewConfig(paths=[config.out], export=folder, seed=config.seed, device=config.device))
        export(rooms, folder, seed=config.seed, overwrite=True, most=ROOM_TILES)
    except HistogenError as error:
        sys.stderr.write(f"warning: there is no page to look around in: {error}\n")
        return ""
    return f"{ROOMS_NAME}/index.html"


def sample_pictures(tiles: TileSet, config: RunConfig) -> tuple[list[SourceRow], list[InterpolationRow]]:
    """Sample generative tiles of some sources and rows between pairs of them, from fixed seeds."""
    import torch

    from histogen.diffusion.conditioning import slerp
    from histogen.diffusion.pipeline_files import load_pipeline
    from histogen.pipelines.synthesize.command import SynthesizeConfig
    from histogen.pipelines.train_eldm.command import recorded_sampler
    from histogen.training.processes import resolve_device

    stage = next(stage for stage in chain(config) if stage.name == "generative")
    settings: SynthesizeConfig = stage_config(stage, config, SynthesizeConfig)
    sampler = settings.sampler or recorded_sampler(config.out / "eldm")
    pipeline = load_pipeline(config.out / "eldm", resolve_device(config.device))
    chosen = _spread(tiles, NUM_SOURCES, seed=config.seed)
    embeddings = torch.from_numpy(tiles.embeddings(pipeline.config["encoder_name"])[chosen])

    def sample(conditions: torch.Tensor, kind: str, per: int) -> NDArray[np.uint8]:
        seeds = [derive_seed(config.seed, "report", kind, i // per, i % per) for i in range(len(conditions))]
        if kind == "interpolation":  # one noise for a whole row, so that only the embedding changes along it
            seeds = [derive_seed(config.seed, "report", kind, i // per) for i in range(len(conditions))]
        pictures = pipeline(conditions, seeds, sampler=sampler, micro_batch=settings.micro_batch)
        return pictures.reshape(-1, per, *pictures.shape[1:])

    generated = sample(embeddings.repeat_interleave(NUM_SAMPLES, 0), "generative", NUM_SAMPLES)
    pairs = _pairs(len(chosen))
    alphas = torch.tensor(ALPHAS, dtype=torch.float64)
    between = torch.cat([slerp(embeddings[[a] * len(ALPHAS)], embeddings[[b] * len(ALPHAS)], alphas) for a, b in pairs])
    rows = sample(between, "interpolation", len(ALPHAS))
    names, ids = _class_names(tiles, chosen), tiles.ids(chosen)
    real = tiles.read_tiles(chosen)
    return (
        [SourceRow(real[i], list(generated[i]), f"{ids[i]} {names[i]}".strip()) for i in range(len(chosen))],
        [
            InterpolationRow(real[a], real[b], ALPHAS, list(rows[i]), f"{names[a]} to {names[b]}" if names[a] else "")
            for i, (a, b) in enumerate(pairs)
        ],
    )


def slide_pictures(tiles: TileSet, thumbnails: Path, *, seed: int) -> list[SlidePicture]:
    """Return every slide with its thumbnail and some of its tiles."""
    owners = tiles.store_of(np.arange(len(tiles)))
    pictures = []
    for position, store in enumerate(tiles.stores):
        own = np.flatnonzero(owners == position)
        shown = np.sort(numpy_rng(seed, "report", store.store_id).permutation(own)[:TILES_PER_SLIDE])
        thumbnail = thumbnails / f"{store.store_id}.jpg"
        facts = {"mpp": f"{store.mpp:g}"} if store.mpp else {}
        pictures.append(
            SlidePicture(
                store.store_id,
                len(own),
                thumbnail if thumbnail.exists() else None,
                list(tiles.read_tiles(shown)),
                facts=facts,
            )
        )
    return pictures


def trainings(out: Path) -> list[Training]:
    """Return the runs of the chain, both encoders in one chart."""
    groups = {
        "DINO and Gen-DINO": {"DINO": "dino", "Gen-DINO": "gen-dino"},
        "Autoencoder": {"autoencoder": "autoencoder"},
        "E-LDM": {"E-LDM": "eldm"},
    }
    return [
        Training(title, [Curve(name, out / folder / JOURNAL_NAME) for name, folder in members.items()])
        for title, members in groups.items()
        if all((out / folder / JOURNAL_NAME).exists() for folder in members.values())
    ]


def provenance(config: RunConfig, tiles: TileSet) -> dict[str, object]:
    """Return what made this page: versions, seed, content of the tiles, outside weights."""
    weights = read_run(config.out / "eldm").get("results", {}).get("supervision", {})
    return {
        "histogen": histogen.__version__,
        "python": platform.python_version(),
        "seed": config.seed,
        "tiles (SHA-256)": tiles.content_hash,
        "E-LDM outside weights": "; ".join(f"{part}: {text}" for part, text in weights.items()) or "none",
    }


def _spread(tiles: TileSet, count: int, *, seed: int) -> NDArray[np.int64]:
    """Choose ``count`` tiles, the same number of every class where there are labels."""
    order = numpy_rng(seed, "report", "sources").permutation(len(tiles))
    if tiles.has_column("label"):
        labels = tiles.column("label")[order]
        turn = np.zeros(len(order), np.int64)
        for label in np.unique(labels):
            turn[labels == label] = np.arange(np.count_nonzero(labels == label))
        turn[labels < 0] += len(order)
        order = order[np.lexsort((labels, turn))]
    return np.asarray(order[: min(count, len(order))])


def _pairs(count: int) -> list[tuple[int, int]]:
    """Return positions to interpolate between: neighbours among ``count`` spread tiles, which differ in class."""
    return [(i, i + 1) for i in range(0, count - 1, 2)][:NUM_INTERPOLATIONS]


def _class_names(tiles: TileSet, chosen: NDArray[np.int64]) -> list[str]:
    if not tiles.has_column("label"):
        return [""] * len(chosen)
    names = tiles.categories("label")
    return [names[code] if code >= 0 else "no label" for code in tiles.column("label")[chosen]]
