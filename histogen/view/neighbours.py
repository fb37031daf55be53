"""What each encoder thinks is alike: the tiles nearest to one, by cosine, over all stores that it has embedded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histogen.errors import HistogenError, StoreError
from histogen.store.layout import KINDS
from histogen.view.answers import Answers
from histogen.view.packing import plain
from histogen.view.tiles import Tiles, slide_of

SHOWN = 12
BLOCK_TILES = 16_384
"""Tiles of small stores that are compared at once: for each alone, most of the time would go to the calls."""
ABOUT = ("label", "x_l0", "y_l0")
"""Columns that are said of a neighbour, where it has them."""


def encoders_of(tiles: Tiles) -> list[str]:
    """Return the encoders of which any store has embeddings, in order of first appearance."""
    return list(dict.fromkeys(name for k in range(len(tiles.stores)) for name in tiles.rows_in(k, "embeddings")))


def read_embeddings(tiles: Tiles, position: int, encoder: str) -> NDArray[np.float32] | None:
    """Return the embeddings float32 [n, D] of one store; None when it has none, or not all of them yet."""
    store = tiles.stores[position]
    if encoder not in tiles.rows_in(position, "embeddings"):
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
    if encoder not in tiles.rows_in(position, "embeddings"):
        raise StoreError(f"store '{store.store_id}' has no embeddings by '{encoder}'; run histogen embed on it")
    return store.read_rows(f"embeddings/{encoder}", [row])[0].astype(np.float32)


def nearest(
    tiles: Tiles, number: int, encoder: str, *, k: int, kinds: Collection[str] = KINDS
) -> list[tuple[int, float]]:
    """Return the numbers and cosines of the k tiles nearest to a tile, itself left out, nearest first.

    A block of stores is read at a time, so that memory does not grow with their number.

    Raises:
        StoreError: the tile has no embedding by this encoder.
    """
    from histogen.evaluation.knn import nearest_rows  # brings torch

    query = embedding_of(tiles, number, encoder)
    found: list[tuple[float, int]] = []
    for numbers, vectors in _blocks(tiles, encoder, frozenset(kinds), len(query)):
        cosines, rows = nearest_rows(vectors, query[None], k=k + 1)
        found += zip((-cosines[0]).tolist(), numbers[rows[0]].tolist(), strict=True)
    return [(one, -cosine) for cosine, one in sorted(found) if one != number][:k]


def _blocks(
    tiles: Tiles, encoder: str, kinds: frozenset[str], width: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
    """Give the numbers and embeddings [n, ``width``] of the tiles that may be shown and have one, stores together."""
    members: list[int] = []
    for position, store in enumerate(tiles.stores):
        if store.kind in kinds and encoder in tiles.rows_in(position, "embeddings"):
            members.append(position)
        count = sum(tiles.stores[k].num_tiles for k in members)
        if members and (count >= BLOCK_TILES or position == len(tiles.stores) - 1):
            numbers, vectors = _block(tiles, encoder, tuple(members), width)
            if len(numbers):
                yield numbers, vectors
            members = []


def _block(
    tiles: Tiles, encoder: str, members: tuple[int, ...], width: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    def join() -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        parts = [_shown(tiles, encoder, position, width) for position in members]
        return np.concatenate([numbers for numbers, _ in parts]), np.concatenate([vectors for _, vectors in parts])

    if len(members) == 1 or any(read_embeddings(tiles, k, encoder) is None for k in members):  # some may come yet
        return join()
    return tiles.blocks.get((encoder, members, width), join)


def _shown(tiles: Tiles, encoder: str, position: int, width: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    vectors = read_embeddings(tiles, position, encoder)
    if vectors is None or vectors.shape[1] != width:
        return np.zeros(0, np.int64), np.zeros((0, width), np.float32)
    there = np.flatnonzero(vectors.any(axis=1) & tiles.kept(position))  # an absent tile has zeros
    return tiles.starts[position] + there, vectors[there]


class Neighbours:
    """The room's answers."""

    def __init__(self, answers: Answers, encoders: Sequence[str]) -> None:
        self.tiles, self.encoders = answers.tiles, list(encoders)
        self._about = lru_cache(maxsize=8192)(self._read_about)
        answers.facts["encoders"] = self.encoders
        answers.add_data(r"neighbours/(\d{1,12})", self.neighbours)

    def neighbours(self, number: str) -> dict[str, Any]:
        """Return the neighbours of a tile under every encoder; where one has none, a sentence that says why."""
        return {"query": self._about(int(number)), "encoders": [self._under(int(number), e) for e in self.encoders]}

    def _under(self, number: int, encoder: str) -> dict[str, Any]:
        have = sum(encoder in self.tiles.rows_in(k, "embeddings") for k in range(len(self.tiles.stores)))
        said: dict[str, Any] = {"encoder": encoder, "stores": have, "of": len(self.tiles.stores)}
        try:
            found = nearest(self.tiles, number, encoder, k=SHOWN)
        except HistogenError as error:
            return {**said, "error": str(error), "found": []}
        return {**said, "found": [{"cosine": plain(cosine), **self._about(one)} for one, cosine in found]}

    def _read_about(self, number: int) -> dict[str, Any]:
        position, _ = self.tiles.locate(number)
        store, values = self.tiles.stores[position], self.tiles.row(number, ABOUT)
        said = {name: plain(values[name]) for name in ABOUT if name in values}
        return {"number": number, "slide": slide_of(store), "kind": store.kind, **said}
