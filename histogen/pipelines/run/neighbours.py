"""What each encoder thinks is alike: tiles of held-out slides and their nearest training tiles, as one can see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histogen.evaluation.tasks import Task
from histogen.evaluation.vectors import as_matrix, unit_rows
from histogen.report.stages import Neighbours, QueryRow
from histogen.seeds import numpy_rng
from histogen.store.tile_set import TileSet

NUM_NEIGHBOURS = 5
QUERIES_PER_CHUNK = 2048


def find_neighbours(tiles: TileSet, task: Task, encoders: Mapping[str, str], *, seed: int) -> Neighbours:
    """Return one query per class with its neighbours, and how often neighbours have the query's class over all.

    Args:
        tiles: with labels; task: who trains and who tests among them.
        encoders: shown name to the name of the embeddings, in the order of the page.
        seed: draws the queries among the test tiles of each class.
    """
    rng = numpy_rng(seed, "report", "neighbours")
    test, labels = task.split.test, task.test_labels
    chosen = [int(rng.choice(np.flatnonzero(labels == code))) for code in np.unique(labels)]
    shares: dict[str, float] = {}
    found: dict[str, NDArray[np.int64]] = {}
    for shown, name in encoders.items():
        nearest = nearest_training_tiles(tiles.embeddings(name), task)
        alike = task.labels[nearest] == labels[:, None]
        shares[shown] = float(np.mean([alike[labels == code].mean() for code in np.unique(labels)]))
        found[shown] = nearest[chosen]
    rows = [
        QueryRow(
            query=tiles.read_tiles(test[[at]])[0],
            label=task.classes[labels[at]],
            neighbours={shown: list(tiles.read_tiles(nearest[row])) for shown, nearest in found.items()},
            labels={shown: [task.classes[c] for c in task.labels[nearest[row]]] for shown, nearest in found.items()},
        )
        for row, at in enumerate(chosen)
    ]
    return Neighbours(rows, shares, NUM_NEIGHBOURS)


def nearest_training_tiles(embeddings: NDArray[np.floating], task: Task) -> NDArray[np.int64]:
    """Return the indices [m, NUM_NEIGHBOURS] of the training tiles nearest by cosine to each test tile, nearest first.

    Of equally near ones the earlier comes first.
    """
    gallery = unit_rows(as_matrix(embeddings[task.split.train], what="training", device="cpu"))
    queries = unit_rows(as_matrix(embeddings[task.split.test], what="query", device="cpu"))
    order = []
    for chunk in queries.split(QUERIES_PER_CHUNK):
        similarities = (chunk @ gallery.T).numpy()
        order.append(np.argsort(-similarities, axis=1, kind="stable")[:, :NUM_NEIGHBOURS])
    return np.asarray(task.split.train[np.concatenate(order)], dtype=np.int64)


def judged_encoders(benchmark: Mapping[str, Any]) -> dict[str, str]:
    """Return shown name to the name of the embeddings, of every encoder in a benchmark."""
    return {encoder["name"]: encoder["card"]["name"] for encoder in benchmark["encoders"]}
