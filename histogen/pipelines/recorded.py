"""What is recorded of how a store and its rows were made, to make a damaged part of them anew."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

from histogen.pipelines.outputs import CONFIG_NAME, read_run, records_folder
from histogen.remote import is_remote
from histogen.store.checks import forget_damaged_rows
from histogen.store.tile_store import TileStore


def forget_damaged(store: TileStore, rows: str) -> None:
    """Take back the notes of damaged embeddings or latents, so that they are made anew, and say so."""
    if not (store.path / rows / "zarr.json").exists():
        return
    damaged = forget_damaged_rows(store, rows)
    if damaged:
        numbers = ", ".join(str(shard) for shard in damaged)
        sys.stderr.write(f"'{store.path}': chunks {numbers} of {rows} are damaged, and are made anew\n")


def written_from(store: Path, spec: str) -> str:
    """Return ``spec`` as ``store`` records it: a path from the store, so that both can be moved together, or a name.

    No path leads from object storage to what is here: a store there records where it is.
    """
    if is_remote(store):
        return str(Path(spec).resolve()) if Path(spec).exists() else spec
    return os.path.relpath(spec, store.resolve()) if Path(spec).exists() else spec


def read_from(store: Path, recorded: str) -> str:
    """Return the spec that :func:`written_from` recorded, as it is used here."""
    if is_remote(store):
        return recorded
    here = store.resolve() / recorded
    return str(here.resolve()) if here.exists() else recorded


def resuming(store: Path) -> str:
    """Return the command that makes what is damaged of a store's tiles anew, by the output that the store is in."""
    for folder in (store, *store.absolute().parents[:2]):
        config = records_folder(folder) / CONFIG_NAME
        if config.is_file() and (command := read_run(folder).get("command")):
            return f"histogen {command} --config {shlex.quote(str(config))} --out {shlex.quote(str(folder))} --resume"
    return "run what made it with --resume"
