"""Figures: what they draw is what the stores hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from histogen import plot
from histogen.errors import ConfigError, StoreError
from histogen.store.jpeg import encode_jpeg
from histogen.store.layout import Column
from histogen.store.tile_store import TileStore


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real store with places and embeddings, and one made of it, without the slide's file."""
    folder = tmp_path_factory.mktemp("plot")
    rng = np.random.default_rng(0)
    tiles = rng.integers(0, 255, (6, 8, 8, 3), np.uint8)
    about = {"slide_id": "s", "extent": [96, 64], "mpp": [0.25, 0.25]}
    real = TileStore.create(
        folder / "s.zarr", kind="slide", store_id="s", tile_px=8, mpp=0.5, num_tiles=6, provenance={"slide": about},
        columns={
            "x_l0": np.arange(6.0) * 16, "y_l0": np.zeros(6), "focus": np.arange(6, dtype=np.float32),
            "label": Column.categorical(["a", "b", "a", None, "b", "a"]),
        },
    )  # fmt: skip
    real.create_rows("embeddings/e", (6, 4), "float32")
    real.write_all_rows("embeddings/e", rng.standard_normal((6, 4)).astype(np.float32))
    real.commit("embeddings/e", 0, {"count": 6})
    made = TileStore.create(
        folder / "m.zarr", kind="interpolated", store_id="m", tile_px=8, mpp=0.5, num_tiles=2, provenance={},
        columns={
            "source_store": Column.categorical(["s", "s"]), "source_index": np.array([4, 1]),
            "partner_store": Column.categorical(["s", "s"]), "partner_index": np.array([2, 0]),
            "alpha": np.array([0.5, 0.25], np.float32), "seed": np.array([1, 2]),
        },
    )  # fmt: skip
    for store, pixels in ((real, tiles), (made, tiles[:2])):
        store.commit("tiles", 0, store.write_tiles(0, [encode_jpeg(tile) for tile in pixels]))
    return folder


def test_a_slide_has_a_square_for_every_tile_in_its_colour(stores: Path) -> None:
    figure = plot.slide(stores, "s", column="label")
    squares = figure.axes[0].collections[0]
    corners = [path.get_extents().bounds for path in squares.get_paths()]
    assert corners == [(16.0 * k, 0.0, 16.0, 16.0) for k in range(6)]
    colours = squares.get_facecolor()
    assert (colours[0] == colours[2]).all()
    assert (colours[0] != colours[1]).any()
    assert [text.get_text() for text in figure.axes[0].get_legend().get_texts()] == ["a", "b"]
    figure.savefig(stores / "slide.png")


def test_a_map_has_a_point_for_every_embedding(stores: Path) -> None:
    figure = plot.map(stores, column="focus")
    vectors = TileStore.open_(stores / "s.zarr").read_rows("embeddings/e").astype(float)
    places = figure.axes[0].collections[0].get_offsets()
    centred = vectors - vectors.mean(axis=0)
    values = np.linalg.svd(centred, compute_uv=False)[:2]
    np.testing.assert_allclose(np.linalg.norm(np.asarray(places), axis=0), values, rtol=1e-4)
    figure.savefig(stores / "map.png")


def test_neighbours_stand_nearest_first(stores: Path) -> None:
    figure = plot.neighbours(stores, "s:0", k=3)
    vectors = TileStore.open_(stores / "s.zarr").read_rows("embeddings/e").astype(float)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = sorted((unit[1:] @ unit[0]).tolist(), reverse=True)[:3]
    assert [axes.get_title() for axes in figure.axes] == ["e", *(f"{cosine:.3f}" for cosine in expected)]
    pixels = np.asarray(figure.axes[0].images[0].get_array())
    np.testing.assert_array_equal(pixels, TileStore.open_(stores / "s.zarr").read_tile(0))


def test_a_synthetic_tile_stands_between_source_and_partner(stores: Path) -> None:
    figure = plot.synthetic(stores, "m:0")
    assert [axes.get_title() for axes in figure.axes] == ["source", "interpolated, alpha 0.50", "partner"]
    real = TileStore.open_(stores / "s.zarr")
    for place, row in ((0, 4), (2, 2)):
        np.testing.assert_array_equal(np.asarray(figure.axes[place].images[0].get_array()), real.read_tile(row))
    with pytest.raises(StoreError, match="nothing was made"):
        plot.synthetic(stores, "s:3")
    with pytest.raises(ConfigError, match="no tile 's:9'"):
        plot.neighbours(stores, "s:9")
