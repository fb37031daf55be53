"""Every test of an encoder on one task, and every pair of encoders against each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histogen.evaluation.knn import knn_votes
from histogen.evaluation.linear import linear_probe
from histogen.evaluation.means import mean_difference, mean_interval
from histogen.evaluation.retrieval import average_precisions
from histogen.evaluation.settings import FewShotSettings, JudgeSettings, TestName
from histogen.evaluation.simpleshot import few_shot_episodes, simpleshot_predict
from histogen.evaluation.tasks import Task
from histogen.evaluation.verdicts import Judgement, conclude, difference_json, scores

Predictions = NDArray[np.int64]
Embeddings = NDArray[np.floating]


def predict(
    test: TestName, task: Task, embeddings: Embeddings, settings: JudgeSettings, *, seed: int, device: str,
    shifted: Sequence[Embeddings] = (),
) -> tuple[list[Predictions], dict[str, Any]]:  # fmt: skip
    """Return the predicted classes of the test tiles [m], as they are and by each of their ``shifted`` embeddings
    [m, D], and what the test says of itself."""
    train = embeddings[task.split.train]
    queries = np.concatenate([embeddings[task.split.test], *shifted])
    num_classes = len(task.classes)

    def apart(predicted: Predictions) -> list[Predictions]:
        return np.split(predicted, 1 + len(shifted))

    if test == "knn":
        knn = settings.knn
        votes = knn_votes(
            train, task.train_labels, queries,
            num_classes=num_classes, k=knn.k, temperature=knn.temperature, protocol=knn.protocol, device=device,
        )  # fmt: skip
        return apart(votes.argmax(axis=1)), {"protocol": knn.protocol, "k": knn.k}
    if test == "simpleshot":
        return apart(simpleshot_predict(train, task.train_labels, queries, num_classes=num_classes, device=device)), {}
    probe = linear_probe(
        train, task.train_labels, task.train_groups,
        num_classes=num_classes, seed=seed, penalties=settings.linear.penalties, protocol=settings.linear.protocol,
        device=device,
    )  # fmt: skip
    about = {"protocol": settings.linear.protocol, "penalty": probe.penalty, "iterations": probe.iterations}
    return apart(probe.predict(queries)), {**about, "converged": probe.converged}


def few_shot_scores(
    task: Task, embeddings: Embeddings, settings: FewShotSettings, *, seed: int, device: str
) -> dict[str, Any]:
    """Return mean and standard deviation over episodes of the balanced accuracy, per number of shots."""
    result: dict[str, Any] = {}
    for shots in settings.shots:
        values = few_shot_episodes(
            embeddings[task.split.train], task.train_labels, embeddings[task.split.test], task.test_labels,
            classes=task.classes, shots=shots, episodes=settings.episodes, seed=seed, device=device,
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
    shifted: Mapping[str, Mapping[str, Callable[[], Embeddings]]] | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Judgement:
    """Return the results of each encoder, and the differences of every pair (a later one minus an earlier one).

    Encoders called ``NAME#1``, ``NAME#2`` … are runs of one recipe: they are also averaged, and recipes are compared
    in place of single runs.

    ``embeddings`` maps an encoder's name to a function that reads its embeddings [N, D]; one encoder's are held
    at a time. ``shifted`` maps it to functions that give those of the test tiles [m, D] under a change, by the
    change's name: what was learnt on training tiles as they are is asked of these too, as the test ``TEST@CHANGE``.
    ``advance`` is called after every test.
    """
    results: dict[str, dict[str, Any]] = {}
    predictions: dict[str, dict[str, Predictions]] = {}
    precisions: dict[str, NDArray[np.float64]] = {}
    for name, read in embeddings.items():
        matrix = read()
        changed = {change: give() for change, give in (shifted or {}).get(name, {}).items()}
        results[name], predictions[name] = {}, {}
        for test in settings.tests:
            predicted, about = predict(
                test, task, matrix, settings, seed=seed, device=device, shifted=list(changed.values())
            )
            for key, one in zip((test, *(f"{test}@{change}" for change in changed)), predicted, strict=True):
                results[name][key] = {**scores(task, one, draws=settings.draws, seed=seed), **about}
                predictions[name][key] = one
            advance()
        if settings.few_shot.shots:
            results[name]["few_shot"] = few_shot_scores(task, matrix, settings.few_shot, seed=seed, device=device)
        if settings.retrieval:
            precisions[name] = _average_precisions(task, matrix, device)
            found = mean_interval(
                precisions[name], task.test_labels, clusters=task.clusters, draws=settings.draws, seed=seed
            )
            results[name]["retrieval"] = {"map": found.value, "ci95": [found.low, found.high]}
    judgement = conclude(task, results, predictions, draws=settings.draws, seed=seed)
    judgement.differences.extend(_retrieval_differences(task, precisions, settings, seed=seed))
    return judgement


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
        found.append(difference_json(later, earlier, "retrieval.map", difference))
    return found
