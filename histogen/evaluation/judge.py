"""Every test of an encoder on one task, and every pair of encoders against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations, product
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from histogen.config import Settings
from histogen.evaluation.bootstrap import Difference, bootstrap_interval, paired_difference
from histogen.evaluation.knn import knn_predict
from histogen.evaluation.linear import PENALTIES, linear_probe
from histogen.evaluation.means import mean_difference, mean_interval
from histogen.evaluation.metrics import METRICS
from histogen.evaluation.retrieval import average_precisions
from histogen.evaluation.simpleshot import few_shot_episodes, simpleshot_predict
from histogen.evaluation.tasks import Task

TestName = Literal["knn", "linear", "simpleshot"]
Predictions = NDArray[np.int64]
Embeddings = NDArray[np.floating]


class KnnSettings(Settings):
    """DINO's protocol."""

    k: int = Field(default=20, ge=1)
    temperature: float = Field(default=0.07, gt=0)


class LinearSettings(Settings):
    """Penalties to choose from; with a single one nothing is chosen."""

    penalties: tuple[float, ...] = Field(default=PENALTIES, min_length=1)


class FewShotSettings(Settings):
    """SimpleShot from a few training tiles per class; no shots, no episodes."""

    shots: tuple[int, ...] = ()
    episodes: int = Field(default=1000, ge=2)


class JudgeSettings(Settings):
    """Which tests, and how they resample."""

    tests: tuple[TestName, ...] = Field(default=("knn", "linear", "simpleshot"), min_length=1)
    knn: KnnSettings = KnnSettings()
    linear: LinearSettings = LinearSettings()
    few_shot: FewShotSettings = FewShotSettings()
    retrieval: bool = False
    """Also the mean average precision of training tiles of the same class; it sorts all of them per test tile."""
    draws: int = Field(default=1000, ge=100)
    """Bootstrap draws and permutations."""


def predict(
    test: TestName, task: Task, embeddings: Embeddings, settings: JudgeSettings, *, seed: int, device: str
) -> tuple[Predictions, dict[str, Any]]:
    """Return the predicted class of each test tile [m], and what the test says of itself."""
    train, queries = embeddings[task.split.train], embeddings[task.split.test]
    num_classes = len(task.classes)
    if test == "knn":
        knn = settings.knn
        return knn_predict(
            train, task.train_labels, queries,
            num_classes=num_classes, k=knn.k, temperature=knn.temperature, device=device,
        ), {"k": knn.k, "temperature": knn.temperature}  # fmt: skip
    if test == "simpleshot":
        return simpleshot_predict(train, task.train_labels, queries, num_classes=num_classes, device=device), {}
    probe = linear_probe(
        train, task.train_labels, task.train_groups,
        num_classes=num_classes, seed=seed, penalties=settings.linear.penalties, device=device,
    )  # fmt: skip
    about = {"protocol": "logistic-lbfgs", "penalty": probe.penalty, "iterations": probe.iterations}
    return probe.predict(queries), {**about, "converged": probe.converged}


def scores(task: Task, predicted: Predictions, *, draws: int, seed: int) -> dict[str, Any]:
    """Return every metric with its interval: ``ci95`` is that of the balanced accuracy."""
    result: dict[str, Any] = {}
    for name, metric in METRICS.items():
        found = bootstrap_interval(
            task.test_labels, predicted,
            metric=metric, num_classes=len(task.classes), clusters=task.clusters, draws=draws, seed=seed,
        )  # fmt: skip
        result[name] = found.value
        result["ci95" if name == "balanced_accuracy" else f"{name}_ci95"] = [found.low, found.high]
    return result


def few_shot_scores(
    task: Task, embeddings: Embeddings, settings: FewShotSettings, *, seed: int, device: str
) -> dict[str, Any]:
    """Return mean and standard deviation over episodes of the balanced accuracy, per number of shots."""
    result: dict[str, Any] = {}
    for shots in settings.shots:
        values = few_shot_episodes(
            embeddings[task.split.train], task.train_labels, embeddings[task.split.test], task.test_labels,
            num_classes=len(task.classes), shots=shots, episodes=settings.episodes, seed=seed, device=device,
        )  # fmt: skip
        result[str(shots)] = {"mean": float(values.mean()), "std": float(values.std(ddof=1))}
    return result


def judge(
    task: Task,
    embeddings: Mapping[str, Callable[[], Embeddings]],
    settings: JudgeSettings,
    *,
    seed: int,
    device: str,
    advance: Callable[[], None] = lambda: None,
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """Return the results of each encoder, and the differences of every pair (a later one minus an earlier one).

    ``embeddings`` maps an encoder's name to a function that reads its embeddings [N, D]; one encoder's are held
    at a time. ``advance`` is called after every test.
    """
    results: dict[str, dict[str, Any]] = {}
    predictions: dict[str, dict[str, Predictions]] = {}
    precisions: dict[str, NDArray[np.float64]] = {}
    for name, read in embeddings.items():
        matrix = read()
        results[name], predictions[name] = {}, {}
        for test in settings.tests:
            predicted, about = predict(test, task, matrix, settings, seed=seed, device=device)
            results[name][test] = {**scores(task, predicted, draws=settings.draws, seed=seed), **about}
            predictions[name][test] = predicted
            advance()
        if settings.few_shot.shots:
            results[name]["few_shot"] = few_shot_scores(task, matrix, settings.few_shot, seed=seed, device=device)
        if settings.retrieval:
            precisions[name] = _average_precisions(task, matrix, device)
            found = mean_interval(
                precisions[name], task.test_labels, clusters=task.clusters, draws=settings.draws, seed=seed
            )
            results[name]["retrieval"] = {"map": found.value, "ci95": [found.low, found.high]}
    pairs = differences(task, predictions, draws=settings.draws, seed=seed)
    return results, pairs + _retrieval_differences(task, precisions, settings, seed=seed)


def differences(
    task: Task, predictions: Mapping[str, Mapping[str, Predictions]], *, draws: int, seed: int
) -> list[dict[str, Any]]:
    """Return the paired differences of every pair of encoders in every test that ``predictions`` holds."""
    found = []
    for earlier, later in combinations(predictions, 2):
        for test, metric in product(predictions[later], ("balanced_accuracy", "macro_f1")):
            difference = paired_difference(
                task.test_labels, predictions[later][test], predictions[earlier][test],
                metric=METRICS[metric], num_classes=len(task.classes), clusters=task.clusters, draws=draws, seed=seed,
            )  # fmt: skip
            found.append(_as_json(later, earlier, f"{test}.{metric}", difference))
    return found


def _average_precisions(task: Task, embeddings: Embeddings, device: str) -> NDArray[np.float64]:
    return average_precisions(
        embeddings[task.split.train], task.train_labels, embeddings[task.split.test], task.test_labels,
        num_classes=len(task.classes), device=device,
    )  # fmt: skip


def _retrieval_differences(
    task: Task, precisions: Mapping[str, NDArray[np.float64]], settings: JudgeSettings, *, seed: int
) -> list[dict[str, Any]]:
    found = []
    for earlier, later in combinations(precisions, 2):
        difference = mean_difference(
            precisions[later], precisions[earlier], task.test_labels,
            clusters=task.clusters, draws=settings.draws, seed=seed,
        )  # fmt: skip
        found.append(_as_json(later, earlier, "retrieval.map", difference))
    return found


def _as_json(a: str, b: str, metric: str, difference: Difference) -> dict[str, Any]:
    return {
        "a": a,
        "b": b,
        "metric": metric,
        "delta": difference.delta,
        "ci95": [difference.low, difference.high],
        "p": difference.p,
        "verdict": difference.verdict,
    }
