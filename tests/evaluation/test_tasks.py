"""What a task takes from the columns of tiles, and what it admits about itself."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from histogen.errors import ConfigError
from histogen.evaluation.judge import judge
from histogen.evaluation.settings import JudgeSettings
from histogen.evaluation.tasks import build_task, caveats
from histogen.evaluation.vectors import few_threads

LABELS = np.array([3, 3, 0, 0, -1, 3, 0, 3, 0, 0, 3, 0])
NAMES = ("b", "unused", "x", "d")
SLIDES = np.repeat([0, 1, 2, 3], 3)


def test_classes_are_those_that_occur_and_slides_are_the_clusters() -> None:
    task = build_task(LABELS, NAMES, groups=SLIDES, split_codes=None, test_share=0.5, seed=0)
    assert task.classes == ("b", "d")
    assert task.labels.tolist() == [1, 1, 0, 0, -1, 1, 0, 1, 0, 0, 1, 0]
    assert 4 not in [*task.split.train, *task.split.test]
    assert task.cluster_count == ("slide", 2)
    np.testing.assert_array_equal(task.clusters, SLIDES[task.split.test])
    assert [note[:40] for note in caveats(task)] == [
        "The test has 2 slides only: intervals ov", "With 2 test slides p cannot fall below 0",
        "1 tiles without a label were left out."[:40],
    ]  # fmt: skip


def test_a_column_comes_before_slides_and_one_test_slide_is_no_cluster() -> None:
    codes = np.where(SLIDES == 3, 1, 0)
    task = build_task(LABELS, NAMES, groups=SLIDES, split_codes=codes, split_names=("train", "test"), seed=0)
    assert task.split.test.tolist() == [9, 10, 11]
    assert task.clusters is None
    assert task.cluster_count == ("tile", 3)
    by_slide = build_task(
        LABELS, NAMES, groups=SLIDES, split_codes=codes, split_names=("train", "test"), how="slide", seed=0
    )
    assert by_slide.split.how.startswith("by slide")


def test_tiles_of_no_group_are_groups_of_their_own() -> None:
    groups = np.where(SLIDES < 2, -1, SLIDES)
    task = build_task(LABELS, NAMES, groups=groups, unit="group", split_codes=None, test_share=0.5, seed=1)
    assert task.groups is not None
    assert len(set(task.groups.tolist())) == 6 + 2
    assert task.cluster_count[0] == "group"


def test_what_is_no_task() -> None:
    with pytest.raises(ConfigError, match="labels of 1 classes"):
        build_task(np.zeros(4, int), ("a",), groups=None, split_codes=None, seed=0)
    with pytest.raises(ConfigError, match="no column 'split'"):
        build_task(LABELS, NAMES, groups=None, split_codes=None, how="column", seed=0)


def test_a_class_that_is_never_taught_is_said() -> None:
    codes = np.where(LABELS == 0, 1, 0)
    codes[0] = 1
    task = build_task(LABELS, NAMES, groups=None, split_codes=codes, split_names=("train", "test"), seed=0)
    assert "No training tile has class b: its test tiles count as errors." in caveats(task)


def test_judge_gives_every_pair_and_few_shot_figures() -> None:
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1, 2], 60)
    codes = (np.arange(180) % 4 == 0).astype(int)
    task = build_task(labels, ("a", "b", "c"), groups=None, split_codes=codes, split_names=("train", "test"), seed=0)
    good = rng.normal(size=(180, 8)) + 3 * np.eye(8)[labels]
    noise = rng.normal(size=(180, 8))
    settings = JudgeSettings(tests=("knn",), few_shot={"shots": (2, 8), "episodes": 20}, draws=100)
    found = judge(
        task, {"noise": lambda: noise, "good": lambda: good, "same": lambda: good}, settings, seed=0, device="cpu"
    )
    results, differences = found.results, found.differences
    assert found.groups == []
    assert results["good"]["knn"]["balanced_accuracy"] > 0.9
    assert results["noise"]["knn"]["balanced_accuracy"] < 0.6
    assert results["good"]["few_shot"]["8"]["mean"] > results["good"]["few_shot"]["2"]["mean"] > 0.6
    pairs = {(d["a"], d["b"]): d for d in differences if d["metric"] == "knn.balanced_accuracy"}
    assert pairs["good", "noise"]["verdict"] == "better"
    assert pairs["same", "good"]["delta"] == 0.0
    assert pairs["same", "good"]["verdict"] == "no difference shown"
    assert set(pairs) == {("good", "noise"), ("same", "noise"), ("same", "good")}


def test_runs_of_one_recipe_are_averaged_and_recipes_compared() -> None:
    rng = np.random.default_rng(0)
    labels = np.tile([0, 1, 2], 100)
    codes = np.where(rng.random(300) < 0.4, 1, 0)
    task = build_task(labels, ("a", "b", "c"), groups=None, split_codes=codes, split_names=("train", "test"), seed=0)
    embeddings = {
        f"{name}#{run}": (
            lambda s=strength, r=run: np.random.default_rng(r).normal(size=(300, 8)) + s * np.eye(8)[labels]
        )
        for name, strength in (("DINO", 1.0), ("Gen-DINO", 3.0))
        for run in range(3)
    }
    found = judge(task, embeddings, JudgeSettings(tests=("knn",), draws=100), seed=0, device="cpu")
    dino, gen_dino = found.groups
    singles = [found.results[f"DINO#{run}"]["knn"]["balanced_accuracy"] for run in range(3)]
    assert dino["runs"] == ["DINO#0", "DINO#1", "DINO#2"]
    assert dino["knn"]["balanced_accuracy"] == pytest.approx(np.mean(singles))
    assert dino["knn"]["balanced_accuracy_sd"] == pytest.approx(np.std(singles, ddof=1))
    (difference,) = (d for d in found.differences if d["metric"] == "knn.balanced_accuracy")
    assert (difference["a"], difference["b"], difference["runs_a"]) == ("Gen-DINO", "DINO", 3)
    assert difference["delta"] == pytest.approx(gen_dino["knn"]["balanced_accuracy"] - np.mean(singles))
    assert difference["verdict"] == "better"


def test_small_problems_use_one_thread_and_give_the_others_back() -> None:
    before = torch.get_num_threads()
    with few_threads(torch.zeros(10, 10)):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("clusters", "shown"), [(4, False), (5, False), (6, True)])
def test_a_test_of_too_few_slides_to_show_anything_says_so(clusters: int, shown: bool) -> None:
    """Oracle: every exchange of whole slides, counted one by one, on the clearest difference there can be."""
    groups = np.repeat(np.arange(2 * clusters), 2)
    labels = np.tile([0, 1], 2 * clusters)
    task = build_task(labels, ["a", "b"], groups=groups, split_codes=None, test_share=0.5, seed=0)
    assert task.cluster_count == ("slide", clusters)
    told = any("p cannot fall below" in note for note in caveats(task))
    outcomes = [sum(1 if swap else -1 for swap in swaps) for swaps in product([False, True], repeat=clusters)]
    least = sum(abs(outcome) == clusters for outcome in outcomes) / len(outcomes)
    assert told == (least > 0.05) == (not shown)
    if told:
        assert any(f"below {least:.3g}" in note and "at least 6 test slides" in note for note in caveats(task))
