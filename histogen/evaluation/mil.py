"""Slide-level classification by attention over tiles: gated ABMIL (Ilse et al. 2018, arXiv 1802.04712).

A slide is a bag of frozen embeddings with one label. Protocol, called ``abmil-cv`` in results (ours; the page of
Gen-SIS names neither head nor settings): features standardised by the training slides; one hidden layer of 128,
gated attention of 64, dropout 0.25; AdamW, learning rate 1e-3 falling to 0 along a cosine, weight decay 1e-2, a
fixed number of passes over the slides (no early stop, hence nothing chosen on the test fold); classes weighted by
their inverse frequency. Every slide is predicted once, by the model of the fold that did not see it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from histogen.errors import ConfigError
from histogen.evaluation.settings import MilSettings
from histogen.evaluation.vectors import few_threads
from histogen.seeds import derive_seed, numpy_rng


class GatedAttention(nn.Module):
    """Class scores [K] of a bag [N, D], and the attention [N] (sums to 1) that it paid to each tile."""

    def __init__(self, dim: int, num_classes: int, settings: MilSettings) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(dim, settings.hidden), nn.ReLU(), nn.Dropout(settings.dropout))
        self.content = nn.Linear(settings.hidden, settings.attention)
        self.gate = nn.Linear(settings.hidden, settings.attention)
        self.weigh = nn.Linear(settings.attention, 1)
        self.classify = nn.Linear(settings.hidden, num_classes)

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """Return scores [K] and attention [N] of ``bag`` [N, D]."""
        features = self.embed(bag)
        gated = torch.tanh(self.content(features)) * torch.sigmoid(self.gate(features))
        attention = torch.softmax(self.weigh(gated)[:, 0], dim=0)
        return self.classify(attention @ features), attention


@dataclass(frozen=True)
class SlideModel:
    """A trained model with the standardisation [D] of its training slides."""

    network: GatedAttention
    mean: Tensor
    std: Tensor

    @torch.no_grad()
    def predict(self, bag: NDArray[np.floating]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return class probabilities [K] and attention [N] of one slide [N, D]."""
        self.network.eval()
        scores, attention = self.network((_tensor(bag, self.mean.device) - self.mean) / self.std)
        return torch.softmax(scores, dim=0).cpu().numpy(), attention.cpu().numpy()


def fit_slides(
    bags: Sequence[NDArray[np.floating]],
    labels: NDArray[np.integer],
    *,
    num_classes: int,
    settings: MilSettings,
    seed: int,
    device: str = "cpu",
) -> SlideModel:
    """Train on slides ``bags`` ([N_i, D] each) with ``labels`` [S]; depends on the seed alone."""
    where = torch.device(device)
    moments = torch.stack([_moments(_tensor(bag, where)) for bag in bags]).mean(dim=0)
    mean = moments[0]
    std = (moments[1] - mean.square()).clamp(min=1e-12).sqrt()
    with torch.random.fork_rng(devices=[]), few_threads(mean):
        torch.manual_seed(derive_seed(seed, "abmil"))
        network = GatedAttention(bags[0].shape[1], num_classes, settings).to(where)
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        num_steps = settings.epochs * len(bags)
        counts = np.bincount(labels, minlength=num_classes)
        weight = torch.as_tensor(len(labels) / np.maximum(counts, 1) / num_classes, dtype=torch.float32, device=where)
        for step, (slide, rows) in enumerate(_visits(bags, settings, seed)):
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * 0.5 * (1 + np.cos(np.pi * step / num_steps))
            network.train()
            scores, _ = network((_tensor(bags[slide][rows], where) - mean) / std)
            target = torch.tensor([int(labels[slide])], device=where)
            loss = nn.functional.cross_entropy(scores[None], target, reduction="none") * weight[target]
            optimiser.zero_grad(set_to_none=True)
            loss.sum().backward()
            optimiser.step()
    return SlideModel(network, mean, std)


def cross_validate(
    bags: Sequence[NDArray[np.floating]],
    labels: NDArray[np.integer],
    *,
    classes: Sequence[str],
    settings: MilSettings,
    seed: int,
    device: str = "cpu",
) -> tuple[NDArray[np.float32], tuple[NDArray[np.float32], ...]]:
    """Return the probabilities [S, K] of each slide by the model of the fold that left it out, and its attention [N].

    ``classes`` are the names [K].

    Raises:
        ConfigError: a class has fewer slides than there are folds.
    """
    fold_of = assign_folds(labels, settings.folds, classes=classes, seed=seed)
    probabilities = np.empty((len(bags), len(classes)), dtype=np.float32)
    attention = [np.zeros(0, np.float32)] * len(bags)
    for fold in range(settings.folds):
        train = np.flatnonzero(fold_of != fold).tolist()
        model = fit_slides(
            [bags[i] for i in train], labels[train],
            num_classes=len(classes), settings=settings, seed=derive_seed(seed, "fold", fold), device=device,
        )  # fmt: skip
        for slide in np.flatnonzero(fold_of == fold).tolist():
            probabilities[slide], attention[slide] = model.predict(bags[slide])
    return probabilities, tuple(attention)


def assign_folds(labels: NDArray[np.integer], folds: int, *, classes: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Return the fold [S] of each slide; every class is spread evenly over the folds. ``classes`` names the codes.

    Raises:
        ConfigError: a class has fewer slides than there are folds.
    """
    fold_of = np.empty(len(labels), dtype=np.int64)
    start = 0
    for code in np.unique(labels):
        members = np.flatnonzero(labels == code)
        if len(members) < folds:
            raise ConfigError(
                f"class '{classes[code]}' has {len(members)} slides, fewer than the {folds} folds; set mil.folds lower"
            )
        shuffled = numpy_rng(seed, "folds", int(code)).permutation(members)
        fold_of[shuffled] = (start + np.arange(len(members))) % folds
        start += len(members)  # the next class goes on where this one ended, so that folds stay even
    return fold_of


def _visits(
    bags: Sequence[NDArray[np.floating]], settings: MilSettings, seed: int
) -> Iterator[tuple[int, NDArray[np.int64] | slice]]:
    """Yield (slide, rows) of every step: all slides in a new order each epoch, at most ``max_tiles`` tiles each."""
    for epoch in range(settings.epochs):
        rng = numpy_rng(seed, "visits", epoch)
        for slide in rng.permutation(len(bags)):
            count = len(bags[slide])
            rows = rng.choice(count, settings.max_tiles, replace=False) if count > settings.max_tiles else slice(None)
            yield int(slide), rows


def _moments(bag: Tensor) -> Tensor:
    return torch.stack([bag.mean(dim=0), bag.square().mean(dim=0)])


def _tensor(bag: NDArray[np.floating], device: torch.device) -> Tensor:
    return torch.as_tensor(np.ascontiguousarray(bag, dtype=np.float32), device=device)
