"""``histogen fidelity``: are synthetic tiles like real ones, of the kind asked for, and not copies?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import histogen
from histogen.config import Precision
from histogen.diffusion.conditioning import slerp
from histogen.encoders.registry import load_encoder
from histogen.errors import ConfigError, StoreError
from histogen.evaluation import memorisation
from histogen.evaluation.compare import copy_figures, distribution_figures, drawn_rows, nearest_other, source_figures
from histogen.evaluation.settings import FidelitySettings
from histogen.files import write_atomic
from histogen.lease import for_its_output
from histogen.pipelines.benchmark.command import named_specs
from histogen.pipelines.embed.command import ensure_embeddings
from histogen.pipelines.fidelity.config import FidelityConfig
from histogen.pipelines.fidelity.made import Maker, made_sections, unconditional_embeddings
from histogen.pipelines.fidelity.samples import samples_section
from histogen.pipelines.outputs import CONFIG_NAME, Outcome, claim_output, finish_output
from histogen.pipelines.precision import run_precision
from histogen.progress import Bar, progress_bar
from histogen.report.fidelity import CopyPair, fidelity_table, fidelity_text, write_fidelity_page
from histogen.report.page import Section
from histogen.store.layout import TILES
from histogen.store.tile_set import TileSet, open_tiles
from histogen.store.tile_store import TileStore
from histogen.training.processes import resolve_device

JSON_NAME, PAGE_NAME, TABLE_NAME = "fidelity.json", "fidelity.html", "fidelity.md"
MAX_PAIRS = 12
TILES_PER_READ = 256


@dataclass(frozen=True)
class _Sets:
    """The tiles of one run: ``real`` all of ``tiles``, ``train`` those of them that trained, and the rest."""

    real: TileSet
    train: TileSet
    held_out: TileSet
    synthetic: dict[str, TileSet]


@for_its_output
def run(config: FidelityConfig) -> Outcome:
    """Compare, and write ``fidelity.json``, ``fidelity.md`` and ``fidelity.html``."""
    folders = named_specs(config.synthetic)
    sets = _open(config, folders)
    specs = named_specs(config.encoders)
    precision = run_precision(config, config.precision, resolve_device(config.device))
    device = str(resolve_device(config.device))
    maker = None if config.eldm is None else Maker.open_(config.eldm, sets.synthetic, device)
    loaded = {name: load_encoder(spec, device) for name, spec in specs.items()}
    cards = {name: encoder.card for name, encoder in loaded.items()}
    size = compared_size(sets, config.compare)
    if maker is not None:
        maker.check_embedded(sets.real, {card.name for card in cards.values()})
    inputs = {"train": sets.train.content_hash, "held_out": sets.held_out.content_hash}
    inputs |= {name: tiles.content_hash for name, tiles in sets.synthetic.items()}
    inputs |= {name: card.name for name, card in cards.items()}
    out = claim_output(config, command="fidelity", inputs=inputs, precision=precision)
    copies, pairs = find_copies(sets, config, device)
    _embed_all(config, list(folders.values()), list(specs.values()), precision)
    untold = (
        {}
        if maker is None
        else unconditional_embeddings(maker, size, loaded, like=sets.real.stores[0], seed=config.seed)
    )
    encoders = []
    baselines = 2 + (maker is not None)
    with progress_bar("compare", total=len(specs) * (len(sets.synthetic) + baselines), unit="sets") as bar:
        for name, card in cards.items():
            figures = compare_sets(sets, card.name, config, device, bar, size=size, unconditional=untold.get(name))
            encoders.append({"name": name, "spec": specs[name], "card": card.to_json(), **figures})
    fidelity = {
        "histogen": histogen.__version__,
        "num_train": len(sets.train),
        "num_held_out": len(sets.held_out),
        "settings": config.compare.model_dump(mode="json"),
        "encoders": encoders,
        "copies": copies,
    }
    write_atomic(out / JSON_NAME, json.dumps(fidelity, indent=1))
    write_atomic(out / TABLE_NAME, fidelity_table(fidelity))
    samples = [] if maker is None else made_sections(maker, sets.real, _all_sources(sets), seed=config.seed)
    samples += [_samples(name, tiles, sets.real, config.seed) for name, tiles in sets.synthetic.items()]
    write_fidelity_page(out / PAGE_NAME, fidelity, pairs, samples=samples, config=(out / CONFIG_NAME).read_text())
    finish_output(out, fidelity=JSON_NAME, page=PAGE_NAME)
    return Outcome(out, fidelity_text(fidelity), results=fidelity, page=out / PAGE_NAME)


def compared_size(sets: _Sets, settings: FidelitySettings) -> int:
    """Return how many tiles of every set are compared: the distances depend on it, so it is one number.

    Raises:
        ConfigError: they are too few for the manifolds.
    """
    size = min(settings.max_tiles, len(sets.train), *(len(tiles) for tiles in sets.synthetic.values()))
    fewest = min(size, len(sets.held_out))
    if fewest <= settings.k:
        raise ConfigError(f"compare.k = {settings.k} neighbours need more than {fewest} tiles in each set; give more")
    return size


def compare_sets(
    sets: _Sets, key: str, config: FidelityConfig, device: str, bar: Bar, *, size: int,
    unconditional: NDArray[np.floating] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return the figures of every synthetic set, of the unconditional one and of two baselines of real tiles."""
    settings, seed = config.compare, config.seed
    held_out = sets.held_out.embeddings(key)
    reference = held_out[drawn_rows(len(held_out), settings.max_tiles, seed=seed, name="held out")]
    real, train = sets.real.embeddings(key), sets.train.embeddings(key)
    results: list[dict[str, Any]] = []

    def add(name: str, kind: str, embeddings: NDArray[np.floating], extra: dict[str, Any]) -> None:
        rows = drawn_rows(len(embeddings), size, seed=seed, name=name)
        figures = distribution_figures(reference, embeddings[rows], settings, seed=seed, device=device)
        results.append({"name": name, "kind": kind, **figures, **extra})
        bar.advance()

    for name, tiles in sets.synthetic.items():
        synthetic, (sources, conditions) = tiles.embeddings(key), _conditions(tiles, sets.real, real)
        add(name, "synthetic", synthetic, source_figures(synthetic, conditions, sources, real, device=device))
    if unconditional is not None:
        add("unconditional", "baseline", unconditional, {})
    add("training tiles", "baseline", train, {})
    rows = drawn_rows(len(train), size, seed=seed, name="nearest")
    nearest = nearest_other(train, rows, device=device)
    extra = source_figures(train[nearest], train[rows], rows, train, device=device)
    add("nearest real tile", "baseline", train[nearest], extra)
    return {"num_compared": size, "num_reference": len(reference), "sets": results}


def find_copies(
    sets: _Sets, config: FidelityConfig, device: str
) -> tuple[list[dict[str, Any]], dict[str, list[CopyPair]]]:
    """Return the copy report of every synthetic set, and its nearest pairs as pictures."""
    limit, seed = config.compare.max_tiles, config.seed
    total = len(sets.train) + min(limit, len(sets.held_out)) + sum(min(limit, len(s)) for s in sets.synthetic.values())
    reports, pictures = [], {}
    with progress_bar("copies", total=total, unit="tiles") as bar:
        train_rows, train = _layouts(sets.train, np.arange(len(sets.train)), bar)
        if len(train) < 2:
            raise ConfigError(f"of {len(sets.train):,} training tiles {len(train)} have contrast; copies need two")
        held_rows = drawn_rows(len(sets.held_out), limit, seed=seed, name="held out")
        _, held_out = _layouts(sets.held_out, held_rows, bar)
        if not len(held_out):
            raise ConfigError(f"all of {len(held_rows):,} held-out tiles are plain (no contrast); give others")
        usual, duplicates = memorisation.without_duplicates(memorisation.copy_scores(held_out, train, device=device))
        if not len(usual.ratio):
            raise ConfigError("every held-out tile is a duplicate of a training tile; give tiles that were held out")
        for name, tiles in sets.synthetic.items():
            rows = drawn_rows(len(tiles), limit, seed=seed, name=name)
            judged, layouts = _layouts(tiles, rows, bar)
            counts: dict[str, Any] = {"set": name, "judged": len(judged), "plain": len(rows) - len(judged)}
            counts["duplicates"] = duplicates
            if not len(judged):  # what a generator makes that has collapsed to plain colour: the distances tell
                reports.append({**counts, "pairs": []})
                continue
            scores = memorisation.copy_scores(layouts, train, device=device)
            report = memorisation.report_copies(scores, usual, quantile=config.compare.copy_quantile)
            nearest = np.argsort(scores.ratio, kind="stable")[:MAX_PAIRS]
            pairs = [
                CopyPair(
                    tiles.ids(judged[i])[0],
                    sets.train.ids(train_rows[scores.nearest[i]])[0],
                    float(scores.ratio[i]),
                    bool(scores.ratio[i] < report.threshold),
                    tiles[int(judged[i])],
                    sets.train[int(train_rows[scores.nearest[i]])],
                )
                for i in nearest
            ]
            listed = [{"synthetic": p.synthetic, "training": p.training, "ratio": p.ratio} for p in pairs]
            reports.append({**counts, **copy_figures(report, scores, usual), "pairs": listed})
            pictures[name] = pairs
    return reports, pictures


def _all_sources(sets: _Sets) -> NDArray[np.int64]:
    return np.concatenate([_rows_in(sets.real, tiles, "source") for tiles in sets.synthetic.values()])


def _samples(name: str, synthetic: TileSet, real: TileSet, seed: int) -> Section:
    rows = _rows_in(real, synthetic, "source"), _partner_rows(real, synthetic)
    return samples_section(name, synthetic, real, *rows, seed=seed)


def _partner_rows(real: TileSet, synthetic: TileSet) -> NDArray[np.int64]:
    """Return the row of each tile's partner in ``real``; -1 where it has none."""
    partners = np.full(len(synthetic), -1, dtype=np.int64)
    paired = np.flatnonzero(synthetic.column("partner_index") >= 0)
    if len(paired):
        partners[paired] = _rows_in(real, synthetic.subset(paired), "partner")
    return partners


def _open(config: FidelityConfig, folders: dict[str, str]) -> _Sets:
    real = open_tiles(config.tiles)
    train = real.where(config.train_where) if config.train_where else real
    held_out = open_tiles(config.held_out, where=config.held_out_where or None)
    kept = _known_ids(held_out, real)
    both = set(train.ids()) & kept
    if both:
        raise ConfigError(
            f"{len(both)} held-out tiles are training tiles too (one is {min(both)}); "
            "set train_where and held_out_where so that none is in both"
        )
    synthetic = {name: open_tiles(Path(folder)) for name, folder in folders.items()}
    for name, tiles in synthetic.items():
        if not tiles.has_column("source_store"):
            raise StoreError(f"'{folders[name]}' holds no synthetic tiles (no column 'source_store'); check the path")
        if tiles.tile_px != real.tile_px or held_out.tile_px != real.tile_px:
            raise StoreError(
                f"tiles of {real.tile_px} px, held-out ones of {held_out.tile_px} px and '{folders[name]}' of "
                f"{tiles.tile_px} px cannot be compared: the size of detail would tell them apart; make them alike"
            )
        _check_made_from_others(folders[name], kept, real, tiles)
    return _Sets(real, train, held_out, synthetic)


def _known_ids(held_out: TileSet, real: TileSet) -> set[str]:
    """Return the ids of the held-out tiles; those of a store that is a copy of one in ``real``, by that one's name."""
    by_bytes = {_shard_digests(store): store.store_id for store in real.stores}
    names = {store.store_id: by_bytes.get(_shard_digests(store), store.store_id) for store in held_out.stores}
    return {f"{names[name]}:{index}" for name, _, index in (identity.rpartition(":") for identity in held_out.ids())}


def _shard_digests(store: TileStore) -> tuple[str, ...]:
    return tuple(str(note["sha256"]) for note in store.ledger.notes(TILES).values())


def _check_made_from_others(folder: str, held_out: set[str], real: TileSet, synthetic: TileSet) -> None:
    """Refuse synthetic tiles whose sources are among the held-out tiles: near them they are by their making.

    Raises:
        ConfigError: some are.
        StoreError: a source is not among ``real``.
    """
    sources, partners = _rows_in(real, synthetic, "source"), _partner_rows(real, synthetic)
    ids = np.array(real.ids())
    for role, rows in (("sources", sources), ("partners", partners[partners >= 0])):
        own = sorted(set(ids[np.unique(rows)].tolist()) & held_out)
        if own:
            raise ConfigError(
                f"'{folder}' was made from {len(own)} of the held-out tiles (one of its {role} is {own[0]}), so they "
                "judge nothing; give held-out tiles that none was made from, or synthesize from the training tiles "
                "only (--set where={split: train})"
            )


def _embed_all(config: FidelityConfig, folders: Sequence[str], specs: Sequence[str], precision: Precision) -> None:
    for spec in specs:
        for paths in (config.tiles, config.held_out, *([Path(folder)] for folder in folders)):
            ensure_embeddings(
                paths, spec,
                precision=precision, device=config.device, **config.bulk,
            )  # fmt: skip


def _conditions(
    synthetic: TileSet, real: TileSet, embeddings: NDArray[np.floating]
) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Return the row of each tile's source in ``real``, and the embedding that it was made from."""
    sources, partners = _rows_in(real, synthetic, "source"), _partner_rows(real, synthetic)
    paired = np.flatnonzero(partners >= 0)
    conditions = embeddings[sources].astype(np.float32)
    if len(paired):
        alpha = torch.as_tensor(synthetic.column("alpha")[paired].astype(np.float64))
        first, second = torch.from_numpy(conditions[paired]), torch.from_numpy(embeddings[partners[paired]])
        conditions[paired] = slerp(first, second, alpha).numpy()
    return sources, conditions


def _rows_in(real: TileSet, synthetic: TileSet, role: str) -> NDArray[np.int64]:
    names = synthetic.categories(f"{role}_store")
    position = {identity: row for row, identity in enumerate(real.ids())}
    codes, indices = synthetic.column(f"{role}_store"), synthetic.column(f"{role}_index")
    wanted = [f"{names[code]}:{index}" for code, index in zip(codes.tolist(), indices.tolist(), strict=True)]
    missing = next((identity for identity in wanted if identity not in position), None)
    if missing is not None:
        raise StoreError(f"tile {missing}, the {role} of a synthetic tile, is not among the tiles given; add its store")
    return np.array([position[identity] for identity in wanted], dtype=np.int64)


def _layouts(tiles: TileSet, rows: NDArray[np.int64], bar: Bar) -> tuple[NDArray[np.int64], memorisation.Descriptors]:
    """Return the rows whose tiles have a layout, and their descriptors."""
    parts = []
    for start in range(0, len(rows), TILES_PER_READ):
        part = rows[start : start + TILES_PER_READ]
        parts.append(memorisation.layout_descriptor(tiles.read_tiles(part)))
        bar.advance(len(part))
    described = np.concatenate(parts)
    judged = memorisation.has_layout(described)
    return rows[judged], described[judged]
