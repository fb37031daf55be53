"""The watch over a run: is the encoder collapsing, and in which way?

A collapse shows in the teacher's outputs before it shows in an evaluation. Two ways are known (Caron et al. 2021, 5.3):
all tiles get the same sharp output (one prototype wins), or all get the uniform one (the loss sits at ln K). Both make
the outputs of different tiles alike, so the watch looks at how much of the targets' information tells tiles apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch.nn import functional


def rank_me(features: torch.Tensor) -> float:
    """Return RankMe (Garrido et al. 2023): exp of the entropy of the singular values of ``features`` [N, D].

    Between 1 (all on one line) and min(N, D).
    """
    values = torch.linalg.svdvals(features.detach().float())
    shares = values / values.sum().clamp(min=1e-12) + 1e-7
    return float(torch.exp(-(shares * shares.log()).sum()))


def information(targets: torch.Tensor) -> tuple[float, float]:
    """Return (marginal entropy, mutual information) in nats of teacher probabilities [N, K].

    The mutual information between tile and prototype is the entropy of the mean minus the mean entropy: it is 0 when
    all tiles get the same target, whatever that is.
    """
    probs = targets.detach().float()
    mean = probs.mean(0)
    marginal = float(-torch.xlogy(mean, mean).sum())
    return marginal, marginal - float(-torch.xlogy(probs, probs).sum(-1).mean())


def neighbour_consistency(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return the share of tiles whose two views (features [N, D] each) are nearest neighbours of each other.

    Label-free: 1 / N by chance, 1 when views of a tile are told apart from all others'.
    """
    a, b = (functional.normalize(x.detach().float(), dim=-1) for x in (first, second))
    nearest = (a @ b.T).argmax(1)
    return float((nearest == torch.arange(len(a), device=a.device)).float().mean())


@dataclass(frozen=True)
class Verdict:
    """What the watch says: one sentence, and the word for it."""

    kind: str
    sentence: str


@dataclass
class CollapseWatch:
    """Looks at the window of every ``patience`` looks; speaks when each of them was bad.

    The bounds were set on healthy and on broken runs (see ``benchmarks/collapse.py``), not in theory.
    """

    num_prototypes: int
    patience: int = 3
    min_information: float = 0.02
    """Nats of the targets that tell tiles apart; healthy runs have tenths and more."""
    min_feature_std: float = 0.02
    """Spread of unit features times sqrt(D)."""
    bad: int = 0
    kind: str = ""

    def look(
        self, *, loss: float, information: float, marginal: float, feature_std: float, step: int
    ) -> Verdict | None:
        """Take in one look; return a verdict when it is the ``patience``-th bad one in a row."""
        kind = self._kind(information, marginal, feature_std)
        self.bad = self.bad + 1 if kind else 0
        self.kind = kind
        if self.bad < self.patience:
            return None
        return Verdict(kind, self._sentence(kind, loss, information, feature_std, step))

    def _kind(self, information: float, marginal: float, feature_std: float) -> str:
        if information < self.min_information:
            return "uniform" if marginal > 0.9 * math.log(self.num_prototypes) else "one prototype"
        return "features" if feature_std < self.min_feature_std else ""

    def _sentence(self, kind: str, loss: float, information: float, feature_std: float, step: int) -> str:
        ln_k = math.log(self.num_prototypes)
        what = {
            "uniform": f"every tile gets the uniform target, and the loss of {loss:.3f} is ln K = {ln_k:.3f}",
            "one prototype": f"every tile gets the same target ({information:.4f} nats tell tiles apart)",
            "features": f"the features of all tiles are alike (spread {feature_std:.4f})",
        }[kind]
        advice = {
            "uniform": "lower the learning rate, sharpen the teacher (loss.teacher_temp) or take fewer prototypes",
            "one prototype": "lower the learning rate, or check that loss.centre is on",
            "features": "lower the learning rate or the weight decay",
        }[kind]
        return f"collapse at step {step}: {what}; {advice}"

    def state_dict(self) -> dict[str, int | str]:
        """Return what changes from look to look."""
        return {"bad": self.bad, "kind": self.kind}

    def load_state_dict(self, state: dict) -> None:
        """Take the state that :meth:`state_dict` returned."""
        self.bad, self.kind = int(state["bad"]), str(state["kind"])
