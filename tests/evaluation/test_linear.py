"""The linear probe against scikit-learn, and that it chooses its penalty without the test tiles."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from histogen.evaluation.linear import choose_penalty, fit_linear, linear_probe
from histogen.evaluation.settings import PENALTIES


def task(num: int, dim: int, num_classes: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    teacher = np.random.default_rng(7).normal(size=(dim, num_classes))
    x = rng.normal(size=(num, dim)) * np.linspace(0.1, 30, dim) + 5
    logits = ((x - 5) / np.linspace(0.1, 30, dim)) @ teacher + rng.gumbel(size=(num, num_classes))
    return x.astype(np.float32), logits.argmax(axis=1)


@pytest.mark.parametrize("penalty", [1e-1, 1e-3])
def test_weights_equal_scikit_learn(penalty: float) -> None:
    x, y = task(400, 10, 3, 1)
    probe = fit_linear(x, y, num_classes=3, penalty=penalty)
    scaler = StandardScaler().fit(x.astype(np.float64))
    peer = LogisticRegression(C=1 / (penalty * len(x)), tol=1e-10, max_iter=5000)
    peer.fit(scaler.transform(x.astype(np.float64)), y)
    assert probe.converged
    np.testing.assert_allclose(probe.weight.numpy(), peer.coef_, atol=2e-3)
    bias = probe.bias.numpy()  # only differences of biases matter
    np.testing.assert_allclose(bias - bias.mean(), peer.intercept_ - peer.intercept_.mean(), atol=2e-3)
    queries, _ = task(500, 10, 3, 2)
    expected = peer.predict(scaler.transform(queries.astype(np.float64)))
    assert (probe.predict(queries) == expected).mean() > 0.995


def test_unis_protocol_minimises_cross_entropy_and_half_the_norm() -> None:
    """Against a general minimiser in float64 with its own gradient by differences."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(150, 4)).astype(np.float32)
    y = (x @ rng.normal(size=(4, 3)) + rng.gumbel(size=(150, 3))).argmax(axis=1)
    probe = linear_probe(x, y, None, num_classes=3, seed=0, protocol="uni")
    assert probe.penalty == pytest.approx(100 / 12)

    def objective(flat: np.ndarray, penalty: float) -> float:
        weight, bias = flat[:12].reshape(3, 4), flat[12:]
        scores = x.astype(np.float64) @ weight.T + bias
        log_p = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
        return float(-log_p[np.arange(150), y].mean() + penalty / 2 * np.linalg.norm(weight))

    for penalty in (0.05, 0.01):
        probe = fit_linear(x, y, num_classes=3, penalty=penalty, protocol="uni")
        found = objective(np.concatenate([probe.weight.numpy().ravel(), probe.bias.numpy()]).astype(float), penalty)
        best = min(
            minimize(objective, start, args=(penalty,), method="Powell", options={"xtol": 1e-8, "ftol": 1e-12}).fun
            for start in (np.zeros(15), 0.5 * rng.normal(size=15))
        )
        assert probe.converged
        assert found <= best + 1e-5


def test_penalty_is_the_one_that_generalises_within_training() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(120, 200)).astype(np.float32), rng.integers(0, 2, 120)
    assert choose_penalty(x, y, None, num_classes=2, seed=0) == max(PENALTIES)  # nothing to learn: shrink
    clear, labels = task(2000, 6, 3, 5)
    assert choose_penalty(clear, labels, None, num_classes=3, seed=0) < 0.1  # much to learn: do not


def test_a_constant_feature_and_a_start_change_nothing() -> None:
    x, y = task(300, 6, 3, 8)
    wide = np.concatenate([x, np.full((300, 1), 4.0, np.float32)], axis=1)
    near = fit_linear(wide, y, num_classes=3, penalty=1e-2)
    far = fit_linear(wide, y, num_classes=3, penalty=1e-3)
    warm = fit_linear(wide, y, num_classes=3, penalty=1e-3, start=near)
    np.testing.assert_allclose(warm.weight.numpy(), far.weight.numpy(), atol=2e-3)
    np.testing.assert_allclose(far.weight.numpy()[:, -1], 0.0, atol=1e-6)
    assert np.isfinite(far.scores(wide)).all()


def test_the_protocol_holds_out_whole_groups() -> None:
    """Every group carries its own signature that predicts its label: only group-wise hold-out sees through it."""
    rng = np.random.default_rng(11)
    groups = np.repeat(np.arange(30), 20)
    labels = (groups % 2).astype(int)
    signature = 0.05 * rng.normal(size=(30, 25))[groups] * 50
    x = (signature + 0.2 * rng.normal(size=(600, 25))).astype(np.float32)
    by_group = choose_penalty(x, labels, groups, num_classes=2, seed=0)
    by_tile = choose_penalty(x, labels, None, num_classes=2, seed=0)
    assert by_group > by_tile
    assert linear_probe(x, labels, groups, num_classes=2, seed=0).penalty == by_group
