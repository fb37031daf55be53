"""Views against torchvision's and Pillow's own operations, on the same draws.

The CPU's way of making them and the GPU's, which runs on a CPU as well.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms
from torchvision.transforms import functional as tv

from histogen.ssl import augment_cpu
from histogen.ssl.augment import Normalisation, make_views, write_views_at_once
from histogen.ssl.colour import colour_
from histogen.ssl.draws import BRIGHTNESS, CONTRAST, HUE, SATURATION, Draws, ViewSpec, draw_views
from histogen.ssl.resample import blur_kernels, blur_matrices, resample
from histogen.ssl.settings import ChangeSettings

PLAIN = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
SIDE = 64


def picture(seed: int = 0, side: int = SIDE) -> np.ndarray:
    """A smooth colourful picture with edges, uint8 [H, W, 3]."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(50, 215, (9, 9, 3), dtype=np.uint8)).resize(
        (side, side), Image.Resampling.BICUBIC
    )
    out = np.array(coarse)
    out[side // 3 : side // 2, side // 4 : side // 2] = (200, 80, 160)
    return out


def view(px: int, scale: tuple[float, float], *, blur: float = 0.5, solarize: float = 0.0, **change: float) -> ViewSpec:
    return ViewSpec(px, scale, blur=blur, solarize=solarize, change=ChangeSettings(**change))


def draws_of(spec: ViewSpec, batch: int = 1, seed: int = 0, side: int = SIDE) -> Draws:
    return draw_views([spec], side, seed=seed, positions=np.arange(batch), first_slot=0)


def resample_one_by_one(images: torch.Tensor, draws: Draws, px: int) -> torch.Tensor:
    """What :func:`resample` returns, made by the CPU's way."""
    tiles = images.contiguous().permute(0, 3, 1, 2)
    views = [augment_cpu.crop(tiles[b : b + 1], draws, b, 0, px) for b in range(len(images))]
    return torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2)[:, None] / 255.0


def coloured(image: np.ndarray, draws: Draws, way: str) -> np.ndarray:
    """Colour an image [H, W, 3] as drawn for view 0 of tile 0; float in 0–255."""
    if way == "cpu":
        kernel = blur_kernels(draws.sigma[0])[0].astype(np.float32)
        return augment_cpu.colour_and_blur(image, draws, 0, 0, kernel).astype(np.float32)
    views = torch.from_numpy(image).permute(2, 0, 1)[None, None].float() / 255.0
    return colour_(views.contiguous(), draws)[0, 0].permute(1, 2, 0).numpy() * 255.0


WAYS = pytest.mark.parametrize("way", ["cpu", "gpu"])
STILL = {"jitter": 0.0, "grayscale": 0.0, "blur": 0.0, "flip": 0.0}


@WAYS
@pytest.mark.parametrize("px", [24, 64, 96])
def test_crop_and_resize_equal_pillow(px: int, way: str) -> None:
    spec = view(px, (0.1, 1.0), **{**STILL, "flip": 0.5, "vertical_flip": 0.5, "quarter_turn": 0.5})
    image = picture()
    draws = draws_of(spec, batch=12)
    views = {"cpu": resample_one_by_one, "gpu": resample}[way](
        torch.from_numpy(image).expand(12, -1, -1, -1), draws, px
    )
    for b in range(12):
        top, left, height, width = (int(getattr(draws, name)[b, 0]) for name in ("top", "left", "height", "width"))
        crop = Image.fromarray(image[top : top + height, left : left + width])
        expected = np.array(crop.resize((px, px), Image.Resampling.BICUBIC))
        expected = expected[:, ::-1] if draws.flip[b, 0] else expected
        expected = expected[::-1] if draws.vertical_flip[b, 0] else expected
        expected = expected.transpose(1, 0, 2) if draws.transpose[b, 0] else expected
        found = views[b, 0].permute(1, 2, 0).numpy() * 255.0
        assert np.abs(found - expected).max() <= 2.0  # Pillow rounds to 8 bits twice
        assert np.abs(found - expected).mean() < 0.4


@WAYS
@pytest.mark.parametrize("operation", [BRIGHTNESS, CONTRAST, SATURATION, HUE])
@pytest.mark.parametrize("amount", [-1.0, -0.3, 0.6, 1.0])
def test_each_jitter_equals_torchvisions(operation: int, amount: float, way: str) -> None:
    image = picture(1)
    factor = [1 + 0.4 * amount, 1 + 0.4 * amount, 1 + 0.2 * amount, 0.1 * amount][operation]
    theirs = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue][operation]
    expected = np.asarray(theirs(Image.fromarray(image), factor), dtype=np.float32)
    draws = draws_of(view(SIDE, (1.0, 1.0), **STILL))
    draws.factors[0, 0, operation] = factor
    difference = np.abs(coloured(image, draws, way) - expected)
    assert difference.mean() < (2.0 if operation == HUE else 0.8)  # Pillow keeps the hue in 8 bits
    assert difference.max() <= (10.0 if operation == HUE else 1.6)


@WAYS
def test_jitter_follows_the_drawn_order(way: str) -> None:
    image = picture(2)
    factors, order = [1.4, 0.6, 1.2, 0.05], [CONTRAST, HUE, BRIGHTNESS, SATURATION]
    draws = draws_of(view(SIDE, (1.0, 1.0), **STILL))
    draws.factors[0, 0], draws.order[0, 0] = factors, order
    expected = Image.fromarray(image)
    theirs = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue]
    for operation in order:
        expected = theirs[operation](expected, factors[operation])
    assert np.abs(coloured(image, draws, way) - np.asarray(expected, dtype=np.float32)).mean() < 2.0


@WAYS
def test_grayscale_and_solarize_equal_pillow(way: str) -> None:
    image = picture(3)
    draws = draws_of(view(SIDE, (1.0, 1.0), **{**STILL, "grayscale": 1.0}))
    found = coloured(image, draws, way)
    assert np.abs(found - np.asarray(ImageOps.grayscale(Image.fromarray(image)))[..., None]).max() <= 1.0
    draws = draws_of(view(SIDE, (1.0, 1.0), **STILL, solarize=1.0))
    found = coloured(image, draws, way)
    assert np.abs(found - np.asarray(ImageOps.solarize(Image.fromarray(image)))).max() < 1e-3


@WAYS
def test_stain_jitter_changes_the_stain_it_names_only(way: str) -> None:
    """In optical density the change of a pixel is along the chosen stain."""
    from histogen.ssl.colour import HED_FROM_STAIN

    stains = HED_FROM_STAIN / np.linalg.norm(HED_FROM_STAIN, axis=1, keepdims=True)
    concentrations = np.random.default_rng(0).uniform(0.05, 0.6, (16 * 16, 3))
    pixels = np.exp(-concentrations @ stains) * 256 - 1
    draws = draws_of(view(16, (1.0, 1.0), **STILL, stain=0.05), side=16)
    draws.stain[0, 0] = [1.3, 1.0, 1.0, 0.1, 0.0, 0.0]
    image = pixels.reshape(16, 16, 3).round().astype(np.uint8)
    concentrations = -np.log((image.reshape(-1, 3) + 1) / 256) @ np.linalg.inv(stains)
    changed = concentrations * [1.3, 1.0, 1.0] + [0.1, 0.0, 0.0]
    expected = np.clip(np.exp(-changed @ stains) * 256 - 1, 0, 255)
    found = coloured(image, draws, way).reshape(-1, 3)
    np.testing.assert_allclose(found, expected, atol={"cpu": 0.51, "gpu": 0.01}[way])


@pytest.mark.parametrize(("px", "sigmas"), [(16, (0.4, 1.5)), (8, (0.7, 9.0))])
def test_blur_takes_the_edge_for_what_lies_beyond_it(px: int, sigmas: tuple[float, ...]) -> None:
    """Oracle: every tap of every row added where it belongs, one by one; also a kernel wider than the view."""
    kernels = blur_kernels(np.array(sigmas))
    reach = kernels.shape[1] // 2
    expected = np.zeros((len(sigmas), px, px))
    for n, kernel in enumerate(kernels):
        for row in range(px):
            for tap, weight in enumerate(kernel):
                expected[n, row, min(max(row + tap - reach, 0), px - 1)] += weight
    found = blur_matrices(np.array(sigmas), px, torch.device("cpu")).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_blur_is_pillows() -> None:
    image = picture(4)
    for sigma in (0.3, 0.8, 1.0, 2.0):
        matrix = blur_matrices(np.array([sigma]), SIDE, torch.device("cpu"))[0].numpy()
        np.testing.assert_allclose(matrix.sum(1), 1.0, atol=1e-6)
        row = matrix[SIDE // 2]
        variance = (row * (np.arange(SIDE) - SIDE // 2) ** 2).sum()
        assert variance == pytest.approx(sigma**2, rel=1e-5)
        found = np.einsum("ij,jkc,lk->ilc", matrix, image.astype(np.float32), matrix)
        expected = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(sigma)), dtype=np.float32)
        assert np.abs(found - expected).max() <= 4.0  # at the border, where Pillow extends after each of three passes
        assert np.abs(found - expected).mean() < 0.6
        draws = draws_of(view(SIDE, (1.0, 1.0), **STILL))
        draws.sigma[0, 0] = sigma
        found = coloured(image, draws, "cpu")
        assert np.abs(found - expected).max() <= 5.0
        assert np.abs(found - expected).mean() < 0.6


def test_draws_have_torchvisions_laws() -> None:
    """Boxes: the same mean and spread of area and of aspect as RandomResizedCrop; shares as asked."""
    spec = view(32, (0.05, 0.4), blur=0.5, solarize=0.2, quarter_turn=0.5, vertical_flip=0.5)
    draws = draws_of(spec, batch=4000, side=256)
    torch.manual_seed(0)
    blank = torch.zeros(3, 256, 256)
    boxes = np.array([transforms.RandomResizedCrop.get_params(blank, [0.05, 0.4], [3 / 4, 4 / 3]) for _ in range(4000)])
    for ours, theirs in ((draws.height[:, 0], boxes[:, 2]), (draws.width[:, 0], boxes[:, 3])):
        assert ours.mean() == pytest.approx(theirs.mean(), rel=0.02)
        assert ours.std() == pytest.approx(theirs.std(), rel=0.06)
    assert draws.top[:, 0].mean() == pytest.approx(boxes[:, 0].mean(), rel=0.05)
    assert (draws.top + draws.height).max() <= 256
    for found, share in (
        (draws.flip, 0.5), (draws.transpose, 0.5), (draws.grayscale, 0.2), (draws.solarize, 0.2),
        (draws.sigma > 0, 0.5), ((draws.factors != [1, 1, 1, 0]).all(-1), 0.8),
    ):  # fmt: skip
        assert found.mean() == pytest.approx(share, abs=0.03)
    low, high = draws.factors[..., BRIGHTNESS].min(), draws.factors[..., BRIGHTNESS].max()
    assert low == pytest.approx(0.6, abs=0.01)
    assert high == pytest.approx(1.4, abs=0.01)
    assert sorted({tuple(order) for order in draws.order[:, 0].tolist()}) == sorted(
        {tuple(p) for p in np.array(np.meshgrid(*[range(4)] * 4)).T.reshape(-1, 4) if len(set(p)) == 4}
    )


def reference_view(image: np.ndarray, draws: Draws, b: int, px: int) -> np.ndarray:
    """One view as DINO's pipeline makes it, with torchvision's and Pillow's operations in their order."""
    top, left, height, width = (int(getattr(draws, name)[b, 0]) for name in ("top", "left", "height", "width"))
    view = Image.fromarray(image[top : top + height, left : left + width]).resize((px, px), Image.Resampling.BICUBIC)
    view = ImageOps.mirror(view) if draws.flip[b, 0] else view
    theirs = [tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue]
    for operation in draws.order[b, 0]:
        if draws.factors[b, 0, operation] != [1, 1, 1, 0][operation]:
            view = theirs[operation](view, float(draws.factors[b, 0, operation]))
    view = ImageOps.grayscale(view).convert("RGB") if draws.grayscale[b, 0] else view
    view = view.filter(ImageFilter.GaussianBlur(float(draws.sigma[b, 0]))) if draws.sigma[b, 0] > 0 else view
    view = ImageOps.solarize(view) if draws.solarize[b, 0] else view
    return np.asarray(view, dtype=np.float32).transpose(2, 0, 1) / 255.0


@pytest.mark.parametrize(
    ("blur", "solarize", "scale"), [(1.0, 0.0, (0.4, 1.0)), (0.1, 0.2, (0.4, 1.0)), (0.5, 0.0, (0.05, 0.4))]
)
@WAYS
def test_whole_views_have_the_reference_pipelines_statistics(
    blur: float, solarize: float, scale: tuple[float, float], way: str
) -> None:
    """DINO's three kinds of view: mean, spread and sharpness within 1 % of Pillow's on the same draws."""
    images = np.stack([picture(s, 96) for s in range(8)])
    spec = view(48, scale, blur=blur, solarize=solarize)
    ours, theirs = [], []
    for seed in range(20):
        draws = draw_views([spec], 96, seed=seed, positions=np.arange(8), first_slot=0)
        tiles, views = torch.from_numpy(images), torch.empty(1, 8, 3, 48, 48)
        if way == "cpu":
            views = make_views([tiles], [spec], PLAIN, seed=seed, positions=np.arange(8))
        else:
            write_views_at_once(tiles, draws, np.zeros((8, 1), np.int64), PLAIN, views)
        ours.append(views[0].numpy())
        theirs.append(np.stack([reference_view(image, draws, b, 48) for b, image in enumerate(images)]))
    a, b = np.concatenate(ours), np.concatenate(theirs)
    np.testing.assert_allclose(a.mean((0, 2, 3)), b.mean((0, 2, 3)), atol=0.01)  # of the range; Pillow rounds down
    if way == "cpu":
        np.testing.assert_allclose(a.mean((0, 2, 3)), b.mean((0, 2, 3)), rtol=0.01)
    np.testing.assert_allclose(a.std((0, 2, 3)), b.std((0, 2, 3)), rtol=0.01)
    sharp = [np.abs(np.diff(x, axis=-1)).mean() for x in (a, b)]
    assert sharp[0] == pytest.approx(sharp[1], rel=0.04)
    assert np.abs(a - b).mean() < 0.01


def test_a_tile_gets_the_same_views_whatever_is_beside_it() -> None:
    images = torch.from_numpy(np.stack([picture(s) for s in range(5)]))
    specs = [view(32, (0.4, 1.0), blur=1.0), view(32, (0.4, 1.0), solarize=0.5, stain=0.1)]
    whole = make_views([images], specs, PLAIN, seed=7, positions=np.arange(10, 15))
    part = make_views([images[3:4]], specs, PLAIN, seed=7, positions=np.array([13]))
    torch.testing.assert_close(whole[:, 3:4], part, atol=2e-4, rtol=1e-3)
    other = make_views([images[3:4]], specs, PLAIN, seed=8, positions=np.array([13]))
    assert not torch.allclose(part, other)


def test_slots_are_cut_from_their_source() -> None:
    black, white = (
        torch.zeros(3, SIDE, SIDE, 3, dtype=torch.uint8),
        torch.full((3, SIDE, SIDE, 3), 255, dtype=torch.uint8),
    )
    sources = np.array([[0, 1, 1], [1, 0, 1], [1, 1, 0]])
    specs = [view(16, (0.4, 1.0), **STILL)] * 3
    views = make_views([black, white], specs, PLAIN, seed=0, positions=np.arange(3), source_of_slot=sources)
    np.testing.assert_allclose(views.mean((2, 3, 4)).T.numpy(), sources, atol=1e-6)
    with pytest.raises(ValueError, match="must be the same"):
        make_views(
            [black, white], specs, PLAIN, seed=0, positions=np.arange(3),
            source_of_slot=np.array([[0, 1, 1], [0, 0, 1], [1, 1, 0]]),
        )  # fmt: skip
