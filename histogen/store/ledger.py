"""The ledger of a store: one small file per finished shard of a stage, written after the shard itself.

A shard without its note is not done, whatever else is on disk; so resuming is a directory listing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from histogen.errors import StoreError
from histogen.files import write_atomic
from histogen.remote import is_remote, read_files
from histogen.store.layout import TILES, check_name

SAID = (("count", int), ("bytes", int), ("sha256", str))
"""What the note of a shard of tiles says, at least."""


class Ledger:
    """Notes of the finished shards of every stage under ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def commit(self, stage: str, shard: int, note: Mapping[str, Any]) -> None:
        """Note that ``shard`` of ``stage`` is done; call it last."""
        write_atomic(self._stage(stage) / f"{shard}.json", json.dumps(dict(note), sort_keys=True))

    def forget(self, stage: str, shard: int) -> None:
        """Take back the note of ``shard``: it is no longer done."""
        (self._stage(stage) / f"{shard}.json").unlink(missing_ok=True)

    def done(self, stage: str) -> set[int]:
        """Return the shards of ``stage`` that are done: a listing, nothing is opened."""
        folder = self._stage(stage)
        try:  # thousands of stores: no Path per entry
            names = [path.name for path in folder.iterdir()] if is_remote(folder) else os.listdir(folder)  # noqa: PTH208
        except FileNotFoundError:
            return set()
        return {int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit()}

    def note(self, stage: str, shard: int) -> dict[str, Any]:
        """Return the note of a finished shard.

        Raises:
            StoreError: there is none, or it does not say what a note says.
        """
        path = self._stage(stage) / f"{shard}.json"
        try:
            return _parsed(path.read_bytes(), path, stage)
        except FileNotFoundError as error:
            raise StoreError(f"shard {shard} of stage '{stage}' has no note '{path}'; run the stage again") from error
        except OSError as error:
            raise StoreError(f"note '{path}' cannot be read ({error.strerror}); run the stage again") from error

    def notes(self, stage: str) -> dict[int, dict[str, Any]]:
        """Return the notes of all finished shards of ``stage``, in order."""
        shards = sorted(self.done(stage))
        if not is_remote(self.folder):
            return {shard: self.note(stage, shard) for shard in shards}
        paths = [self._stage(stage) / f"{shard}.json" for shard in shards]
        read = zip(shards, read_files(paths), paths, strict=True)
        return {shard: _parsed(data, path, stage) for shard, data, path in read}

    def _stage(self, stage: str) -> Path:
        return self.folder.joinpath(*(check_name(part, "stage") for part in stage.split("/")))


def _parsed(data: bytes, path: Path, stage: str) -> dict[str, Any]:
    """Return the note that ``data`` is.

    Raises:
        StoreError: it does not say what a note says.
    """
    try:
        note = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"note '{path}' is not JSON ({error}); delete it and resume the stage") from error
    needed = SAID if stage == TILES else ()
    if not isinstance(note, dict) or any(type(note.get(key)) is not kind for key, kind in needed):
        raise StoreError(f"note '{path}' does not say what a note says; delete it and resume the stage")
    return note
