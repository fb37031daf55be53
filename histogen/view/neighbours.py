"""What each encoder thinks is alike: the tiles nearest to one, by cosine, over all stores that it has embedded."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histogen.errors import HistogenError, StoreError
from histogen.store.layout import KINDS
from histogen.view.answers import Answers
from histogen.view.packing import plain
from histogen.view.tiles import Tiles, slide_of

SHOWN = 12
ABOUT = ("label", "x_l0", "y_l0")
"""Columns that are said of a neighbour, where it has them."""


def encoders_of(tiles: Tiles) -> list[str]:
    """Return the encoders of which any store has embeddings, in order of first appearance."""
    return list(dict.fromkeys(name for store in tiles.stores for name in store.list_rows("embeddings")))


def read_embeddings(tiles: Tiles, position: int, encoder: str) -> NDArray[np.float32] | None:
    """Return the embeddings float32 [n, D] of one store; None when it has none, or not all of them yet."""
    store = tiles.stores[position]
    if encoder not in store.list_rows("embeddings"):
        return None
    try:
        return tiles.embeddings.get(
            (position, encoder), lambda: store.read_rows(f"embeddings/{encoder}").astype(np.float32, copy=False)
        )
    except HistogenError as error:
        tiles.note(error)
        return None


def embedding_of(tiles: Tiles, number: int, encoder: str) -> NDArray[np.float32]:
    """Return the embedding float32 [D] of a tile.

    Raises:
        StoreError: its store has none by this encoder, or it is absent.
    """
    position, row = tiles.locate(number)
    store = tiles.stores[position]
    if encoder not in store.list_rows("embeddings"):
        raise StoreError(f"store '{store.store_id}' has no embeddings by '{encoder}'; run histogen embed on it")
    return store.read_rows(f"embeddings/{encoder}", [row])[0].astype(np.float32)


def nearest(
    tiles: Tiles, number: int, encoder: str, *, k: int, kinds: Collection[str] = KINDS
) -> list[tuple[int, float]]:
    """Return the numbers and cosines of the k tiles nearest to a tile, itself left out, nearest first.

    One store is read at a time, so that memory does not grow with their number.

    Raises:
        StoreError: the tile has no embedding by this encoder.
    """
    from histogen.evaluation.knn import nearest_rows  # brings torch

    query = embedding_of(tiles, number, encoder)
    found: list[tuple[float, int]] = []
    for position, store in enumerate(tiles.stores):
        vectors = read_embeddings(tiles, position, encoder) if store.kind in kinds else None
        if vectors is None or vectors.shape[1] != len(query):
            continue
        there = np.flatnonzero(vectors.any(axis=1) & tiles.kept(position))  # an absent tile has zeros
        there = there[there + tiles.starts[position] != number]
        if len(there):
            cosines, rows = nearest_rows(vectors[there], query[None], k=k)
            numbers = tiles.starts[position] + there[rows[0]]
            found += zip((-cosines[0]).tolist(), numbers.tolist(), strict=True)
    return [(one, -cosine) for cosine, one in sorted(found)[:k]]


class Neighbours:
    """The room's answers."""

    def __init__(self, answers: Answers, encoders: Sequence[str]) -> None:
        self.tiles, self.encoders = answers.tiles, list(encoders)
        answers.facts["encoders"] = self.encoders
        answers.add_data(r"neighbours/(\d{1,12})", self.neighbours)

    def neighbours(self, number: str) -> dict[str, Any]:
        """Return the neighbours of a tile under every encoder; where one has none, a sentence that says why."""
        return {"query": self._about(int(number)), "encoders": [self._under(int(number), e) for e in self.encoders]}

    def _under(self, number: int, encoder: str) -> dict[str, Any]:
        have = sum(encoder in store.list_rows("embeddings") for store in self.tiles.stores)
        said: dict[str, Any] = {"encoder": encoder, "stores": have, "of": len(self.tiles.stores)}
        try:
            found = nearest(self.tiles, number, encoder, k=SHOWN)
        except HistogenError as error:
            return {**said, "error": str(error), "found": []}
        return {**said, "found": [{"cosine": plain(cosine), **self._about(one)} for one, cosine in found]}

    def _about(self, number: int) -> dict[str, Any]:
        position, _ = self.tiles.locate(number)
        store, values = self.tiles.stores[position], self.tiles.row(number, ABOUT)
        said = {name: plain(values[name]) for name in ABOUT if name in values}
        return {"number": number, "slide": slide_of(store), "kind": store.kind, **said}
