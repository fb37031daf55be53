"""The room of the map: embeddings in two dimensions, by PCA at once and by UMAP when it is done, and their colours."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histogen.view.answers import NAME, Answers
from histogen.view.components import NUM_CLUSTERS, Components, embeddings_at, find_components
from histogen.view.neighbours import read_embeddings
from histogen.view.packing import pack
from histogen.view.umap_run import UmapRun

MOST_UMAP = 100_000
"""Tiles that UMAP lays out; of more, so many are drawn evenly."""
VIRTUAL = ("cluster", "component1", "component2", "component3")


class Maps:
    """The room's answers; components are found once for each encoder, UMAP in a process beside the server."""

    def __init__(self, answers: Answers, encoders: Sequence[str], *, seed: int) -> None:
        self.answers, self.tiles, self.seed = answers, answers.tiles, seed
        self._components: dict[str, Components] = {}
        self._runs: dict[str, UmapRun] = {}
        self._lock = threading.Lock()
        for encoder in encoders:
            for kind in VIRTUAL:
                names = [str(code + 1) for code in range(NUM_CLUSTERS)] if kind == "cluster" else []
                answers.add_column(f"{kind}.{encoder}", partial(self._virtual, kind, encoder), names)
        answers.closing.append(self.close)
        answers.add_data(rf"map/({NAME})/pca", self.pca)
        answers.add_data(rf"map/({NAME})/umap", self.umap)
        answers.add_data(rf"map/({NAME})/column/(pca|umap)/({NAME})", self.column)
        answers.add_action(rf"umap/({NAME})", self.start_umap)

    def components(self, encoder: str) -> Components:
        """Return an encoder's components, found once."""
        with self._lock:
            if encoder not in self._components:
                self._components[encoder] = find_components(self.tiles, encoder, seed=self.seed)
            return self._components[encoder]

    def pca(self, encoder: str) -> dict[str, Any]:
        """Return the tiles' places along the first two components."""
        found = self.components(encoder)
        places = np.concatenate(list(self.places(encoder)))
        return {**_points(found.numbers, places, found.of), "explained": found.explained[:2].tolist()}

    def places(self, encoder: str) -> Iterator[NDArray[np.float32]]:
        """Give the tiles' places along the first two components, float32 [n, 2], store by store."""
        found = self.components(encoder)
        return (found.project(part)[:, :2] for part in embeddings_at(self.tiles, encoder, found.numbers))

    def umap(self, encoder: str) -> dict[str, Any]:
        """Return how far UMAP is, and the tiles' places when it is done."""
        if self.tiles.is_sample:  # what is kept is of all tiles
            return {"state": "absent", "error": ""}
        run = self._run(encoder)
        state = run.state()
        if state["state"] != "done":
            return state
        return {**state, **_points(self._numbers(encoder, "umap"), run.places(), self.components(encoder).of)}

    def start_umap(self, encoder: str, _: Any) -> dict[str, Any]:
        """Begin UMAP, where it is neither done nor under way."""
        numbers = self._numbers(encoder, "umap")
        run = self._run(encoder)
        run.start(lambda: np.concatenate(list(embeddings_at(self.tiles, encoder, numbers))))
        return run.state()

    def column(self, encoder: str, method: str, name: str) -> dict[str, Any]:
        """Return a column for the tiles of a map, in its order."""
        return {"names": self.answers.categories(name), "values": pack(self.values(encoder, method, name))}

    def values(self, encoder: str, method: str, name: str) -> NDArray[Any]:
        """Return the same as codes or numbers [P]."""
        numbers, parts = self._numbers(encoder, method), []
        bounds = np.searchsorted(numbers, self.tiles.starts)
        for position, (low, high) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
            if high > low:
                rows = numbers[low:high] - self.tiles.starts[position]
                parts.append(self.answers.values(position, name)[rows])
        return np.concatenate(parts)

    def close(self) -> None:
        """End what is still under way."""
        for run in self._runs.values():
            run.close()

    def _numbers(self, encoder: str, method: str) -> NDArray[np.int64]:
        numbers = self.components(encoder).numbers
        if method == "pca" or len(numbers) <= MOST_UMAP:
            return numbers
        return numbers[np.linspace(0, len(numbers) - 1, MOST_UMAP).astype(np.int64)]

    def _run(self, encoder: str) -> UmapRun:
        with self._lock:
            if encoder not in self._runs:
                name = f"{encoder}-{self._digest(encoder)}.npy"
                self._runs[encoder] = UmapRun(self.tiles.stores[0].path.parent / "maps" / name, seed=self.seed)
            return self._runs[encoder]

    def _digest(self, encoder: str) -> str:
        """Return what a map depends on: the embeddings of every store, and the seed."""
        notes = [[s.store_id, s.ledger.notes(f"embeddings/{encoder}")] for s in self.tiles.stores]
        facts = [notes, self.seed, MOST_UMAP]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]

    def _virtual(self, kind: str, encoder: str, position: int) -> NDArray[Any]:
        found, vectors = self.components(encoder), read_embeddings(self.tiles, position, encoder)
        count = self.tiles.stores[position].num_tiles
        if vectors is None or not len(vectors):
            return np.full(count, -1, np.int32) if kind == "cluster" else np.full(count, np.nan, np.float32)
        there = vectors.any(axis=1)
        if kind == "cluster":
            return np.where(there, found.cluster(vectors), -1)
        values = found.project(vectors)
        place = int(kind.removeprefix("component")) - 1
        return np.where(there, values[:, place], np.nan) if place < values.shape[1] else np.full(count, np.nan)


def _points(numbers: NDArray[np.int64], places: NDArray[np.float32], of: int) -> dict[str, Any]:
    return {"numbers": pack(numbers), "x": pack(places[:, 0]), "y": pack(places[:, 1]), "of": of}
