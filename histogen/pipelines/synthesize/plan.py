"""What is to be synthesised: settings, the columns that say what each tile is made of, and the empty stores."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from histogen.config import Precision
from histogen.diffusion.micro_batch import rows_of_passes
from histogen.diffusion.pairing import choose_partners, draw_alphas, tile_seeds
from histogen.diffusion.pipeline import EldmPipeline
from histogen.diffusion.sampling import build_sampler
from histogen.encoders.registry import load_encoder
from histogen.errors import ConfigError, EncoderError
from histogen.pipelines.outputs import read_config
from histogen.pipelines.synthesize.config import SynthesizeConfig
from histogen.pipelines.train_eldm.command import recorded_sampler
from histogen.seeds import derive_seed
from histogen.store.jpeg import JpegSettings
from histogen.store.layout import Column, as_column
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore
from histogen.training.processes import resolve_device


def measuring_encoder(config: SynthesizeConfig) -> str | None:
    """Return the encoder that measures consistency, by a path that holds in a worker's folder; None when none does."""
    if not config.consistency.is_measured:
        return None
    spec = config.consistency.encoder or encoder_spec(config.eldm)
    return str(Path(spec).resolve()) if Path(spec).exists() else spec


def check_plan(config: SynthesizeConfig, tiles: TileSet, pipeline: EldmPipeline) -> None:
    """Raise a sentence for what would fail in every shard, before the output is claimed and anything is computed.

    Raises:
        ConfigError: the E-LDM makes tiles of another size, or the sampler cannot run it, or there is no partner.
        EncoderError: the encoder that measures consistency is not the one that conditions the E-LDM.
    """
    if tiles.tile_px != pipeline.tile_px:
        raise ConfigError(
            f"the tiles have {tiles.tile_px} px and the E-LDM in '{config.eldm}' makes {pipeline.tile_px} px; give "
            "tiles like those that it was trained on"
        )
    build_sampler(config.sampler or recorded_sampler(config.eldm), pipeline.scheduler)
    if config.kind == "interpolated" and len(tiles) < 2:
        raise ConfigError(f"{len(tiles)} tile has no partner to interpolate with; give more tiles")
    spec, name = measuring_encoder(config), pipeline.config["encoder_name"]
    if spec is not None and (found := load_encoder(spec).card.name) != name:
        raise EncoderError(
            f"consistency is measured by the encoder that conditions the E-LDM, '{name}', and '{spec}' is '{found}'; "
            "set consistency.encoder to where that one lies"
        )


def encoder_spec(eldm: Path) -> str:
    """Return the encoder that the run in ``eldm`` was given.

    Raises:
        EncoderError: the run does not say.
    """
    encoder = read_config(eldm).get("encoder")
    if not isinstance(encoder, str):
        raise EncoderError(f"'{eldm}' does not say which encoder it was trained with; run embed on the tiles first")
    return encoder


def create_stores(
    config: SynthesizeConfig, tiles: TileSet, pipeline: EldmPipeline, inputs: dict[str, str], precision: Precision
) -> list[TileStore]:
    """Write the metadata and columns of one synthetic store per source store, and return them.

    ``precision``, resolved, is what the tiles will be computed in.
    """
    paths = [config.out / f"{source.store_id}.zarr" for source in tiles.stores]
    begun = [(path / "zarr.json").exists() for path in paths]  # with all their columns
    plan = [] if all(begun) else _plan(config, tiles, pipeline.config["encoder_name"])
    sampler = config.sampler or recorded_sampler(config.eldm)
    provenance = {
        "kind": config.kind,
        "seed": config.seed,
        "per_source": config.per_source,
        "pairing": config.pairing if config.kind == "interpolated" else None,
        "alpha": config.alpha.model_dump(mode="json") if config.kind == "interpolated" else None,
        "encoder": pipeline.config["encoder_name"],
        "eldm_weights_sha256": inputs["eldm"],
        "source_tiles_sha256": inputs["tiles"],
        "supervision": pipeline.config["supervision"],
        "sampler": sampler.model_dump(mode="json"),
        **_passes(config),
        "precision": precision,
        "consistency": config.consistency.model_dump(mode="json", exclude={"encoder"}),
    }
    jpeg = JpegSettings(level=config.jpeg.level, subsampling=config.jpeg.subsampling)
    stores = []
    for position, source in enumerate(tiles.stores):
        num_tiles = source.num_tiles * config.per_source
        columns = None if begun[position] else _columns(config, tiles, position, plan)
        store = TileStore.create(
            paths[position], kind=config.kind, store_id=f"{source.store_id}-{config.kind}", tile_px=pipeline.tile_px,
            mpp=source.mpp, num_tiles=num_tiles, provenance={**provenance, "source_sha256": source.content_hash},
            jpeg=jpeg, columns=columns,
        )  # fmt: skip
        if config.consistency.is_measured:
            store.create_rows("columns/consistency", (num_tiles,), "float32", fill=float("nan"))
        stores.append(store)
    return stores


def planned_column(config: SynthesizeConfig, tiles: TileSet, encoder_name: str, source: str, name: str) -> Column:
    """Return column ``name`` of the synthetic store of store ``source``, as it was planned."""
    position = [store.store_id for store in tiles.stores].index(source)
    columns = _columns(config, tiles, position, _plan(config, tiles, encoder_name))
    return as_column(columns[name])


def _passes(config: SynthesizeConfig) -> dict[str, int]:
    """Return the rows of a pass through either network: as asked, as stores begun have it, or as the device wants."""
    begun = [path for path in sorted(config.out.glob("*.zarr")) if (path / "zarr.json").exists()]
    recorded = TileStore.open_(begun[0]).provenance if begun else {}
    usual = rows_of_passes(resolve_device(config.device))
    asked = {"micro_batch": config.micro_batch, "decode_batch": config.decode_batch}
    return {name: asked[name] or recorded.get(name, rows) for name, rows in zip(asked, usual, strict=True)}


def _plan(config: SynthesizeConfig, tiles: TileSet, encoder_name: str) -> list[np.ndarray]:
    """Return for each copy the partner of every tile of the set; nothing for generative tiles."""
    if config.kind == "generative":
        return []
    embeddings = tiles.embeddings(encoder_name) if config.pairing == "neighbours" else None
    seeds = [derive_seed(config.seed, "pairs", copy) for copy in range(config.per_source)]
    return [
        choose_partners(config.pairing, len(tiles), seed=seed, embeddings=embeddings, nearest=config.nearest)
        for seed in seeds
    ]


def _columns(
    config: SynthesizeConfig, tiles: TileSet, position: int, plan: list[np.ndarray]
) -> dict[str, Column | np.ndarray]:
    """Return the columns of the synthetic store of source store ``position``; rows of absent tiles say -1 and NaN."""
    source, copies = tiles.stores[position], config.per_source
    shape = (source.num_tiles, copies)
    partner_store, partner_index = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
    alpha, seeds = np.full(shape, np.nan, np.float32), np.full(shape, -1, np.int64)
    members = np.array(tiles.range_of(position), np.int64)
    local = tiles.tile_index_of(members)
    names = [f"{source.store_id}:{index}" for index in local.tolist()]  # as tiles.ids has them
    for copy in range(copies):
        seeds[local, copy] = tile_seeds(config.seed, config.kind, names, copy)
        alpha[local, copy] = 1.0
        if plan:
            partners = plan[copy][members]
            partner_store[local, copy] = tiles.store_of(partners)
            partner_index[local, copy] = tiles.tile_index_of(partners)
            alpha[local, copy] = draw_alphas(config.alpha, config.seed, names, copy)
    partner_of = np.unique(partner_store[partner_store >= 0])  # a store names those that it was made from, not all
    codes = np.where(partner_store < 0, -1, np.searchsorted(partner_of, partner_store)).astype(np.int32)
    return {
        "source_store": Column(np.zeros(shape, np.int32).ravel(), (source.store_id,)),
        "source_index": np.repeat(np.arange(source.num_tiles, dtype=np.int64), copies),
        "partner_store": Column(codes.ravel(), tuple(tiles.stores[owner].store_id for owner in partner_of.tolist())),
        "partner_index": partner_index.ravel(),
        "alpha": alpha.ravel(),
        "seed": seeds.ravel(),
    }
