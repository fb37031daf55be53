"""Readers: the native one gives OpenSlide's pixels; every way a file can be bad is one sentence."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

from histogen.errors import MissingMppError, SlideError
from histogen.geometry import BoxL0, Extent, Mpp
from histogen.slides.base import BaseSlide, open_slide, require_mpp, slide_id_of
from histogen.slides.drawn import draw_slide
from histogen.slides.native import NativeSlide
from histogen.slides.openslide import OpenSlideSlide
from histogen.slides.tiff_writer import write_svs
from histogen.store.jpeg import JpegSettings, decode_jpeg, encode_jpeg

REAL_NATIVE = (
    "CMU-1-Small-Region.svs",
    "MoNuSAC_TCGA-5P-A9K0_1.svs",
    "TCGA-CR-7395-01A-01-TS1.svs",
    "derived_her2st_C2_generic.tiff",
    "derived_her2st_C6.ome.tif",
)


@pytest.fixture(scope="module")
def drawn_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("drawn") / "slide.svs"
    draw_slide(path, seed=1, extent=Extent(1300, 900), mpp=0.25, region_um=100)
    return path


def assert_same_pixels(native: NativeSlide, reference: OpenSlideSlide, level: int, rectangles: int) -> None:
    extent = reference.levels[level].extent
    rng = np.random.default_rng(level)
    width, height = min(310, extent.width), min(270, extent.height)
    corners = [(0, 0)]
    if (scale := reference._stored[level][1]) == round(scale):
        corners += [(extent.width - width, extent.height - height), (-13, -7), (extent.width - 20, extent.height - 30)]
        corners += [
            (int(rng.integers(0, extent.width - width + 1)), int(rng.integers(0, extent.height - height + 1)))
            for _ in range(rectangles)
        ]
    for x, y in corners:
        ours = native.read_level(level, x, y, Extent(width, height))
        theirs = reference.read_level(level, x, y, Extent(width, height))
        assert np.array_equal(ours, theirs), (level, x, y)


def test_native_pixels_equal_openslide_s(drawn_path: Path) -> None:
    native, reference = NativeSlide(drawn_path), OpenSlideSlide(drawn_path)
    assert native.levels == reference.levels
    assert (native.mpp, native.vendor, native.objective_power) == (reference.mpp, "aperio", 40.0)
    for level in range(len(native.levels)):
        assert_same_pixels(native, reference, level, 10)


@pytest.mark.real
@pytest.mark.parametrize("name", REAL_NATIVE)
def test_native_pixels_equal_openslide_s_on_real_slides(real_data: Path, name: str) -> None:
    """Where OpenSlide's level scale is not whole it shifts pixels by fractions; only the origin is compared there."""
    native, reference = NativeSlide(real_data / "slides" / name), OpenSlideSlide(real_data / "slides" / name)
    for level in range(len(reference.levels)):
        assert native.levels[level].extent == reference.levels[level].extent
        assert_same_pixels(native, reference, level, 12)


@pytest.mark.parametrize(
    ("compression", "options"),
    [(None, {}), ("lzw", {"predictor": True}), ("zlib", {}), ("jpeg2000", {"compressionargs": {"level": 0}})],
)
def test_lossless_tiles_come_back(tmp_path: Path, compression: str | None, options: dict) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (170, 250, 3), np.uint8)
    path = tmp_path / "slide.tif"
    tifffile.imwrite(
        path, pixels, tile=(64, 48), photometric="rgb", compression=compression, resolution=(40000, 40000),
        resolutionunit="CENTIMETER", metadata=None, **options,
    )  # fmt: skip
    slide = NativeSlide(path)
    assert np.array_equal(slide.read_level(0, 0, 0, Extent(250, 170)), pixels)
    assert slide.mpp == Mpp(0.25, 0.25)
    assert slide.mpp_source == "tiff tags"


def test_outside_of_the_slide_is_white(drawn_path: Path) -> None:
    slide = NativeSlide(drawn_path)
    region = slide.read_level(0, 1290, 880, Extent(40, 50))
    assert (region[20:] == 255).all()
    assert (region[:, 10:] == 255).all()
    assert (slide.read_level(0, 5000, 10, Extent(8, 8)) == 255).all()


def test_stated_mpp_beats_the_file_s(drawn_path: Path) -> None:
    assert open_slide(drawn_path).mpp == Mpp(0.25, 0.25)
    stated = open_slide(drawn_path, mpp=0.2)
    assert (stated.mpp, stated.mpp_source) == (Mpp(0.2, 0.2), "stated")


def test_odd_resolutions_are_flagged(drawn_path: Path) -> None:
    assert open_slide(drawn_path).flags() == ()
    assert "does not go with an objective of 40x" in open_slide(drawn_path, mpp=0.5).flags()[1]
    assert "outside" in open_slide(drawn_path, mpp=3.0).flags()[1]
    assert "differs" in open_slide(drawn_path, mpp=Mpp(0.25, 0.26)).flags()[1]


@pytest.mark.parametrize("reader", ["native", "openslide"])
def test_what_corrects_a_resolution_and_what_fills_a_gap(tmp_path: Path, drawn_path: Path, reader: str) -> None:
    corrected = open_slide(drawn_path, mpp=0.26, gap_mpp=0.5, reader=reader)
    assert (corrected.mpp, corrected.mpp_source) == (Mpp(0.26, 0.26), "stated")
    assert corrected.flags() == ("mpp 0.26 is stated, the file says 0.25 (metadata)",)
    own = open_slide(drawn_path, gap_mpp=0.5, reader=reader)
    assert (own.mpp, own.mpp_source) == (Mpp(0.25, 0.25), "metadata")
    assert own.flags() == ("mpp 0.5 is for slides that do not state theirs, the file says 0.25 (metadata)",)
    assert open_slide(drawn_path, gap_mpp=0.2512, mpp=0.2488, reader=reader).flags() == ()
    write_svs(tmp_path / "a.svs", np.full((300, 400, 3), 200, np.uint8), mpp=None)
    filled = open_slide(tmp_path / "a.svs", gap_mpp=0.5, reader=reader)
    assert (filled.mpp, filled.mpp_source, filled.flags()) == (Mpp(0.5, 0.5), "gap filled", ())


@pytest.mark.parametrize(("dpi", "stated"), [(72, False), (300, False), (600, False), (1200, False), (50800, True)])
def test_the_resolution_of_office_software_is_not_a_slide_s(tmp_path: Path, dpi: int, stated: bool) -> None:
    pixels = np.full((100, 100, 3), 200, np.uint8)
    options = {"photometric": "rgb", "tile": (64, 64), "metadata": None, "resolution": (dpi, dpi)}
    tifffile.imwrite(tmp_path / "a.tif", pixels, resolutionunit="INCH", **options)
    for reader in ("native", "openslide"):
        assert open_slide(tmp_path / "a.tif", reader=reader).mpp == (Mpp(0.5, 0.5) if stated else None)


@pytest.mark.parametrize(
    ("unit", "size", "mpp"),
    [
        ("\u00b5m", 0.25, 0.25), ("\u03bcm", 0.25, 0.25), ("um", 0.25, 0.25), ("micron", 0.25, 0.25),
        ("microns", 0.25, 0.25), ("micrometer", 0.25, 0.25), ("Micrometre", 0.25, 0.25), ("nm", 250, 0.25),
        ("\u00c5", 2500, 0.25), ("\u212b", 2500, 0.25), ("angstrom", 2500, 0.25), ("mm", 0.00025, 0.25),
        ("cm", 0.000025, 0.25), ("m", 2.5e-7, 0.25), ("in", 1e-5, 0.254), ("inch", 1e-5, 0.254), ("thou", 0.01, 0.254),
        ("pixel", 1, None), ("reference frame", 1, None), (None, 0.25, 0.25),
    ],
)  # fmt: skip
def test_lengths_of_ome_are_read_in_any_unit(tmp_path: Path, unit: str | None, size: float, mpp: float | None) -> None:
    """Whichever reader reads the pixels; resolution tags are there and say something else."""
    about = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeY": size * 2}
    if unit is not None:
        about |= {"PhysicalSizeXUnit": unit, "PhysicalSizeYUnit": unit}
    path = tmp_path / "a.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as writer:
        writer.write(
            np.full((100, 100, 3), 200, np.uint8), photometric="rgb", tile=(64, 64), metadata=about,
            resolution=(1e4, 1e4), resolutionunit="CENTIMETER",
        )  # fmt: skip
    for reader in ("native", "openslide"):
        slide = open_slide(path, reader=reader)
        if mpp is None:
            assert (slide.mpp, slide.mpp_source) == (Mpp(1, 1), "tiff tags")
        else:
            assert (slide.mpp.x, slide.mpp.y) == pytest.approx((mpp, 2 * mpp))  # type: ignore[union-attr]
            assert slide.mpp_source == "metadata"


@pytest.mark.parametrize(
    ("unit", "per_unit"), [("um", 4), ("micron", 4), ("\\u00B5m", 4), ("mm", 4000), ("inch", 101600)]
)
def test_imagej_s_resolution_is_per_unit_that_it_names(tmp_path: Path, unit: str, per_unit: float) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path,
        np.full((100, 120, 3), 200, np.uint8),
        imagej=True,
        resolution=(per_unit, per_unit),
        metadata={"unit": unit},
    )
    slide = open_slide(path)
    assert (slide.mpp, slide.mpp_source) == (Mpp(0.25, 0.25), "metadata")


def test_a_slide_without_mpp_says_what_to_do(tmp_path: Path) -> None:
    write_svs(tmp_path / "S12.svs", np.full((300, 400, 3), 200, np.uint8), mpp=None)
    for reader in ("native", "openslide"):
        with pytest.raises(MissingMppError, match=r"slide 'S12' has no mpp in its file; add a column 'mpp'"):
            require_mpp(open_slide(tmp_path / "S12.svs", reader=reader))


@pytest.mark.parametrize("content", [b"", b"not a slide, whatever its name says" * 30, b"II*\0" + b"\0" * 500])
def test_files_that_are_no_slides(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.svs"
    path.write_bytes(content)
    with pytest.raises(SlideError, match="bad.svs"):
        open_slide(path)


def test_a_damaged_tile_is_named_and_the_slide_goes_on(drawn_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "hurt.svs"
    path.write_bytes(drawn_path.read_bytes())
    level = NativeSlide(path).tiff_levels[0]
    with path.open("r+b") as file:
        file.seek(int(level.offsets[7]))
        file.write(b"\x00" * int(level.sizes[7]))
    for slide in (NativeSlide(path), OpenSlideSlide(path)):
        with pytest.raises(SlideError, match="slide 'hurt' cannot be read at level 0"):
            slide.read_level(0, 256, 256, Extent(300, 256))
        intact = slide.read_level(0, 0, 0, Extent(256, 256))
        assert np.array_equal(intact, NativeSlide(drawn_path).read_level(0, 0, 0, Extent(256, 256)))


@pytest.mark.parametrize("share", [0.3, 0.97, 0.9999])
def test_a_truncated_slide_is_said_to_be_cut(drawn_path: Path, tmp_path: Path, share: float) -> None:
    content = drawn_path.read_bytes()
    path = tmp_path / "cut.svs"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(SlideError, match=r"cut\.svs' cannot be opened: the file is cut"):
        open_slide(path)


def test_a_slide_that_shrinks_while_it_is_read_says_so(drawn_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "shrinking.svs"
    path.write_bytes(drawn_path.read_bytes())
    slide = NativeSlide(path)
    path.write_bytes(drawn_path.read_bytes()[:5000])
    with pytest.raises(SlideError, match="the file ends before the tile does"):
        slide.read_level(0, 1280, 800, Extent(20, 100))


def test_region_is_the_mean_over_its_area(tmp_path: Path) -> None:
    """Oracle: means of blocks computed by NumPy, at a whole and at a broken reduction."""
    rng = np.random.default_rng(5)
    pixels = rng.integers(0, 256, (240, 330, 3), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(64, 64), photometric="rgb", metadata=None)
    slide = NativeSlide(tmp_path / "a.tif")
    half = slide.read_region(BoxL0(10, 20, 64, 48), Extent(32, 24))
    blocks = pixels[20:68, 10:74].reshape(24, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(half - blocks).max() <= 0.51
    step = 2.1505
    broken = slide.read_region(BoxL0(7.3, 4.9, 40 * step, 30 * step), Extent(40, 30))
    assert np.abs(broken - area_means(pixels, 7.3, 4.9, step, 40, 30)).max() < 3.0


def area_means(pixels: np.ndarray, x: float, y: float, step: float, width: int, height: int) -> np.ndarray:
    """Exact means of ``pixels`` over squares of side ``step``, by weights per axis."""

    def weights(start: float, count: int, length: int) -> np.ndarray:
        borders = start + np.arange(count + 1) * step
        cover = np.minimum(borders[1:, None], np.arange(1, length + 1)) - np.maximum(
            borders[:-1, None], np.arange(length)
        )
        return np.clip(cover, 0, None) / step

    across, down = weights(x, width, pixels.shape[1]), weights(y, height, pixels.shape[0])
    return np.einsum("ij,jkc,lk->ilc", down, pixels.astype(float), across)


def test_slide_ids_are_kept_or_made_apart() -> None:
    assert slide_id_of(Path("a/TCGA-CR-7395-01A.svs")) == "TCGA-CR-7395-01A"
    assert slide_id_of(Path("x.ome.tif")) == "x"
    first, second = slide_id_of(Path("a b.svs")), slide_id_of(Path("a,b.svs"))
    assert first != second
    assert first.startswith("a_b-")


def test_payloads_are_the_file_s_own(drawn_path: Path) -> None:
    slide = NativeSlide(drawn_path)
    payload = slide.read_payload(0, 5)
    assert drawn_path.read_bytes().count(payload) >= 1
    assert imagecodecs.jpeg8_decode(payload, tables=slide.tiff_levels[0].tables).shape == (256, 256, 3)


@pytest.mark.parametrize(("left", "closer"), [(64, True), (65, False)])
def test_chroma_is_not_blurred_a_second_time(drawn_path: Path, left: int, closer: bool) -> None:
    """Oracle: the pixels that OpenSlide shows, beside what is left of them after encoding either reading."""
    native, reference = NativeSlide(drawn_path), OpenSlideSlide(drawn_path)
    box = BoxL0(left, 64, 5 * 128, 128)
    shown = native.read_row(box, 128, 128, 5)
    repeated = native.read_row(box, 128, 128, 5, encoded_as="420")
    expected = [reference.read_level(0, left + 128 * k, 64, Extent(128, 128)) for k in range(5)]
    assert np.array_equal(shown, expected)
    assert np.array_equal(native.read_row(box, 128, 128, 5, encoded_as="444"), expected)
    assert np.array_equal(repeated, expected) is not closer
    luma = np.array([0.299, 0.587, 0.114])
    assert np.abs(repeated @ luma - shown @ luma).mean() < 0.5
    error = [
        ((decode_jpeg(encode_jpeg(tile, JpegSettings(90, "420"))).astype(float) - expected[k]) ** 2).mean()
        for tiles in (repeated, shown)
        for k, tile in enumerate(tiles)
    ]
    assert bool(sum(error[:5]) < 0.9 * sum(error[5:])) is closer


def test_a_picture_of_the_whole_is_the_same_in_pieces_of_any_size(
    drawn_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one row of it stands for more pixels of the slide than are read at a time."""
    slide, out = open_slide(drawn_path), Extent(37, 11)
    whole = slide.read_region(BoxL0(0, 0, slide.extent.width, slide.extent.height), out)
    most: list[float] = []
    read = type(slide).read_region

    def watched(self: BaseSlide, box: BoxL0, extent: Extent) -> np.ndarray:
        most.append(box.width * box.height)
        return read(self, box, extent)

    monkeypatch.setattr(type(slide), "read_region", watched)
    for pixels in (1e9, 60_000, 9_000):
        most.clear()
        monkeypatch.setattr("histogen.slides.base.OVERVIEW_PIXELS", pixels)
        again = slide.read_overview(out)
        assert np.abs(again.astype(int) - whole).max() <= 1
        assert max(most) <= max(pixels, 1.01 * slide.extent.width * slide.extent.height / (37 * 11))
    slide.close()
