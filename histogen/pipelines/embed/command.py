"""``histogen embed``: one embedding per tile, written into the tile stores themselves."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from histogen.compute.client import Compute
from histogen.compute.run import run_units
from histogen.config import Precision
from histogen.diffusion.micro_batch import map_micro_batches
from histogen.encoders.base import Encoder, advice_on
from histogen.encoders.registry import absolute_spec, load_encoder
from histogen.errors import EncoderError, OutputExistsError
from histogen.pipelines.embed.config import EmbedConfig
from histogen.pipelines.outputs import Outcome, only_writer, remove_leftovers
from histogen.pipelines.precision import keep_precision
from histogen.pipelines.recorded import forget_damaged, written_from
from histogen.store.checks import damaged_rows
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore
from histogen.training.precision import autocast, resolve_precision
from histogen.training.processes import resolve_device
from histogen.training.transfer import host_pixels

GROUP = "embeddings"
READ_TILES = 256
"""Tiles of a shard that are decoded at a time."""
READING_THREADS = 4
"""Threads of a worker that decode them, while the network works on those before."""


@dataclass(frozen=True)
class EmbedUnit:
    """One shard of one store."""

    store: Path
    shard: int
    num_items: int
    spec: str
    rows: str
    batch: int
    precision: Precision
    device: str

    @property
    def key(self) -> str:
        """What messages call it."""
        return f"{self.store.stem}/{self.shard}"


def run(config: EmbedConfig, *, as_they_are: bool = False) -> Outcome:
    """Embed every tile that has no embedding by this encoder yet.

    ``as_they_are`` takes what a store has of these weights with the batch, precision and dtype that it was made with,
    and adds what is missing in the same way.

    Raises:
        OutputExistsError: a store has embeddings by this encoder and neither resume nor overwrite is set.
        EncoderError, StoreError: the encoder or a store cannot be used.
    """
    device = resolve_device(config.device)  # a missing GPU is said before any work
    precision = resolve_precision(config.precision, device)
    encoder = load_encoder(config.encoder)
    stores = TileSet.open_(list(config.tiles)).stores
    rows = f"{GROUP}/{encoder.card.name}"
    made = {store.path: _made_as(store, rows) for store in stores}
    _check_existing(stores, made, rows, config, as_they_are=as_they_are)
    for store in () if config.overwrite else stores:
        forget_damaged(store, rows)
    if any(store.missing_shards(rows) for store in stores) or config.overwrite:
        for advice in dict.fromkeys(advice_on(encoder.card, store.tile_px, store.mpp) for store in stores):
            sys.stderr.write(f"{advice}\n" if advice else "")
        _try(encoder, stores[0], config, precision)
    unfinished = [store for store in stores if config.overwrite or store.missing_shards(rows)]
    remove_leftovers(set(stores) - set(unfinished), rows)
    with only_writer(unfinished, rows, anew=config.overwrite):
        if config.overwrite:
            made = dict.fromkeys(made)
        begun: list[Precision] = [facts["precision"] for facts in made.values() if facts and "precision" in facts]
        if begun and (as_they_are or config.precision == "auto"):  # stores that are added are made like those beside
            precision = begun[0]
        wanted: dict[str, Any] = {"batch": config.batch, "precision": precision}
        for store in stores:
            if made[store.path] is None:
                lies = written_from(store.path, absolute_spec(config.encoder))
                attributes = {"card": encoder.card.to_json(), "encoder": lies, **wanted}
                store.create_rows(rows, (store.num_tiles, encoder.card.dim), config.dtype, attributes=attributes)
        units = [
            EmbedUnit(
                store.path.resolve(), shard, len(store.shard_range(shard)), absolute_spec(config.encoder), rows,
                how["batch"], how["precision"], config.device,
            )
            for store in unfinished
            for how in (made[store.path] or wanted,)
            for shard in store.missing_shards(rows)
        ]  # fmt: skip
        for unit in units[:1] if begun else ():
            keep_precision(unit.store / rows, unit.precision, device)
        total = sum(store.num_tiles for store in stores)
        done = total - sum(unit.num_items for unit in units)
        report = run_units(
            embed_shard, units, compute=Compute.from_config(config), description="embed", items_done=done
        )
        failures = tuple(str(failure) for failure in report.failures)
        for store in stores:
            if made[store.path] is None and not store.ledger.done(rows):
                store.delete_rows(rows)  # nothing of it was made: nothing is left of it
    summary = f"{total:,} tiles of {len(stores)} stores have embeddings [{encoder.card.dim}] by {encoder.card.name}"
    if failures:
        summary = f"{done + report.items:,} of {summary}; {len(failures)} shards failed"
    return Outcome(
        config.out, summary, failures, {"name": encoder.card.name, "tiles": total, "seconds": report.seconds}
    )


def ensure_embeddings(
    tiles: Sequence[Path],
    encoder: str,
    *,
    precision: Precision = "auto",
    device: str = "auto",
    **bulk: Any,
) -> str:
    """Embed what is missing and return the encoder's name, the key of its embeddings in the stores.

    ``precision`` is that of stores without any, where none beside them has some; ``bulk`` is :attr:`BulkConfig.bulk`.

    Raises:
        EncoderError: some shards could not be embedded.
    """
    config = EmbedConfig(tiles=list(tiles), encoder=encoder, precision=precision, device=device, **bulk, resume=True)  # type: ignore[arg-type]
    outcome = run(config, as_they_are=True)
    if outcome.failures:
        raise EncoderError(f"{len(outcome.failures)} shards could not be embedded, the first: {outcome.failures[0]}")
    return str(outcome.results["name"])


def embed_shard(unit: EmbedUnit) -> dict[str, Any]:
    """Embed the tiles of one shard in passes of exactly ``unit.batch``, and write them; absent tiles get zeros."""
    store = TileStore.open_(unit.store)
    encoder = _cached_encoder(unit.spec, unit.rows, unit.device)
    indices = np.array(store.shard_range(unit.shard), dtype=np.int64)
    present = store.tile_ok[indices]
    values = np.zeros((len(indices), encoder.card.dim), np.float32)
    wanted = np.flatnonzero(present)
    parts = [wanted[start : start + READ_TILES] for start in range(0, len(wanted), READ_TILES)]
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader, ThreadPoolExecutor(READING_THREADS) as pool:

        def read(part: np.ndarray) -> np.ndarray:
            images = host_pixels((len(part), store.tile_px, store.tile_px, 3), encoder.mean.device)
            store.read_tiles(indices[part].tolist(), images, pool)
            return images

        following = [reader.submit(read, part) for part in parts[:1]]
        for number, part in enumerate(parts):
            images = following.pop().result()
            following = [reader.submit(read, one) for one in parts[number + 1 : number + 2]]  # meanwhile
            values[part] = embed_images(encoder, images, batch=unit.batch, precision=unit.precision)
    dtype = store.rows(unit.rows).layout.dtype
    with np.errstate(over="ignore"):
        stored = values.astype(dtype)
    _check_finite(values[wanted], stored[wanted], indices[wanted], store, unit.rows)
    store.write_rows(unit.rows, unit.shard, stored)
    note = {"count": len(wanted), "sha256": hashlib.sha256(stored.tobytes()).hexdigest()}
    store.commit(unit.rows, unit.shard, note)
    return note


def _check_finite(
    values: NDArray[np.float32], stored: NDArray[np.floating], indices: NDArray[np.int64], store: TileStore, rows: str
) -> None:
    """Refuse what is no number, or becomes none as it is stored.

    Raises:
        EncoderError: it names the first such tile and its store.
    """
    broken = np.flatnonzero(~np.isfinite(stored).all(axis=1))
    if not len(broken):
        return
    name, first = rows.partition("/")[2], broken[0]
    where = f"tile {indices[first]} of store '{store.store_id}' ({len(broken)} of {len(indices)} tiles of the shard)"
    if np.isfinite(values[first]).all():
        raise EncoderError(
            f"the embedding of {where} by '{name}' reaches {np.abs(values[first]).max():.3g}, more than "
            f"{stored.dtype} holds; use dtype=float32"
        )
    raise EncoderError(
        f"encoder '{name}' gives no finite embedding of {where}; check its weights, or use precision=float32"
    )


def embed_images(
    encoder: Encoder, images: np.ndarray, *, batch: int = 64, precision: Precision = "float32"
) -> NDArray[np.float32]:
    """Return float32 [N, D] of uint8 RGB images [N, H, W, 3], N at least 1, in passes of exactly ``batch``.

    An embedding depends on its image, ``batch`` and ``precision`` alone: not on neighbours, padding or threads.
    """
    device = encoder.mean.device

    def embed(part: torch.Tensor) -> torch.Tensor:
        with autocast(device, precision):
            return encoder(part.permute(0, 3, 1, 2)).float()

    return map_micro_batches(embed, torch.from_numpy(images), micro_batch=batch, device=device).numpy()


@lru_cache(maxsize=2)
def _cached_encoder(spec: str, rows: str, device: str) -> Encoder:
    """Return the encoder whose embeddings ``rows`` are; a worker that outlives a training reads the new weights.

    Raises:
        EncoderError: its weights have changed since the command began.
    """
    encoder = load_encoder(spec, resolve_device(device))
    if encoder.card.name != rows.partition("/")[2]:
        raise EncoderError(f"encoder '{spec}' is '{encoder.card.name}' now, not '{rows.partition('/')[2]}'; run again")
    return encoder


def _made_as(store: TileStore, rows: str) -> dict[str, Any] | None:
    """Return how the embeddings that ``store`` has were made; None when it has none."""
    if not (store.path / rows / "zarr.json").exists():
        return None
    return {**store.rows_attributes(rows), "dtype": store.rows(rows).layout.dtype.name}


def _check_existing(
    stores: Sequence[TileStore], made: Mapping[Path, dict[str, Any] | None], rows: str, config: EmbedConfig, *,
    as_they_are: bool,
) -> None:  # fmt: skip
    """Refuse embeddings that are there, unless they are to be redone, or gone on with in the way they were begun."""
    name = rows.partition("/")[2]
    there = [(store, made[store.path]) for store in stores if made[store.path] is not None]
    if config.overwrite or not there:
        return
    if not config.resume:
        raise OutputExistsError(
            f"store '{there[0][0].path}' has embeddings by '{name}'; "
            "pass --resume to add what is missing or --overwrite to redo them"
        )
    for store, facts in there:
        assert facts is not None
        if "batch" not in facts and (not store.is_complete(rows) or damaged_rows(store, rows)):
            raise OutputExistsError(
                f"store '{store.path}' has {rows} from elsewhere, not whole; pass --overwrite to embed anew"
            )
        differs = [
            f"{key} {facts.get(key)}, not {getattr(config, key)}"
            for key in ("batch", "precision", "dtype")
            if facts.get(key) != getattr(config, key) and getattr(config, key) != "auto"
        ]
        if differs and not as_they_are:
            raise OutputExistsError(
                f"store '{store.path}' has embeddings by '{name}' made with {', '.join(differs)}; "
                "set these as they were, or pass --overwrite to redo them"
            )


def _try(encoder: Encoder, store: TileStore, config: EmbedConfig, precision: Precision) -> None:
    """Embed one tile before anything is written or deleted.

    Raises:
        EncoderError: what comes out is no embedding, or not a finite one.
    """
    present = np.flatnonzero(store.tile_ok)[:1]
    if not len(present):
        return
    images = store.read_tile(int(present[0]))[None]
    device = resolve_device(config.device)
    try:
        values = embed_images(encoder.to(device), images, batch=1, precision=precision)
    except EncoderError as error:
        raise EncoderError(f"tile {present[0]} of store '{store.store_id}': {error}") from error
    with np.errstate(over="ignore"):
        stored = values.astype(config.dtype)
    _check_finite(values, stored, present, store, f"{GROUP}/{encoder.card.name}")
