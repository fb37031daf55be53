"""What lies in the folders that are to be looked at: tile stores, slides, and runs with a journal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histogen.config import read_yaml
from histogen.errors import ConfigError, HistogenError
from histogen.manifest import SlideRecord
from histogen.remote import as_path, is_remote
from histogen.slides.find import SUFFIXES, find_slides
from histogen.store.find import STORE_SUFFIX, find_stores
from histogen.store.layout import KINDS
from histogen.store.merging import check_distinct
from histogen.store.tile_store import TileStore

JOURNAL = "metrics.jsonl"
CONFIG = "config.yaml"
PREDICTIONS = "predictions.csv"


@dataclass(frozen=True)
class Sources:
    """Stores, slides and run folders, each once, and a sentence for whatever could not be opened."""

    stores: tuple[TileStore, ...]
    slides: tuple[SlideRecord, ...]
    runs: tuple[Path, ...]
    problems: tuple[str, ...] = ()


def find_sources(paths: Sequence[Path]) -> Sources:
    """Return what is in ``paths``: stores, slides, runs, and folders of these (``demo/`` has them all).

    Slides are also those that the config of a folder of stores names, where they still lie there.

    Raises:
        ConfigError, StoreError: a path does not exist, or nothing to look at is in any of them.
    """
    if there := [path for path in map(as_path, paths) if is_remote(path)]:
        raise ConfigError(f"'{there[0]}' is on object storage, and what is looked at must be here; copy it")
    problems: list[str] = []
    stores = list(dict.fromkeys(store for path in paths for store in _stores(path)))
    runs = find_runs(paths)
    opened = sorted(_opened(stores, problems), key=lambda store: KINDS.index(store.kind))  # real ones first
    check_distinct(opened)
    slides: dict[str, SlideRecord] = {}
    for record in _slides(paths, stores, runs, problems):
        slides.setdefault(record.slide_id, record)
    if not (opened or slides or runs):
        said = f" ({problems[0]})" if problems else ""
        raise ConfigError(f"nothing to look at in {', '.join(map(str, paths))}{said}; give stores, slides or runs")
    return Sources(tuple(opened), tuple(slides.values()), tuple(runs), tuple(problems))


def find_runs(paths: Sequence[Path]) -> list[Path]:
    """Return the folders with a journal among ``paths`` and two levels below."""
    return list(dict.fromkeys(run for path in paths for run in _runs(path)))


def find_predictions(paths: Sequence[Path]) -> list[Path]:
    """Return the predictions of benchmarks in ``paths`` and two levels below."""
    patterns = (PREDICTIONS, f"*/{PREDICTIONS}", f"*/*/{PREDICTIONS}")
    return list(dict.fromkeys(file for path in paths for pattern in patterns for file in sorted(path.glob(pattern))))


def recorded(folder: Path) -> dict[str, Any]:
    """Return the config that a stage left in ``folder``, or in a store; empty where there is none that can be read."""
    place = folder / "ledger" if folder.suffix == STORE_SUFFIX else folder
    try:
        return read_yaml(place / CONFIG) if (place / CONFIG).is_file() else {}
    except ConfigError:
        return {}


def _stores(path: Path) -> list[Path]:
    if not path.exists():
        raise ConfigError(f"'{path}' does not exist; check the path")
    if path.suffix.lower() == ".csv" or (path / "zarr.json").exists():
        return find_stores(path)
    holds = path.is_dir() and (any(path.glob(f"*{STORE_SUFFIX}")) or any(path.glob(f"*/*{STORE_SUFFIX}")))
    return find_stores(path) if holds else []


def _runs(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(found.parent for pattern in ("", "*/", "*/*/") for found in path.glob(pattern + JOURNAL))


def _opened(paths: Iterable[Path], problems: list[str]) -> Iterable[TileStore]:
    for path in paths:
        try:
            yield TileStore.open_(path)
        except HistogenError as error:
            problems.append(str(error))


def _slides(
    paths: Sequence[Path], stores: Sequence[Path], runs: Sequence[Path], problems: list[str]
) -> Iterable[SlideRecord]:
    holders = {path for store in stores for path in (store, store.parent)} | set(runs)
    holders |= {file.parent for file in find_predictions(paths)}
    for path in paths:
        if path.suffix.lower() == ".csv" or path in holders:
            continue
        folders = sorted(child for child in path.iterdir() if child.is_dir()) if path.is_dir() else []
        inner = [child for child in folders if child not in holders and _has_slides(child)]
        outer = [] if path.is_dir() and (inner or _within(path, holders)) and not _has_slides(path) else [path]
        yield from _found([*outer, *inner], problems)
    named = [recorded(folder).get("slides") for folder in dict.fromkeys(store.parent for store in stores)]
    there = [Path(one) for many in named if isinstance(many, list) for one in many if isinstance(one, str)]
    yield from _found([path for path in dict.fromkeys(there) if path.exists()], [])


def _found(paths: Sequence[Path], problems: list[str]) -> list[SlideRecord]:
    try:
        return find_slides(paths).slides if paths else []
    except HistogenError as error:
        problems.append(str(error))
        return []


def _has_slides(folder: Path) -> bool:
    return any(child.suffix.lower() in SUFFIXES for child in folder.iterdir())


def _within(path: Path, holders: set[Path]) -> bool:
    return any(path == holder or path in holder.parents for holder in holders)
