"""``histogen inspect --check --repair``: damaged units are made anew, to the bytes that they had.

Embeddings, latents and synthetic tiles say what made them; where that is not at hand, a sentence says what to run.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from histogen.compute.client import Compute
from histogen.compute.run import run_units
from histogen.diffusion.autoencoder_files import autoencoder_name, load_autoencoder
from histogen.encoders.registry import absolute_spec, load_encoder
from histogen.errors import ConfigError, EncoderError, HistogenError, StoreError
from histogen.lease import give_back, lease_folder, take
from histogen.pipelines.embed.command import EmbedUnit, embed_shard
from histogen.pipelines.outputs import only_writer
from histogen.pipelines.precision import rows_precision
from histogen.pipelines.recorded import read_from, resuming
from histogen.pipelines.synthesize.again import units_again, write_column_again
from histogen.pipelines.synthesize.command import make_shard
from histogen.pipelines.train_eldm.latents import LatentUnit, encode_shard
from histogen.store.checks import Damage
from histogen.store.layout import SYNTHETIC, TILES
from histogen.store.tile_store import TileStore

DEVICE = "auto"
MEASURED = "columns/consistency"
"""Made together with the tiles of a synthetic store."""


def repair(damages: Sequence[Damage]) -> tuple[list[str], list[str]]:
    """Make what is damaged anew, what others are made from first.

    Returns:
        A line for each unit that is as it was again, and a sentence for each that is not.
    """
    groups: dict[tuple[Path, str], list[int]] = {}
    for damage in damages:
        groups.setdefault((damage.store, damage.array), []).append(damage.shard)
    lines, sentences = [], []
    for path, array in sorted(groups, key=_order):
        shards, store = groups[path, array], TileStore.open_(path)
        what = f"{array} of store '{path}'"
        noted = _digests(store, array, shards)
        try:
            failures = _make_again(store, array, shards)
        except HistogenError as error:
            sentences.append(f"shards {_numbers(shards)} of {what} stay damaged: {error}")
            continue
        sentences += [f"{what}: {failure}" for failure in failures.values()]
        for shard in (shard for shard in shards if shard not in failures):
            if _digests(store, array, [shard]).get(shard) == noted.get(shard):
                lines.append(f"repaired: shard {shard} of {what}, the same bytes as before")
            else:
                sentences.append(
                    f"shard {shard} of {what} was made anew with other bytes than its note says (another machine or "
                    "other versions); what was made from it before was made from those"
                )
    return lines, sentences


def _numbers(shards: Sequence[int]) -> str:
    return ", ".join(map(str, shards))


def _order(group: tuple[Path, str]) -> tuple[int, Path, str]:
    """Rows of real tiles first: synthetic tiles are made from them; then those, by their columns, and their rows."""
    path, array = group
    if TileStore.open_(path).kind not in SYNTHETIC:
        return 0, path, array
    if array in (TILES, MEASURED):
        return 2, path, array
    return 1 if array.startswith("columns/") else 3, path, array


def _digests(store: TileStore, array: str, shards: Sequence[int]) -> dict[int, Any]:
    stage = TILES if array == MEASURED else array
    return {s: store.ledger.note(stage, s).get("sha256") for s in shards if s in store.ledger.done(stage)}


def _make_again(store: TileStore, array: str, shards: Sequence[int]) -> Mapping[int, str]:
    """Make ``shards`` of ``array`` anew; return why those failed that did."""
    group, _, name = array.partition("/")
    if group == "embeddings":
        with only_writer([store], array):
            return _run(embed_shard, _embedding(store, array, shards))
    if group == "latents":
        with only_writer([store], array):
            return _run(encode_shard, _encoding(store, array, shards))
    if store.kind not in SYNTHETIC:
        raise StoreError(f"they are made anew from what they were cut from: {resuming(store.path)}")
    folder = lease_folder(store.path.absolute().parent)
    take(folder)
    try:
        if array in (TILES, MEASURED):
            return _run(make_shard, units_again(store, shards))
        write_column_again(store, name, shards)
        return {}
    finally:
        give_back(folder)


def _run(worker: Callable[[Any], Any], units: Sequence[Any]) -> Mapping[int, str]:
    report = run_units(worker, units, compute=Compute(), description="repair")
    shards = {unit.key: unit.shard for unit in units}
    return {shards[failure.key]: str(failure) for failure in report.failures}


def _embedding(store: TileStore, rows: str, shards: Sequence[int]) -> list[EmbedUnit]:
    facts, name, here = store.rows_attributes(rows), rows.partition("/")[2], shlex.quote(str(store.path))
    if "batch" not in facts:
        raise StoreError(
            f"they came from elsewhere; import them again: histogen import-features {here} --features FOLDER "
            f"--name {name} --resume"
        )
    again = f"with it, run: histogen embed {here} --encoder ENCODER --resume"
    if "encoder" not in facts:
        raise EncoderError(f"it is not recorded where their encoder '{name}' lies; {again}")
    spec = read_from(store.path, facts["encoder"])
    try:
        found = load_encoder(spec).card.name
    except EncoderError as error:
        raise EncoderError(f"their encoder '{name}' is not at hand ({error}); {again}") from error
    if found != name:
        raise EncoderError(f"their encoder is '{name}', and '{spec}' is '{found}' now; {again}")
    how = absolute_spec(spec), rows, facts["batch"], facts["precision"], DEVICE
    return [EmbedUnit(store.path.resolve(), s, len(store.shard_range(s)), *how) for s in shards]


def _encoding(store: TileStore, rows: str, shards: Sequence[int]) -> list[LatentUnit]:
    facts, again = store.rows_attributes(rows), "run train-eldm with it and --resume"
    if "autoencoder" not in facts:
        raise ConfigError(f"it is not recorded where their autoencoder lies; {again}")
    folder, variants = Path(read_from(store.path, facts["autoencoder"])), facts["variants"]
    try:
        found = f"latents/{autoencoder_name(load_autoencoder(folder), folder)}-x{variants}"
    except ConfigError as error:
        raise ConfigError(f"their autoencoder is not at hand ({error}); {again}") from error
    if found != rows:
        raise ConfigError(f"'{folder}' makes '{found}' now; {again}")
    how = folder, rows, variants, rows_precision(store, rows) or "float32", DEVICE
    return [LatentUnit(store.path.resolve(), s, len(store.shard_range(s)), *how) for s in shards]
