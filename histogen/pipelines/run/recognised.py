"""Do generative tiles show what their sources show? A probe that learnt classes from real tiles names those of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from histogen.encoders.registry import load_encoder
from histogen.evaluation.bootstrap import Resampling, bootstrap_interval
from histogen.evaluation.linear import linear_probe
from histogen.evaluation.metrics import METRICS
from histogen.evaluation.tasks import Task
from histogen.pipelines.embed.command import embed_images
from histogen.ssl.sources import MISSING, link_synthetic
from histogen.store.tile_set import TileSet

DRAWS = 1000


def recognise(
    tiles: TileSet, task: Task, generative: TileSet, *, encoder: Path, rows: str, seed: int
) -> dict[str, Any]:
    """Return the balanced accuracy of the probe on real test tiles and on generative tiles of the same, as JSON values.

    The probe is a linear one on the embeddings ``rows`` of real training tiles; ``encoder`` embeds the generative ones.
    Intervals resample whole test slides where there are several.
    """
    embeddings = tiles.embeddings(rows)
    probe = linear_probe(
        embeddings[task.split.train], task.train_labels, task.train_groups, num_classes=len(task.classes), seed=seed
    )
    chosen = link_synthetic(tiles, generative, what="generative", allow_missing=True).of(task.split.test, 0)
    there = np.flatnonzero(chosen != MISSING)
    sources = task.split.test[there]
    made = embed_images(load_encoder(str(encoder)), generative.read_tiles(chosen[there]))
    clusters = None if task.clusters is None else task.clusters[there]
    how = Resampling(METRICS["balanced_accuracy"], len(task.classes), seed, clusters=clusters, draws=DRAWS)
    result: dict[str, Any] = {"num_tiles": len(there), "chance": 1 / len(np.unique(task.labels[sources]))}
    for name, values in (("real", embeddings[sources]), ("generative", made)):
        found = bootstrap_interval(task.labels[sources], probe.predict(values), how)
        result[name] = {"balanced_accuracy": found.value, "ci95": [found.low, found.high]}
    return result
