"""Samples of TIFFs: every way to store a picture gives its colours, or a sentence. Oracle: the picture itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from histogen.errors import RefusedSlideError, SlideError
from histogen.geometry import Extent, Mpp
from histogen.slides.base import BaseSlide, open_slide

WIDTH, HEIGHT = 210, 130
"""No multiple of any tile or strip below."""


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """uint8 [130, 210, 3] with black, white and noise."""
    made = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    made[:40, :50], made[40:80, :50] = 0, 255
    return made


def write(path: Path, data: np.ndarray, *, bigendian: bool = False, **options: Any) -> Path:
    with tifffile.TiffWriter(path, byteorder=">" if bigendian else "<") as writer:
        writer.write(data, **{"photometric": "rgb", "metadata": None, "resolution": (2e4, 2e4), **options})
    return path


def whole(slide: BaseSlide) -> np.ndarray:
    return slide.read_level(0, 0, 0, slide.extent)


def grey(pixels: np.ndarray) -> np.ndarray:
    return np.repeat(pixels[..., 1:2], 3, axis=2)


TILED: dict[str, Any] = {"tile": (64, 48), "resolutionunit": "CENTIMETER"}
MAX_4095 = {"extratags": [(281, 3, 3, (4095, 4095, 4095), True)]}


@pytest.mark.parametrize(
    "options",
    [
        TILED,
        {**TILED, "compression": "zstd"},
        {**TILED, "compression": "packbits"},
        {**TILED, "planarconfig": "separate", "compression": "lzw", "predictor": True},
        {"rowsperstrip": 16, "compression": "zlib"},
        {"rowsperstrip": 7, "compression": "lzw", "predictor": True},
        {"rowsperstrip": 16},
        {"rowsperstrip": HEIGHT},
        {"rowsperstrip": 50, "planarconfig": "separate"},
    ],
)
@pytest.mark.parametrize("bigendian", [False, True])
@pytest.mark.parametrize("bits", [8, 16])
def test_rgb_comes_back_however_it_is_stored(
    tmp_path: Path, pixels: np.ndarray, options: dict[str, Any], bigendian: bool, bits: int
) -> None:
    data = pixels if bits == 8 else pixels.astype(np.uint16) * 257
    if "planarconfig" in options:
        data = np.moveaxis(data, -1, 0)
    slide = open_slide(write(tmp_path / "a.tif", np.ascontiguousarray(data), bigendian=bigendian, **options))
    assert slide.reader_name == "native"
    assert np.array_equal(whole(slide), pixels)
    assert np.array_equal(slide.read_level(0, 33, 41, Extent(150, 70)), pixels[41:111, 33:183])


def test_a_large_uncompressed_strip_is_read_in_parts(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histogen.slides.tiff_pixels.RAW_PIECE_BYTES", 9000)
    for data, expected in ((pixels, pixels), (pixels.astype(">u2") * 257, pixels), (pixels[..., 1], grey(pixels))):
        kind = "minisblack" if data.ndim == 2 else "rgb"
        path = write(tmp_path / "a.tif", data, rowsperstrip=HEIGHT, photometric=kind, bigendian=data.dtype == ">u2")
        slide = open_slide(path)
        assert slide.tiff_levels[0].tile.height < 50  # type: ignore[attr-defined]
        assert np.array_equal(whole(slide), expected)


def test_strips_with_resolution_tags_have_an_mpp(tmp_path: Path, pixels: np.ndarray) -> None:
    slide = open_slide(write(tmp_path / "a.tif", pixels, rowsperstrip=16, resolutionunit="CENTIMETER"))
    assert (slide.mpp, slide.mpp_source) == (Mpp(0.5, 0.5), "tiff tags")
    inches = write(tmp_path / "b.tif", pixels, rowsperstrip=16, resolution=(50800, 101600), resolutionunit="INCH")
    assert open_slide(inches).mpp == Mpp(0.5, 0.25)


@pytest.mark.parametrize("options", [TILED, {**TILED, "compression": "zlib"}, {"rowsperstrip": 16}])
@pytest.mark.parametrize("bits", [8, 16])
def test_grey_is_grey_up_to_partial_edge_tiles(
    tmp_path: Path, pixels: np.ndarray, options: dict[str, Any], bits: int
) -> None:
    data = np.ascontiguousarray(pixels[..., 1]) if bits == 8 else pixels[..., 1].astype(np.uint16) * 257
    slide = open_slide(write(tmp_path / "a.tif", data, **{**options, "photometric": "minisblack"}))
    assert np.array_equal(whole(slide), grey(pixels))
    inverted = open_slide(write(tmp_path / "b.tif", data, **{**options, "photometric": "miniswhite"}))
    assert np.array_equal(whole(inverted), 255 - grey(pixels))


@pytest.mark.parametrize(("kind", "expected"), [("unassalpha", True), ("assocalpha", True), ("unspecified", False)])
def test_what_is_transparent_is_white(tmp_path: Path, pixels: np.ndarray, kind: str, expected: bool) -> None:
    alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    alpha[:, 100:] = 0
    data = np.concatenate([np.where(alpha, pixels, 0), alpha], axis=2)
    slide = open_slide(write(tmp_path / "a.tif", data, extrasamples=[kind], compression="zlib", **TILED))
    assert np.array_equal(whole(slide)[:, :100], pixels[:, :100])
    assert (whole(slide)[:, 100:] == (255 if expected else 0)).all()


def ome(path: Path, data: np.ndarray, **about: Any) -> Path:
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(data, photometric="rgb", tile=(64, 48), metadata={"axes": "YXS", **about})
    return path


def test_twelve_bits_are_scaled_as_stated(tmp_path: Path, pixels: np.ndarray) -> None:
    """Oracle: the picture that the 12-bit values were made from; their upper 8 of 16 bits are nearly black."""
    data = np.round(pixels.astype(np.float64) * 4095 / 255).astype(np.uint16)
    tagged = write(tmp_path / "a.tif", data, **TILED, **MAX_4095)
    stated = ome(tmp_path / "b.ome.tif", data, SignificantBits=12)
    striped = write(tmp_path / "c.tif", data, rowsperstrip=16, **MAX_4095)
    used = write(tmp_path / "d.tif", data // 2 + 1500, extratags=[(281, 3, 1, 3548, True)])
    for path in (tagged, stated, striped):
        assert np.array_equal(whole(open_slide(path)), pixels)
    low = whole(open_slide(used)).astype(int)  # the largest value that is used, as the standard has it: 12 bits
    assert np.abs(low - (pixels / 2 + 1500 / 4095 * 255)).max() <= 1


@pytest.mark.parametrize("reach", [255, 4095, 16383, 32767])
@pytest.mark.parametrize("options", [TILED, {"rowsperstrip": 16, "compression": "zlib"}])
def test_sixteen_bits_that_are_not_used_are_refused(
    tmp_path: Path, pixels: np.ndarray, options: dict[str, Any], reach: int
) -> None:
    data = np.round(pixels.astype(np.float64) * reach / 255).astype(np.uint16)
    says_16 = {"extratags": [(281, 3, 3, (65535, 65535, 65535), True)]}
    for more in ({}, says_16):
        path = write(tmp_path / "a.tif", data, **options, **more)
        with pytest.raises(
            RefusedSlideError, match=rf"a\.tif' .* reach {reach:,} only.* SignificantBits.* convert it to 8"
        ):
            open_slide(path)


def test_more_bits_than_stated_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    path = write(tmp_path / "a.tif", pixels.astype(np.uint16) * 257, **TILED, **MAX_4095)
    with pytest.raises(RefusedSlideError, match="says that 12 bits are used, and has values of 65,535"):
        open_slide(path)


@pytest.mark.parametrize("kind", [np.float32, np.int16, np.uint32])
def test_numbers_that_are_no_picture_are_refused(tmp_path: Path, pixels: np.ndarray, kind: type) -> None:
    path = write(tmp_path / "a.tif", pixels.astype(kind), **TILED)
    with pytest.raises(RefusedSlideError, match=f"its samples are {np.dtype(kind).name}, .*; convert it to 8 bits"):
        open_slide(path)


def test_a_reader_that_takes_the_upper_bits_refuses_sixteen(tmp_path: Path, pixels: np.ndarray) -> None:
    path = write(tmp_path / "a.tif", pixels.astype(np.uint16) * 257, **TILED)
    for reader in ("openslide", "tiatoolbox"):
        with pytest.raises(RefusedSlideError, match="16 bits, of which only the native reader makes 8"):
            open_slide(path, reader=reader)


def test_a_picture_stored_in_one_huge_piece_is_refused(
    tmp_path: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histogen.slides.tiff_pixels.MAX_PIECE_BYTES", 50_000)
    path = write(tmp_path / "a.tif", pixels, rowsperstrip=HEIGHT, compression="zlib")
    with pytest.raises(RefusedSlideError, match=r"pieces of .* GB; convert it to a tiled TIFF \(vips tiffsave"):
        open_slide(path)


def test_only_the_first_of_several_planes_is_read_and_said(tmp_path: Path, pixels: np.ndarray) -> None:
    stack = np.stack([pixels, 255 - pixels, pixels // 2])
    deep = tmp_path / "z.ome.tif"
    with tifffile.TiffWriter(deep, ome=True) as writer:
        writer.write(stack, photometric="rgb", tile=(64, 48), metadata={"axes": "ZYXS"})
    pages = write(tmp_path / "pages.tif", stack, **TILED)
    for path, said in ((deep, "of its 3 focal planes or times"), (pages, "of its 3 pages of one size")):
        slide = open_slide(path)
        assert np.array_equal(whole(slide), pixels)
        assert slide.left_out == (f"{said} only the first is read",)


def test_a_label_before_the_slide_is_not_taken_for_it(tmp_path: Path, pixels: np.ndarray) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(pixels[:40, :60], photometric="rgb", rowsperstrip=16, metadata=None)
        writer.write(pixels, photometric="rgb", tile=(64, 48), metadata=None)
    with pytest.raises(SlideError, match="its first picture is in strips, and not its largest"):
        open_slide(tmp_path / "a.tif")
