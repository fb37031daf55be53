"""The latent cache: posterior moments of every tile, in every dihedral variant asked for, written by the shard map.

Variants are encoded anew, never flipped latents: an encoder is not exactly equivariant. A cached moment equals the
direct encoding of the tile, bit for bit up to its rounding to float16.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from histogen.compute.client import Compute
from histogen.compute.run import MapReport, run_units
from histogen.config import Precision
from histogen.diffusion.autoencoder import NUM_DIHEDRAL, Autoencoder, dihedral, encode_moments, to_signal
from histogen.diffusion.autoencoder_files import autoencoder_name, load_autoencoder
from histogen.diffusion.micro_batch import map_micro_batches
from histogen.errors import StoreError
from histogen.pipelines.outputs import only_writer, remove_leftovers
from histogen.pipelines.precision import rows_precision
from histogen.pipelines.recorded import forget_damaged, written_from
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore
from histogen.training.precision import autocast
from histogen.training.processes import resolve_device

MICRO_BATCH = 16
"""Tiles per pass through the autoencoder; fixed, so that the bytes depend on nothing else."""


@dataclass(frozen=True)
class LatentUnit:
    """One shard of one store."""

    store: Path
    shard: int
    num_items: int
    autoencoder: Path
    rows: str
    variants: int
    precision: Precision
    device: str

    @property
    def key(self) -> str:
        """What messages call it."""
        return f"{self.store.stem}/{self.shard}"


def ensure_latents(
    tiles: TileSet, autoencoder: Path, *, variants: int, device: str, precision: Precision, compute: Compute
) -> str:
    """Cache the moments that are missing or damaged.

    ``precision``, resolved, is that of stores without any; others are finished as they were begun.

    Returns:
        The path of the rows, ``latents/<autoencoder>-x<variants>``.

    Raises:
        StoreError: some shards could not be encoded.
    """
    model = load_autoencoder(autoencoder)
    rows = f"latents/{autoencoder_name(model, autoencoder)}-x{variants}"
    probe = encode_moments(model, to_signal(torch.zeros(1, tiles.tile_px, tiles.tile_px, 3, dtype=torch.uint8)))
    moments = "mean, log variance" if _has_variance(model) else "mean"
    attributes: dict[str, Any] = {"variants": variants, "moments": moments}
    for store in tiles.stores:
        forget_damaged(store, rows)
    unfinished = [store for store in tiles.stores if store.missing_shards(rows)]
    remove_leftovers(set(tiles.stores) - set(unfinished), rows)
    with only_writer(unfinished, rows):
        for store in tiles.stores:
            if rows_precision(store, rows) is not None:
                continue
            attributes |= {"precision": precision, "autoencoder": written_from(store.path, str(autoencoder))}
            store.create_rows(rows, (store.num_tiles, variants, *probe.shape[1:]), "float16", attributes=attributes)
        units = [
            LatentUnit(
                store.path.resolve(), shard, len(store.shard_range(shard)), autoencoder.resolve(), rows, variants,
                rows_precision(store, rows) or precision, device,
            )
            for store in unfinished
            for shard in store.missing_shards(rows)
        ]  # fmt: skip
        if units:
            total = sum(store.num_tiles for store in tiles.stores)
            done = total - sum(unit.num_items for unit in units)
            _check(run_units(encode_shard, units, compute=compute, description="cache latents", items_done=done))
    return rows


def encode_shard(unit: LatentUnit) -> dict[str, Any]:
    """Encode every variant of the tiles of one shard and write their moments; absent tiles get zeros."""
    store = TileStore.open_(unit.store)
    model = _cached_autoencoder(unit.autoencoder, unit.rows, unit.device)
    indices = np.array(store.shard_range(unit.shard), dtype=np.int64)
    wanted = np.flatnonzero(store.tile_ok[indices])
    layout = store.rows(unit.rows).layout
    values = np.zeros((len(indices), *layout.row_shape), np.float16)
    if len(wanted):
        tiles = np.stack([store.read_tile(int(indices[position])) for position in wanted])
        values[wanted] = encode_variants(model, tiles, unit.variants, unit.precision)
    store.write_rows(unit.rows, unit.shard, values)
    note = {"count": len(wanted), "sha256": hashlib.sha256(values.tobytes()).hexdigest()}
    store.commit(unit.rows, unit.shard, note)
    return note


def encode_variants(model: Autoencoder, tiles: np.ndarray, variants: int, precision: Precision) -> np.ndarray:
    """Return moments float16 [N, variants, 2C or C, h, w] of uint8 tiles [N, H, W, 3]."""
    device = next(model.parameters()).device

    def encode(images: torch.Tensor) -> torch.Tensor:
        with autocast(device, precision):
            return encode_moments(model, to_signal(images))

    pieces = [
        map_micro_batches(encode, turned(torch.from_numpy(tiles), v), micro_batch=MICRO_BATCH, device=device)
        for v in range(variants)
    ]
    return torch.stack(pieces, dim=1).half().numpy()


def turned(images: torch.Tensor, variant: int) -> torch.Tensor:
    """Return uint8 images [N, H, W, 3] in dihedral ``variant``."""
    if not 0 <= variant < NUM_DIHEDRAL:
        raise StoreError(f"there are {NUM_DIHEDRAL} dihedral variants, {variant} was asked for")
    return dihedral(images.permute(0, 3, 1, 2), variant).permute(0, 2, 3, 1).contiguous()


def _has_variance(model: Autoencoder) -> bool:
    return type(model).__name__ != "VQModel"


def _check(report: MapReport) -> None:
    failures: Sequence[Any] = report.failures
    if failures:
        raise StoreError(f"{len(failures)} shards could not be encoded, the first: {failures[0]}; resume to try again")


@lru_cache(maxsize=1)
def _cached_autoencoder(folder: Path, rows: str, device: str) -> Autoencoder:  # noqa: ARG001 - see below
    # the rows' name has the digest of the weights: a worker that outlives a training reads the new ones
    return load_autoencoder(folder, resolve_device(device))
