"""From predictions to figures with intervals: single encoders, pairs of them, and recipes run several times."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histogen.evaluation.bootstrap import Difference, Resampling, bootstrap_interval, paired_difference
from histogen.evaluation.metrics import METRICS, Metric
from histogen.evaluation.replicates import difference_of_runs, mean_of_runs
from histogen.evaluation.tasks import Task

Predictions = NDArray[np.int64]
ByEncoder = Mapping[str, Mapping[str, Predictions]]
"""Predictions [m] of every test, by encoder and test."""
COMPARED = ("balanced_accuracy", "macro_f1")


@dataclass(frozen=True)
class Judgement:
    """JSON values: results by encoder, differences of pairs, and means of recipes that were run several times.

    ``predictions`` are what they are of; ``attention`` is, by encoder, what was paid to the tiles [n] of each slide.
    """

    results: dict[str, dict[str, Any]]
    differences: list[dict[str, Any]]
    groups: list[dict[str, Any]]
    predictions: ByEncoder
    attention: Mapping[str, tuple[NDArray[np.float32], ...]] = field(default_factory=dict)


def conclude(
    task: Task, results: dict[str, dict[str, Any]], predictions: ByEncoder, *, draws: int, seed: int
) -> Judgement:
    """Return ``results`` with the differences of every pair; of recipes where some were run several times."""
    groups = recipes(predictions)
    if all(len(runs) == 1 for runs in groups.values()):
        return Judgement(results, differences(task, predictions, draws=draws, seed=seed), [], predictions)
    means = [
        {"name": name, "runs": runs, **_recipe_scores(task, predictions, runs, draws=draws, seed=seed)}
        for name, runs in groups.items()
    ]
    compared = _recipe_differences(task, predictions, groups, draws=draws, seed=seed)
    return Judgement(results, compared, means, predictions)


def recipes(names: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the encoders of each recipe: what stands before ``#`` in their names."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.partition("#")[0], []).append(name)
    return groups


def scores(task: Task, predicted: Predictions, *, draws: int, seed: int) -> dict[str, Any]:
    """Return every metric with its interval: ``ci95`` is that of the balanced accuracy."""
    result: dict[str, Any] = {}
    for name, metric in METRICS.items():
        found = bootstrap_interval(
            task.test_labels, predicted,
            _resampling(task, metric, draws, seed),
        )  # fmt: skip
        result[name] = found.value
        result["ci95" if name == "balanced_accuracy" else f"{name}_ci95"] = [found.low, found.high]
    return result


def differences(task: Task, predictions: ByEncoder, *, draws: int, seed: int) -> list[dict[str, Any]]:
    """Return the paired differences of every pair of encoders in every test that ``predictions`` holds."""
    found = []
    for earlier, later in combinations(predictions, 2):
        for test, metric in product(predictions[later], COMPARED):
            difference = paired_difference(
                task.test_labels, predictions[later][test], predictions[earlier][test],
                _resampling(task, METRICS[metric], draws, seed),
            )  # fmt: skip
            found.append(difference_json(later, earlier, f"{test}.{metric}", difference))
    return found


def _recipe_scores(
    task: Task, predictions: ByEncoder, runs: list[str], *, draws: int, seed: int
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for test in predictions[runs[0]]:
        found[test] = {}
        for name in COMPARED:
            interval, spread = mean_of_runs(
                task.test_labels, [predictions[run][test] for run in runs],
                _resampling(task, METRICS[name], draws, seed),
            )  # fmt: skip
            found[test][name] = interval.value
            found[test]["ci95" if name == "balanced_accuracy" else f"{name}_ci95"] = [interval.low, interval.high]
            found[test][f"{name}_sd"] = spread
    return found


def _recipe_differences(
    task: Task, predictions: ByEncoder, groups: Mapping[str, list[str]], *, draws: int, seed: int
) -> list[dict[str, Any]]:
    found = []
    for earlier, later in combinations(groups, 2):
        for test, metric in product(predictions[groups[later][0]], COMPARED):
            sides = [[predictions[run][test] for run in groups[name]] for name in (later, earlier)]
            difference = difference_of_runs(
                task.test_labels, sides[0], sides[1],
                _resampling(task, METRICS[metric], draws, seed),
            )  # fmt: skip
            runs = {"runs_a": len(sides[0]), "runs_b": len(sides[1])}
            found.append({**difference_json(later, earlier, f"{test}.{metric}", difference), **runs})
    return found


def _resampling(task: Task, metric: Metric, draws: int, seed: int) -> Resampling:
    return Resampling(metric, len(task.classes), seed, clusters=task.clusters, draws=draws)


def difference_json(a: str, b: str, metric: str, difference: Difference) -> dict[str, Any]:
    """Return a difference as JSON values; ``metric`` is ``test.metric``."""
    return {
        "a": a,
        "b": b,
        "metric": metric,
        "delta": difference.delta,
        "ci95": [difference.low, difference.high],
        "p": difference.p,
        "verdict": difference.verdict,
    }
