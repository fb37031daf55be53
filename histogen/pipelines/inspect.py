"""``histogen inspect``: what is in a tile store, a set of them, a run or a slide; only a repair changes anything."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from histogen.errors import ConfigError, HistogenError, IncompleteStoreError, StoreError
from histogen.pipelines.outputs import CONFIG_NAME, Outcome, read_config, read_run, records_folder
from histogen.pipelines.recorded import resuming
from histogen.plain_yaml import dump_yaml
from histogen.remote import as_path, check_reachable, is_remote
from histogen.store.checks import Damage, damages, first_copies
from histogen.store.find import find_stores
from histogen.store.layout import TILES
from histogen.store.row_array import RowArray
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore
from histogen.training.journal import JOURNAL_NAME, read_journal

WIDTH = 110
MAX_CATEGORIES = 12
MAX_COPIES = 20


def describe(path: Path, *, check: bool = False, repair: bool = False) -> Outcome:
    """Return a readable description of ``path``, plain text.

    ``check`` reads every byte of its stores, damage is a failure; ``repair`` makes what is damaged anew where it can.

    Raises:
        ConfigError: it does not exist.
        HistogenError: it is a store or a slide that cannot be opened.
    """
    if is_remote(path):
        check_reachable(path)
    buffer = io.StringIO()
    checked = [TileStore.open_(store) for store in find_stores(path)] if check and _holds_stores(path) else []
    found = [damage for store in checked for damage in damages(store)]
    repaired, left = _repair(found) if repair and found else ([], [_sentence(damage) for damage in found])
    parts = list(_parts(path))
    parts += map(Text, repaired)
    if checked and not left:
        parts += _copies(path)
    Console(file=buffer, width=WIDTH, highlight=False, no_color=True).print(Group(*parts))
    return Outcome(path, buffer.getvalue().rstrip(), tuple(left))


def _repair(found: Sequence[Damage]) -> tuple[list[str], list[str]]:
    from histogen.pipelines.repair import repair  # heavy

    return repair(found)


def _sentence(damage: Damage) -> str:
    return f"{damage}; {resuming(damage.store)}" if damage.array == TILES else str(damage)


def describe_all(paths: Sequence[Path], *, check: bool = False, repair: bool = False) -> Outcome:
    """Describe every path, one after the other; of several, one that cannot be described is a failure beside the rest.

    Raises:
        HistogenError: it is the only path.
    """
    said, failures = [], []
    for path in map(as_path, paths):
        try:
            outcome = describe(path, check=check, repair=repair)
        except HistogenError as error:
            if len(paths) == 1:
                raise
            failures.append(str(error))
            continue
        said.append(outcome.summary)
        failures += outcome.failures
    return Outcome(paths[0], "\n".join(said), tuple(failures))


def _parts(path: Path) -> Iterable[RenderableType]:
    if not path.exists():
        raise ConfigError(f"'{path}' does not exist; check the path")
    if (path.is_file() and path.suffix != ".csv") or any(path.glob("*.dcm")):
        yield from _slide(path)
        return
    if path.is_dir() and (records_folder(path) / CONFIG_NAME).exists():
        yield from _run(path)
    if _holds_stores(path):
        yield from _stores([TileStore.open_(store) for store in find_stores(path)], path)
    elif not (path / CONFIG_NAME).exists():
        raise ConfigError(f"'{path}' is a folder without a run or a tile store; give one, or a slide")


def _holds_stores(path: Path) -> bool:
    folder = path.is_dir() and (any(path.glob("*.zarr")) or any(path.glob("*/*.zarr")))
    return folder or path.suffix == ".csv" or (path / "zarr.json").exists()


# stores


def _stores(stores: Sequence[TileStore], path: Path) -> Iterable[RenderableType]:
    if len(stores) == 1:
        yield from _store(stores[0])
        return
    yield Text(f"{path}: {len(stores)} tile stores, {sum(s.num_tiles for s in stores):,} tiles", style="bold")
    table = Table("store", "kind", "tiles", "px", "mpp", "shards done", "embeddings")
    for store in stores:
        done = store.num_shards - len(store.missing_shards())
        names = ", ".join(_row_state(store, f"embeddings/{name}") for name in store.list_rows("embeddings"))
        table.add_row(
            store.store_id, store.kind, f"{store.num_tiles:,}", str(store.tile_px), _mpp(store.mpp),
            f"{done}/{store.num_shards}", names,
        )  # fmt: skip
    yield table


def _store(store: TileStore) -> Iterable[RenderableType]:
    notes = store.ledger.notes(TILES)
    num_bytes = sum(note["bytes"] for note in notes.values())
    present = sum(note["count"] for note in notes.values())
    facts = {
        "tile store": f"{store.path} ('{store.store_id}', {store.kind})",
        "tiles": f"{store.num_tiles:,} of {store.tile_px} px at {_mpp(store.mpp)}",
        "shards": f"{len(notes)} of {store.num_shards} done, {present:,} tiles present, {num_bytes / 1e6:,.1f} MB",
        "jpeg": ", ".join(f"{key} {_short(value)}" for key, value in store.jpeg.to_config().items()) or "as copied",
    }
    facts |= {f"provenance {key}": _short(value) for key, value in store.provenance.items()}
    yield _facts(facts)
    yield _columns(store)
    for group in ("embeddings", "latents"):
        for name in store.list_rows(group):
            shape = store.rows(f"{group}/{name}").layout
            yield Text(f"{group}: {_row_state(store, f'{group}/{name}')} {list(shape.shape)} {shape.dtype.name}")


def _columns(store: TileStore) -> Table:
    table = Table("column", "type", "values")
    for name in store.list_rows("columns"):
        rows = store.rows(f"columns/{name}")
        kind = f"{rows.layout.dtype.name}{list(rows.layout.row_shape) or ''}"
        table.add_row(name, kind, _what_is_in(rows))
    return table


def _what_is_in(rows: RowArray) -> str:
    try:
        return _values(rows.read(), rows.layout.attributes)
    except IncompleteStoreError:
        return "not complete"
    except StoreError:
        return "damaged (--check says where)"


def _values(values: np.ndarray, attributes: Mapping[str, Any]) -> str:
    if "text" in attributes:
        return "text"
    if "categories" in attributes:
        names = attributes["categories"]
        counts = [(name, int((values == code).sum())) for code, name in enumerate(names[:MAX_CATEGORIES])]
        more = f", and {len(names) - MAX_CATEGORIES} more" if len(names) > MAX_CATEGORIES else ""
        none = int((values < 0).sum())
        return ", ".join(f"{name} {count:,}" for name, count in counts) + more + (f"; none {none:,}" if none else "")
    finite = values[np.isfinite(values)]
    if not finite.size:
        return "no numbers"
    missing = values.size - finite.size
    return f"{finite.min():g} to {finite.max():g}, mean {finite.mean():g}" + (
        f"; {missing:,} missing" if missing else ""
    )


def _row_state(store: TileStore, path: str) -> str:
    missing = len(store.missing_shards(path))
    name = path.partition("/")[2]
    return f"{name} ({store.num_shards - missing} of {store.num_shards} shards)" if missing else name


def _copies(path: Path) -> Iterable[RenderableType]:
    tiles = TileSet.open_(path, allow_partial=True)
    first = first_copies(tiles)
    copies = np.flatnonzero(first != np.arange(len(tiles)))
    yield Text(f"checked: every shard is as its note says; {len(copies):,} of {len(tiles):,} tiles are copies")
    for name, source in zip(tiles.ids(copies[:MAX_COPIES]), tiles.ids(first[copies[:MAX_COPIES]]), strict=True):
        yield Text(f"    {name} is the same as {source}")


# runs


def _run(path: Path) -> Iterable[RenderableType]:
    record = read_run(path)
    facts: dict[str, str] = {
        key: _short(record[key]) for key in ("command", "status", "histogen", "precision") if key in record
    }
    facts |= {key: _short(value) for key, value in record.get("results", {}).items()}
    facts |= {f"last {key}": _short(value) for key, value in _last_metrics(path).items()}
    yield Text(f"run {path}", style="bold")
    yield _facts(facts)
    if records_folder(path) != path:
        return  # a store says its config in its provenance
    yield Text("config", style="bold")
    yield Text(dump_yaml(read_config(path)).rstrip())


def _last_metrics(path: Path) -> dict[str, Any]:
    file = path / JOURNAL_NAME
    rows = read_journal(file) if file.exists() else []
    return rows[-1] if rows else {}


# slides


def _slide(path: Path) -> Iterable[RenderableType]:
    from histogen.slides.base import open_slide

    slide = open_slide(path)
    try:
        mpp = f"{slide.mpp.x:g} x {slide.mpp.y:g} microns per pixel" if slide.mpp else "not stated"
        yield _facts(
            {
                "slide": f"{path} ('{slide.slide_id}')",
                "vendor": slide.vendor or "unknown",
                "extent": f"{slide.extent.width:,} x {slide.extent.height:,} px",
                "mpp": mpp,
                "objective": f"{slide.objective_power:g}x" if slide.objective_power else "not stated",
                **({"look at": "; ".join(slide.flags())} if slide.flags() else {}),
            }
        )
        table = Table("level", "extent (px)", "downsample")
        for number, (extent, downsample) in enumerate(slide.levels):
            table.add_row(str(number), f"{extent.width:,} x {extent.height:,}", f"{downsample:g}")
        yield table
    finally:
        slide.close()


# text


def _facts(facts: Mapping[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    for key, value in facts.items():
        table.add_row(key, value)
    return table


def _mpp(mpp: float | None) -> str:
    return "no mpp" if mpp is None else f"{mpp:g} microns per pixel"


def _short(value: Any, limit: int = 200) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= limit else f"{text[:limit]}…"
