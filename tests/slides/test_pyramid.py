"""The scale of levels: rounded, padded to whole tiles, or not to be told. Oracle: the picture that was written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tifffile

from histogen.geometry import BoxL0, Extent
from histogen.slides.base import BaseSlide, open_slide
from histogen.slides.pyramid import Stored, level_downsample, settle

TILE = 64


def picture(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Squares of 37 px, each of a colour of its own."""
    colours = np.random.default_rng(seed).integers(30, 230, (height // 37 + 1, width // 37 + 1, 3), np.uint8)
    return np.repeat(np.repeat(colours, 37, 0), 37, 1)[:height, :width]


def reduced(pixels: np.ndarray, factor: int) -> np.ndarray:
    height, width = pixels.shape[0] // factor, pixels.shape[1] // factor
    parts = pixels[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    return np.round(parts.mean((1, 3))).astype(np.uint8)


def padded(pixels: np.ndarray, value: int) -> np.ndarray:
    height, width = (-(-side // TILE) * TILE for side in pixels.shape[:2])
    whole = np.full((height, width, 3), value, np.uint8)
    whole[: pixels.shape[0], : pixels.shape[1]] = pixels
    return whole


def write(
    path: Path, levels: Sequence[np.ndarray], factors: Sequence[int] = (), *, compression: str = "adobe_deflate"
) -> Path:
    """A generic pyramidal TIFF; ``factors`` are stated by resolution tags, without them every level states the same."""
    with tifffile.TiffWriter(path) as writer:
        for index, level in enumerate(levels):
            per_cm = 20000 / ((1, *factors)[index] if factors else 1)
            writer.write(
                level, photometric="rgb", tile=(TILE, TILE), compression=compression, metadata=None,
                subfiletype=1 if index else 0, resolution=(per_cm, per_cm), resolutionunit="CENTIMETER",
            )  # fmt: skip
    return path


def downsamples(slide: BaseSlide) -> list[float]:
    return [level.downsample for level in slide.levels]


@pytest.mark.parametrize("reader", ["native", "openslide"])
@pytest.mark.parametrize("tagged", [False, True])
@pytest.mark.parametrize(
    ("factors", "pads_base"), [((2, 4), False), ((2, 4), True), ((4, 8), False), ((3, 9), False), ((3, 9), True)]
)
def test_padded_levels_are_read_where_their_pixels_lie(
    tmp_path: Path, reader: str, tagged: bool, factors: tuple[int, int], pads_base: bool
) -> None:
    """OpenSlide counts in whole pixels of level 0, by its own idea of the scale, so that a little is interpolated."""
    pixels = picture(1010, 790)
    levels = [padded(reduced(pixels, factor), 0) for factor in factors]
    path = write(tmp_path / "a.tif", [padded(pixels, 0) if pads_base else pixels, *levels], factors if tagged else ())
    slide = open_slide(path, reader=reader)
    assert downsamples(slide) == [1, *factors]
    assert slide.flags() == ()
    for level, factor in enumerate(factors, 1):
        whole = reduced(pixels, factor)
        assert np.array_equal(slide.read_level(level, 0, 0, Extent(whole.shape[1], whole.shape[0])), whole)
        out = Extent(320 // factor, 160 // factor)
        box = BoxL0(40 * factor, 30 * factor, out.width * factor, out.height * factor)
        region = slide.read_region(box, out).astype(int)
        assert np.abs(region - whole[30 : 30 + out.height, 40 : 40 + out.width]).max() <= (
            2 if reader == "openslide" else 0
        )


def test_what_pads_a_level_is_not_read(tmp_path: Path) -> None:
    """Beyond the slide all is white, whatever the writer filled the last tiles of a level with."""
    pixels = picture(1010, 790)
    slide = open_slide(write(tmp_path / "a.tif", [pixels, padded(reduced(pixels, 4), 0)]))
    region = slide.read_region(BoxL0(960, 760, 80, 80), Extent(20, 20))
    assert (region[9:] == 255).all()
    assert (region[:, 14:] == 255).all()
    assert (region[:6, :11] < 250).any(axis=2).all()


@pytest.mark.parametrize("reader", ["native", "openslide"])
def test_a_level_that_shows_something_else_is_left_out_and_said(tmp_path: Path, reader: str) -> None:
    pixels = picture(1010, 790)
    path = write(tmp_path / "a.tif", [pixels, padded(reduced(picture(1010, 790, seed=1), 2), 255), reduced(pixels, 8)])
    slide = open_slide(path, reader=reader)
    assert downsamples(slide) == [1, 8]
    assert slide.flags() == ("its level of 512 x 448 px is not used: its scale cannot be told",)
    assert np.array_equal(slide.read_level(1, 0, 0, Extent(126, 98)), reduced(pixels, 8))


def test_a_level_without_texture_is_left_out(tmp_path: Path) -> None:
    plain = np.full((790, 1010, 3), 230, np.uint8)
    slide = open_slide(write(tmp_path / "a.tif", [plain, padded(reduced(plain, 2), 230)]))
    assert downsamples(slide) == [1]
    assert "512 x 448 px" in slide.flags()[0]


def test_a_damaged_tile_does_not_keep_a_slide_from_being_opened(tmp_path: Path) -> None:
    pixels = picture(1010, 790)
    path = write(tmp_path / "a.tif", [pixels, padded(reduced(pixels, 2), 255)])
    with tifffile.TiffFile(path) as tiff:
        offsets, sizes = tiff.pages[1].dataoffsets, tiff.pages[1].databytecounts
    with path.open("r+b") as file:
        for offset, size in zip(offsets, sizes, strict=True):
            file.seek(offset)
            file.write(b"\xff" * size)
    slide = open_slide(path, reader="native")
    assert downsamples(slide) == [1]
    assert np.array_equal(slide.read_level(0, 10, 20, Extent(300, 200)), pixels[20:220, 10:310])


def test_levels_are_whole_where_rounding_explains_it() -> None:
    assert level_downsample(Extent(9274, 9911), Extent(2318, 2477)) == 4.0
    assert level_downsample(Extent(4443, 3567), Extent(2221, 1783)) == 2.0
    assert level_downsample(Extent(1000, 1000), Extent(300, 300)) == pytest.approx(10 / 3)


def test_rounded_levels_are_told_without_a_look_at_their_pixels() -> None:
    def read(*_: object) -> np.ndarray:
        raise AssertionError("nothing is to be read")

    tile = Extent(256, 256)
    rounded = [Extent(46000, 32914), Extent(11500, 8228), Extent(2875, 2057), Extent(1437, 1028)]
    assert settle([Stored(extent, tile) for extent in rounded], read) == [(0, 1), (1, 4), (2, 16), (3, 32)]
    whole = [Extent(4096, 2048), Extent(2048, 1024), Extent(256, 128)]
    assert settle([Stored(extent, tile) for extent in whole], read) == [(0, 1), (1, 2), (2, 16)]
    thirds = [Extent(1000, 700), Extent(300, 210)]
    assert settle([Stored(extent, tile) for extent in thirds], read) == [(0, 1), (1, pytest.approx(10 / 3))]
