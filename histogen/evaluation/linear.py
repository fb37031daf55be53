"""Linear probe: multinomial logistic regression on standardised frozen embeddings.

Protocol, called ``logistic-lbfgs`` in results (ours, L-BFGS, no augmentation, no early stop):

1. every feature is shifted and scaled by the mean and standard deviation of the training embeddings;
2. minimise  mean cross-entropy + (penalty / 2) * ||W||^2 ; the bias is not penalised. scikit-learn's ``C`` is
   1 / (penalty * N);
3. the penalty is chosen on a fifth of the *training* tiles held out (whole slides or groups where there are
   several), by their mean cross-entropy over classes weighted equally; then the probe is fitted again on all of
   the training tiles. No test tile is seen before the last step.

Protocol ``uni`` is that of UNI's evaluation code (mahmoodlab/UNI, eval_linear_probe): features as they are, and
mean cross-entropy + (penalty / 2) * ||W||, the norm and not its square, with penalty 100 / (D * K); nothing is chosen.

DINO's own linear evaluation (last four blocks, SGD, augmented crops, best epoch by test accuracy) needs the
images and chooses on the test set; figures of the two protocols must not be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from histogen.evaluation.settings import PENALTIES
from histogen.evaluation.splits import hold_out
from histogen.evaluation.vectors import as_labels, as_matrix, few_threads

MAX_ITERATIONS = 1000
GRADIENT_TOLERANCE = 1e-5
HELD_OUT_SHARE = 0.2

Protocol = Literal["logistic-lbfgs", "uni"]


@dataclass(frozen=True)
class LinearProbe:
    """A fitted probe: scores = ((x - mean) / std) @ weight.T + bias.

    weight [K, D], bias [K], mean [D], std [D], all float32 on one device; ``converged`` is whether the gradient
    reached the tolerance within the iterations allowed.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    std: Tensor
    penalty: float
    iterations: int
    converged: bool

    def scores(self, embeddings: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return the class scores (logits) [M, K] float32 of ``embeddings`` [M, D]."""
        x = (as_matrix(embeddings, what="query", device=str(self.weight.device)) - self.mean) / self.std
        return np.asarray((x @ self.weight.T + self.bias).cpu().numpy(), dtype=np.float32)

    def predict(self, embeddings: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return the class [M] with the highest score."""
        return np.asarray(self.scores(embeddings).argmax(axis=1), dtype=np.int64)


def fit_linear(
    embeddings: NDArray[np.floating],
    labels: NDArray[np.integer],
    *,
    num_classes: int,
    penalty: float,
    protocol: Protocol = "logistic-lbfgs",
    start: LinearProbe | None = None,
    device: str = "cpu",
) -> LinearProbe:
    """Fit the probe at one penalty on ``embeddings`` [N, D] and ``labels`` [N].

    ``start`` gives the first guess (a path of penalties converges faster from its neighbour). A feature that is
    constant in training is left unscaled.
    """
    matrix = as_matrix(embeddings, what="training", device=device)
    target = as_labels(labels, len(matrix), what="training", num_classes=num_classes).to(device)
    options = {"maxiter": MAX_ITERATIONS, "maxfun": 2 * MAX_ITERATIONS, "gtol": GRADIENT_TOLERANCE, "ftol": 1e-10}
    with few_threads(matrix):
        mean, std = matrix.mean(dim=0), matrix.std(dim=0, correction=0)
        std = torch.where(std > 0, std, torch.ones_like(std))
        if protocol == "uni":
            mean, std = torch.zeros_like(mean), torch.ones_like(std)
        # in float32 the line search ends at the rounding of the loss, before the gradient is small
        x = ((matrix - mean) / std).double()
        found = minimize(
            lambda flat: _objective(flat, x, target, num_classes, penalty, protocol),
            _pack(start.weight, start.bias) if start else np.zeros(num_classes * (x.shape[1] + 1)),
            jac=True,
            method="L-BFGS-B",
            options=options,
        )
    weight, bias = _unpack(found.x, num_classes, x)
    return LinearProbe(weight.float(), bias.float(), mean, std, penalty, int(found.nit), bool(found.success))


def choose_penalty(
    embeddings: NDArray[np.floating],
    labels: NDArray[np.integer],
    groups: NDArray[np.integer] | None,
    *,
    num_classes: int,
    seed: int,
    penalties: Sequence[float] = PENALTIES,
    device: str = "cpu",
) -> float:
    """Return the penalty whose probe has the lowest class-balanced cross-entropy on held-out training tiles.

    ``groups`` [N] are the slides or patients of the tiles; None holds out single tiles, class by class.
    """
    held_out = hold_out(labels, groups, share=HELD_OUT_SHARE, seed=seed)
    fit, check = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    probe: LinearProbe | None = None
    losses: list[tuple[float, float]] = []
    for penalty in sorted(penalties, reverse=True):
        probe = fit_linear(
            embeddings[fit], labels[fit], num_classes=num_classes, penalty=penalty, start=probe, device=device
        )
        losses.append((_balanced_cross_entropy(probe.scores(embeddings[check]), labels[check]), penalty))
    return min(losses)[1]


def linear_probe(
    embeddings: NDArray[np.floating],
    labels: NDArray[np.integer],
    groups: NDArray[np.integer] | None,
    *,
    num_classes: int,
    seed: int,
    penalties: Sequence[float] = PENALTIES,
    protocol: Protocol = "logistic-lbfgs",
    device: str = "cpu",
) -> LinearProbe:
    """Choose the penalty inside the training tiles, then fit on all of them; ``uni`` has nothing to choose."""
    if protocol == "uni":
        fixed = 100 / (embeddings.shape[1] * num_classes)
        return fit_linear(embeddings, labels, num_classes=num_classes, penalty=fixed, protocol=protocol, device=device)
    penalty = (
        choose_penalty(
            embeddings, labels, groups, num_classes=num_classes, seed=seed, penalties=penalties, device=device
        )
        if len(penalties) > 1
        else penalties[0]
    )
    return fit_linear(embeddings, labels, num_classes=num_classes, penalty=penalty, device=device)


def _objective(
    flat: NDArray[np.float64], x: Tensor, target: Tensor, num_classes: int, penalty: float, protocol: Protocol
) -> tuple[float, NDArray[np.float64]]:
    weight, bias = _unpack(flat, num_classes, x)
    log_p = torch.log_softmax(x @ weight.T + bias, dim=1)
    rows = torch.arange(len(x), device=x.device)
    loss = -log_p[rows, target].mean().item()
    size = weight.norm().item()
    residual = log_p.exp_()
    residual[rows, target] -= 1
    residual /= len(x)
    # Of the norm itself the gradient is W / ||W||, and 0 (a subgradient) at W = 0.
    pull = penalty if protocol == "logistic-lbfgs" else penalty / 2 / size if size > 0 else 0.0
    loss += penalty / 2 * (size**2 if protocol == "logistic-lbfgs" else size)
    return loss, _pack(residual.T @ x + pull * weight, residual.sum(dim=0))


def _pack(weight: Tensor, bias: Tensor) -> NDArray[np.float64]:
    return np.concatenate([weight.double().cpu().numpy().ravel(), bias.double().cpu().numpy()])


def _unpack(flat: NDArray[np.float64], num_classes: int, x: Tensor) -> tuple[Tensor, Tensor]:
    values = torch.as_tensor(flat, dtype=x.dtype, device=x.device)
    split = num_classes * x.shape[1]
    return values[:split].view(num_classes, -1), values[split:]


def _balanced_cross_entropy(scores: NDArray[np.float32], labels: NDArray[np.integer]) -> float:
    shifted = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]
    return float(np.mean([losses[labels == code].mean() for code in np.unique(labels)]))
