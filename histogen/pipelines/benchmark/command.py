"""``histogen benchmark``: how well frozen encoders tell the classes of labelled tiles, and whether they differ."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import histogen
from histogen.encoders.base import EncoderCard
from histogen.encoders.registry import load_encoder
from histogen.errors import ConfigError, ManifestError, StoreError
from histogen.evaluation.judge import judge
from histogen.evaluation.judge_slides import SlideTask, build_slide_task, judge_slides
from histogen.evaluation.leaks import shared_groups, shared_tiles
from histogen.evaluation.shifts import Shift, shifts_of
from histogen.evaluation.tasks import Task, build_task, caveats
from histogen.evaluation.verdicts import Judgement
from histogen.files import write_atomic
from histogen.lease import for_its_output
from histogen.pipelines.benchmark.config import BenchmarkConfig
from histogen.pipelines.benchmark.predictions import PREDICTIONS_NAME, write_predictions
from histogen.pipelines.embed import command as embed
from histogen.pipelines.outputs import CONFIG_NAME, Outcome, claim_output, finish_output
from histogen.progress import progress_bar
from histogen.report.benchmark_text import benchmark_table, benchmark_text
from histogen.report.run_report import write_report
from histogen.report.stages import RunReport
from histogen.store.tile_set import TileSet, open_tiles
from histogen.table import read_table
from histogen.training.precision import resolve_precision
from histogen.training.processes import resolve_device

JSON_NAME, TABLE_NAME, PAGE_NAME = "benchmark.json", "benchmark.md", "benchmark.html"

PROTOCOLS = "Protocols: k-NN {knn}, linear probe {linear}; figures of different protocols must not be compared."


@for_its_output
def run(config: BenchmarkConfig) -> Outcome:
    """Embed what is not embedded, judge every encoder, and write figures, page and predictions."""
    tiles = open_tiles(config.tiles)
    slides = load_slides(tiles, config) if config.slide_labels is not None else None
    task = load_task(tiles, config) if slides is None else slides[0].task
    specs = named_specs(config.encoders)
    device = str(resolve_device(config.device))
    cards = {name: load_encoder(spec).card for name, spec in specs.items()}
    check_runs(cards)
    inputs = {"tiles": tiles.content_hash, **{name: card.name for name, card in cards.items()}}
    out = claim_output(config, command="benchmark", inputs=inputs)
    failures = [sentence for spec in specs.values() for sentence in _embed(config, spec)]
    if failures:
        return Outcome(out, "no encoder was judged: some tiles could not be embedded", tuple(failures))
    embeddings = {name: partial(_read_embeddings, config.tiles, card.name) for name, card in cards.items()}
    shifted = {name: _shifted(config, tiles, task, specs[name], card.name, device) for name, card in cards.items()}
    found = _judge(config, task, None if slides is None else slides[0], embeddings, shifted, device)
    encoders = [{"name": n, "spec": specs[n], "card": cards[n].to_json(), **found.results[n]} for n in specs]
    benchmark = {**describe(task, config), "encoders": encoders, "groups": found.groups}
    benchmark["differences"] = found.differences
    benchmark["notes"] = (caveats(task) if slides is None else slides[1]) + encoder_notes(encoders)
    if slides is None and config.allow_leaks:
        benchmark["notes"] += [f"The split leaks: {sentence}." for sentence in leaks(tiles, task, config)]
    if slides is None:
        benchmark["notes"].append(PROTOCOLS.format(knn=config.judge.knn.protocol, linear=config.judge.linear.protocol))
    write_atomic(out / JSON_NAME, json.dumps(benchmark, indent=1))
    write_atomic(out / TABLE_NAME, benchmark_table(benchmark))
    write_predictions(out / PREDICTIONS_NAME, tiles, task, None if slides is None else slides[0], found)
    settings = {"benchmark": (out / CONFIG_NAME).read_text()}
    write_report(out / PAGE_NAME, RunReport("Benchmark of encoders", benchmark=benchmark, configs=settings))
    finish_output(out, benchmark=JSON_NAME, table=TABLE_NAME, predictions=PREDICTIONS_NAME, page=PAGE_NAME)
    return Outcome(out, benchmark_text(benchmark), results=benchmark, page=out / PAGE_NAME)


def load_slides(tiles: TileSet, config: BenchmarkConfig) -> tuple[SlideTask, list[str]]:
    """Return the task that the file of slide labels poses, and what was left out of it.

    Raises:
        ManifestError: the file cannot be used, or gives a slide two labels.
    """
    path = config.slide_labels
    assert path is not None
    label_of: dict[str, str] = {}
    lines: dict[str, int] = {}
    for line, row in read_table(path, what="slide labels", needs=["slide_id", "label"]):
        name, label = row["slide_id"], row["label"]
        if not name:
            raise ManifestError(f"{path}:{line}: 'slide_id' is empty; fill it or delete the row")
        if not label:
            continue
        if label_of.setdefault(name, label) != label:
            raise ManifestError(
                f"{path}:{line}: slide '{name}' is '{label}' here and '{label_of[name]}' on line {lines[name]}; "
                "leave one"
            )
        lines.setdefault(name, line)
    stores = [store.store_id for store in tiles.stores]
    return build_slide_task(tiles.store_of(np.arange(len(tiles))), stores, label_of)


def load_task(tiles: TileSet, config: BenchmarkConfig) -> Task:
    """Return the task that the columns of ``tiles`` pose.

    Raises:
        StoreError: a store has no column of labels, or it is not categorical.
        ConfigError: the tiles cannot be split as asked.
    """
    if not tiles.has_column(config.label):
        lacking = next(s for s in tiles.stores if not (s.path / "columns" / config.label).exists())
        raise StoreError(
            f"store '{lacking.path}' has no column '{config.label}'; tile with --annotations or a manifest's column "
            "label, import class folders, or name another column with --set label=…"
        )
    names = tiles.categories(config.label)
    if not names:
        raise StoreError(f"column '{config.label}' is not categorical; a benchmark needs names of classes")
    groups, unit = _groups(tiles, config.group)
    has_split = tiles.has_column("split")
    task = build_task(
        tiles.column(config.label),
        names,
        groups=groups,
        unit=unit,
        split_codes=tiles.column("split") if has_split else None,
        split_names=tiles.categories("split") if has_split else (),
        how=config.split,
        test_share=config.test_share,
        seed=config.seed,
    )
    found = leaks(tiles, task, config)
    if found and not config.allow_leaks:
        raise ConfigError(
            f"{'; '.join(found)}: every figure would flatter. Mend the split where the tiles were made from, leave it "
            "out (--set split=slide), or judge all the same with --set allow_leaks=true"
        )
    return task


def leaks(tiles: TileSet, task: Task, config: BenchmarkConfig) -> list[str]:
    """Return what of a split that the tiles' column gives is in training and in the test, as parts of a sentence."""
    if not (tiles.has_column("split") and config.split in ("auto", "column")):
        return []
    found = []
    if tiles.has_column(config.group):
        names = tiles.categories(config.group)
        both = shared_groups(np.asarray(tiles.column(config.group), dtype=np.int64), task.split)
        if len(both):
            first = names[both[0]] if names else both[0]
            found.append(f"{len(both)} groups (column '{config.group}', the first '{first}') are in train and in test")
    same = shared_tiles(tiles.read_payload, task.split)
    if len(same):
        found.append(f"{len(same)} of {len(task.split.test)} test tiles are training tiles, byte for byte")
    return found


def named_specs(encoders: Sequence[str]) -> dict[str, str]:
    """Return name to spec of ``NAME=SPEC`` or ``SPEC``, whose name is then the last part of the spec.

    Raises:
        ConfigError: two encoders have one name.
    """
    specs: dict[str, str] = {}
    for text in encoders:
        name, equals, spec = text.partition("=")
        if not equals or not name or any(sign in name for sign in "/:@"):
            name, spec = Path(text).name.replace("#", "-"), text  # NAME#1 is a run of a recipe
        if name in specs:
            raise ConfigError(f"two encoders are called '{name}' ('{specs[name]}' and '{spec}'); write NAME={spec}")
        specs[name] = spec
    return specs


def check_runs(cards: Mapping[str, EncoderCard]) -> None:
    """Raise ConfigError when two runs of a recipe are one: they would show no variance between runs."""
    seen: dict[tuple[str, str], str] = {}
    for name, card in cards.items():
        recipe, number, _ = name.partition("#")
        other = seen.setdefault((recipe, card.weights_sha256), name)
        if number and other != name:
            raise ConfigError(f"'{other}' and '{name}' have the same weights; give runs of '{recipe}' with other seeds")


def describe(task: Task, config: BenchmarkConfig) -> dict[str, Any]:
    """Return what was asked, as JSON values."""
    unit, count = ("slide", len(task.labels)) if config.slide_labels else task.cluster_count
    return {
        "histogen": histogen.__version__,
        "label": str(config.slide_labels.name) if config.slide_labels else config.label,
        "classes": list(task.classes),
        "split": {"how": task.split.how, "seed": config.seed},
        "num_train": len(task.split.train),
        "num_test": len(task.split.test),
        "clusters": {"unit": unit, "count": count},
        "settings": (config.mil if config.slide_labels else config.judge).model_dump(mode="json"),
    }


def encoder_notes(encoders: Sequence[dict[str, Any]]) -> list[str]:
    """Return what a reader of the figures must know about the encoders."""
    found = []
    for encoder in encoders:
        if not encoder.get("linear", {"converged": True})["converged"]:
            found.append(f"The linear probe of {encoder['name']} did not converge; its figures are a lower bound.")
        supervision = encoder["card"]["supervision"]
        if supervision and not supervision.startswith("none"):
            found.append(f"{encoder['name']} may have been made with labels ({supervision}).")
    if len(encoders) > 1 and not any("#" in encoder["name"] for encoder in encoders):
        found.append(
            "One training run of each encoder: the intervals cover the choice of test tiles, not of training seeds; "
            "compare several runs (NAME#1=…, NAME#2=…) before believing a difference."
        )
    return found


def _judge(
    config: BenchmarkConfig,
    task: Task,
    slides: SlideTask | None,
    embeddings: dict[str, partial[NDArray[np.float32]]],
    shifted: dict[str, dict[str, partial[NDArray[np.float32]]]],
    device: str,
) -> Judgement:
    if slides is not None:
        with progress_bar("benchmark", total=len(embeddings), unit="encoders") as bar:
            return judge_slides(
                slides, embeddings, config.mil,
                draws=config.judge.draws, seed=config.seed, device=device, advance=bar.advance,
            )  # fmt: skip
    with progress_bar("benchmark", total=len(embeddings) * len(config.judge.tests), unit="tests") as bar:
        return judge(
            task, embeddings, config.judge, seed=config.seed, device=device, shifted=shifted, advance=bar.advance
        )


def _read_embeddings(tiles: list[Path], key: str) -> NDArray[np.float32]:
    return open_tiles(tiles).embeddings(key)


def _shifted(
    config: BenchmarkConfig, tiles: TileSet, task: Task, spec: str, key: str, device: str
) -> dict[str, partial[NDArray[np.float32]]]:
    """Return, by the name of a change, what embeds the test tiles under it as ``key`` was made."""
    return {
        shift.name: partial(_embed_shifted, config, tiles, task.split.test, spec, key, shift, device)
        for shift in shifts_of(config.judge.robustness)
    }


def _embed_shifted(
    config: BenchmarkConfig,
    tiles: TileSet,
    indices: NDArray[np.int64],
    spec: str,
    key: str,
    shift: Shift,
    device: str,
) -> NDArray[np.float32]:
    encoder = load_encoder(spec, torch.device(device))
    how = tiles.stores[0].rows_attributes(f"{embed.GROUP}/{key}")
    parts = [
        embed.embed_images(
            encoder,
            shift.apply(tiles.read_tiles(part), part, seed=config.seed),
            batch=how.get("batch", config.embed_batch),
            precision=how.get("precision", resolve_precision(config.precision, torch.device(device))),
        )
        for part in np.split(indices, range(embed.READ_TILES, len(indices), embed.READ_TILES))
    ]
    return np.concatenate(parts)


def _embed(config: BenchmarkConfig, spec: str) -> tuple[str, ...]:
    return embed.run(
        embed.EmbedConfig(
            tiles=config.tiles,
            encoder=spec,
            batch=config.embed_batch,
            precision=config.precision,
            seed=config.seed,
            device=config.device,
            **config.bulk,
            resume=True,
        )
    ).failures


def _groups(tiles: TileSet, column: str) -> tuple[NDArray[np.int64] | None, str]:
    if tiles.has_column(column):
        return np.asarray(tiles.column(column), dtype=np.int64), "group"
    if column != BenchmarkConfig.model_fields["group"].default:
        raise StoreError(f"not every store has a column '{column}' of groups; check --set group=…")
    if len(tiles.stores) > 1:
        return tiles.store_of(np.arange(len(tiles))), "slide"
    return None, "slide"
