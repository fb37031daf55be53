"""JPEG settings and the Zarr codec against an independent decoder and the written configuration."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import zarr
from PIL import Image

from histogen.errors import ConfigError
from histogen.store.jpeg import JpegSettings, decode_jpeg, encode_jpeg
from histogen.store.layout import tiles_metadata
from histogen.store.shard_file import write_shard
from histogen.testing.contracts import drawn_tiles


@pytest.fixture
def tile() -> np.ndarray:
    return drawn_tiles(1, 48)[0]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


@pytest.mark.parametrize(("settings", "sampling"), [(JpegSettings(), 2), (JpegSettings(95, "444"), 1)])
def test_pillow_reads_our_jpeg_with_the_subsampling_asked_for(
    tile: np.ndarray, settings: JpegSettings, sampling: int
) -> None:
    payload = encode_jpeg(tile, settings)
    image = Image.open(io.BytesIO(payload))
    assert image.layer[0][1:3] == (sampling, sampling)
    assert psnr(np.asarray(image), tile) > 35
    np.testing.assert_allclose(decode_jpeg(payload).astype(int), np.asarray(image).astype(int), atol=4)


def test_the_same_pixels_give_the_same_bytes(tile: np.ndarray) -> None:
    assert encode_jpeg(tile) == encode_jpeg(tile.copy())
    assert encode_jpeg(np.flip(np.flip(tile, 0), 0)) == encode_jpeg(tile)


def test_a_higher_level_is_closer(tile: np.ndarray) -> None:
    values = [psnr(decode_jpeg(encode_jpeg(tile, JpegSettings(level, "444"))), tile) for level in (50, 80, 95)]
    assert values == sorted(values)
    assert values[0] < values[2]


@pytest.mark.parametrize("bad", [{"level": 0}, {"level": 101}, {"subsampling": "4:2:0"}])
def test_settings_that_libjpeg_would_bend_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        JpegSettings(**bad)


def test_settings_come_back_from_their_configuration() -> None:
    settings = JpegSettings(None, None, tables=b"\xff\xd8\xff\xd9", colorspace_jpeg="RGB")
    config = settings.to_config()
    assert config == {"tables": base64.b64encode(b"\xff\xd8\xff\xd9").decode(), "colorspace_jpeg": "RGB"}
    assert JpegSettings.from_config(config) == settings
    assert JpegSettings.from_config({"level": 80, "optimize": True, "subsampling": None}) == JpegSettings(80, None)


def split_tables(jpeg: bytes) -> tuple[bytes, bytes]:
    """Cut a JPEG into a stream of its tables and an abbreviated stream without them, as Aperio's slides hold them."""
    position, tables, rest = 2, b"", b""
    while jpeg[position + 1] != 0xDA:
        length = 2 + int.from_bytes(jpeg[position + 2 : position + 4], "big")
        segment = jpeg[position : position + length]
        if jpeg[position + 1] in (0xDB, 0xC4):
            tables += segment
        elif jpeg[position + 1] not in (0xE0, 0xEE):  # no JFIF, no Adobe marker: nothing tells the colour space
            rest += segment
        position += length
    return b"\xff\xd8" + tables + b"\xff\xd9", b"\xff\xd8" + rest + jpeg[position:]


@pytest.mark.parametrize("colorspace", ["RGB", "YCBCR"])
def test_abbreviated_streams_read_through_zarr_and_the_fast_lane_alike(
    tmp_path: Path, tile: np.ndarray, colorspace: str
) -> None:
    whole = imagecodecs.jpeg8_encode(tile, level=95, outcolorspace=colorspace, subsampling="444")
    expected = imagecodecs.jpeg8_decode(whole, colorspace=colorspace, outcolorspace="RGB")
    assert psnr(expected, tile) > 38
    tables, abbreviated = split_tables(whole)
    settings = JpegSettings(None, None, tables=tables, colorspace_jpeg=colorspace, colorspace_data="RGB")
    np.testing.assert_array_equal(decode_jpeg(abbreviated, settings=settings), expected)
    (tmp_path / "zarr.json").write_text(json.dumps(tiles_metadata(2, 48, settings.to_config())))
    write_shard(tmp_path / "c/0/0/0/0", [abbreviated, None], 2)
    array = zarr.open(tmp_path, mode="r")
    np.testing.assert_array_equal(array[0], expected)
    assert not array[1].any()


def test_zarr_writes_with_the_codec_what_the_fast_lane_reads(tmp_path: Path) -> None:
    from histogen.store.random_access import ShardReader

    tiles = drawn_tiles(6, 16)
    (tmp_path / "zarr.json").write_text(json.dumps(tiles_metadata(6, 16, JpegSettings(95, "444").to_config())))
    zarr.open(tmp_path, mode="r+")[:] = tiles
    reader = ShardReader(tmp_path, 6, 6)
    for index, tile in enumerate(tiles):
        assert reader.payload(index) == encode_jpeg(tile, JpegSettings(95, "444"))
