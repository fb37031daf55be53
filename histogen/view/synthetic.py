"""What was made of a tile, and what a synthetic tile was made of: source, partner, alpha, and how to make it again."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histogen.errors import HistogenError, StoreError
from histogen.store.layout import KINDS, SYNTHETIC
from histogen.store.tile_store import TileStore
from histogen.view.answers import Answers
from histogen.view.neighbours import embedding_of, nearest
from histogen.view.packing import plain
from histogen.view.sources import recorded
from histogen.view.tiles import Tiles

CANDIDATES = 62
"""Real tiles, besides source and partner, that a synthetic tile is compared with: those nearest to its source."""
MOST_SOURCES = 120
REAL = tuple(kind for kind in KINDS if kind not in SYNTHETIC)


class Synthetic:
    """The room's answers."""

    def __init__(self, answers: Answers) -> None:
        self.tiles = answers.tiles
        self._known: Lineage | None = None
        self._positions = [k for k, store in enumerate(self.tiles.stores) if store.kind in SYNTHETIC]
        self._lock = threading.Lock()
        answers.facts["synthetic"] = bool(self._positions)
        answers.add_data("sources", self.sources)
        answers.add_data(r"synthetic/(\d{1,12})", self.family)
        answers.add_data(r"copy/(\d{1,12})", self.copy)

    def sources(self) -> dict[str, Any]:
        """Return some tiles of which others were made, evenly over all."""
        kept = np.concatenate([*(self.tiles.kept(p) for p in self._positions), np.zeros(0, bool)])
        found = np.unique(self._lineage.source[kept])
        found = found[found >= 0]
        places = np.linspace(0, max(len(found) - 1, 0), min(MOST_SOURCES, len(found))).astype(int)
        chosen = found[places]
        return {"sources": chosen.tolist(), "of": len(found)}

    def family(self, number: str) -> dict[str, Any]:
        """Return a source with what was made of it; of a synthetic tile, that of its source."""
        asked = int(number)
        position, _ = self.tiles.locate(asked)
        source = self._source_of(asked) if position in self._positions else asked
        if source is None:
            return {"source": None, "asked": asked, "made": [self._about(asked)]}
        return {"source": source, "asked": asked, "made": self._made(source)}

    def _source_of(self, number: int) -> int | None:
        source = int(self._lineage.source[number - self._lineage.first])
        return source if source >= 0 else None

    def _made(self, source: int) -> list[dict[str, Any]]:
        return [self._about(number) for number in self._lineage.made_of(source) if self.tiles.is_kept(number)]

    @property
    def _lineage(self) -> Lineage:
        """Found once; synthetic stores say what their tiles are made of before the first of them is there."""
        with self._lock:
            if self._known is None:
                self._known = find_lineage(self.tiles, self._positions)
            return self._known

    def _about(self, number: int) -> dict[str, Any]:
        position, row = self.tiles.locate(number)
        store, values = self.tiles.stores[position], self.tiles.row(number)
        partner = int(self._lineage.partner[number - self._lineage.first])
        said = {name: plain(values.get(name)) for name in ("alpha", "consistency")}
        return {
            "number": number,
            "id": f"{store.store_id}:{row}",
            "kind": store.kind,
            "partner": partner if partner >= 0 else None,
            "seed": str(values.get("seed")),  # more digits than JavaScript's numbers have
            **said,
            "encoder": store.provenance.get("encoder"),
            "sampler": store.provenance.get("sampler"),
            "command": recreate_command(store, row),
        }

    def copy(self, number: str) -> dict[str, Any]:
        """Return how near a synthetic tile comes to real ones: cosines to its origins, and the nearest by layout.

        Raises:
            StoreError: it is no synthetic tile, or its source is not here.
        """
        asked = int(number)
        source = self._source_of(asked) if self.tiles.locate(asked)[0] in self._positions else None
        if source is None:
            raise StoreError(f"tile {asked} has no source among the stores that were given; add its store")
        position, _ = self.tiles.locate(asked)
        partner = int(self._lineage.partner[asked - self._lineage.first])
        encoder = str(self.tiles.stores[position].provenance.get("encoder"))
        made_of = [source, *([partner] if partner >= 0 else [])]
        candidates = list(made_of)
        try:
            near = nearest(self.tiles, source, encoder, k=CANDIDATES, kinds=REAL)
            candidates += [one for one, _ in near]
        except HistogenError as error:
            self.tiles.note(error)
        candidates = list(dict.fromkeys(candidates))
        return {**self._nearest_layout(asked, candidates), "candidates": len(candidates),
                "cosines": [self._cosine(asked, one, encoder) for one in made_of]}  # fmt: skip

    def _cosine(self, one: int, other: int, encoder: str) -> float | None:
        try:
            a, b = embedding_of(self.tiles, one, encoder), embedding_of(self.tiles, other, encoder)
        except HistogenError:
            return None
        return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))

    def _nearest_layout(self, number: int, candidates: list[int]) -> dict[str, Any]:
        """Compare coarse layouts, as ``histogen fidelity`` does, with those of ``candidates`` that have one."""
        from histogen.evaluation.memorisation import copy_scores, has_layout, layout_descriptor  # brings torch

        query = layout_descriptor(self.tiles.pixels(number)[None])
        reference = np.concatenate([layout_descriptor(self.tiles.pixels(one)[None]) for one in candidates])
        judged = np.flatnonzero(has_layout(reference))
        if not has_layout(query)[0] or len(judged) < 2:
            return {"nearest": None, "ratio": None}
        scores = copy_scores(query, reference[judged])
        return {"nearest": candidates[judged[scores.nearest[0]]], "ratio": plain(scores.ratio[0])}


@dataclass(frozen=True)
class Lineage:
    """What all synthetic tiles were made of, int64 [M]; their numbers are ``first`` and on.

    source, partner: numbers of tiles, -1 where there is none, or not here; order: by source.
    """

    first: int
    source: NDArray[np.int64]
    partner: NDArray[np.int64]
    order: NDArray[np.int64]

    def made_of(self, source: int) -> list[int]:
        """Return the numbers of the tiles made of ``source``, ascending."""
        low, high = np.searchsorted(self.source, [source, source + 1], sorter=self.order)
        found: list[int] = (self.first + self.order[low:high]).tolist()
        return found


def find_lineage(tiles: Tiles, positions: Sequence[int]) -> Lineage:
    """Return the lineage of the tiles of the stores at ``positions``, which are the last ones."""
    parts = {who: [origins(tiles, p, who) for p in positions] for who in ("source", "partner")}
    source, partner = (np.concatenate([*parts[who], np.zeros(0, np.int64)]) for who in ("source", "partner"))
    first = int(tiles.starts[positions[0]]) if positions else len(tiles)
    return Lineage(first, source, partner, np.argsort(source, kind="stable"))


def origins(tiles: Tiles, position: int, who: str) -> NDArray[np.int64]:
    """Return the number of each synthetic tile's ``source`` or ``partner``, int64 [n]; -1: none, or not here."""
    store = tiles.stores[position]
    try:
        names = store.rows_attributes(f"columns/{who}_store").get("categories", [])
        codes, rows = store.read_rows(f"columns/{who}_store"), store.read_rows(f"columns/{who}_index")
    except HistogenError as error:
        tiles.note(error)
        return np.full(store.num_tiles, -1, np.int64)
    first = [tiles.number_of(name, 0) for name in names]
    starts = np.array([*(-1 if one is None else one for one in first), -1], np.int64)[codes]
    return np.where((starts >= 0) & (rows >= 0), starts + rows, -1)


_recorded = lru_cache(maxsize=1024)(recorded)


def recreate_command(store: TileStore, row: int) -> str:
    """Return what makes a synthetic tile again, with the paths that its run was given."""
    said = next((config for folder in (store.path.parent, store.path) if (config := _recorded(folder))), {})
    tiles = said.get("tiles") if isinstance(said.get("tiles"), list) else ["TILES"]
    eldm = said.get("eldm") or "ELDM"
    words = ["histogen", "synthesize", *map(str, tiles or []), "--eldm", str(eldm)]
    return shlex.join([*words, "--recreate", f"{store.path}:{row}", "--out", f"{store.store_id}-{row}.jpg"])
