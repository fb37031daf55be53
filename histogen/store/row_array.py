"""Row arrays: uncompressed Zarr v3 arrays read and written without zarr.

A chunk, one file, has the rows of a shard of tiles; of a column that is written at once it has up to 65,536.

Behind the rows of a chunk stands their CRC-32C (Zarr's codec ``crc32c``). A process compares it when it first reads of
the chunk, and again when another file is at its place; later reads map the file. Arrays of before have none.
"""

from __future__ import annotations

import os
import shlex
import threading
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import ArrayLike, NDArray

from histogen.errors import IncompleteStoreError, StoreError
from histogen.files import write_atomic, write_files
from histogen.remote import identity, is_remote
from histogen.store.layout import ArrayLayout, chunk_path, read_metadata

SUM_BYTES = 4
BLOCK_BYTES = 1 << 20
"""Bytes that are read at a time to compare a checksum."""

_VERIFIED: dict[str, tuple[int, int, int, int]] = {}
"""Chunk files that this process has compared, by what tells the file from another one at its place."""


class _Fetched(dict[str, tuple[tuple[Any, ...], bytes]]):
    """Chunks that were fetched from object storage, the oldest forgotten beyond :data:`FETCHED_BYTES`."""

    def keep(self, path: str, chunk: tuple[tuple[Any, ...], bytes]) -> None:
        with _FETCHED_LOCK:
            self.pop(path, None)
            self[path] = chunk
            while len(self) > 1 and sum(len(values) for _, values in self.values()) > FETCHED_BYTES:
                del self[next(iter(self))]


FETCHED_BYTES = 256 << 20
_FETCHED_LOCK = threading.Lock()
_FETCHED = _Fetched()


class RowArray:
    """One array [N, …] on disk, by rows."""

    def __init__(self, path: Path, layout: ArrayLayout) -> None:
        self.path, self.layout = path, layout

    @classmethod
    def open_(cls, path: Path) -> RowArray:
        """Open an array of ours.

        Raises:
            StoreError: it is missing, malformed, or not an uncompressed row array.
        """
        metadata = read_metadata(path)
        try:
            return cls(path, ArrayLayout.from_metadata(metadata))
        except StoreError as error:
            raise StoreError(f"'{path}/zarr.json' is not an array of a tile store: {error}; remake it") from error

    @property
    def num_chunks(self) -> int:
        """Number of chunks, the last one perhaps not full."""
        return -(-self.layout.shape[0] // self.layout.shard_rows)

    def chunk_file(self, shard: int) -> Path:
        """Return the file of chunk ``shard``."""
        return chunk_path(self.path, shard, len(self.layout.shape))

    def write(self, shard: int, values: ArrayLike) -> None:
        """Write the rows of one shard and their checksum, atomically.

        Raises:
            StoreError: ``values`` are not of the shape or do not fit the dtype of the rows.
        """
        write_atomic(self.chunk_file(shard), self._bytes_of(shard, values))

    def write_all(self, values: NDArray[Any]) -> None:
        """Write all rows, each chunk atomically; errors as :meth:`write`."""
        rows = self.layout.shard_rows
        chunks = ((shard, values[shard * rows : (shard + 1) * rows]) for shard in range(self.num_chunks))
        write_files((self.chunk_file(shard), self._bytes_of(shard, part)) for shard, part in chunks)

    def _bytes_of(self, shard: int, values: ArrayLike) -> bytes:
        layout = self.layout
        start = shard * layout.shard_rows
        shape = (min(layout.shard_rows, layout.shape[0] - start), *layout.row_shape)
        array = np.asarray(values)
        if array.shape != shape or shape[0] <= 0:
            raise StoreError(f"rows of shape {array.shape} do not fit shard {shard} of '{self.path}', which is {shape}")
        if not np.can_cast(array.dtype, layout.dtype, "same_kind"):
            raise StoreError(f"rows of dtype {array.dtype} do not fit '{self.path}', which is {layout.dtype.name}")
        chunk = np.full((layout.shard_rows, *layout.row_shape), layout.fill, dtype=layout.dtype)
        chunk[: shape[0]] = array
        data = chunk.tobytes()
        end = google_crc32c.value(data).to_bytes(SUM_BYTES, "little") if layout.checksum else b""
        return data + end

    def read(self, indices: ArrayLike | None = None) -> NDArray[Any]:
        """Return rows ``indices`` (default all) in that order, native byte order.

        Raises:
            IncompleteStoreError: a chunk that is asked for was not written yet.
            StoreError: an index is out of range, or a chunk file has the wrong length or differs from its checksum.
        """
        if indices is None:
            return self._read_all()
        wanted = np.asarray(indices, dtype=np.int64)
        num_rows = self.layout.shape[0]
        if wanted.size and not (int(wanted.min()) >= 0 and int(wanted.max()) < num_rows):
            raise StoreError(f"rows {wanted.min()} to {wanted.max()} are asked of '{self.path}', which has {num_rows}")
        shards, positions = np.divmod(wanted, self.layout.shard_rows)
        if len(shards):
            self.chunk(int(shards[0]))  # as large as stated, or memory would be asked for that nothing fills
        out = np.empty((len(wanted), *self.layout.row_shape), dtype=self.layout.dtype.newbyteorder("="))
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            out[here] = self.chunk(int(shard))[positions[here]]
        return out

    def _read_all(self) -> NDArray[Any]:
        rows = self.layout.shard_rows
        for shard in range(self.num_chunks):
            self.chunk(shard)
        out = np.empty(self.layout.shape, dtype=self.layout.dtype.newbyteorder("="))
        for shard in range(self.num_chunks):
            start = shard * rows
            out[start : start + rows] = self.chunk(shard)[: len(out) - start]
        return out

    def chunk(self, shard: int) -> NDArray[Any]:
        """Return the rows of chunk ``shard`` as mapped, [shard_rows, …]; those beyond the last are fill.

        Raises:
            IncompleteStoreError: it was not written yet.
            StoreError: it cannot be read, has the wrong length, or differs from its checksum.
        """
        path = self.chunk_file(shard)
        shape = (self.layout.shard_rows, *self.layout.row_shape)
        try:
            if is_remote(path):
                return np.frombuffer(self._fetched(path, shard), self.layout.dtype).reshape(shape)
            with path.open("rb") as file:
                self._verify(file, shard)
                return np.memmap(file, dtype=self.layout.dtype, mode="r", shape=shape)
        except FileNotFoundError as error:
            raise IncompleteStoreError(
                f"rows {shard * shape[0]} and on of '{self.path}' are not there yet; finish the stage with --resume"
            ) from error
        except OSError as error:
            raise self.damaged(shard, f"cannot be read ({error.strerror})") from error

    def _verify(self, file: BinaryIO, shard: int) -> None:
        """Compare a chunk with its checksum, unless this process has compared this very file.

        Raises:
            StoreError: they differ, or the file has the wrong length.
        """
        found, num_bytes = os.fstat(file.fileno()), self.layout.shard_rows * self.layout.row_bytes
        expected = num_bytes + (SUM_BYTES if self.layout.checksum else 0)
        if found.st_size != expected:
            raise self.damaged(shard, f"has the wrong length ({found.st_size:,} bytes, not {expected:,})")
        if not self.layout.checksum:
            return
        identity = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        if _VERIFIED.get(file.name) == identity:
            return
        if checksum(file, num_bytes) != int.from_bytes(os.pread(file.fileno(), SUM_BYTES, num_bytes), "little"):
            raise self.damaged(shard, "differs from its checksum")
        _VERIFIED[file.name] = identity

    def _fetched(self, path: Path, shard: int) -> bytes:
        """Return the verified bytes of a chunk on object storage; the last ones are kept while they are the same."""
        known = identity(path)
        if (kept := _FETCHED.get(str(path))) is not None and kept[0] == known:
            return kept[1]
        data = path.read_bytes()
        num_bytes = self.layout.shard_rows * self.layout.row_bytes
        expected = num_bytes + (SUM_BYTES if self.layout.checksum else 0)
        if len(data) != expected:
            raise self.damaged(shard, f"has the wrong length ({len(data):,} bytes, not {expected:,})")
        values, end = data[:num_bytes], data[num_bytes:]
        if self.layout.checksum and google_crc32c.value(values) != int.from_bytes(end, "little"):
            raise self.damaged(shard, "differs from its checksum")
        _FETCHED.keep(str(path), (known, values))
        return values

    def damaged(self, shard: int, what: str) -> StoreError:
        """Return the error that chunk ``shard`` is damaged: ``what`` is wrong with it, and what mends it."""
        store, start = self.path.parent.parent, shard * self.layout.shard_rows
        last = min(start + self.layout.shard_rows, self.layout.shape[0]) - 1
        rows = f"{self.path.parent.name}/{self.path.name}"
        return StoreError(
            f"rows {start} to {last} of '{rows}' of store '{store}' are damaged (chunk '{self.chunk_file(shard)}' "
            f"{what}); mend them: histogen inspect {shlex.quote(str(store))} --check --repair"
        )


def checksum(file: BinaryIO, num_bytes: int) -> int:
    """Return the CRC-32C of the first ``num_bytes`` of a file; it is read, not mapped: a bad disk is an OSError."""
    value = 0
    for start in range(0, num_bytes, BLOCK_BYTES):
        value = google_crc32c.extend(value, os.pread(file.fileno(), min(BLOCK_BYTES, num_bytes - start), start))
    return value
