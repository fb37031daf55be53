"""Channels as planes of their own: the colours of a stained slide, or a sentence; never one of them shown as grey."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from histogen.errors import RefusedSlideError
from histogen.geometry import Extent, Mpp
from histogen.slides.base import open_slide

RED, GREEN, BLUE = -16776961, 16711935, 65535
"""OME's colours: RGBA as a signed 32-bit number."""
RGB = ["Red", "Green", "Blue"]


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    colours = np.random.default_rng(0).integers(0, 256, (10, 14, 3), np.uint8)
    return np.repeat(np.repeat(colours, 16, 0), 16, 1)[:150, :210]


def write(path: Path, data: np.ndarray, *, axes: str = "CYX", levels: int = 1, **about: Any) -> Path:
    """OME-TIFF of grey planes; ``about``: what OME-XML says of each channel, a list each."""
    metadata: dict[str, Any] = {"axes": axes, "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
    if about:
        metadata["Channel"] = about
    options: dict[str, Any] = {"photometric": "minisblack", "tile": (32, 48), "compression": "zlib"}
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(data, subifds=levels - 1, metadata=metadata, **options)
        for factor in (2**level for level in range(1, levels)):
            writer.write(data[..., ::factor, ::factor], subfiletype=1, metadata=None, **options)
    return path


def planes(pixels: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(pixels, -1, 0))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(
    ("order", "about"),
    [
        ((0, 1, 2), {"Name": RGB}),
        ((2, 1, 0), {"Name": ["B", "G", "R"]}),
        ((1, 0, 2), {"Name": ["green", " red", "blue "]}),
        ((0, 1, 2), {"Color": [RED, GREEN, BLUE]}),
        ((2, 0, 1), {"Name": ["Channel 0", "Channel 1", "C:2"], "Color": [BLUE, RED, GREEN]}),
        ((0, 1, 2), {"ContrastMethod": ["Brightfield"] * 3}),
    ],
)
def test_planes_that_say_their_colours_are_put_together(
    tmp_path: Path, pixels: np.ndarray, order: tuple[int, ...], about: dict[str, Any], bits: int
) -> None:
    data = planes(pixels)[list(order)]
    path = write(tmp_path / "a.ome.tif", data if bits == 8 else data.astype(np.uint16) * 257, levels=2, **about)
    slide = open_slide(path)
    assert [level.downsample for level in slide.levels] == [1, 2]
    assert slide.mpp == Mpp(0.25, 0.25)
    assert np.array_equal(slide.read_level(0, 0, 0, slide.extent), pixels)
    assert np.array_equal(slide.read_level(1, 20, 10, Extent(80, 60)), pixels[20:140:2, 40:200:2])


def test_one_of_several_planes_is_never_shown_as_grey(tmp_path: Path, pixels: np.ndarray) -> None:
    """OpenSlide shows the first; also where the native reader declines the file, here for a tile that is missing."""
    path = write(tmp_path / "a.ome.tif", planes(pixels), Name=RGB)
    with pytest.raises(RefusedSlideError, match="its colours lie in planes, which only the native reader"):
        open_slide(path, reader="openslide")
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        counts = list(tiff.pages[1].tags["TileByteCounts"].value)
        tiff.pages[1].tags["TileByteCounts"].overwrite([0, *counts[1:]])
    with pytest.raises(RefusedSlideError, match="its colours lie in planes, which only the native reader"):
        open_slide(path)


def test_the_first_focal_plane_of_planes_is_read(tmp_path: Path, pixels: np.ndarray) -> None:
    stack = np.stack([planes(pixels), planes(255 - pixels)])
    for axes, data in (("ZCYX", stack), ("CZYX", np.swapaxes(stack, 0, 1))):
        slide = open_slide(write(tmp_path / "a.ome.tif", np.ascontiguousarray(data), axes=axes, Name=RGB))
        assert np.array_equal(slide.read_level(0, 0, 0, slide.extent), pixels)
        assert slide.left_out == ("of its 2 focal planes or times only the first is read",)


DYES = ["DAPI", "FITC", "TRITC", "Cy5", "a", "b"]


@pytest.mark.parametrize(
    ("count", "about", "said"),
    [
        (4, {"Name": DYES[:4]}, "its 4 channels (DAPI, FITC, TRITC, Cy5) are not the red, green and blue"),
        (4, {}, "its 4 channels are not the red, green and blue"),
        (3, {"Name": DYES[:3], "Color": [BLUE, GREEN, RED]}, "its 3 channels (DAPI, FITC, TRITC) are not"),
        (3, {"Name": ["Red", "Green", "Texas Red"]}, "its 3 channels (Red, Green, Texas Red) are not"),
        (3, {"Color": [BLUE, GREEN, RED], "EmissionWavelength": [450, 520, 610]}, "do not say that they are red"),
        (3, {"Color": [RED, RED, BLUE]}, "do not say that they are red, green and blue; name them so"),
        (3, {}, "do not say that they are red, green and blue; name them so"),
        (2, {"Name": DYES[:2]}, "its 2 channels (DAPI, FITC) are not"),
    ],
)
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_other_channels_are_refused_by_every_reader(
    tmp_path: Path, pixels: np.ndarray, count: int, about: dict[str, Any], said: str, kind: type
) -> None:
    data = np.concatenate([planes(pixels)] * 2)[:count].astype(kind)
    path = write(tmp_path / "a.ome.tif", data, **about)
    for reader in ("auto", "openslide", "tiatoolbox"):
        with pytest.raises(RefusedSlideError, match=rf"a\.ome\.tif' cannot be opened: .*{re.escape(said)}"):
            open_slide(path, reader=reader)


def test_dyes_that_are_stored_as_rgb_are_refused(tmp_path: Path, pixels: np.ndarray) -> None:
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(pixels, photometric="rgb", tile=(64, 64), metadata={"axes": "YXS"})
    xml = tifffile.tiffcomment(path)
    dyed = re.sub(
        r"<Channel[^>]*?(/>|>.*?</Channel>)", "".join(f'<Channel ID="C:{n}" Name="{n}"/>' for n in DYES[:3]), xml
    )
    assert dyed != xml
    tifffile.tiffcomment(path, dyed)
    with pytest.raises(RefusedSlideError, match=r"its 3 channels \(DAPI, FITC, TRITC\) are not"):
        open_slide(path)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_grey_planes_without_a_description_are_refused(tmp_path: Path, pixels: np.ndarray, count: int) -> None:
    data = np.concatenate([planes(pixels)] * 2)[:count]
    pages, samples, imagej = (tmp_path / f"{name}.tif" for name in ("pages", "samples", "imagej"))
    tifffile.imwrite(pages, data, photometric="minisblack", tile=(32, 48), metadata=None)
    chunky = np.ascontiguousarray(np.moveaxis(data, 0, -1))
    extra = ["unspecified"] * (count - 1)
    tifffile.imwrite(
        samples, chunky, photometric="minisblack", planarconfig="contig", tile=(32, 48), metadata=None,
        extrasamples=extra,
    )  # fmt: skip
    tifffile.imwrite(imagej, data, imagej=True, metadata={"axes": "CYX"})
    for path in (pages, samples, imagej):
        with pytest.raises(RefusedSlideError, match=f"its {count} channels"):
            open_slide(path)
