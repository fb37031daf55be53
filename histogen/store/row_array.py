"""Row arrays: uncompressed Zarr v3 arrays with one chunk file per shard, read and written without zarr."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from histogen.errors import IncompleteStoreError, StoreError
from histogen.files import write_atomic
from histogen.store.layout import ArrayLayout, chunk_path, read_metadata


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
            layout = ArrayLayout.from_metadata(metadata)
            names = [codec["name"] for codec in metadata["codecs"]]
        except StoreError as error:
            raise StoreError(f"'{path}/zarr.json' is not an array of a tile store: {error}; remake it") from error
        except (KeyError, TypeError) as error:
            raise StoreError(f"'{path}/zarr.json' is not an array of a tile store (its codecs); remake it") from error
        if names != ["bytes"]:
            raise StoreError(f"array '{path}' has codecs {names}, not just 'bytes'; write it with histogen")
        return cls(path, layout)

    def chunk_file(self, shard: int) -> Path:
        """Return the file of chunk ``shard``."""
        return chunk_path(self.path, shard, len(self.layout.shape))

    def write(self, shard: int, values: ArrayLike) -> None:
        """Write the rows of one shard, atomically.

        Raises:
            StoreError: ``values`` are not of the shape or do not fit the dtype of the rows.
        """
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
        write_atomic(self.chunk_file(shard), chunk.tobytes())

    def read(self, indices: ArrayLike | None = None) -> NDArray[Any]:
        """Return rows ``indices`` (default all) in that order, native byte order.

        Raises:
            IncompleteStoreError: a chunk that is asked for was not written yet.
            StoreError: an index is out of range, or a chunk file has the wrong length.
        """
        if indices is None:
            return self._read_all()
        wanted = np.asarray(indices, dtype=np.int64)
        num_rows = self.layout.shape[0]
        if wanted.size and not (int(wanted.min()) >= 0 and int(wanted.max()) < num_rows):
            raise StoreError(f"rows {wanted.min()} to {wanted.max()} are asked of '{self.path}', which has {num_rows}")
        shards, positions = np.divmod(wanted, self.layout.shard_rows)
        if len(shards):
            self._chunk(int(shards[0]))  # as large as stated, or memory would be asked for that nothing fills
        out = np.empty((len(wanted), *self.layout.row_shape), dtype=self.layout.dtype.newbyteorder("="))
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            out[here] = self._chunk(int(shard))[positions[here]]
        return out

    def _read_all(self) -> NDArray[Any]:
        rows = self.layout.shard_rows
        for start in range(0, self.layout.shape[0], rows):
            self._chunk(start // rows)
        out = np.empty(self.layout.shape, dtype=self.layout.dtype.newbyteorder("="))
        for start in range(0, len(out), rows):
            out[start : start + rows] = self._chunk(start // rows)[: len(out) - start]
        return out

    def _chunk(self, shard: int) -> NDArray[Any]:
        path = self.chunk_file(shard)
        shape = (self.layout.shard_rows, *self.layout.row_shape)
        try:
            return np.memmap(path, dtype=self.layout.dtype, mode="r", shape=shape)
        except FileNotFoundError as error:
            raise IncompleteStoreError(
                f"rows {shard * shape[0]} and on of '{self.path}' are not there yet; finish the stage with --resume"
            ) from error
        except OSError as error:
            raise StoreError(f"chunk '{path}' cannot be read ({error.strerror}); delete its note and resume") from error
        except (ValueError, OverflowError) as error:
            raise StoreError(f"chunk '{path}' has the wrong length ({error}); delete its note and resume") from error
