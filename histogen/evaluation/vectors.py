"""Checks and conversions that every evaluation of embeddings [N, D] begins with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histogen.errors import ConfigError

SMALL = 16_000_000
"""Values of a matrix below which one thread is enough for a loop of products over it."""


@contextmanager
def few_threads(matrix: Tensor) -> Iterator[None]:
    """Use one thread within the block when ``matrix`` is small.

    An optimiser's thousands of small products wait for every thread each time: on a busy machine of two cores the same
    probe took 0.5 s with one thread and 160 s with two.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if matrix.numel() < SMALL else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def as_matrix(embeddings: NDArray[np.floating], *, what: str, device: str = "cpu") -> Tensor:
    """Return ``embeddings`` [N, D] as a float32 tensor on ``device``.

    Raises:
        ConfigError: it is not two-dimensional, is empty, or holds a value that is not finite.
    """
    if embeddings.ndim != 2 or embeddings.shape[0] == 0:
        raise ConfigError(f"{what} embeddings have shape {embeddings.shape}; they must be [N, D] with N > 0")
    matrix = torch.as_tensor(np.ascontiguousarray(embeddings, dtype=np.float32), device=device)
    if not bool(torch.isfinite(matrix).all()):
        bad = int((~torch.isfinite(matrix)).any(dim=1).sum())
        raise ConfigError(f"{bad} of {len(matrix)} {what} embeddings are not finite; embed those tiles again")
    return matrix


def as_labels(labels: NDArray[np.integer], count: int, *, what: str, num_classes: int) -> Tensor:
    """Return ``labels`` [N] as int64, checked against ``count`` rows and ``num_classes``.

    Raises:
        ConfigError: the number of labels or one of the codes does not fit.
    """
    if labels.shape != (count,):
        raise ConfigError(f"{what} labels have shape {labels.shape}, but there are {count} embeddings")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise ConfigError(f"{what} labels reach from {labels.min()} to {labels.max()}, outside 0 to {num_classes - 1}")
    return torch.as_tensor(labels.astype(np.int64))


def unit_rows(matrix: Tensor) -> Tensor:
    """Return ``matrix`` [N, D] with every row divided by its Euclidean norm; a row of zeros stays zero."""
    return torch.nn.functional.normalize(matrix, dim=1)
