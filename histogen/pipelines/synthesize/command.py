"""``synthesize``: generative or interpolated tiles for every tile, each reproducible from its own row.

A synthetic store has, for source tile i and copy c of ``per_source`` k, its row k*i + c. Its columns say all that the
tile depends on besides the model and the settings in the store's provenance: ``source_store``, ``source_index``,
``partner_store``, ``partner_index``, ``alpha`` (1 and no partner for generative tiles) and ``seed``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from histogen.compute.client import Compute
from histogen.compute.run import run_units
from histogen.config import Precision
from histogen.diffusion.conditioning import slerp
from histogen.diffusion.pipeline import EldmPipeline
from histogen.diffusion.pipeline_files import load_pipeline, pipeline_sha256
from histogen.diffusion.settings import SamplerSettings
from histogen.encoders.base import Encoder
from histogen.encoders.registry import load_encoder
from histogen.errors import ConfigError, EncoderError, OutputExistsError, StoreError
from histogen.files import write_atomic
from histogen.lease import for_its_output
from histogen.pipelines.embed.command import embed_images, ensure_embeddings
from histogen.pipelines.heldout import open_real
from histogen.pipelines.outputs import Outcome, claim_output, finish_output, shards_to_make
from histogen.pipelines.precision import run_precision, tiles_precision
from histogen.pipelines.synthesize.plan import (
    SynthesizeConfig,
    check_plan,
    create_stores,
    encoder_spec,
    measuring_encoder,
)
from histogen.store.jpeg import encode_jpeg
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore
from histogen.training.processes import resolve_device

TILES = "tiles"
ENCODING_THREADS = 4
GROUP = 256
"""Tiles that are sampled at a time: while the device makes a group, the JPEGs of the one before are encoded."""


@dataclass(frozen=True)
class SynthesisUnit:
    """One shard of one synthetic store. The digests tell a worker that outlives a run what it must read anew."""

    store: Path
    shard: int
    num_items: int
    tiles: tuple[Path, ...]
    tiles_sha256: str
    eldm: Path
    eldm_sha256: str
    encoder: str | None
    device: str

    @property
    def key(self) -> str:
        """What messages call it."""
        return f"{self.store.stem}/{self.shard}"


@for_its_output
def run(config: SynthesizeConfig) -> Outcome:
    """Make the shards that are not there yet.

    Raises:
        ConfigError, StoreError, EncoderError, OutputExistsError: an input or the output cannot be used.
    """
    if config.recreate is not None:
        return recreate(config)
    precision = run_precision(config, config.precision, resolve_device(config.device))
    tiles, pipeline = open_real(config.tiles, where=config.where), load_pipeline(config.eldm)
    check_plan(config, tiles, pipeline)
    inputs = {"tiles": tiles.content_hash, "eldm": pipeline_sha256(pipeline)}
    out = claim_output(config, command="synthesize", inputs=inputs, precision=precision, makes_stores=True)
    _ensure_embedded(config, tiles, pipeline, precision)
    stores = create_stores(config, tiles, pipeline, inputs, precision)
    shards = [(store, shard) for store in stores for shard in shards_to_make(store, resume=config.resume)]
    units = units_of(config, shards, inputs)
    done = len(tiles) * config.per_source - sum(unit.num_items for unit in units)
    report = run_units(
        make_shard, units, compute=Compute.from_config(config), description=f"synthesize {config.kind}", items_done=done
    )
    failures = tuple(str(failure) for failure in report.failures)
    kept = sum(note["count"] for store in stores for note in store.ledger.notes(TILES).values())
    if not failures:
        finish_output(out, tiles=kept, stores=len(stores), supervision=pipeline.config["supervision"])
    return Outcome(
        out,
        f"{kept:,} {config.kind} tiles of {len(tiles):,} sources in {len(stores)} stores"
        + (f"; {len(failures)} shards failed" if failures else ""),
        failures,
        {"tiles": kept, "seconds": report.seconds},
    )


def units_of(
    config: SynthesizeConfig, shards: Sequence[tuple[TileStore, int]], inputs: Mapping[str, str]
) -> list[SynthesisUnit]:
    """Return the units that make these shards of synthetic stores; ``inputs`` are the digests."""
    shared: dict[str, Any] = {
        "tiles": tuple(path.resolve() for path in config.tiles),  # folders: a unit does not grow with the stores
        "tiles_sha256": inputs["tiles"],
        "eldm": config.eldm.resolve(),
        "eldm_sha256": inputs["eldm"],
        "encoder": measuring_encoder(config),
        "device": config.device,
    }
    return [SynthesisUnit(store.path.resolve(), shard, len(_wanted(store, shard)), **shared) for store, shard in shards]


def _wanted(store: TileStore, shard: int) -> np.ndarray:
    """Return the rows of a shard whose sources take part."""
    rows = np.array(store.shard_range(shard), dtype=np.int64)
    return rows[store.read_rows("columns/seed", rows) >= 0]


def _ensure_embedded(config: SynthesizeConfig, tiles: TileSet, pipeline: EldmPipeline, precision: Precision) -> None:
    name = pipeline.config["encoder_name"]
    if name in tiles.embedding_names:
        return
    spec = encoder_spec(config.eldm)
    made = ensure_embeddings(
        config.tiles, spec,
        precision=precision, device=config.device, **config.bulk,
    )  # fmt: skip
    if made != name:
        raise EncoderError(f"the E-LDM was trained with encoder '{name}', but '{spec}' is now '{made}'; restore it")


def make_shard(unit: SynthesisUnit) -> dict[str, Any]:
    """Make the tiles of one shard, write them, and commit."""
    store = TileStore.open_(unit.store)
    rows, wanted = np.array(store.shard_range(unit.shard), dtype=np.int64), _wanted(store, unit.shard)
    sources = {source.store_id: source for source in _cached_tiles(unit.tiles, unit.tiles_sha256).stores}
    encoding: dict[int, Future[bytes]] = {}
    cosines = np.full(len(rows), np.nan, np.float32)
    with ThreadPoolExecutor(ENCODING_THREADS) as pool:
        for start in range(0, len(wanted), GROUP):
            group = wanted[start : start + GROUP]
            images, measured = _make_group(store, group, sources, unit)
            cosines[group - rows[0]] = measured
            for row, image in zip(group[_kept(store, measured)], images[_kept(store, measured)], strict=True):
                encoding[int(row)] = pool.submit(encode_jpeg, image, store.jpeg)
        payloads = [encoding[row].result() if row in encoding else None for row in rows.tolist()]
    if unit.encoder is not None:
        store.write_rows("columns/consistency", unit.shard, cosines)
    note = store.write_tiles(unit.shard, payloads)
    store.commit(TILES, unit.shard, note)
    return note


def _make_group(
    store: TileStore, rows: np.ndarray, sources: dict[str, TileStore], unit: SynthesisUnit
) -> tuple[np.ndarray, np.ndarray]:
    """Return the tiles of ``rows``, uint8 [B, H, W, 3], and their consistency float32 [B]; NaN when not measured."""
    embeddings = conditioning_embeddings(store, rows, sources)
    images = sample_rows(store, rows, embeddings, _cached_pipeline(unit.eldm, unit.eldm_sha256, unit.device))
    if unit.encoder is None:
        return images, np.full(len(rows), np.nan, np.float32)
    encoder = _cached_encoder(unit.encoder, store.provenance["encoder"], unit.device)
    return images, measure_consistency(images, embeddings, encoder, tiles_precision(store.provenance))


def _kept(store: TileStore, consistency: np.ndarray) -> np.ndarray:
    """Return which tiles (bool [B]) stay: all, or those whose consistency is not below the least one asked for."""
    least = store.provenance["consistency"]["least"]
    return np.ones(len(consistency), bool) if least is None else consistency >= least


def conditioning_embeddings(store: TileStore, rows: np.ndarray, sources: dict[str, TileStore]) -> torch.Tensor:
    """Return what ``rows`` of a synthetic store are conditioned on, float32 [B, D].

    Raises:
        StoreError: a store of sources or partners is not among ``sources``.
    """
    first = _embeddings_of(store, rows, "source", sources)
    partners = store.read_rows("columns/partner_index", rows)
    if not len(rows) or (partners < 0).all():
        return first
    second = _embeddings_of(store, rows, "partner", sources)
    return slerp(first, second, torch.from_numpy(store.read_rows("columns/alpha", rows)))


def _embeddings_of(store: TileStore, rows: np.ndarray, who: str, sources: dict[str, TileStore]) -> torch.Tensor:
    names = store.rows_attributes(f"columns/{who}_store")["categories"]
    codes, indices = store.read_rows(f"columns/{who}_store", rows), store.read_rows(f"columns/{who}_index", rows)
    values: np.ndarray | None = None
    for code in np.unique(codes):
        if names[code] not in sources:
            raise StoreError(f"store '{names[code]}', a {who} of '{store.path}', is not among the tiles given; add it")
        here = np.flatnonzero(codes == code)
        part = sources[names[code]].read_rows(f"embeddings/{store.provenance['encoder']}", indices[here])
        if values is None:
            values = np.empty((len(rows), part.shape[1]), np.float32)
        values[here] = part
    return torch.from_numpy(np.zeros((0, 1), np.float32) if values is None else values)


def sample_rows(store: TileStore, rows: np.ndarray, embeddings: torch.Tensor, pipeline: EldmPipeline) -> np.ndarray:
    """Return the tiles of ``rows``, uint8 [B, H, W, 3], with the settings of the store's provenance."""
    if not len(rows):
        return np.zeros((0, store.tile_px, store.tile_px, 3), np.uint8)
    settings = store.provenance
    return pipeline(
        embeddings,
        store.read_rows("columns/seed", rows).tolist(),
        sampler=SamplerSettings.model_validate(settings["sampler"]),
        micro_batch=settings["micro_batch"],
        decode_batch=settings["decode_batch"],
        precision=tiles_precision(settings),
    )


def measure_consistency(
    images: np.ndarray, embeddings: torch.Tensor, encoder: Encoder, precision: Precision
) -> np.ndarray:
    """Return the cosine between each tile's own embedding and the one it was made from, float32 [B]."""
    made = torch.from_numpy(embed_images(encoder, images, precision=precision))
    return torch.nn.functional.cosine_similarity(made.double(), embeddings.double()).float().numpy()


def recreate(config: SynthesizeConfig) -> Outcome:
    """Make one synthetic tile again from its row and compare it with what is stored.

    Raises:
        ConfigError: STORE:INDEX cannot be used, or the E-LDM is not the one that made the store.
        StoreError: the store has no such tile, or was not made by ``synthesize``.
    """
    path, _, number = str(config.recreate).rpartition(":")
    if not number.isdecimal() or not path:
        raise ConfigError(f"--recreate '{config.recreate}' is not of the form STORE:INDEX; write for example a.zarr:7")
    if config.out.exists() and not (config.overwrite and config.out.is_file()):
        raise OutputExistsError(f"'{config.out}' exists; pass --overwrite to replace the picture, or another --out")
    store, index = TileStore.open_(path), int(number)
    if "eldm_weights_sha256" not in store.provenance:
        raise StoreError(f"'{path}' holds no synthetic tiles; give a store that synthesize made")
    stored = store.read_payload(index)
    pipeline = load_pipeline(config.eldm, resolve_device(config.device))
    if pipeline_sha256(pipeline) != store.provenance["eldm_weights_sha256"]:
        raise ConfigError(f"'{config.eldm}' is not the E-LDM that made '{path}'; give the one that did")
    rows = np.array([index])
    sources = {source.store_id: source for source in TileSet.open_(config.tiles).stores}
    image = sample_rows(store, rows, conditioning_embeddings(store, rows, sources), pipeline)[0]
    payload = encode_jpeg(image, store.jpeg)
    same = payload == stored
    if config.out.suffix.lower() != ".png":
        write_atomic(config.out, payload)
    else:
        import imagecodecs

        write_atomic(config.out, bytes(imagecodecs.png_encode(image)))
    verdict = "the same bytes as in the store" if same else "other bytes than in the store (other hardware or versions)"
    return Outcome(config.out, f"tile {index} of '{path}' made again: {verdict}", results={"same": same})


@lru_cache(maxsize=1)
def _cached_pipeline(eldm: Path, sha256: str, device: str) -> EldmPipeline:
    pipeline = load_pipeline(eldm, resolve_device(device))
    if pipeline_sha256(pipeline) != sha256:
        raise ConfigError(
            f"the E-LDM in '{eldm}' has other weights here than where the run started; make them the same"
        )
    return pipeline


@lru_cache(maxsize=1)
def _cached_tiles(paths: tuple[Path, ...], sha256: str) -> TileSet:  # noqa: ARG001 - it is a key of the cache
    return TileSet.open_(list(paths))


@lru_cache(maxsize=1)
def _cached_encoder(spec: str, name: str, device: str) -> Encoder:
    encoder = load_encoder(spec, resolve_device(device))
    if encoder.card.name != name:
        raise EncoderError(
            f"'{spec}' is encoder '{encoder.card.name}' here and not '{name}'; make it the same everywhere"
        )
    return encoder
