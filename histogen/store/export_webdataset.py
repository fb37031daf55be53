"""WebDataset: a tar of ``<key>.jpg`` (as stored, byte for byte) and ``<key>.json`` per tile."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np

from histogen.files import whole_file
from histogen.store.export_rows import columns_of, embeddings_of
from histogen.store.jpeg import complete_jpeg
from histogen.store.tile_set import TileSet


def write_webdataset(tiles: TileSet, out: Path, *, encoder: str | None, images: bool) -> int:
    """Write one store as a tar; ``images`` is always so. Embeddings go along as ``<key>.npy`` where there are some."""
    del images
    store, columns = tiles.stores[0], columns_of(tiles)
    embeddings = embeddings_of(tiles, encoder)
    stem = store.store_id.replace(".", "_")  # WebDataset ends a key at its first dot
    with (
        whole_file(out / f"{store.store_id}.tar") as temporary,
        tarfile.open(temporary, "w", format=tarfile.USTAR_FORMAT) as tar,
    ):
        for position, index in enumerate(tiles.tile_index_of(np.arange(len(tiles))).tolist()):
            key = f"{stem}-{index:08d}"
            facts = {name: _plain(values[position]) for name, values in columns.items()}
            _add(tar, f"{key}.jpg", complete_jpeg(tiles.read_payload(position), store.jpeg))
            _add(tar, f"{key}.json", json.dumps({"id": f"{store.store_id}:{index}", **facts}).encode())
            if embeddings is not None:
                buffer = io.BytesIO()
                np.save(buffer, embeddings[position])
                _add(tar, f"{key}.npy", buffer.getvalue())
    return len(tiles)


def _plain(value: Any) -> Any:
    value = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
    return None if isinstance(value, float) and value != value else value  # JSON has no NaN


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))
