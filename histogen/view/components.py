"""The main directions of an encoder's embeddings over all stores, and clusters among them, one store at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histogen.errors import StoreError
from histogen.seeds import derive_seed, numpy_rng
from histogen.view.neighbours import read_embeddings
from histogen.view.tiles import Tiles

NUM_COMPONENTS = 16
NUM_CLUSTERS = 12
MOST_POINTS = 1_000_000
"""Tiles on a map; of more, so many are drawn by the seed."""
FITTED = 100_000
"""Tiles from which the clusters are found."""


@dataclass(frozen=True)
class Components:
    """Principal components of an encoder's embeddings, and the tiles that have one.

    numbers: int64 [P], ascending; of: how many there are, where fewer are drawn; mean: float64 [D]; basis: float64
    [D, C], largest variance first, each with its largest weight positive; explained: shares of the variance [C];
    centres: float32 [K, C], of the clusters.
    """

    numbers: NDArray[np.int64]
    of: int
    mean: NDArray[np.float64]
    basis: NDArray[np.float64]
    explained: NDArray[np.float64]
    centres: NDArray[np.float32]

    def project(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return embeddings [n, D] as float32 [n, C]."""
        return ((vectors - self.mean) @ self.basis).astype(np.float32)

    def cluster(self, vectors: NDArray[np.float32]) -> NDArray[np.int32]:
        """Return the nearest of the clusters' centres for each embedding, int32 [n]."""
        shown = self.project(vectors)
        away = (self.centres**2).sum(axis=1)[None] - 2 * shown @ self.centres.T
        return away.argmin(axis=1).astype(np.int32)


def find_components(tiles: Tiles, encoder: str, *, seed: int) -> Components:
    """Return the components of what ``encoder`` has embedded; each store is read twice, none is kept.

    Raises:
        StoreError: fewer than three tiles have embeddings, or two stores' do not fit together.
    """
    total, first, second = 0, np.zeros(0), np.zeros((0, 0))
    there: list[NDArray[np.int64]] = []
    for position, rows, vectors in embedded(tiles, encoder):
        values = vectors.astype(np.float64)
        if not total:
            first, second = np.zeros(values.shape[1]), np.zeros((values.shape[1], values.shape[1]))
        if values.shape[1] != len(first):
            raise StoreError(f"embeddings by '{encoder}' have {len(first)} and {values.shape[1]} numbers; embed anew")
        total += len(values)
        first += values.sum(axis=0)
        second += values.T @ values
        there.append(tiles.starts[position] + rows)
    if total < 3:
        raise StoreError(f"{total} tiles have embeddings by '{encoder}'; a map needs three; run histogen embed")
    mean = first / total
    variances, basis = np.linalg.eigh(second / total - np.outer(mean, mean))
    order = np.argsort(-variances)[:NUM_COMPONENTS]
    basis = basis[:, order]
    basis = basis * np.sign(basis[np.abs(basis).argmax(axis=0), np.arange(basis.shape[1])])
    numbers = _drawn(np.concatenate(there), MOST_POINTS, seed)
    explained = variances[order] / max(float(variances.sum()), 1e-12)
    bare = Components(numbers, total, mean, basis, explained, np.zeros((0, len(order)), np.float32))
    return replace(bare, centres=_centres(tiles, encoder, bare, seed))


def embedded(tiles: Tiles, encoder: str) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.float32]]]:
    """Give each store's position, and the rows and embeddings of its tiles that have a finite one."""
    for position in range(len(tiles.stores)):
        vectors = read_embeddings(tiles, position, encoder)
        if vectors is None:
            continue
        shown = vectors.any(axis=1) & np.isfinite(vectors).all(axis=1)  # absent tiles have zeros
        rows = np.flatnonzero(shown & tiles.kept(position))
        if len(rows):
            yield position, rows, vectors[rows]


def embeddings_at(tiles: Tiles, encoder: str, numbers: NDArray[np.int64]) -> Iterator[NDArray[np.float32]]:
    """Give the embeddings of ``numbers``, ascending, store by store."""
    for position, rows, vectors in embedded(tiles, encoder):
        here = np.isin(tiles.starts[position] + rows, numbers, assume_unique=True)
        if here.any():
            yield vectors[here]


def _centres(tiles: Tiles, encoder: str, components: Components, seed: int) -> NDArray[np.float32]:
    from sklearn.cluster import MiniBatchKMeans

    chosen = _drawn(components.numbers, FITTED, seed)
    shown = np.concatenate([components.project(part) for part in embeddings_at(tiles, encoder, chosen)])
    state = derive_seed(seed, "clusters") % 2**32
    clusters: Any = MiniBatchKMeans(min(NUM_CLUSTERS, len(shown)), random_state=state, n_init=3, batch_size=4096)
    clusters.fit(shown)
    return np.asarray(clusters.cluster_centers_, np.float32)


def _drawn(numbers: NDArray[np.int64], most: int, seed: int) -> NDArray[np.int64]:
    if len(numbers) <= most:
        return numbers
    return np.sort(numpy_rng(seed, "map", most).choice(numbers, most, replace=False))
