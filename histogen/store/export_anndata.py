"""AnnData as scanpy plots it, with the keys by which SpatialData and LazySlide know tiles of a slide."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from histogen.errors import StoreError
from histogen.files import whole_file
from histogen.store.export_rows import Placement, columns_of, embeddings_of, needed, placement_of
from histogen.store.tile_set import TileSet

PICTURE_PX = 2000
"""Longer side of the picture of a slide."""
READ_AT_ONCE = 256


def write_anndata(tiles: TileSet, out: Path, *, encoder: str | None, images: bool) -> int:
    """Write embeddings as ``X``, columns as ``obs``, and where the tiles of a slide are; return the number of tiles.

    Raises:
        StoreError: there are no embeddings, or images were asked for.
    """
    anndata, pandas = needed("anndata"), needed("pandas")
    store = tiles.stores[0]
    embeddings = embeddings_of(tiles, encoder)
    if embeddings is None or images:
        why = (
            "holds no images of tiles"
            if images
            else f"needs embeddings, store '{store.path}' has none; run embed first"
        )
        raise StoreError(f"AnnData {why}")
    columns = {k: v for k, v in columns_of(tiles).items() if getattr(v, "ndim", 1) == 1}
    obs = pandas.DataFrame(columns, index=tiles.ids())
    for name in obs.columns:
        if tiles.categories(name):
            obs[name] = pandas.Categorical(obs[name], categories=tiles.categories(name))
    obs["library_id"] = pandas.Categorical([store.store_id] * len(tiles))
    obs["tile_id"] = tiles.tile_index_of(np.arange(len(tiles)))
    table = anndata.AnnData(X=embeddings, obs=obs, uns={"histogen": json.dumps(store.attributes)})
    if store.kind == "slide":
        place = placement_of(tiles)
        table.obsm["spatial"] = np.stack([place.x_l0, place.y_l0], axis=1) + place.size_l0 / 2
        table.uns |= _where(tiles, place)
    with whole_file(out / f"{store.store_id}.h5ad") as temporary:
        table.write_h5ad(temporary)
    return len(tiles)


def _where(tiles: TileSet, place: Placement) -> dict[str, Any]:
    """Return what scanpy (``spatial``), SpatialData and LazySlide keep in ``uns``."""
    store = tiles.stores[0]
    stride, downsample = store.tile_px - place.overlap_px, place.mpp / place.mpp_l0
    spec = {"height": store.tile_px, "width": store.tile_px, "stride_height": stride, "stride_width": stride}
    picture, scale = picture_of(tiles, place)
    factors = {"spot_diameter_fullres": place.size_l0, "tissue_hires_scalef": scale}
    return {
        "spatial": {store.store_id: {"images": {"hires": picture}, "scalefactors": factors}},
        "spatialdata_attrs": {"region": store.store_id, "region_key": "library_id", "instance_key": "tile_id"},
        "tile_spec": spec
        | {"mpp": place.mpp, "ops_level": 0, "ops_downsample": downsample}
        | {"base_level": 0, "base_downsample": downsample},
    }


def picture_of(tiles: TileSet, place: Placement) -> tuple[NDArray[np.uint8], float]:
    """Return a slide as its tiles show it, uint8 [H, W, 3], white elsewhere, and its pixels per pixel of level 0."""
    seen = [math.ceil(float(corner.max()) + place.size_l0) for corner in (place.x_l0, place.y_l0)]
    width, height = tiles.stores[0].provenance["slide"].get("extent") or seen
    scale = min(1.0, PICTURE_PX / max(width, height))
    canvas = np.full((max(1, round(height * scale)), max(1, round(width * scale)), 3), 255, np.uint8)
    ends = np.stack([place.x_l0, place.y_l0, place.x_l0 + place.size_l0, place.y_l0 + place.size_l0], axis=1)
    boxes = np.rint(ends * scale).astype(int)
    boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
    for start in range(0, len(tiles), READ_AT_ONCE):
        rows = np.arange(start, min(start + READ_AT_ONCE, len(tiles)))
        for tile, (left, top, right, bottom) in zip(tiles.read_tiles(rows), boxes[rows].tolist(), strict=True):
            part = canvas[top:bottom, left:right]
            small = cv2.resize(tile, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
            part[:] = small[: part.shape[0], : part.shape[1]]
    return canvas, scale
