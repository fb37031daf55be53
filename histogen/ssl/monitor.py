"""The watch over a run: is the encoder collapsing, and in which way?

A collapse shows in the teacher's outputs before it shows in an evaluation. Two ways are known (Caron et al. 2021, 5.3):
all tiles get the same sharp output (one prototype wins), or all get the uniform one (the loss sits at ln K). Both make
the outputs of different tiles alike, so the watch looks at how much of the targets' information tells tiles apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional

from histogen.ssl.settings import SslSettings


def rank_me(features: torch.Tensor) -> float:
    """Return RankMe (Garrido et al. 2023): exp of the entropy of the singular values of ``features`` [N, D].

    Between 1 (all on one line) and min(N, D).
    """
    values = torch.linalg.svdvals(features.detach().float())
    shares = values / values.sum().clamp(min=1e-12) + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))


def information(targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (marginal entropy, mutual information) in nats of teacher probabilities [N, K].

    The mutual information between tile and prototype is the entropy of the mean minus the mean entropy: it is 0 when
    all tiles get the same target, whatever that is.
    """
    probs = targets.detach().float()
    mean = probs.mean(0)
    marginal = -torch.xlogy(mean, mean).sum()
    return marginal, marginal + torch.xlogy(probs, probs).sum(-1).mean()


def neighbour_consistency(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the share of tiles whose two views (features [N, D] each) are nearest neighbours of each other.

    Label-free: 1 / N by chance, 1 when views of a tile are told apart from all others'.
    """
    a, b = (functional.normalize(x.detach().float(), dim=-1) for x in (first, second))
    nearest = (a @ b.T).argmax(1)
    return float((nearest == torch.arange(len(a), device=a.device)).float().mean())


def online_knn(first: torch.Tensor, second: torch.Tensor, labels: torch.Tensor) -> float:
    """Return the share of tiles whose nearest other tile of the batch has their label; NaN with fewer than two.

    ``first`` and ``second`` are features [N, D] of the tiles' two views (the neighbour is looked for among second
    views); ``labels`` int [N], negative where a tile has none: it is left out.
    """
    known = labels >= 0
    a, b = (functional.normalize(x.detach().float()[known], dim=-1) for x in (first, second))
    if len(a) < 2:
        return math.nan
    nearest = (a @ b.T).fill_diagonal_(-2.0).argmax(1)
    return float((labels[known][nearest] == labels[known]).float().mean())


def likely_causes(settings: SslSettings) -> tuple[str, str]:
    """Return what of ``settings`` likely makes every target uniform, and what makes them one sharp target."""
    loss, rate = settings.loss, settings.optim.lr * settings.optim.batch / 256.0
    fast = f"the learning rate, {rate:.3g} at its peak"
    flat = f"loss.teacher_temp {loss.teacher_temp:g} is not under loss.student_temp {loss.student_temp:g}"
    return (
        flat
        if loss.teacher_temp >= loss.student_temp
        else f"{fast}, or K = {settings.model.prototypes:,} for such a batch",
        fast if loss.centre else "loss.centre is off",
    )


@dataclass
class CollapseWatch:
    """Looks at the means of every ``every`` steps, and names a collapse when ``patience`` looks in a row are bad.

    A look is bad when the targets hardly tell tiles apart, or when fewer than two prototypes are in use (the
    exponential of the marginal entropy): a run that goes down slowly keeps telling a few tiles apart. The bounds were
    set on healthy and on broken runs (``benchmarks/collapse.py``), not in theory.
    """

    num_prototypes: int
    causes: tuple[str, str] = ("", "")
    """The likely cause of a uniform and of a sharp collapse (:func:`likely_causes`)."""
    every: int = 20
    patience: int = 3
    min_information: float = 0.02
    """Nats of the teacher's targets that tell the tiles of a batch apart."""
    min_prototypes: float = 2.0
    """Prototypes in use."""
    sums: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    bad: int = 0
    named_at: int = 0
    """Steps done when a collapse was first named; 0 is never."""

    def add(self, metrics: Mapping[str, float], *, step: int) -> str:
        """Take in step ``step`` (from 0); return a sentence when the run has just been found collapsed."""
        for key in ("loss_dino", "information", "marginal_entropy"):
            self.sums[key] = self.sums.get(key, 0.0) + metrics[key]
        self.steps += 1
        if self.steps < self.every:
            return ""
        means = {key: total / self.steps for key, total in self.sums.items()}
        self.sums, self.steps = {}, 0
        in_use = math.exp(means["marginal_entropy"])
        bad = means["information"] < self.min_information or in_use < self.min_prototypes
        self.bad = self.bad + 1 if bad else 0
        if self.bad < self.patience or self.named_at:
            return ""
        self.named_at = step + 1
        return self._sentence(means)

    def _sentence(self, means: Mapping[str, float]) -> str:
        ln_k = math.log(self.num_prototypes)
        if means["marginal_entropy"] > 0.8 * ln_k:
            what = f"every tile gets the uniform target (loss {means['loss_dino']:.3f}, ln K = {ln_k:.3f})"
            advice = (
                f"{self.causes[0]}; lower optim.lr, sharpen the teacher (loss.teacher_temp), or take fewer prototypes"
            )
        else:
            in_use = math.exp(means["marginal_entropy"])
            what = (
                f"nearly every tile gets the same sharp target (loss {means['loss_dino']:.3f}, {in_use:.1f} prototypes)"
            )
            advice = f"{self.causes[1]}; lower optim.lr, and check that loss.centre is on"
        apart = f"{max(0.0, means['information']):.4f} nats tell tiles apart"
        return f"collapse at step {self.named_at}: {what}, {apart}; likely cause: {advice}"

    def state_dict(self) -> dict[str, Any]:
        """Return what changes from step to step."""
        return {"sums": dict(self.sums), "steps": self.steps, "bad": self.bad, "named_at": self.named_at}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state that :meth:`state_dict` returned."""
        self.sums, self.steps = dict(state["sums"]), int(state["steps"])
        self.bad, self.named_at = int(state["bad"]), int(state["named_at"])
