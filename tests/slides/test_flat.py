"""Flat images as slides: the picture itself, without a slide library; what cannot be shown rightly is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from histogen.errors import MissingMppError, RefusedSlideError, SlideError
from histogen.geometry import BoxL0, Extent, Mpp
from histogen.slides.base import open_slide, require_mpp


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    colours = np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8)
    return np.repeat(np.repeat(colours, 16, 0), 16, 1)[:130, :200]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.png", {}), ("a.PNG", {"compress_level": 1}), ("a.bmp", {}), ("a.webp", {"lossless": True}),
        ("a.jp2", {"irreversible": False}), ("a.jpg", {"quality": 95, "subsampling": 0}),
    ],
)  # fmt: skip
def test_the_picture_comes_back(tmp_path: Path, pixels: np.ndarray, name: str, options: dict[str, Any]) -> None:
    Image.fromarray(pixels).save(tmp_path / name, **options)
    slide = open_slide(tmp_path / name, mpp=0.5)
    assert (slide.reader_name, slide.extent, slide.flags()) == ("image", Extent(200, 130), ())
    off = np.abs(slide.read_level(0, 0, 0, slide.extent).astype(int) - pixels).max()
    assert off <= (12 if name == "a.jpg" else 0)
    slide.close()
    over = slide.read_level(0, 180, -10, Extent(40, 30)).astype(int)
    assert (over[:10] == 255).all()
    assert (over[:, 20:] == 255).all()
    assert np.abs(over[10:, :20] - pixels[:20, 180:]).max() <= off


def test_modes_of_pictures(tmp_path: Path, pixels: np.ndarray) -> None:
    """Grey is repeated, palettes are looked up, what is transparent is white."""
    grey = Image.fromarray(pixels[..., 0])
    alpha = np.concatenate([pixels, np.full((130, 200, 1), 255, np.uint8)], axis=2)
    alpha[:, 100:, 3] = 0
    made = {"grey": grey, "palette": Image.fromarray(pixels).quantize(200), "alpha": Image.fromarray(alpha)}
    for name, image in made.items():
        image.save(tmp_path / f"{name}.png")
    shown = {name: open_slide(tmp_path / f"{name}.png").read_level(0, 0, 0, Extent(200, 130)) for name in made}
    assert np.array_equal(shown["grey"], np.repeat(pixels[..., :1], 3, axis=2))
    assert np.array_equal(shown["palette"], np.asarray(made["palette"].convert("RGB")))
    assert np.array_equal(shown["alpha"][:, :100], pixels[:, :100])
    assert (shown["alpha"][:, 100:] == 255).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_are_refused(tmp_path: Path, pixels: np.ndarray, channels: int) -> None:
    """Twelve bits in them would be black."""
    deep = pixels[..., :channels].astype(np.uint16) * 16
    cv2.imwrite(str(tmp_path / "a.png"), deep if channels == 3 else deep[..., 0])
    with pytest.raises(RefusedSlideError, match=r"a\.png' .*more than 8 bits, .*; convert it to 8 bits"):
        open_slide(tmp_path / "a.png")


@pytest.mark.parametrize("change", ["cut", "empty", "not one", "damaged"])
def test_what_is_no_whole_image_is_one_sentence(tmp_path: Path, pixels: np.ndarray, change: str) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    content = bytearray((tmp_path / "a.png").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 50] = bytes(50) if change == "damaged" else content[middle : middle + 50]
    said = {"cut": content[:middle], "empty": b"", "not one": b"no image" * 50, "damaged": content}[change]
    (tmp_path / "a.png").write_bytes(said)
    with pytest.raises(SlideError, match=r"slide '.*a\.png'"):
        open_slide(tmp_path / "a.png")


def test_an_image_that_is_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(np.zeros((130, 200), np.uint8)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 12_000)  # Pillow refuses twice as many
    with pytest.raises(SlideError, match="too large for a flat image; convert it to a tiled TIFF"):
        open_slide(tmp_path / "a.png")


def test_the_resolution_of_an_image(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "scan.png", dpi=(50800, 50800))
    Image.fromarray(pixels).save(tmp_path / "office.png", dpi=(300, 300))
    scan = open_slide(tmp_path / "scan.png")
    assert scan.mpp is not None
    assert (scan.mpp.x, scan.mpp_source) == (pytest.approx(0.5, rel=1e-4), "image dpi")
    with pytest.raises(MissingMppError, match="histogen import-images FOLDER --out STORE"):
        require_mpp(open_slide(tmp_path / "office.png"))
    assert open_slide(tmp_path / "office.png", gap_mpp=0.25).mpp == Mpp(0.25, 0.25)


def test_what_of_an_image_is_not_followed_is_said(tmp_path: Path, pixels: np.ndarray) -> None:
    turned = Image.Exif()
    turned[274] = 6
    Image.fromarray(pixels).save(tmp_path / "turned.jpg", exif=turned)
    frames = [Image.fromarray(pixels), Image.fromarray(255 - pixels)]
    frames[0].save(tmp_path / "moves.webp", save_all=True, append_images=frames[1:], lossless=True)
    slide = open_slide(tmp_path / "turned.jpg")
    assert slide.extent == Extent(200, 130)
    assert slide.flags() == ("it is read as it is stored, its orientation tag is not followed",)
    moves = open_slide(tmp_path / "moves.webp")
    assert moves.flags() == ("of its 2 pictures only the first is read",)
    assert np.array_equal(moves.read_region(BoxL0(0, 0, 200, 130), Extent(200, 130)), pixels)


def test_an_image_needs_no_slide_library(tmp_path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.png")
    source = (
        "import sys; from histogen.slides.base import open_slide; open_slide(sys.argv[1]).thumbnail(50); "
        "print([name for name in ('tiatoolbox', 'torch', 'openslide') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", source, str(tmp_path / "a.png")], capture_output=True, text=True, check=True
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
