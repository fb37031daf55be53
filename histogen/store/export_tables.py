"""Parquet: one row per tile, with every column and the embedding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from histogen.files import whole_file
from histogen.store.export_rows import columns_of, embeddings_of, needed
from histogen.store.jpeg import complete_jpeg
from histogen.store.tile_set import TileSet


def write_parquet(tiles: TileSet, out: Path, *, encoder: str | None, images: bool) -> int:
    """Write ``id``, ``store_id``, ``tile_index``, the columns, ``embedding`` and (asked for) ``image``, a JPEG."""
    arrow, parquet = needed("pyarrow"), needed("pyarrow.parquet")
    store, indices = tiles.stores[0], np.arange(len(tiles))
    data: dict[str, Any] = {
        "id": tiles.ids(),
        "store_id": [store.store_id] * len(tiles),
        "tile_index": tiles.tile_index_of(indices),
    }
    for name, values in columns_of(tiles).items():
        data[name] = list(values) if getattr(values, "ndim", 1) > 1 else values
    embeddings = embeddings_of(tiles, encoder)
    if embeddings is not None:
        data["embedding"] = arrow.FixedSizeListArray.from_arrays(embeddings.ravel(), embeddings.shape[1])
    if images:
        data["image"] = arrow.array(
            [complete_jpeg(tiles.read_payload(i), store.jpeg) for i in indices.tolist()], arrow.binary()
        )
    table = arrow.table(data).replace_schema_metadata({"histogen": json.dumps(store.attributes)})
    with whole_file(out / f"{store.store_id}.parquet") as temporary:
        parquet.write_table(table, temporary)
    return len(tiles)
