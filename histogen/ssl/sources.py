"""Which synthetic tiles belong to which tile: looked up once, and checked to be made from these very tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from histogen.errors import ConfigError, StoreError
from histogen.store.layout import SYNTHETIC
from histogen.store.tile_set import TileSet, grouped

MISSING = -1


@dataclass(frozen=True)
class SyntheticTiles:
    """The synthetic tiles of each tile of a set, in rotation over epochs.

    ``members[starts[i] : starts[i + 1]]`` are the indices, in ``synthetic``, of those made from tile ``i``.
    """

    synthetic: TileSet
    starts: np.ndarray
    members: np.ndarray

    @cached_property
    def period(self) -> int:
        """After how many epochs every tile has its first one again: tiles may have different numbers of them."""
        return math.lcm(*(int(count) for count in np.unique(np.diff(self.starts)) if count))

    def of(self, indices: np.ndarray, epoch: int) -> np.ndarray:
        """Return the synthetic tile of each of ``indices`` in ``epoch``, int64 [B]; -1 where there is none."""
        counts = self.starts[indices + 1] - self.starts[indices]  # of these alone: a set may hold 10^8 tiles
        place = self.starts[indices] + epoch % np.maximum(counts, 1)
        return np.where(counts > 0, self.members[np.minimum(place, len(self.members) - 1)], MISSING)


def link_synthetic(tiles: TileSet, synthetic: TileSet, *, what: str, allow_missing: bool = False) -> SyntheticTiles:
    """Return which of ``synthetic`` were made from which of ``tiles``; those made from others are left aside.

    Raises:
        StoreError: they do not say their sources, or were made from other tiles, or some of ``tiles`` have none and
            ``allow_missing`` is false.
    """
    if what not in SYNTHETIC:
        raise ValueError(what)
    if set(synthetic.kinds) != {what}:
        raise StoreError(f"the {what} stores are of kind {', '.join(synthetic.kinds)}; give stores of kind {what}")
    source = base_indices(tiles, synthetic, "source")
    _check_sources(tiles, synthetic)
    known = np.flatnonzero(source != MISSING)
    order = known[np.argsort(source[known], kind="stable")]
    starts = np.searchsorted(source[order], np.arange(len(tiles) + 1))
    without = np.flatnonzero(np.diff(starts) == 0)
    if len(without) == len(tiles):
        raise StoreError(
            f"none of the {len(synthetic)} {what} tiles was made from these {len(tiles)} tiles; "
            "synthesize from these stores first"
        )
    if len(without) and not allow_missing:
        raise StoreError(
            f"{len(without)} of {len(tiles)} tiles have no {what} tile, the first is {tiles.ids(without[:1])[0]}; "
            "synthesize theirs too, or train them on real views alone with gen.allow_missing=true"
        )
    return SyntheticTiles(synthetic, starts, order)


def _check_sources(tiles: TileSet, synthetic: TileSet) -> None:
    """Raise a StoreError when a source store was made anew since: its tiles bear the numbers of others.

    A store that ``synthesize`` wrote names the bytes that its source store had.
    """
    stores = {store.store_id: store for store in tiles.stores}
    for store in synthetic.stores:
        made_from = store.provenance.get("source_sha256")
        if made_from is None or not store.num_tiles:
            continue
        names = store.rows_attributes("columns/source_store")["categories"]
        source = stores.get(names[int(store.read_rows("columns/source_store", [0])[0])])
        if source is not None and source.content_hash != made_from:
            raise StoreError(
                f"'{store.path}' was made from other tiles than '{source.path}' holds now; synthesize from these again"
            )


def base_indices(tiles: TileSet, synthetic: TileSet, role: str) -> np.ndarray:
    """Return the index in ``tiles`` of the ``source`` or ``partner`` of each synthetic tile, int64 [M]; -1: not there.

    Raises:
        StoreError: the synthetic stores do not record it.
    """
    for column in (f"{role}_store", f"{role}_index"):
        if not synthetic.has_column(column):
            raise StoreError(f"store '{synthetic.stores[0].path}' has no column '{column}'; synthesize it again")
    everything = np.arange(len(tiles))
    owners, locals_ = tiles.store_of(everything), tiles.tile_index_of(everything)
    bounds = np.searchsorted(owners, np.arange(len(tiles.stores) + 1))
    owner_of_name = {store.store_id: number for number, store in enumerate(tiles.stores)}
    owner_of_code = np.array(
        [owner_of_name.get(name, MISSING) for name in synthetic.categories(f"{role}_store")] + [MISSING]
    )
    wanted_owner = owner_of_code[synthetic.column(f"{role}_store").astype(np.int64)]
    wanted_local = synthetic.column(f"{role}_index").astype(np.int64)
    out = np.full(len(synthetic), MISSING, dtype=np.int64)
    for owner, here in grouped(wanted_owner):
        if owner < 0:
            continue
        own = locals_[bounds[owner] : bounds[owner + 1]]
        if not len(here) or not len(own):
            continue
        place = np.searchsorted(own, wanted_local[here]).clip(max=len(own) - 1)
        found = own[place] == wanted_local[here]
        out[here[found]] = bounds[owner] + place[found]
    return out


@dataclass(frozen=True)
class Interpolations:
    """The interpolated tiles of each tile: their partners and weights."""

    tiles: SyntheticTiles
    partner: np.ndarray
    """Index of the partner tile of each interpolated tile, int64 [M]."""
    alpha: np.ndarray
    """Weight of the source, float32 [M]."""

    def matching(self, epoch: int, num_tiles: int) -> np.ndarray:
        """Return the mutual pairs of ``epoch``: int64 [P, 2], each tile at most once."""
        everything = np.arange(num_tiles)
        chosen = self.tiles.of(everything, epoch)
        partner = np.where(chosen == MISSING, MISSING, self.partner[chosen])
        mutual = (partner != MISSING) & (partner > everything)
        first = everything[mutual]
        first = first[partner[partner[first]] == first]
        return np.stack([first, partner[first]], axis=1)


def link_interpolated(tiles: TileSet, synthetic: TileSet, *, allow_missing: bool = False) -> Interpolations:
    """Return the interpolated tiles of ``tiles``, with partners and alphas.

    Raises:
        StoreError: as :func:`link_synthetic`; or a partner is not among ``tiles``, or alpha is not in 0–1.
    """
    linked = link_synthetic(tiles, synthetic, what="interpolated", allow_missing=allow_missing)
    partner = base_indices(tiles, synthetic, "partner")
    alpha = synthetic.column("alpha").astype(np.float32)
    used = linked.members
    if (partner[used] == MISSING).any():
        raise StoreError(
            f"{int((partner[used] == MISSING).sum())} of {len(used)} interpolated tiles have a partner that is not "
            "among these tiles; synthesize them from these stores"
        )
    if not ((alpha[used] >= 0) & (alpha[used] <= 1)).all():
        raise StoreError("some interpolated tiles have an alpha outside 0–1; synthesize them again")
    return Interpolations(linked, partner, alpha)


def check_matching(interpolations: Interpolations, num_tiles: int) -> int:
    """Return the number of mutual pairs that every epoch has.

    Raises:
        ConfigError: fewer than nine in ten tiles are in a mutual pair.
    """
    variants = range(interpolations.tiles.period)
    fewest = min(len(interpolations.matching(epoch, num_tiles)) for epoch in variants)
    if 2 * fewest < 0.9 * (num_tiles - 1):
        raise ConfigError(
            f"only {2 * fewest} of {num_tiles} tiles are their partner's partner, so pairing 'matching' cannot work; "
            "synthesize with mutual partners, or set dis.pairing=arbitrary"
        )
    return fewest
