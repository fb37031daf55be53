"""``predictions.csv``: what every encoder said of each test tile, or of a tile's slide and how much it heeded it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histogen.evaluation.judge_slides import SlideTask
from histogen.evaluation.tasks import Task
from histogen.evaluation.verdicts import Judgement
from histogen.files import write_atomic
from histogen.store.tile_set import TileSet

PREDICTIONS_NAME = "predictions.csv"
ATTENTION = "attention"


def write_predictions(path: Path, tiles: TileSet, task: Task, slides: SlideTask | None, judgement: Judgement) -> None:
    """Write a row for each test tile: its store and row, its label, and a column ``ENCODER.TEST`` for each test.

    Of whole slides: a row for each of their tiles with what was said of its slide, and ``ENCODER.attention``, the
    attention that the model which did not see the slide paid to the tile; 1 is an even share.
    """
    if slides is None:
        indices, labels, columns = task.split.test, task.test_labels, _of_tiles(judgement, task)
    else:
        indices = np.concatenate(slides.rows)
        labels = np.repeat(slides.labels, [len(rows) for rows in slides.rows])
        columns = _of_slides(judgement, slides)
    owners, rows = tiles.store_of(indices).tolist(), tiles.tile_index_of(indices).tolist()
    names = [tiles.stores[owner].store_id for owner in owners]
    said = io.StringIO()
    writer = csv.writer(said, lineterminator="\n")
    writer.writerow(["store", "row", "label", *columns])
    writer.writerows(zip(names, rows, _named(labels, task.classes), *columns.values(), strict=True))
    write_atomic(path, said.getvalue())


def _of_tiles(judgement: Judgement, task: Task) -> Mapping[str, list[str]]:
    return {
        f"{encoder}.{test}": _named(codes, task.classes)
        for encoder, tests in judgement.predictions.items()
        for test, codes in tests.items()
        if "@" not in test  # of tiles that were changed
    }


def _of_slides(judgement: Judgement, slides: SlideTask) -> Mapping[str, list[str]]:
    counts = [len(rows) for rows in slides.rows]
    columns: dict[str, list[str]] = {}
    for encoder, tests in judgement.predictions.items():
        for test, codes in tests.items():
            columns[f"{encoder}.{test}"] = _named(np.repeat(codes, counts), slides.classes)
        columns[f"{encoder}.{ATTENTION}"] = list(_shares(judgement.attention[encoder]))
    return columns


def _named(codes: NDArray[np.integer], classes: tuple[str, ...]) -> list[str]:
    return [classes[code] if code >= 0 else "" for code in codes.tolist()]


def _shares(attention: tuple[NDArray[np.float32], ...]) -> Iterator[str]:
    return (f"{value:.4g}" for one in attention for value in (one * len(one)).tolist())
