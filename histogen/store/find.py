"""Where the stores are: a store, a folder of stores, or a manifest."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from histogen.errors import StoreError
from histogen.manifest import read_store_manifest
from histogen.remote import as_path, check_reachable, is_remote

STORE_SUFFIX = ".zarr"


def find_stores(paths: Path | str | Sequence[Path | str]) -> list[Path]:
    """Return the stores that ``paths`` stand for, in the order given, folders sorted by name.

    A folder gives the ``*.zarr`` in it and in its folders (one level down).

    Raises:
        StoreError: a path gives no store.
    """
    given = [paths] if isinstance(paths, str | Path) else paths
    found = list(dict.fromkeys(store for path in given for store in _stores_of(as_path(path))))
    if not found:
        raise StoreError("no tile store was given; give a store, a folder of stores or a manifest")
    return found


def _stores_of(path: Path) -> Iterable[Path]:
    if is_remote(path):
        check_reachable(path)
    if path.suffix.lower() == ".csv":
        return read_store_manifest(path)
    if (path / "zarr.json").exists():
        return [path]
    if path.is_file():
        raise StoreError(f"'{path}' is a file, not a tile store; give a store, a folder of stores or a manifest (.csv)")
    if not path.is_dir():
        raise StoreError(f"'{path}' does not exist; check the path")
    stores = sorted(_stores_in(path))
    if not stores:
        if (path / "run.json").exists():
            raise StoreError(f"'{path}' is the output of another command, and no tile store (*{STORE_SUFFIX}) is in it")
        here = shlex.quote(str(path))
        raise StoreError(
            f"no tile store (*{STORE_SUFFIX}) is in '{path}'; make some: histogen tile {here} --out tiles, if it holds "
            f"slides, or histogen import-images {here} --out images{STORE_SUFFIX}, if it holds images"
        )
    return stores


def _stores_in(folder: Path) -> Iterator[Path]:
    for child in folder.iterdir():
        if child.suffix == STORE_SUFFIX:
            yield child
        elif child.is_dir():
            yield from child.glob(f"*{STORE_SUFFIX}")
