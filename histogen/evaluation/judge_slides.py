"""Encoders judged by whole slides: one label per slide, ABMIL over its embeddings, cross-validated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histogen.errors import ConfigError
from histogen.evaluation.bootstrap import FEW_CLUSTERS
from histogen.evaluation.memorisation import area_under_curve
from histogen.evaluation.mil import cross_validate
from histogen.evaluation.settings import MilSettings
from histogen.evaluation.splits import Split
from histogen.evaluation.tasks import Task
from histogen.evaluation.verdicts import Judgement, conclude, scores

Bags = Sequence[NDArray[np.floating]]


@dataclass(frozen=True)
class SlideTask:
    """Slides with their class as a code of ``classes`` [S]; ``rows`` are the tiles of each."""

    slides: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    rows: tuple[NDArray[np.int64], ...]

    @property
    def task(self) -> Task:
        """The task in which every slide is tested once."""
        everything = np.arange(len(self.slides))
        how = "every slide is tested once, by a model that did not see it (cross-validation)"
        return Task(self.labels, self.classes, None, "slide", Split(everything, everything, how))


def build_slide_task(
    store_of: NDArray[np.integer], store_ids: Sequence[str], label_of: Mapping[str, str]
) -> tuple[SlideTask, list[str]]:
    """Return the task of telling slides' classes, and a sentence for everything that was left out.

    Args:
        store_of: [N] position in ``store_ids`` of each tile; label_of: class by slide id.

    Raises:
        ConfigError: fewer than two classes remain.
    """
    members = [np.flatnonzero(store_of == position) for position in range(len(store_ids))]
    used = [p for p, name in enumerate(store_ids) if name in label_of and len(members[p])]
    classes = tuple(sorted({label_of[store_ids[p]] for p in used}))
    if len(classes) < 2:
        raise ConfigError(f"{len(used)} of {len(store_ids)} slides have a label, of {len(classes)} classes; check ids")
    labels = np.array([classes.index(label_of[store_ids[p]]) for p in used], dtype=np.int64)
    notes = []
    if unlabelled := len(store_ids) - len(used):
        notes.append(f"{unlabelled} slides without a label (or without tiles) were left out.")
    if absent := len(set(label_of) - set(store_ids)):
        notes.append(f"{absent} labelled slides are not among the tiles given.")
    if len(used) < FEW_CLUSTERS:
        notes.append(f"There are {len(used)} slides only: intervals over so few are too narrow; read them as a hint.")
    return SlideTask(tuple(store_ids[p] for p in used), labels, classes, tuple(members[p] for p in used)), notes


def judge_slides(
    slides: SlideTask,
    embeddings: Mapping[str, Callable[[], NDArray[np.floating]]],
    settings: MilSettings,
    *,
    draws: int,
    seed: int,
    device: str,
    advance: Callable[[], None] = lambda: None,
) -> Judgement:
    """Return each encoder's results (under ``mil``) and the differences of every pair, like :func:`.judge.judge`."""
    task = slides.task
    results: dict[str, dict[str, Any]] = {}
    predictions: dict[str, dict[str, NDArray[np.int64]]] = {}
    attention: dict[str, tuple[NDArray[np.float32], ...]] = {}
    for name, read in embeddings.items():
        matrix = read()
        probabilities, attention[name] = cross_validate(
            [matrix[rows] for rows in slides.rows], slides.labels,
            classes=slides.classes, settings=settings, seed=seed, device=device,
        )  # fmt: skip
        predicted = probabilities.argmax(axis=1).astype(np.int64)
        found = scores(task, predicted, draws=draws, seed=seed)
        results[name] = {"mil": {**found, "auc": macro_auc(probabilities, slides.labels), "protocol": "abmil-cv"}}
        predictions[name] = {"mil": predicted}
        advance()
    return replace(conclude(task, results, predictions, draws=draws, seed=seed), attention=attention)


def macro_auc(probabilities: NDArray[np.floating], labels: NDArray[np.integer]) -> float:
    """Return the mean over classes of the area under the curve of one class against the rest."""
    areas = [
        area_under_curve(probabilities[labels == code, code], probabilities[labels != code, code])
        for code in np.unique(labels)
    ]
    return float(np.mean(areas))
