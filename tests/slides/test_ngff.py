"""OME-Zarr written by zarr itself, as NGFF 0.4 and 0.5 have it, read back pixel by pixel."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

import histogen
from histogen.errors import RefusedSlideError, SlideError
from histogen.geometry import BoxL0, Extent
from histogen.pipelines.tile.command import run as tile
from histogen.pipelines.tile.config import TileConfig
from histogen.slides.base import open_slide
from histogen.slides.find import find_slides, fingerprint

WIDTH, HEIGHT = 620, 410
RGB = [{"label": name, "color": colour} for name, colour in (("", "FF0000"), ("", "00FF00"), ("", "0000FF"))]


def picture() -> np.ndarray:
    """Texture at every scale, so that each level's own scale can be told: [H, W, 3]."""
    generator, out = np.random.default_rng(0), np.zeros((HEIGHT, WIDTH, 3))
    for cell in (4, 16, 64):
        coarse = generator.uniform(60, 220, (HEIGHT // cell + 1, WIDTH // cell + 1, 3))
        out += coarse.repeat(cell, 0).repeat(cell, 1)[:HEIGHT, :WIDTH] / 3
    return out.round().astype(np.uint8)


def coarser(pixels: np.ndarray) -> np.ndarray:
    """Half the size, odd rests cut off, as most writers do."""
    height, width = (side // 2 for side in pixels.shape[:2])
    whole = pixels[: 2 * height, : 2 * width].astype(float)
    return whole.reshape(height, 2, width, 2, -1).mean(axis=(1, 3)).round().astype(np.uint8)


def write(
    folder: Path, levels: list[np.ndarray], *, version: str = "0.4", axes: str = "tczyx",
    unit: str | None = "micrometer", pixel: tuple[float, float] = (0.5, 0.5),
    omero: list[dict[str, Any]] | None = RGB, more: int = 1,
) -> None:  # fmt: skip
    """Write levels [H, W, C]; ``pixel`` is (x, y); ``more`` planes of every other axis, of which only one is theirs."""
    zarr_format: Any = 2 if version == "0.4" else 3
    root = zarr.open_group(folder, mode="w", zarr_format=zarr_format)
    datasets = []
    for number, level in enumerate(levels):
        kept = [axis for axis in axes if axis in "cyx"]
        pixels = level.transpose(["yxc".index(axis) for axis in kept]) if "c" in axes else level[..., 0]
        shape = tuple(pixels.shape[kept.index(axis)] if axis in kept else more for axis in axes)
        array = root.create_array(
            str(number), shape=shape, dtype=pixels.dtype, chunks=tuple(min(side, 128) for side in shape), fill_value=0
        )
        array[...] = 0
        array[tuple(slice(None) if axis in kept else 0 for axis in axes)] = pixels
        size = {"x": 2.0**number, "y": 2.0**number}
        scale = {"type": "scale", "scale": [size.get(axis, 1.0) for axis in axes]}
        datasets.append({"path": str(number), "coordinateTransformations": [scale]})
    kinds = {"t": "time", "c": "channel"}
    said = [{"name": axis, "type": kinds.get(axis, "space")} for axis in axes]
    for axis in said:
        if axis["type"] == "space" and unit:
            axis["unit"] = unit
    whole = [dict(zip("xy", pixel, strict=True)).get(axis, 1.0) for axis in axes]
    image = {
        "axes": said, "datasets": datasets, "name": "slide",
        "coordinateTransformations": [{"type": "scale", "scale": whole}],
    }  # fmt: skip
    attributes: dict[str, Any] = {"multiscales": [image | ({"version": "0.4"} if version == "0.4" else {})]}
    if omero is not None:
        attributes["omero"] = {"channels": omero}
    root.attrs.update(attributes if version == "0.4" else {"ome": {"version": "0.5", **attributes}})


@pytest.mark.parametrize(("version", "axes"), [("0.4", "tczyx"), ("0.4", "cyx"), ("0.5", "tczyx"), ("0.5", "yxc")])
def test_every_level_is_read_pixel_by_pixel(tmp_path: Path, version: str, axes: str) -> None:
    levels = [picture()]
    levels += [coarser(levels[0]), coarser(coarser(levels[0]))]
    write(tmp_path / "a.ome.zarr", levels, version=version, axes=axes, pixel=(0.2501, 0.2499))
    slide = open_slide(tmp_path / "a.ome.zarr")
    assert (slide.slide_id, slide.reader_name, slide.vendor) == ("a", "ngff", f"ome-zarr {version}")
    assert (slide.mpp.x, slide.mpp.y, slide.mpp_source) == (0.2501, 0.2499, "metadata")
    assert [level.downsample for level in slide.levels] == [1, 2, 4]
    assert slide.flags() == ()
    for number, level in enumerate(levels):
        height, width = level.shape[:2]
        np.testing.assert_array_equal(slide.read_level(number, 0, 0, Extent(width, height)), level)
        corner = slide.read_level(number, width - 30, height - 20, Extent(50, 40))
        np.testing.assert_array_equal(corner[:20, :30], level[-20:, -30:])
        assert (corner[20:] == 255).all()
        assert (corner[:, 30:] == 255).all()
    half = slide.read_region(BoxL0(100, 60, 128, 64), Extent(64, 32))
    np.testing.assert_array_equal(half, levels[1][30:62, 50:114])


@pytest.mark.parametrize(
    ("unit", "mpp"), [("micrometer", 0.5), ("nanometer", 0.0005), ("millimeter", 500), (None, None)]
)
def test_pixels_are_as_large_as_the_axes_unit_says(tmp_path: Path, unit: str | None, mpp: float | None) -> None:
    write(tmp_path / "a.zarr", [picture()], axes="cyx", unit=unit)
    slide = open_slide(tmp_path / "a.zarr")
    assert (slide.mpp and slide.mpp.x) == (None if mpp is None else pytest.approx(mpp))


def test_what_is_not_read_of_an_image_is_said(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", [picture()], more=3)
    slide = open_slide(tmp_path / "a.zarr")
    np.testing.assert_array_equal(slide.read_level(0, 0, 0, Extent(WIDTH, HEIGHT)), picture())
    assert slide.flags() == ("of its 3 focal planes only the first is read", "of its 3 times only the first is read")


@pytest.mark.parametrize(
    ("omero", "order"),
    [
        ([{"label": name, "color": "FFFFFF"} for name in ("Blue", "Red", "Green")], (1, 2, 0)),
        ([RGB[2], RGB[1], RGB[0]], (2, 1, 0)),
        (None, (0, 1, 2)),
        ([{"label": f"Channel {k}"} for k in range(3)], (0, 1, 2)),
    ],
)
def test_channels_are_the_colours_they_say(tmp_path: Path, omero: list[dict] | None, order: tuple[int, ...]) -> None:
    write(tmp_path / "a.zarr", [picture()], axes="cyx", omero=omero)
    slide = open_slide(tmp_path / "a.zarr")
    np.testing.assert_array_equal(slide.read_level(0, 0, 0, Extent(WIDTH, HEIGHT)), picture()[..., list(order)])
    said_nothing = omero is None or "Channel 0" in str(omero)
    assert any("its three channels are taken for red, green and blue" in flag for flag in slide.flags()) == said_nothing


def test_what_is_no_stained_slide_is_refused(tmp_path: Path) -> None:
    dyes = [{**RGB[2], "label": "DAPI"}, {**RGB[1], "label": "FITC"}, {**RGB[0], "label": "Cy5"}]
    write(tmp_path / "dyes.zarr", [picture()], omero=dyes)
    with pytest.raises(RefusedSlideError, match=r"3 channels \(DAPI, FITC, Cy5\) are not the red, green and blue"):
        open_slide(tmp_path / "dyes.zarr")
    write(tmp_path / "four.zarr", [picture()[..., [0, 1, 2, 0]]], omero=None)
    with pytest.raises(RefusedSlideError, match="4 channels are not the red, green and blue"):
        open_slide(tmp_path / "four.zarr")
    write(tmp_path / "deep.zarr", [picture().astype(np.uint16)])
    with pytest.raises(RefusedSlideError, match="samples are uint16, not 8-bit colours"):
        open_slide(tmp_path / "deep.zarr")


@pytest.mark.parametrize(
    "said", [{}, {"multiscales": []}, {"multiscales": [{"axes": ["z"], "datasets": []}]}, "[]", "{"]
)
def test_other_zarr_is_one_sentence(tmp_path: Path, said: Any) -> None:
    write(tmp_path / "a.zarr", [picture()])
    (tmp_path / "a.zarr" / ".zattrs").write_text(said if isinstance(said, str) else json.dumps(said))
    with pytest.raises(SlideError, match="cannot be opened") as caught:
        open_slide(tmp_path / "a.zarr")
    assert "\n" not in str(caught.value)


def test_a_damaged_chunk_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a.zarr", [picture()], axes="cyx")
    (tmp_path / "a.zarr" / "0" / "0.0.4").write_bytes(b"damaged")
    slide = open_slide(tmp_path / "a.zarr")
    with pytest.raises(SlideError, match=r"cannot be read at level 0 at \(600, 0\), 10 x 10 px"):
        slide.read_level(0, 600, 0, Extent(10, 10))
    np.testing.assert_array_equal(slide.read_level(0, 0, 0, Extent(500, 400)), picture()[:400, :500])


def test_a_collection_of_bioformats2raw_is_its_first_image(tmp_path: Path) -> None:
    root = zarr.open_group(tmp_path / "c", mode="w", zarr_format=2)
    root.attrs["bioformats2raw.layout"] = 3
    write(tmp_path / "c" / "0", [picture()], axes="cyx")
    write(tmp_path / "c" / "1", [picture()[:50, :50]], axes="cyx")
    slide = open_slide(tmp_path / "c")
    assert (slide.extent, slide.slide_id) == (Extent(WIDTH, HEIGHT), "c")
    assert slide.flags() == ("of its 2 images only the first is read",)


def test_they_are_found_in_folders_and_tiled(tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    write(folder / "a.ome.zarr", [picture(), coarser(picture())], axes="cyx", pixel=(0.25, 0.25))
    write(folder / "b.zarr", [picture()], version="0.5", axes="cyx")
    found = find_slides([folder])
    assert [source.slide_id for source in found.slides] == ["a", "b"]
    before = fingerprint(folder / "b.zarr")
    outcome = tile(TileConfig.model_validate({
        "slides": [folder], "out": tmp_path / "tiles", "tile_px": 64, "mpp": 0.5, "tissue": {"method": "none"},
        "jpeg": {"level": 100, "subsampling": "444"},
    }))  # fmt: skip
    assert not outcome.failures
    tiles = histogen.open_tiles(tmp_path / "tiles")
    assert {store.store_id: store.num_tiles for store in tiles.stores} == {"a": 4 * 3, "b": 9 * 6}
    first = tiles.read_tiles(np.array([0]))[0].astype(int)
    assert np.abs(first - coarser(picture())[:64, :64]).mean() < 2
    write(folder / "b.zarr", [picture()[::-1]], version="0.5", axes="cyx")
    assert fingerprint(folder / "b.zarr") != before
