"""Which class a tile has where regions lie in and over each other. Oracle: painting them, the largest first."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import shapely

from histogen.errors import SlideError
from histogen.tiles.regions import Region, label_tiles, region_shares, regions_of, roi_shares

SIDE = 40.0
X, Y = (np.ravel(v) for v in np.meshgrid(np.arange(0, 240, SIDE), np.arange(0, 160, SIDE)))


def painted(regions: list[Region], names: list[str], cell: float = 1.0) -> np.ndarray:
    """Share of each name in each tile, by which region's the middle of each cell is: the smallest painted last."""
    width, height = int(240 / cell), int(160 / cell)
    x, y = np.meshgrid((np.arange(width) + 0.5) * cell, (np.arange(height) + 0.5) * cell)
    picture = np.full((height, width), -1)
    for region in sorted(regions, key=lambda r: -r.geometry.area):
        picture[shapely.contains_xy(region.geometry, x, y)] = names.index(region.name)
    side = int(SIDE / cell)
    tiles = picture.reshape(height // side, side, width // side, side).swapaxes(1, 2).reshape(len(X), -1)
    return np.stack([(tiles == code).mean(1) for code in range(len(names))], axis=1)


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_innermost_of_nested_regions_wins_whatever_the_order_or_the_alphabet(order: tuple[int, ...]) -> None:
    """Two whole tiles of the inner class; a ring of the middle one; the outer one around."""
    shapes = [shapely.box(0, 0, 240, 160), shapely.box(0, 0, 160, 120), shapely.box(40, 40, 120, 80)]
    names = ["a", "c", "b"]
    for letters in itertools.permutations(names):
        regions = [Region(letters[i], shapes[i]) for i in order]
        labels = label_tiles(regions, X, Y, (SIDE, SIDE))
        expected = [
            letters[2] if 40 <= x < 120 and y == 40 else letters[1] if x < 160 and y < 120 else letters[0]
            for x, y in zip(X, Y, strict=True)
        ]
        assert labels == expected


@pytest.mark.parametrize("seed", range(6))
def test_shares_are_those_of_a_painting(seed: int) -> None:
    rng = np.random.default_rng(seed)
    names = ["a", "b", "c"]
    regions = []
    for index in range(9):
        left, top = np.round(rng.uniform(-20, 200, 2))
        box = shapely.box(left, top, left + np.round(rng.uniform(10, 120)), top + np.round(rng.uniform(10, 90)))
        if index % 3 == 0:
            box = box.difference(shapely.box(left + 3, top + 3, left + 8, top + 9))
        if index % 4 == 0:
            box = shapely.union_all([box, shapely.box(left - 30, top, left - 12, top + 25)])
        regions.append(Region(names[int(rng.integers(3))], box))
    parts = [Region(region.name, part) for region in regions for part in shapely.get_parts(region.geometry)]
    shares = region_shares(regions, names, X, Y, (SIDE, SIDE))
    np.testing.assert_allclose(shares, painted(parts, names), atol=1e-9)
    everywhere = roi_shares(regions, X, Y, (SIDE, SIDE))
    np.testing.assert_allclose(everywhere, shares.sum(1), atol=1e-9)


@pytest.mark.parametrize("seed", range(12))
def test_regions_whose_edges_lie_on_those_of_tiles(seed: int) -> None:
    """They meet their neighbours in lines and corners, which have no area to lay over others."""
    rng = np.random.default_rng(seed)
    regions = []
    for number in range(8):
        left, top = 40 * rng.integers(0, 5), 40 * rng.integers(0, 3)
        box = shapely.box(left, top, left + 40 * rng.integers(1, 4), top + 20 * rng.integers(1, 5))
        regions.append(Region("abc"[number % 3], box))
    shapes = {region.geometry.wkt: region for region in regions}
    regions = list(shapes.values())  # no outline twice
    sizes = [region.geometry.area for region in regions]
    regions = [region for region in regions if sizes.count(region.geometry.area) == 1]  # nor two of which none is inner
    shares = region_shares(regions, ["a", "b", "c"], X, Y, (SIDE, SIDE))
    np.testing.assert_allclose(shares, painted(regions, ["a", "b", "c"]), atol=1e-9)


@pytest.mark.parametrize("corner", [1e308, -1e300, 2.0**40, float("inf")])
def test_a_corner_beyond_any_slide_is_refused(corner: float) -> None:
    """Its area overflows, and GEOS lays it over tiles where it is not."""
    with pytest.raises(ValueError, match=r"region 1 has a corner at \[.*, 20\.0\]"):
        regions_of([("a", shapely.box(0, 0, 5, 5)), ("b", shapely.Polygon([(0, 0), (corner, 20), (10, 70)]))])


def test_what_cannot_be_laid_over_tiles_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise shapely.errors.GEOSException("TopologyException: side location conflict at 3 4")

    monkeypatch.setattr(shapely, "intersection", broken)
    with pytest.raises(SlideError, match=r"cannot be laid over the tiles \(side location conflict at 3 4\)"):
        label_tiles([Region("a", shapely.box(0, 0, 50, 50))], X, Y, (SIDE, SIDE))


RING = [(10, 10), (90, 10), (90, 90), (10, 90)]


@pytest.mark.parametrize(
    "other",
    [RING, RING[2:] + RING[:2], RING[::-1], [*RING[:1], (50, 10), *RING[1:]]],
    ids=["same", "begins elsewhere", "other way round", "a corner on an edge"],
)
def test_one_outline_with_two_classes_is_refused(other: list[tuple[int, int]]) -> None:
    regions = [
        Region("b", shapely.Polygon(RING)),
        Region("c", shapely.box(0, 0, 5, 5)),
        Region("a", shapely.Polygon(other)),
    ]
    with pytest.raises(SlideError, match=r"from \(10, 10\) to \(90, 90\), has the classes 'b' and 'a'; delete one"):
        label_tiles(regions, X, Y, (SIDE, SIDE))
    twice = [Region("a", region.geometry) for region in regions]
    assert set(label_tiles(twice, X, Y, (SIDE, SIDE), min_share=0.01)) == {"a", None}


def test_a_mirror_image_is_another_outline() -> None:
    regions = [
        Region("a", shapely.Polygon([(0, 0), (80, 0), (0, 80)])),
        Region("b", shapely.Polygon([(80, 0), (80, 80), (0, 80)])),
    ]
    mirrored = [Region("c", shapely.Polygon([(0, 0), (80, 0), (80, 80)]))]
    shares = region_shares([*regions, *mirrored], ["a", "b", "c"], np.array([0.0]), np.array([0.0]), (80, 80))
    assert shares.sum() == pytest.approx(1)
