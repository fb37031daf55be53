"""The watch: its measures on cases with known answers, and when it speaks."""

from __future__ import annotations

import math

import pytest
import torch

from histogen.ssl.monitor import (
    CollapseWatch,
    information,
    likely_causes,
    neighbour_consistency,
    online_knn,
    rank_me,
)
from histogen.ssl.settings import LossSettings, SslSettings


def test_rank_me_counts_directions() -> None:
    basis = torch.eye(8)
    assert rank_me(basis) == pytest.approx(8.0, rel=1e-3)
    assert rank_me(basis[:3].repeat(5, 1)) == pytest.approx(3.0, rel=1e-2)
    assert rank_me(torch.ones(10, 8)) == pytest.approx(1.0, rel=1e-2)


def test_information_is_zero_when_all_tiles_are_alike() -> None:
    for targets in (torch.full((6, 32), 1 / 32), torch.eye(32)[:1].repeat(6, 1)):
        _, apart = information(targets)
        assert float(apart) == pytest.approx(0.0, abs=1e-5)
    marginal, apart = information(torch.eye(32))
    assert float(marginal) == pytest.approx(math.log(32), rel=1e-5)
    assert float(apart) == pytest.approx(math.log(32), rel=1e-5)


def test_neighbour_consistency_is_the_share_of_views_that_find_each_other() -> None:
    a = torch.eye(5)
    assert neighbour_consistency(a, 3 * a) == 1.0
    assert neighbour_consistency(a, a.roll(1, 0)) == 0.0


def test_online_knn_equals_scikit_learn_with_the_tile_itself_left_out() -> None:
    from sklearn.neighbors import KNeighborsClassifier

    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(40, 6, generator=generator), torch.randn(40, 6, generator=generator)
    labels = torch.arange(40) % 3
    expected = []
    for i in range(40):
        others = [j for j in range(40) if j != i]
        knn = KNeighborsClassifier(1, metric="cosine").fit(second[others].numpy(), labels[others].numpy())
        expected.append(knn.predict(first[i : i + 1].numpy())[0] == labels[i].item())
    assert online_knn(first, second, labels) == pytest.approx(sum(expected) / 40)
    unknown = torch.where(torch.arange(40) < 10, -1, labels)
    assert online_knn(first, second, unknown) == online_knn(first[10:], second[10:], labels[10:])
    assert math.isnan(online_knn(first, second, torch.full((40,), -1)))


def watched(values: list[tuple[float, float, float]], every: int = 2) -> list[str]:
    watch = CollapseWatch(4096, every=every)
    keys = ("loss_dino", "information", "marginal_entropy")
    return [watch.add(dict(zip(keys, v, strict=True)), step=step) for step, v in enumerate(values)]


def test_the_watch_says_ln_k_for_the_uniform_output_once() -> None:
    said = watched([(8.318, 0.0, 8.317)] * 12)
    assert [bool(s) for s in said] == [False] * 5 + [True] + [False] * 6
    assert said[5].startswith("collapse at step 6: every tile gets the uniform target (loss 8.318, ln K = 8.318)")


def test_the_watch_names_the_one_prototype() -> None:
    assert (
        "nearly every tile gets the same sharp target (loss 0.001, 1.0 prototypes)"
        in watched([(0.001, 0.0, 0.001)] * 6)[-1]
    )


@pytest.mark.parametrize(
    ("changes", "uniform", "sharp"),
    [
        (
            {},
            "the learning rate, 0.001 at its peak, or K = 65,536 for such a batch",
            "the learning rate, 0.001 at its peak",
        ),
        ({"centre": False}, "the learning rate", "loss.centre is off"),
        ({"teacher_temp": 0.2}, "loss.teacher_temp 0.2 is not under loss.student_temp 0.1", "the learning rate"),
    ],
)
def test_the_watch_names_the_likely_cause(changes: dict, uniform: str, sharp: str) -> None:
    causes = likely_causes(SslSettings(loss=LossSettings(**changes)))
    watch, other = CollapseWatch(65536, causes, every=1), CollapseWatch(65536, causes, every=1)
    for step in range(3):
        said = watch.add({"loss_dino": 11.09, "information": 0.0, "marginal_entropy": 11.09}, step=step)
        also = other.add({"loss_dino": 0.01, "information": 0.0, "marginal_entropy": 0.01}, step=step)
    assert f"(loss 11.090, ln K = 11.090), 0.0000 nats tell tiles apart; likely cause: {uniform}" in said
    assert f"(loss 0.010, 1.0 prototypes), 0.0000 nats tell tiles apart; likely cause: {sharp}" in also


def test_the_watch_is_silent_while_tiles_are_told_apart_or_come_back() -> None:
    assert not any(watched([(8.3, 0.3, 8.0)] * 40))
    assert not any(watched(([(0.1, 0.0, 0.1)] * 4 + [(0.5, 0.5, 1.0)] * 2) * 5))


def test_the_watch_names_a_run_that_keeps_less_than_two_prototypes() -> None:
    assert not any(watched([(0.4, 0.2, math.log(2.1))] * 40))
    assert "1.9 prototypes), 0.2000 nats" in watched([(0.4, 0.2, math.log(1.9))] * 6)[-1]


def test_the_watch_resumes_where_it_was() -> None:
    bad = {"loss_dino": 8.3, "information": 0.0, "marginal_entropy": 8.3}
    whole, first = CollapseWatch(4096, every=2), CollapseWatch(4096, every=2)
    for step in range(5):
        whole.add(bad, step=step)
        first.add(bad, step=step)
    second = CollapseWatch(4096, every=2)
    second.load_state_dict(first.state_dict())
    assert second.add(bad, step=5) == whole.add(bad, step=5) != ""
