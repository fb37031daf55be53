"""``histogen benchmark``: how well frozen encoders tell the classes of labelled tiles, and whether they differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

import histogen
from histogen.config import BulkConfig
from histogen.encoders.base import load_encoder
from histogen.errors import ConfigError, StoreError
from histogen.evaluation.judge import JudgeSettings, judge
from histogen.evaluation.tasks import Task, build_task, caveats
from histogen.files import write_atomic
from histogen.pipelines import embed
from histogen.pipelines.outputs import Outcome, claim_output, finish_output
from histogen.progress import progress_bar
from histogen.report.benchmark import difference_sentence, difference_table, score_table
from histogen.store.tile_set import TileSet, open_tiles
from histogen.training.processes import resolve_device

JSON_NAME, TABLE_NAME = "benchmark.json", "benchmark.md"


class BenchmarkConfig(BulkConfig):
    """Which tiles, which encoders, which tests."""

    tiles: list[Path] = Field(min_length=1)
    """Tile stores with a column of labels."""
    encoders: list[str] = Field(min_length=1)
    """Encoders as ``SPEC`` or ``NAME=SPEC``; a difference is a later one minus an earlier one."""
    label: str = "label"
    """The categorical column to tell."""
    group: str = "group"
    """The categorical column of groups (patients, photographs) that must not be split; without it, the slides."""
    split: Literal["auto", "column", "slide", "tile"] = "auto"
    """``column`` takes the column ``split`` (train, test); ``slide`` whole slides or groups; ``tile`` single tiles."""
    test_share: float = Field(default=0.25, gt=0, lt=1)
    """Share of the slides (or tiles) that test, where no split is given."""
    embed_batch: int = Field(default=64, ge=1)
    """Tiles per forward pass where embeddings are missing."""
    judge: JudgeSettings = JudgeSettings()


def run(config: BenchmarkConfig) -> Outcome:
    """Embed what is not embedded, judge every encoder, and write ``benchmark.json`` and ``benchmark.md``."""
    tiles = open_tiles(config.tiles)
    task = load_task(tiles, config)
    specs = named_specs(config.encoders)
    device = str(resolve_device(config.device))
    cards = {name: load_encoder(spec).card for name, spec in specs.items()}
    inputs = {"tiles": tiles.content_hash, **{name: card.name for name, card in cards.items()}}
    out = claim_output(config, command="benchmark", inputs=inputs)
    failures = [sentence for spec in specs.values() for sentence in _embed(config, spec)]
    if failures:
        return Outcome(out, "no encoder was judged: some tiles could not be embedded", tuple(failures))

    def reader(key: str) -> Any:
        return lambda: open_tiles(config.tiles).embeddings(key)

    total = len(specs) * len(config.judge.tests)
    with progress_bar("benchmark", total=total, unit="tests") as bar:
        results, differences = judge(
            task, {name: reader(card.name) for name, card in cards.items()}, config.judge,
            seed=config.seed, device=device, advance=bar.advance,
        )  # fmt: skip
    encoders = [{"name": name, "spec": specs[name], "card": cards[name].to_json(), **results[name]} for name in specs]
    benchmark = {**describe(task, config), "encoders": encoders, "differences": differences}
    benchmark["notes"] = notes(task, encoders)
    write_atomic(out / JSON_NAME, json.dumps(benchmark, indent=1))
    write_atomic(out / TABLE_NAME, markdown(benchmark))
    finish_output(out, benchmark=JSON_NAME, table=TABLE_NAME)
    return Outcome(out, terminal_text(benchmark), results=benchmark)


def load_task(tiles: TileSet, config: BenchmarkConfig) -> Task:
    """Return the task that the columns of ``tiles`` pose.

    Raises:
        StoreError: a store has no column of labels, or it is not categorical.
        ConfigError: the tiles cannot be split as asked.
    """
    if not tiles.has_column(config.label):
        lacking = next(s for s in tiles.stores if not (s.path / "columns" / config.label).exists())
        raise StoreError(f"store '{lacking.path}' has no column '{config.label}'; give labelled tiles or --set label=…")
    names = tiles.categories(config.label)
    if not names:
        raise StoreError(f"column '{config.label}' is not categorical; a benchmark needs names of classes")
    groups, unit = _groups(tiles, config.group)
    has_split = tiles.has_column("split")
    return build_task(
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


def named_specs(encoders: Sequence[str]) -> dict[str, str]:
    """Return name to spec of ``NAME=SPEC`` or ``SPEC``, whose name is then the last part of the spec.

    Raises:
        ConfigError: two encoders have one name.
    """
    specs: dict[str, str] = {}
    for text in encoders:
        name, equals, spec = text.partition("=")
        if not equals or not name or any(sign in name for sign in "/:@"):
            name, spec = Path(text).name, text
        if name in specs:
            raise ConfigError(f"two encoders are called '{name}' ('{specs[name]}' and '{spec}'); write NAME={spec}")
        specs[name] = spec
    return specs


def describe(task: Task, config: BenchmarkConfig) -> dict[str, Any]:
    """Return what was asked, as JSON values."""
    unit, count = task.cluster_count
    return {
        "histogen": histogen.__version__,
        "label": config.label,
        "classes": list(task.classes),
        "split": {"how": task.split.how, "seed": config.seed},
        "num_train": len(task.split.train),
        "num_test": len(task.split.test),
        "clusters": {"unit": unit, "count": count},
        "settings": config.judge.model_dump(mode="json"),
    }


def notes(task: Task, encoders: Sequence[dict[str, Any]]) -> list[str]:
    """Return everything a reader of the figures must know besides."""
    found = caveats(task)
    for encoder in encoders:
        if not encoder.get("linear", {"converged": True})["converged"]:
            found.append(f"The linear probe of {encoder['name']} did not converge; its figures are a lower bound.")
        supervision = encoder["card"]["supervision"]
        if supervision and not supervision.startswith("none"):
            found.append(f"{encoder['name']} was made with labels: {supervision}.")
    return found


def markdown(benchmark: dict[str, Any]) -> str:
    """Return the results as Markdown: the scores, the differences, the notes."""
    unit, count = benchmark["clusters"]["unit"], benchmark["clusters"]["count"]
    parts = [
        "# Benchmark",
        f"{benchmark['num_train']:,} training and {benchmark['num_test']:,} test tiles, {len(benchmark['classes'])} "
        f"classes; split {benchmark['split']['how']}; 95 % bootstrap intervals over {count:,} test {unit}s.",
        _markdown_table(*score_table(benchmark)),
    ]
    if benchmark["differences"]:
        parts.append(_markdown_table(*difference_table(benchmark["differences"])))
    parts += benchmark["notes"]
    return "\n\n".join(parts) + "\n"


def terminal_text(benchmark: dict[str, Any]) -> str:
    """Return the results as an aligned table and a sentence for each difference in balanced accuracy."""
    header, rows = score_table(benchmark)
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in [header, *rows]]
    sentences = [difference_sentence(d) for d in benchmark["differences"] if d["metric"].endswith("balanced_accuracy")]
    return "\n".join([*(line.rstrip() for line in lines), *sentences, *benchmark["notes"]])


def _embed(config: BenchmarkConfig, spec: str) -> tuple[str, ...]:
    return embed.run(
        embed.EmbedConfig(
            tiles=config.tiles,
            encoder=spec,
            batch=config.embed_batch,
            seed=config.seed,
            device=config.device,
            workers=config.workers,
            scheduler=config.scheduler,
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


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
