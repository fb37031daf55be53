"""Damaged shards and columns of synthetic stores, made anew from what the stores and their folder record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from histogen.diffusion.pipeline_files import load_pipeline, pipeline_sha256
from histogen.errors import ConfigError
from histogen.pipelines.heldout import open_real
from histogen.pipelines.outputs import read_config, read_run
from histogen.pipelines.synthesize.command import SynthesisUnit, units_of
from histogen.pipelines.synthesize.config import SynthesizeConfig
from histogen.pipelines.synthesize.plan import planned_column
from histogen.store.merging import recode
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore


def units_again(store: TileStore, shards: Sequence[int]) -> list[SynthesisUnit]:
    """Return the units that make ``shards`` of a synthetic store as they were made before.

    Raises:
        ConfigError: its folder does not say how, or its E-LDM or the tiles are not the recorded ones.
        StoreError: the tiles that it was made from are not there.
    """
    config, tiles = _recorded(store)
    inputs = {"tiles": tiles.content_hash, "eldm": pipeline_sha256(load_pipeline(config.eldm))}
    if inputs["eldm"] != store.provenance.get("eldm_weights_sha256"):
        raise ConfigError(f"'{config.eldm}' is not the E-LDM that made '{store.path}'; put that one there")
    return units_of(config, [(store, shard) for shard in shards], inputs)


def write_column_again(store: TileStore, name: str, shards: Sequence[int]) -> None:
    """Write ``shards`` of a column of a synthetic store as they were planned.

    Raises:
        ConfigError, StoreError: as :func:`units_again`.
    """
    config, tiles = _recorded(store)
    planned = planned_column(config, tiles, store.provenance["encoder"], store.path.stem, name)
    own = store.rows_attributes(f"columns/{name}").get("categories")
    values = planned.values
    if own is not None:  # a store of before names all stores
        codes = {one: code for code, one in enumerate(own)}
        values = recode(values, list(planned.categories or ()), codes).astype(values.dtype)
    rows = store.rows(f"columns/{name}")
    for chunk in shards:
        start = chunk * rows.layout.shard_rows
        rows.write(chunk, values[start : start + rows.layout.shard_rows])


def _recorded(store: TileStore) -> tuple[SynthesizeConfig, TileSet]:
    """Return the settings and the tiles that a synthetic store was made with."""
    out = store.path.absolute().parent
    if read_run(out).get("command") != "synthesize":
        raise ConfigError(f"'{out}' does not say how '{store.path}' was made; run synthesize on it with --resume")
    settings = read_config(out)
    base = _base(out, Path(str(settings.get("out"))))
    try:
        config = SynthesizeConfig.model_validate({**settings, "out": out, "device": "auto"})
    except ValidationError as error:
        raise ConfigError(f"the config recorded in '{out}' cannot be used; make it again with synthesize") from error
    moved: dict[str, Any] = {"tiles": [_at(base, path) for path in config.tiles], "eldm": _at(base, config.eldm)}
    config = config.model_copy(update=moved)
    tiles = open_real(config.tiles, where=config.where)
    if tiles.content_hash != store.provenance.get("source_tiles_sha256"):
        raise ConfigError(f"the tiles that '{store.path}' was made from have changed; make it again with synthesize")
    return config, tiles


def _base(out: Path, recorded: Path) -> Path:
    """Return the folder that the command was run in, where its output was a relative path; else the folder here."""
    parts = recorded.parts
    is_inside = not recorded.is_absolute() and ".." not in parts and out.parts[len(out.parts) - len(parts) :] == parts
    return out.parents[len(parts) - 1] if is_inside and parts else Path.cwd()


def _at(base: Path, path: Path) -> Path:
    return base / path if (base / path).exists() else path
