"""Tissue, pen, labels and scores against the truth of drawn slides."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest
import skimage

from histogen.errors import SlideError
from histogen.geometry import Extent
from histogen.seeds import derive_seed
from histogen.slides.base import open_slide
from histogen.slides.drawn import CELL_PX, DrawnTruth, draw_slide
from histogen.store.jpeg import JpegSettings
from histogen.tiles import tissue
from histogen.tiles.annotations.read import read_annotations
from histogen.tiles.extract import Recipe, extract_tiles
from histogen.tiles.grid import Grid
from histogen.tiles.plan import SlidePlan, plan_slide
from histogen.tiles.regions import label_tiles, region_shares
from histogen.tiles.spec import QualitySettings, TissueSettings
from histogen.tiles.tissue import drop_small, fill_holes, find_pen, find_tissue

SEEDS = (0, 1, 2, 5)


def enlarged(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return cv2.resize(mask.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)


def grown(mask: np.ndarray, cells: int) -> np.ndarray:
    return cv2.dilate(mask.astype(np.uint8), np.ones((2 * cells + 1, 2 * cells + 1), np.uint8)).astype(bool)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, DrawnTruth]]:
    folder = tmp_path_factory.mktemp("drawn")
    return {
        seed: (folder / f"{seed}.svs", draw_slide(folder / f"{seed}.svs", seed=seed, extent=Extent(3000, 2200)))
        for seed in SEEDS
    }


def cells(mask: np.ndarray, x: float, y: float, size: int = 128) -> np.ndarray:
    rows = slice(round(y / CELL_PX), round((y + size) / CELL_PX))
    return mask[rows, round(x / CELL_PX) : round((x + size) / CELL_PX)]


def plan_of(path: Path, tile_px: int = 128, **tissue: object) -> SlidePlan:
    slide = open_slide(path)
    assert slide.mpp is not None
    grid = Grid(slide.extent, slide.mpp, tile_px, tile_px, 0.5)
    settings = TissueSettings.model_validate(tissue)
    return plan_slide(slide, grid, tissue=settings, min_tissue_fraction=0.5, max_pen_fraction=0.0)


@pytest.mark.parametrize("seed", SEEDS)
def test_tissue_is_found_and_pen_never(drawn: dict[int, tuple[Path, DrawnTruth]], seed: int) -> None:
    path, truth = drawn[seed]
    plan = plan_of(path)
    mask = enlarged(plan.tissue.mask, truth.class_map.shape)
    far = ~grown(truth.pen_mask, 16)
    assert (mask & truth.tissue_mask & far).sum() / ((mask | truth.tissue_mask) & far).sum() >= 0.95
    assert (mask & truth.pen_mask).sum() <= 0.02 * truth.pen_mask.sum()
    for x, y in zip(*plan.positions_l0, strict=True):
        assert cells(truth.pen_mask, x, y).mean() < 0.01


def test_blue_ink_that_crosses_pink_and_dark_tissue_is_one_stroke(tmp_path: Path) -> None:
    path = tmp_path / "a.svs"
    truth = draw_slide(path, seed=derive_seed(0, "draw", "drawn-08"), extent=Extent(3328, 2560))
    for x, y in zip(*plan_of(path).positions_l0, strict=True):
        assert cells(truth.pen_mask, x, y).mean() < 0.01


@pytest.mark.parametrize("seed", SEEDS)
def test_tissue_fraction_of_a_tile_is_the_truth_s(drawn: dict[int, tuple[Path, DrawnTruth]], seed: int) -> None:
    path, truth = drawn[seed]
    plan = plan_of(path)
    far = ~grown(truth.pen_mask, 16)
    shares = np.array([truth.class_shares(x, y, 128).sum() for x, y in zip(*plan.positions_l0, strict=True)])
    away = np.array([cells(far, x, y).all() for x, y in zip(*plan.positions_l0, strict=True)])
    assert np.abs(shares - plan.tissue_fraction)[away].mean() < 0.025
    kept = {(round(x), round(y)) for x, y in zip(*plan.positions_l0, strict=True)}
    full = [
        (x, y)
        for x in range(0, 3000 - 128, 128)
        for y in range(0, 2200 - 128, 128)
        if truth.class_shares(x, y, 128).sum() > 0.7 and cells(far, x, y).all()
    ]
    assert set(full) <= kept


@pytest.mark.parametrize("method", ["otsu", "saturation"])
def test_other_methods_find_stained_tissue(drawn: dict[int, tuple[Path, DrawnTruth]], method: str) -> None:
    path, truth = drawn[1]
    plan = plan_of(path, method=method)
    mask = enlarged(plan.tissue.mask, truth.class_map.shape)
    far = ~grown(truth.pen_mask, 16)
    assert (mask & truth.tissue_mask & far).sum() / ((mask | truth.tissue_mask) & far).sum() >= 0.95
    for x, y in zip(*plan.positions_l0, strict=True):
        assert cells(truth.pen_mask, x, y).mean() < 0.01


def test_faint_tissue_is_found_when_asked_for() -> None:
    rng = np.random.default_rng(0)
    overview = np.clip(rng.normal(240, 0.8, (300, 400, 3)), 0, 255)
    overview[100:200, 100:300] *= np.array([0.985, 0.945, 0.97])
    image = np.rint(overview).astype(np.uint8)
    usual = find_tissue(image, 8.0, Extent(6400, 4800), TissueSettings())
    faint = find_tissue(image, 8.0, Extent(6400, 4800), TissueSettings(faint=True))
    truth = np.zeros((300, 400), bool)
    truth[100:200, 100:300] = True
    assert usual.mask.sum() == 0
    assert (faint.mask & truth).sum() / (faint.mask | truth).sum() > 0.95


def test_the_glow_of_stain_beside_tissue_is_not_tissue() -> None:
    """As on cryosections: pink that bled into the glass on one side, fading over a millimetre."""
    rng = np.random.default_rng(1)
    truth = np.zeros((400, 500), bool)
    truth[100:300, 60:260] = True
    x = np.arange(500)
    glow = 0.09 * np.exp(-np.clip(x - 260, 0, None) / 90) * (x >= 260)
    density = np.where(truth, rng.uniform(0.15, 0.5, truth.shape), glow[None] + rng.normal(0, 0.002, truth.shape))
    image = np.rint(244 * 10 ** -(density[..., None] * np.array([0.1, 0.65, 0.25]))).clip(0, 255).astype(np.uint8)
    found = find_tissue(image, 8.0, Extent(8000, 6400), TissueSettings()).mask
    assert (found & truth).sum() / (found | truth).sum() > 0.97


def test_glass_is_not_tissue_beside_what_was_not_scanned() -> None:
    rng = np.random.default_rng(0)
    overview = np.full((200, 300, 3), 255.0)
    overview[20:180, 20:280] = (239, 237, 240)
    overview[60:140, 80:220] = (190, 110, 170)
    image = np.clip(np.rint(overview + rng.normal(0, 0.7, overview.shape) * (overview < 255)), 0, 255).astype(np.uint8)
    mask = find_tissue(image, 8.0, Extent(2400, 1600), TissueSettings()).mask
    truth = overview[..., 1] == 110
    assert (mask & truth).sum() / (mask | truth).sum() > 0.95


def test_black_border_is_not_tissue() -> None:
    overview = np.full((200, 300, 3), 242, np.uint8)
    overview[:, :60] = 0
    overview[80:160, 120:240] = (190, 120, 170)
    mask = find_tissue(overview, 8.0, Extent(2400, 1600), TissueSettings()).mask
    assert not mask[:, :60].any()
    assert mask[85:155, 125:235].all()


@pytest.mark.parametrize("ink", [(40, 60, 155), (30, 120, 70), (30, 30, 33), (215, 40, 50)])
def test_inks_are_pens_and_stains_are_not(ink: tuple[int, int, int]) -> None:
    overview = np.full((120, 160, 3), 240, np.uint8)
    overview[20:100, 10:70] = (85, 60, 130)
    overview[20:100, 70:90] = (205, 110, 150)
    overview[30:60, 110:150] = ink
    pen = find_pen(overview, 8.0, TissueSettings(pen_margin_um=0))
    assert pen[30:60, 110:150].mean() > 0.95
    assert not pen[:, :90].any()


def test_holes_and_crumbs_go_by_area() -> None:
    mask = np.zeros((60, 60), bool)
    mask[5:50, 5:50] = True
    mask[10:14, 10:14] = mask[20:40, 20:40] = False
    mask[55:57, 55:57] = True
    filled = fill_holes(mask, 20)
    assert filled[10:14, 10:14].all()
    assert not filled[20:40, 20:40].any()
    assert not drop_small(mask, 5)[55:57, 55:57].any()


def test_a_slide_of_glass_says_so(tmp_path: Path) -> None:
    from histogen.slides.tiff_writer import write_svs

    noise = np.random.default_rng(0).normal(241, 1, (1200, 1600, 3))
    write_svs(tmp_path / "glass.svs", np.rint(noise).astype(np.uint8), mpp=0.5)
    with pytest.raises(SlideError, match="slide 'glass' has no tile with 50% of tissue"):
        plan_of(tmp_path / "glass.svs")


def test_labels_are_the_class_of_most_of_the_tile(drawn: dict[int, tuple[Path, DrawnTruth]]) -> None:
    path, truth = drawn[2]
    plan = plan_of(path)
    x, y = plan.positions_l0
    regions = read_annotations(truth.annotations).regions
    shares = region_shares(regions, truth.class_names, x, y, plan.grid.size_l0)
    expected = np.array([truth.class_shares(*corner, 128) for corner in zip(x, y, strict=True)])
    assert np.abs(shares - expected).max() < 0.005
    labels = label_tiles(regions, x, y, plan.grid.size_l0, min_share=0.5)
    for label, share in zip(labels, expected, strict=True):
        if abs(share.max() - 0.5) > 0.01:
            assert label == (truth.class_names[share.argmax()] if share.max() > 0.5 else None)


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "are not GeoJSON"), ('{"features": []}', "hold no area with a class"), ('{"a": 1}', "are not GeoJSON")],
)
def test_annotations_that_cannot_be_used(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.geojson").write_text(content)
    with pytest.raises(SlideError, match=message):
        read_annotations(tmp_path / "a.geojson")
    with pytest.raises(SlideError, match="do not exist"):
        read_annotations(tmp_path / "b.geojson")


def test_regions_may_have_holes_and_overlap(tmp_path: Path) -> None:
    square = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]
    hole = [[40, 40], [60, 40], [60, 60], [40, 60], [40, 40]]
    features = [
        {
            "geometry": {"type": "Polygon", "coordinates": [square, hole]},
            "properties": {"classification": {"name": "a"}},
        },
        {"geometry": {"type": "Polygon", "coordinates": [square]}, "properties": {"name": "b"}},
        {"geometry": {"type": "Polygon", "coordinates": [square]}, "properties": {"name": "b"}},
        {"geometry": {"type": "Point", "coordinates": [1, 1]}, "properties": {"name": "c"}},
    ]
    (tmp_path / "a.geojson").write_text(json.dumps(features))
    regions = read_annotations(tmp_path / "a.geojson").regions
    shares = region_shares(regions, ["a", "b"], np.array([0.0, 50.0]), np.array([0.0, 50.0]), (100, 100))
    assert np.allclose(shares, [[0.96, 0.04], [0.24, 0.01]])


def test_focus_falls_where_the_slide_is_blurred(drawn: dict[int, tuple[Path, DrawnTruth]]) -> None:
    path, truth = drawn[0]
    plan = plan_of(path, tile_px=64)
    slide = open_slide(path)
    result = extract_tiles(slide, plan.grid, plan.columns, plan.rows, Recipe(JpegSettings()))
    blurred, labels = [], []
    for x, y in zip(*plan.positions_l0, strict=True):
        blurred.append(cells(truth.blur_mask, x, y, 64).mean())
        labels.append(truth.label_at(x, y, 64))
    soft, sharp = np.array(blurred) > 0.95, np.array(blurred) == 0
    textured = np.isin(labels, [0, 1, 2, 5])
    assert soft[...].sum() > 5
    assert np.median(result.focus[soft & textured]) < 0.2 * np.median(result.focus[sharp & textured])
    limit = float(np.quantile(result.focus, 0.3))
    kept = extract_tiles(
        slide, plan.grid, plan.columns, plan.rows, Recipe(JpegSettings(), QualitySettings(min_focus=limit))
    )
    assert [p is not None for p in kept.payloads] == (result.focus >= limit).tolist()
    assert kept.dropped == {"focus": int((result.focus < limit).sum())}


@pytest.mark.parametrize("seed", [0, 1])
def test_thresholds_morphology_and_regions_equal_scikit_image_s(seed: int) -> None:
    """What OpenCV does here is what scikit-image would do, at the borders too."""
    generator = np.random.default_rng(seed)
    coarse = cv2.GaussianBlur(generator.normal(size=(180, 250)).astype(np.float32), (0, 0), 3)
    mask = (coarse > 0) ^ (generator.random(coarse.shape) < 0.02)
    grey = np.clip(170 + 60 * coarse / coarse.std(), 0, 255).astype(np.uint8)
    assert tissue._otsu(grey) == skimage.filters.threshold_otsu(grey)
    for radius in (1, 3, 6):
        pad = radius + 1
        padded, disk = np.pad(mask, pad, mode="edge"), tissue._disk(radius)
        for own, theirs in (("_closed", "closing"), ("_opened", "opening"), ("_dilated", "dilation")):
            expected = getattr(skimage.morphology, theirs)(padded, disk, mode="ignore")[pad:-pad, pad:-pad]
            np.testing.assert_array_equal(getattr(tissue, own)(mask, radius), expected, err_msg=f"{own} {radius}")
    for area in (1, 5, 40.5, 1e9):
        background = skimage.measure.label(~mask, connectivity=1)
        filled = mask.copy()
        for region in skimage.measure.regionprops(background):
            top, left, bottom, right = region.bbox
            inside = top > 0 and left > 0 and bottom < mask.shape[0] and right < mask.shape[1]
            if inside and region.area <= area:
                filled[background == region.label] = True
        np.testing.assert_array_equal(fill_holes(mask, area), filled)
        kept = skimage.morphology.remove_small_objects(mask, max_size=math.ceil(area) - 1, connectivity=2)
        np.testing.assert_array_equal(drop_small(mask, area), kept)


@pytest.mark.filterwarnings("ignore")  # of importing TIAToolbox
def test_the_morphological_mask_is_tiatoolboxs(tmp_path: Path) -> None:
    from tiatoolbox.tools.tissuemask import MorphologicalMasker

    draw_slide(tmp_path / "s.svs", seed=1, extent=Extent(2200, 1500), region_um=300)
    slide = open_slide(tmp_path / "s.svs")
    for mpp in (8.0, 4.0):
        across = slide.mpp.x * slide.extent.width / mpp
        overview = slide.read_overview(Extent(round(across), round(across * slide.extent.height / slide.extent.width)))
        expected = MorphologicalMasker(mpp=mpp).fit_transform([overview])[0].astype(bool)
        settings = TissueSettings(method="morphological", remove_pen=False)
        found = find_tissue(overview, mpp, slide.extent, settings)
        black = overview.max(-1) < 12
        np.testing.assert_array_equal(found.mask, expected & ~black)
        assert 0.05 < found.mask.mean() < 0.95
        with_pen = find_tissue(overview, mpp, slide.extent, settings.model_copy(update={"remove_pen": True}))
        np.testing.assert_array_equal(with_pen.mask, expected & ~black & ~with_pen.pen)
