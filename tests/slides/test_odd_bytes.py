"""TIFFs with odd bytes: right pixels or one sentence; no exception of another kind, no end that does not come."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from histogen.errors import SlideError
from histogen.geometry import BoxL0, Extent
from histogen.slides.base import open_slide
from histogen.slides.tiff_pixels import check_payload
from histogen.slides.tiff_writer import write_svs

ASCII, SHORT, LONG, RATIONAL, FLOAT, DOUBLE, LONG8 = 2, 3, 4, 5, 11, 12, 16
FORMATS = {SHORT: "H", LONG: "I", RATIONAL: "I", FLOAT: "f", DOUBLE: "d", LONG8: "Q"}
COLOUR = (180, 90, 160)


Values = Sequence[float] | bytes


def hand_made(path: Path, change: Mapping[int, tuple[int, Values] | None], following: str = "none") -> Path:
    """A little-endian TIFF of one 64 x 64 deflated tile; ``change`` replaces tags, None leaves one out."""
    pixels = zlib.compress(np.full((64, 64, 3), COLOUR, np.uint8).tobytes())
    tags: dict[int, tuple[int, Values]] = {
        254: (LONG, [0]), 256: (LONG, [64]), 257: (LONG, [64]), 258: (SHORT, [8, 8, 8]), 259: (SHORT, [8]),
        262: (SHORT, [2]), 277: (SHORT, [3]), 282: (RATIONAL, [20000, 1]), 283: (RATIONAL, [20000, 1]),
        284: (SHORT, [1]), 296: (SHORT, [3]), 322: (LONG, [64]), 323: (LONG, [64]), 324: (LONG, [8]),
        325: (LONG, [len(pixels)]),
    }  # fmt: skip
    for tag, value in change.items():
        if value is None:
            tags.pop(tag, None)
        else:
            tags[tag] = value
    start = 8 + len(pixels) + len(pixels) % 2
    extra_at = start + 6 + 12 * len(tags)
    entries, extra = b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        raw = values if isinstance(values, bytes) else struct.pack(f"<{len(values)}{FORMATS[kind]}", *values)
        count = len(values) // (2 if kind == RATIONAL else 1)
        where = raw.ljust(4, b"\0") if len(raw) <= 4 else struct.pack("<I", extra_at + len(extra))
        entries += struct.pack("<HHI", tag, kind, count) + where
        extra += raw + b"\0" * (len(raw) % 2) if len(raw) > 4 else b""
    other = extra_at + len(extra)
    chain = {"none": 0, "itself": start, "ring": other, "beyond": 4_000_000_000}[following]
    body = struct.pack("<H", len(tags)) + entries + struct.pack("<I", chain) + extra
    if following == "ring":  # a second directory, whose next is the first
        body += struct.pack("<H", len(tags)) + entries + struct.pack("<I", start)
    path.write_bytes(b"II*\0" + struct.pack("<I", start) + pixels.ljust(start - 8, b"\0") + body)
    return path


def assert_right_or_refused(path: Path) -> str:
    """Return the sentence of the refusal, empty when the picture came back."""
    try:
        slide = open_slide(path)
        pixels = slide.read_region(BoxL0(0, 0, 64, 64), Extent(64, 64))
        slide.thumbnail(64)
        slide.close()
    except SlideError as error:
        sentence = str(error)
        assert "\n" not in sentence
        assert path.stem in sentence
        return sentence
    assert pixels.shape == (64, 64, 3)
    return ""


def test_the_plain_one_is_read(tmp_path: Path) -> None:
    slide = open_slide(hand_made(tmp_path / "a.tif", {}))
    assert (slide.read_level(0, 0, 0, Extent(64, 64)) == COLOUR).all()


@pytest.mark.parametrize("tag", [256, 257, 258, 259, 262, 277, 284, 322, 323, 324, 325])
@pytest.mark.parametrize(
    "value",
    [
        (LONG, [0]), (LONG, [2**32 - 1]), (LONG, [2**31]), (SHORT, [65535]), (ASCII, b"sixty\0"), (FLOAT, [64.5]),
        (DOUBLE, [float("nan")]), (LONG, [64, 64]), (LONG, []), (RATIONAL, [64, 0]), (LONG8, [2**63]), None,
    ],
)  # fmt: skip
def test_tags_of_zero_huge_or_of_another_kind(tmp_path: Path, tag: int, value: tuple[int, Values] | None) -> None:
    sentence = assert_right_or_refused(hand_made(tmp_path / "odd.tif", {tag: value}))
    if tag in (256, 257, 322, 323) and value in ((LONG, [0]), (LONG, [2**32 - 1]), (ASCII, b"sixty\0")):
        assert sentence


@pytest.mark.parametrize("tag", [254, 270, 282, 283, 296, 317, 330, 338, 339, 347, 530, 281])
@pytest.mark.parametrize(
    "value", [(LONG, [0]), (LONG, [2**32 - 1]), (ASCII, b"\xff\xfe\0"), (RATIONAL, [1, 0]), (LONG, [8])]
)
def test_tags_beside_the_pixels_of_another_kind(tmp_path: Path, tag: int, value: tuple[int, Values]) -> None:
    assert_right_or_refused(hand_made(tmp_path / "odd.tif", {tag: value}))


@pytest.mark.parametrize("following", ["itself", "ring"])
def test_directories_in_a_circle_have_an_end(tmp_path: Path, following: str) -> None:
    assert "circle" in assert_right_or_refused(hand_made(tmp_path / "odd.tif", {}, following))


def test_a_directory_beyond_the_end_is_a_cut_file(tmp_path: Path) -> None:
    assert "the file is cut" in assert_right_or_refused(hand_made(tmp_path / "odd.tif", {}, "beyond"))


@pytest.mark.parametrize("sides", [(2**31, 2**31), (1_000_000, 1_000_000), (64, 2**32 - 1)])
def test_a_slide_larger_than_its_file_is_refused_by_every_reader(tmp_path: Path, sides: tuple[int, int]) -> None:
    path = hand_made(tmp_path / "odd.tif", {256: (LONG, [sides[0]]), 257: (LONG, [sides[1]])})
    for reader in ("auto", "openslide"):
        with pytest.raises(SlideError, match="it lists 1 tiles where .* are needed"):
            open_slide(path, reader=reader)


def test_a_tile_larger_than_memory_is_refused_by_every_reader(tmp_path: Path) -> None:
    path = hand_made(tmp_path / "odd.tif", {322: (LONG, [2**20]), 323: (LONG, [2**20])})
    for reader in ("auto", "openslide"):
        with pytest.raises(SlideError, match=r"stored in pieces of 3298\.5 GB"):
            open_slide(path, reader=reader)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        ({"TotalPixelMatrixColumns": 2**31 - 1}, r"it says that it has 2147483647 x 100 px, and has .* bytes"),
        ({"TotalPixelMatrixColumns": 2**31 - 1, "TotalPixelMatrixRows": 2**31 - 1}, "it says that it has"),
        ({"Rows": 65535, "Columns": 65535}, r"stored in frames of 12\.9 GB"),
    ],
)
def test_dicom_larger_than_its_file_is_refused(
    tmp_path: Path, write_dicom: Callable[..., None], tags: dict[str, int], said: str
) -> None:
    """OpenSlide would ask for the memory, and end the process where there is not so much."""
    write_dicom(tmp_path, ["a.dcm"], np.full((100, 130, 3), 200, np.uint8), series="11", **tags)
    with pytest.raises(SlideError, match=said):
        open_slide(tmp_path / "a.dcm")


@pytest.mark.parametrize("codec", ["zlib", "lzw"])
def test_what_unpacks_to_more_than_a_tile_is_not_unpacked(tmp_path: Path, codec: str) -> None:
    bomb = getattr(imagecodecs, f"{codec}_encode")(bytes(20_000_000))
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((64, 64, 3), np.uint8), tile=(64, 64), photometric="rgb",
                     compression=codec, metadata=None)  # fmt: skip
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as tiff:
        tiff.filehandle.seek(0, 2)
        end = tiff.filehandle.tell()
        tiff.filehandle.write(bomb)
        tiff.pages.first.tags["TileOffsets"].overwrite(end)
        tiff.pages.first.tags["TileByteCounts"].overwrite(len(bomb))
    slide = open_slide(tmp_path / "a.tif", reader="native")
    if codec == "lzw":  # is cut where the tile is full, as others cut it
        assert (slide.read_level(0, 0, 0, Extent(64, 64)) == 0).all()
    else:
        with pytest.raises(SlideError, match=r"slide 'a' cannot be read at level 0, tile \(0, 0\)"):
            slide.read_level(0, 0, 0, Extent(64, 64))


def test_pictures_that_promise_more_pixels_than_their_tile_are_not_decoded() -> None:
    pixels = np.zeros((300, 200, 3), np.uint8)
    for payload in (imagecodecs.jpeg2k_encode(pixels, level=0), imagecodecs.jpeg_encode(pixels)):
        check_payload(payload, Extent(200, 300))
        check_payload(payload, Extent(128, 128))
        with pytest.raises(ValueError, match="its header says 200 x 300 px, the tile has 64 x 64"):
            check_payload(payload, Extent(64, 64))


def test_random_bytes_end_in_pixels_or_a_sentence(tmp_path: Path) -> None:
    """200 copies of valid files, each with up to three bytes changed, most of them in a directory."""
    pixels = np.random.default_rng(0).integers(0, 256, (100, 130, 3), np.uint8)
    write_svs(tmp_path / "a.svs", pixels, mpp=0.5, tile_px=64, downsamples=(2,))
    options = {"photometric": "rgb", "metadata": None}
    tifffile.imwrite(tmp_path / "b.tif", pixels, tile=(64, 64), compression="lzw", predictor=True, **options)
    tifffile.imwrite(tmp_path / "c.tif", pixels, rowsperstrip=16, compression="zlib", bigtiff=True, **options)
    wide = pixels.astype(np.uint16) * 257
    tifffile.imwrite(tmp_path / "d.tif", wide, tile=(64, 64), planarconfig="contig", **options)
    sources = {path: path.read_bytes() for path in sorted(tmp_path.iterdir())}
    places = {path: directory_bytes(path) for path in sources}
    draw = random.Random(0)  # noqa: S311
    for number in range(200):
        path = draw.choice(list(sources))
        content = bytearray(sources[path])
        for _ in range(draw.randint(1, 3)):
            at = draw.choice(places[path]) if draw.random() < 0.8 else draw.randrange(len(content))
            content[at] = draw.choice([0, 1, 127, 128, 255, draw.randrange(256)])
        odd = tmp_path / f"odd{number}{path.suffix}"
        odd.write_bytes(content)
        assert_right_or_refused(odd)


def directory_bytes(path: Path) -> list[int]:
    with tifffile.TiffFile(path) as tiff:
        size = 20 if tiff.is_bigtiff else 12
        return [tag.offset + k for page in tiff.pages for tag in page.tags.values() for k in range(size)]


@pytest.mark.parametrize("tag", ["TotalPixelMatrixRows", "TotalPixelMatrixColumns"])
def test_dicom_with_two_numbers_where_one_should_be(tmp_path: Path, write_dicom: Callable[..., None], tag: str) -> None:
    write_dicom(tmp_path, ["a.dcm"], np.full((100, 130, 3), 200, np.uint8), series="11", **{tag: [100, 100]})
    assert_right_or_refused(tmp_path / "a.dcm")


def test_a_long_value_is_cut_in_the_sentence(tmp_path: Path) -> None:
    said = assert_right_or_refused(hand_made(tmp_path / "odd.tif", {323: (LONG, list(range(5000)))}))
    assert "its tilelength is" in said
    assert len(said) < 500


def test_what_a_library_repeats_of_a_file_is_said_on_one_line(tmp_path: Path, write_dicom: Callable[..., None]) -> None:
    write_dicom(tmp_path, ["a.dcm"], np.full((64, 64, 3), 200, np.uint8), series="11")
    data = (tmp_path / "a.dcm").read_bytes()
    assert b"\x28\x00\x02\x00US" in data
    (tmp_path / "a.dcm").write_bytes(data.replace(b"\x28\x00\x02\x00US", b"\x28\x00\x02\x00\x07\n"))
    assert assert_right_or_refused(tmp_path / "a.dcm").isprintable()
