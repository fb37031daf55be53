"""Changes of test tiles against what they are said to be, pixel by pixel."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from PIL import Image
from skimage.color import combine_stains, rgb_from_hed, separate_stains
from skimage.filters import gaussian

from histogen.evaluation.settings import RobustnessSettings
from histogen.evaluation.shifts import Shift, restain, shifts_of

RNG = np.random.default_rng(0)
TILES = np.clip(RNG.normal((190, 130, 180), 25, (3, 24, 24, 3)), 0, 255).astype(np.uint8)


def test_a_pure_stain_gets_its_density_scaled_and_the_others_do_not() -> None:
    """Oracle: Lambert-Beer, written out for one stain on white glass."""
    for stain in range(3):
        density = 0.8 * rgb_from_hed[stain]
        pixel = [256 * math.exp(-one) - 1 for one in density]
        expected = [256 * math.exp(-1.5 * one) - 1 for one in density]
        tile = np.rint(np.broadcast_to(pixel, (1, 2, 2, 3))).astype(np.uint8)
        factors = np.ones((1, 3))
        factors[0, stain] = 1.5
        np.testing.assert_allclose(restain(tile, factors)[0, 0, 0], expected, atol=2)
        others = np.full((1, 3), 1.5)
        others[0, stain] = 1.0
        np.testing.assert_allclose(restain(tile, others)[0, 0, 0], pixel, atol=2)


def test_restaining_equals_scikit_image_where_it_does_not_clip() -> None:
    factors = np.array([[1.2, 0.85, 1.1]])
    hed = rgb_from_hed
    inverse = np.linalg.inv(hed)
    density = 0.3 + 0.3 * RNG.random((12, 12, 3))  # of the stains: positive, so that nothing is clipped
    pixels = np.rint(255 * np.exp(-density @ hed)).astype(np.uint8)
    stains = separate_stains(pixels / 255, inverse)
    expected = 255 * combine_stains(stains * factors, hed)
    found = restain(pixels[None], factors)[0]
    np.testing.assert_allclose(found, expected, atol=2)
    assert np.abs(found.astype(int) - pixels).max() > 10


def test_glass_and_a_factor_of_one_change_nothing() -> None:
    glass = np.full((1, 4, 4, 3), 255, np.uint8)
    np.testing.assert_array_equal(restain(glass, np.array([[0.7, 1.3, 1.2]])), glass)
    np.testing.assert_allclose(restain(TILES, np.ones((3, 3))), TILES, atol=1)


def test_what_is_drawn_for_a_tile_depends_on_its_number_and_the_seed_alone() -> None:
    shift, numbers = Shift("stain", 0.2), np.array([5, 2, 9])
    together = shift.apply(TILES, numbers, seed=1)
    np.testing.assert_array_equal(shift.apply(TILES[1:2], numbers[1:2], seed=1), together[1:2])
    assert (shift.apply(TILES, numbers, seed=2) != together).any()
    same = np.repeat(TILES[:1], 400, axis=0)
    means = shift.apply(same, np.arange(400), seed=0).mean((1, 2))
    plain = restain(same[:1], np.ones((1, 3))).mean()
    assert len(np.unique(means.round(3), axis=0)) > 390
    assert abs(means.mean() - plain) < 3  # as often darker as lighter


def test_blur_and_compression_are_those_of_the_libraries() -> None:
    blurred = Shift("blur", 1.5).apply(TILES, np.arange(3), seed=0)
    expected = gaussian(TILES[0].astype(float), 1.5, channel_axis=2, mode="nearest", truncate=4.0)
    np.testing.assert_allclose(blurred[0], expected, atol=0.6)
    compressed = Shift("jpeg", 30).apply(TILES, np.arange(3), seed=0)
    for tile, found in zip(TILES, compressed, strict=True):
        file = io.BytesIO()
        Image.fromarray(tile).save(file, "JPEG", quality=30, subsampling="4:2:0")
        expected = np.asarray(Image.open(file))
        assert np.abs(found.astype(int) - expected).mean() < 1.5
        assert np.abs(found.astype(int) - tile).mean() > 3


def test_settings_name_their_changes_in_order() -> None:
    settings = RobustnessSettings(stain=(0.1, 0.25), blur=(1.5,), jpeg=(30,))
    assert [one.name for one in shifts_of(settings)] == ["stain ±10 %", "stain ±25 %", "blur 1.5 px", "jpeg quality 30"]
    assert [one.name for one in shifts_of(RobustnessSettings())] == ["stain ±20 %"]
    with pytest.raises(ValueError, match="less than 1"):
        RobustnessSettings(stain=(1.5,))
