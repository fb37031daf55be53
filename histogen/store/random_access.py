"""The fast lane: compressed tiles straight from shard files, by positioned reads.

A shard's index is read once and checked by its CRC-32C; a tile is then one ``os.pread``, checked by the CRC-32C that
the shard's note has of it. Notes of before have none: such a shard is read whole once and compared with its SHA-256.
Open shards are kept in one bounded cache per process; one whose file is no longer the one at its path is opened anew.
It is safe across ``fork`` (a positioned read has no file position to share, and the child starts with an empty cache)
and between threads (a shard evicted while it is read is closed after the read). On object storage a tile is one ranged
request; tiles that lie beside each other are fetched by one.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from histogen.errors import IncompleteStoreError, StoreError
from histogen.remote import SCHEME, as_path, identity, read_end, read_ranges
from histogen.store.layout import ABSENT
from histogen.store.shard_file import tile_sums

MEND = "run what made the store with --resume, which makes this shard anew"
MAX_OPEN_SHARDS = 512
"""Half of the usual limit of 1,024 open files; with their indices at most 8 MiB of memory per process."""

NEAR_BYTES, MAX_SPAN_BYTES = 128 << 10, 16 << 20
"""On object storage: what lies so close is fetched by one request (it takes as long as a request), and how much."""
SHARDS_AT_A_TIME = 8

_ABSENT_INT = int(ABSENT)


class OpenShard:
    """One shard file: its descriptor, the place of each of its tiles, and their checksums once the shard is noted."""

    __slots__ = ("_entries", "_fd", "_sums", "path")

    def __init__(self, path: str, num_entries: int, note: str) -> None:
        self.path = path
        self._fd = -1
        try:
            self._fd = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        except FileNotFoundError as error:
            raise _not_there(path) from error
        # array.array gives Python integers at a fraction of the cost of NumPy scalars, in 16 bytes per tile
        self._entries = array("Q", read_index(self._fd, path, num_entries).astype(np.uint64).tobytes())
        self._sums = self._noted(note)

    def read(self, position: int) -> bytes:
        """Return the payload at ``position`` of the shard; empty when the tile is absent.

        Raises:
            StoreError: the file ends before the payload does.
        """
        offset = self._entries[2 * position]
        if offset == _ABSENT_INT:
            return b""
        length = self._entries[2 * position + 1]
        payload = os.pread(self._fd, length, offset)
        if len(payload) != length:
            raise StoreError(f"shard '{self.path}' ends inside tile {position}; make the store again")
        if self._sums is not None and google_crc32c.value(payload) != self._sums[position]:
            raise StoreError(f"tile {position} of shard '{self.path}' is damaged (its checksum differs); {MEND}")
        return payload

    @property
    def is_current(self) -> bool:
        """Whether the file is still the one at its path, and not one that was replaced or deleted."""
        return os.fstat(self._fd).st_nlink > 0

    def _note_bytes(self, path: str) -> bytes:
        with open(path, "rb") as file:  # noqa: PTH123 - one of thousands: no Path
            return file.read()

    def _all_bytes(self) -> bytes:
        return os.pread(self._fd, os.fstat(self._fd).st_size, 0)

    def _noted(self, path: str) -> array[int] | None:
        """Return the checksums that the note at ``path`` has; None for a shard that is not noted yet.

        Raises:
            StoreError: the note is damaged, or has none and the shard differs from its SHA-256.
        """
        try:
            note = json.loads(self._note_bytes(path))
            sums, digest = tile_sums(note), note["sha256"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise StoreError(f"note '{path}' does not say what a note says ({error}); delete it and resume") from error
        if sums is None:
            if hashlib.sha256(self._all_bytes()).hexdigest() != digest:
                raise StoreError(f"shard '{self.path}' is damaged (it differs from its note); {MEND}")
        elif len(sums) > len(self._entries) // 2:
            raise StoreError(f"note '{path}' is of another shard; delete it and resume what made it")
        return sums

    @property
    def present(self) -> NDArray[np.bool_]:
        """Which entries have a tile, [num_entries]."""
        return np.frombuffer(self._entries, np.uint64)[::2] != ABSENT

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)


class RemoteShard(OpenShard):
    """One shard on object storage. One that was made anew there is opened anew when a tile does not verify."""

    __slots__ = ("_file", "_note")

    def __init__(self, path: str, num_entries: int, note: str) -> None:
        self.path, self._note, self._fd = path, note, -1
        self._file = as_path(path)
        self._open(num_entries)

    def _open(self, num_entries: int) -> None:
        try:
            tail = read_end(self._file, 16 * num_entries + 4)
            size = int(identity(self._file)[1])
        except FileNotFoundError as error:
            raise _not_there(self.path) from error
        self._entries = array("Q", parse_index(tail, size, self.path, num_entries).astype(np.uint64).tobytes())
        self._sums = self._noted(self._note)

    def read(self, position: int) -> bytes:
        """As :meth:`OpenShard.read`."""
        return self.read_many([position])[0]

    def read_many(self, positions: Sequence[int]) -> list[bytes]:
        """Return the payloads at ``positions``; what lies close together is fetched by one request.

        Raises:
            StoreError: one differs from its checksum, after the shard was opened anew too.
        """
        found = self._fetch(positions)
        if self._damaged(positions, found) is not None:
            self._open(len(self._entries) // 2)
            found = self._fetch(positions)
        if (damaged := self._damaged(positions, found)) is not None:
            raise StoreError(f"tile {damaged} of shard '{self.path}' is damaged (its checksum differs); {MEND}")
        return found

    def _fetch(self, positions: Sequence[int]) -> list[bytes]:
        entries = self._entries
        there = sorted({p for p in positions if entries[2 * p] != _ABSENT_INT}, key=lambda p: entries[2 * p])
        spans: list[list[int]] = []
        for position in there:
            start, length = entries[2 * position], entries[2 * position + 1]
            if spans and start - spans[-1][1] <= NEAR_BYTES and start + length - spans[-1][0] <= MAX_SPAN_BYTES:
                spans[-1][1] = max(spans[-1][1], start + length)
            else:
                spans.append([start, start + length])
        data = dict(zip((s for s, _ in spans), read_ranges(self._file, [(a, b) for a, b in spans]), strict=True))
        starts = sorted(data)
        payloads = {}
        for position in there:
            offset, length = entries[2 * position], entries[2 * position + 1]
            start = starts[bisect_right(starts, offset) - 1]
            payloads[position] = data[start][offset - start : offset - start + length]
        return [payloads.get(position, b"") for position in positions]

    def _damaged(self, positions: Sequence[int], payloads: Sequence[bytes]) -> int | None:
        for position, payload in zip(positions, payloads, strict=True):
            if len(payload) != (self._entries[2 * position + 1] if self._entries[2 * position] != _ABSENT_INT else 0):
                return position
            if self._sums is not None and payload and google_crc32c.value(payload) != self._sums[position]:
                return position
        return None

    @property
    def is_current(self) -> bool:
        """Always: a tile of another shard at this place does not verify."""
        return True

    def _note_bytes(self, path: str) -> bytes:
        return as_path(path).read_bytes()

    def _all_bytes(self) -> bytes:
        return self._file.read_bytes()


def _not_there(path: str) -> IncompleteStoreError:
    return IncompleteStoreError(f"shard '{path}' is not there yet; finish the store with --resume")


def read_index(fd: int, path: str, num_entries: int) -> NDArray[np.uint64]:
    """Return the index [num_entries, 2] (offset, length) at the end of a shard.

    Raises:
        StoreError: the file is too short, its checksum is wrong, or an entry points outside of it.
    """
    size = os.fstat(fd).st_size
    start = size - 16 * num_entries - 4
    return parse_index(os.pread(fd, 16 * num_entries + 4, start) if start >= 0 else b"", size, path, num_entries)


def parse_index(tail: bytes, size: int, path: str, num_entries: int) -> NDArray[np.uint64]:
    """Return the index in the last bytes of a shard of ``size`` bytes; as :func:`read_index`."""
    num_bytes = 16 * num_entries
    start = size - num_bytes - 4
    if len(tail) != num_bytes + 4 or google_crc32c.value(tail[:-4]) != int.from_bytes(tail[-4:], "little"):
        raise StoreError(f"shard '{path}' is damaged (its index does not verify); delete it and resume, or remake it")
    index = np.frombuffer(tail[:-4], dtype="<u8").reshape(num_entries, 2)
    present = index[index[:, 0] != ABSENT]
    if len(present) and int(present.sum(axis=1).max()) > start:
        raise StoreError(f"shard '{path}' is damaged (its index points past its end); make the store again")
    return index


class _ShardCache:
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._lock = threading.Lock()
        self._shards: OrderedDict[str, OpenShard] = OrderedDict()

    def get(self, path: str, num_entries: int, note: str) -> OpenShard:
        with self._lock:
            shard = self._shards.get(path)
            if shard is not None and shard.is_current:
                self._shards.move_to_end(path)
                return shard
        shard = (RemoteShard if SCHEME.match(path) else OpenShard)(path, num_entries, note)
        with self._lock:
            self._shards[path] = shard
            while len(self._shards) > MAX_OPEN_SHARDS:
                self._shards.popitem(last=False)
        return shard

    def forget(self, prefix: str) -> None:
        with self._lock:
            for path in [p for p in self._shards if p.startswith(prefix)]:
                del self._shards[path]

    def __len__(self) -> int:
        return len(self._shards)


_CACHE = _ShardCache()
os.register_at_fork(after_in_child=_CACHE.reset)


def forget_shards(path: Path) -> None:
    """Close the shards under ``path``: one of them was written anew."""
    _CACHE.forget(str(path))


class ShardReader:
    """Payloads of one ``tiles`` array by index; holds no file itself, so it can be pickled and forked."""

    __slots__ = ("_notes", "_root", "num_tiles", "shard_tiles")

    def __init__(self, tiles: Path, num_tiles: int, shard_tiles: int) -> None:
        self._root = f"{tiles}{os.sep}c{os.sep}"
        self._notes = f"{tiles.parent}{os.sep}ledger{os.sep}{tiles.name}{os.sep}"
        self.num_tiles, self.shard_tiles = num_tiles, shard_tiles

    def shard(self, number: int) -> OpenShard:
        """Return shard ``number``, opened or from the cache."""
        return _CACHE.get(f"{self._root}{number}/0/0/0", self.shard_tiles, f"{self._notes}{number}.json")

    def payload(self, index: int) -> bytes:
        """Return the compressed tile ``index``, empty when it is absent."""
        number, position = divmod(index, self.shard_tiles)
        return self.shard(number).read(position)

    @property
    def is_remote(self) -> bool:
        """Whether the tiles are on object storage, where many are best read at once."""
        return SCHEME.match(self._root) is not None

    def payloads(self, indices: Sequence[int]) -> list[bytes]:
        """Return many compressed tiles on object storage, fetched at the same time; empty when absent."""
        by_shard: dict[int, list[int]] = {}
        for index in indices:
            by_shard.setdefault(index // self.shard_tiles, []).append(index)
        found: dict[int, bytes] = {}

        def fetch(number: int) -> None:
            own, shard = by_shard[number], self.shard(number)
            assert isinstance(shard, RemoteShard)
            found.update(zip(own, shard.read_many([index % self.shard_tiles for index in own]), strict=True))

        with ThreadPoolExecutor(min(SHARDS_AT_A_TIME, len(by_shard) or 1)) as pool:
            list(pool.map(fetch, by_shard))
        return [found[index] for index in indices]
