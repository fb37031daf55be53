"""Which slides a folder holds, whatever their files are called; what was not taken, and why."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from histogen.errors import ConfigError, SlideError
from histogen.geometry import Extent
from histogen.slides.base import open_slide
from histogen.slides.find import Found, find_slides, fingerprint

Write = Callable[..., None]


def picture(seed: int) -> np.ndarray:
    """uint8 [130, 200, 3]: squares of 8 px, each of a colour of its own."""
    colours = np.random.default_rng(seed).integers(0, 256, (17, 25, 3), np.uint8)
    return np.repeat(np.repeat(colours, 8, 0), 8, 1)[:130]


A, B, C = (picture(seed) for seed in (1, 2, 3))


def assert_shows(found: Found, pictures: list[np.ndarray], num_levels: int) -> None:
    """Each slide shows one of the pictures, in this order, at every level, also after it was closed."""
    assert len(found.slides) == len(pictures)
    for source, pixels in zip(found.slides, pictures, strict=True):
        slide = open_slide(source.path, slide_id=source.slide_id)
        assert [level.downsample for level in slide.levels] == [2**k for k in range(num_levels)]
        for level in range(num_levels):
            expected = pixels[:: 2**level, :: 2**level]
            extent = Extent(expected.shape[1], expected.shape[0])
            assert slide.levels[level].extent == extent
            assert np.array_equal(slide.read_level(level, 0, 0, extent), expected)
            slide.close()


@pytest.mark.parametrize(
    "names",
    [
        (["a0.dcm", "a1.dcm"], ["b0.dcm", "b1.dcm"]),
        (["2.dcm", "4.dcm"], ["1.dcm", "3.dcm"][::-1]),
        (["00000001", "00000002"], ["00000003", "00000004"]),
        (["a0.DICOM", "a1.dicom"], ["IM_0001", "IM_0002"]),
        (["1.2.840.5", "1.2.840.6"], ["1.2.840.7", "1.2.840.8"]),
    ],
)
def test_each_series_of_a_folder_is_a_slide(
    tmp_path: Path, write_dicom: Write, write_label: Write, names: tuple[list[str], list[str]]
) -> None:
    write_dicom(tmp_path, names[0], A, series="11")
    write_dicom(tmp_path, names[1], B, series="12")
    write_label(tmp_path / "zz_label", "12")
    found = find_slides([tmp_path])
    assert_shows(found, [A, B] if names[0] < names[1] else [B, A], 2)
    assert found.left == ()
    assert len({source.slide_id for source in found.slides}) == 2


def test_a_folder_with_one_series_is_one_slide(tmp_path: Path, write_dicom: Write, write_label: Write) -> None:
    folder = tmp_path / "case 7"
    write_dicom(folder, ["x", "y", "z"], A, series="11")
    write_label(folder / "label", "11")
    (folder / "notes.txt").write_text("seen")
    found = find_slides([tmp_path])
    assert [source.path for source in found.slides] == [folder]
    assert found.slides[0].slide_id.startswith("case_7-")
    assert_shows(found, [A], 3)
    assert found.sentence == "notes.txt: no slide's name or content"


def test_a_series_beside_other_slides(tmp_path: Path, write_dicom: Write) -> None:
    write_dicom(tmp_path, ["a0.dcm", "a1.dcm"], A, series="11")
    tifffile.imwrite(tmp_path / "b.tif", B, tile=(64, 64), photometric="rgb", metadata=None)
    found = find_slides([tmp_path])
    assert [source.slide_id for source in found.slides] == ["a0", "b"]


@pytest.mark.parametrize("by", ["PyramidUID", "FrameOfReferenceUID", "ContainerIdentifier"])
def test_pyramids_that_share_a_series_are_slides_of_their_own(tmp_path: Path, write_dicom: Write, by: str) -> None:
    """OpenSlide alone would refuse them, or mix their levels where their extents differ."""
    wide = np.concatenate([B, B[:, :60]], axis=1)
    same = {"FrameOfReferenceUID": "1.2.3", "ContainerIdentifier": "S"}
    for number, (name, pixels) in enumerate({"a": A, "b": B, "c": wide}.items()):
        write_dicom(tmp_path, [f"{name}0", f"{name}1"], pixels, series="11", **(same | {by: f"1.2.{number + 7}"}))
        for level in (0, 1):
            rename_instance(tmp_path / f"{name}{level}", number)
    assert_shows(find_slides([tmp_path]), [A, B, wide], 2)


def rename_instance(path: Path, number: int) -> None:
    import pydicom

    dataset = pydicom.dcmread(path)
    uid = f"{dataset.SOPInstanceUID}.{number}"
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = uid
    dataset.save_as(path)


def test_a_pyramid_over_several_series_is_one_slide(tmp_path: Path, write_dicom: Write) -> None:
    """Its finest level is read; that the others are not is said."""
    write_dicom(tmp_path, ["fine.dcm"], A, series="11", PyramidUID="1.2.3.4")
    write_dicom(tmp_path, ["coarse.dcm"], A[::2, ::2], series="12", PyramidUID="1.2.3.4")
    found = find_slides([tmp_path])
    assert_shows(found, [A], 1)
    assert found.sentence == "coarse.dcm: coarser levels in a series of their own"


def test_dicom_that_is_no_slide_is_named(
    tmp_path: Path, write_dicom: Write, write_label: Write, write_other_dicom: Write
):
    write_dicom(tmp_path, ["a0.dcm"], A, series="11")
    write_dicom(tmp_path, ["b0.dcm"], B, series="12")
    write_other_dicom(tmp_path / "ct.dcm")
    write_label(tmp_path / "label.dcm", "14")
    found = find_slides([tmp_path])
    assert_shows(found, [A, B], 1)
    assert found.sentence == (
        "ct.dcm: DICOM, but no whole-slide image; label.dcm: DICOM label or overview without its slide"
    )


def test_a_folder_of_several_slides_is_not_opened_as_one(tmp_path: Path, write_dicom: Write) -> None:
    write_dicom(tmp_path, ["a0"], A, series="11")
    write_dicom(tmp_path, ["b0"], B, series="12")
    with pytest.raises(
        SlideError, match=r"holds 2 DICOM slides, not one; give a file of the one that is meant \(a0, b0\)"
    ):
        open_slide(tmp_path)
    assert open_slide(tmp_path / "b0").extent == Extent(200, 130)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SlideError, match="holds no DICOM slide"):
        open_slide(tmp_path / "empty")


def test_files_of_one_slide_that_are_all_named_are_one_slide(
    tmp_path: Path, write_dicom: Write, write_label: Write
) -> None:
    """As a shell names them for ``folder/*``."""
    write_dicom(tmp_path, ["a0.dcm", "a1.dcm"], A, series="11")
    write_dicom(tmp_path, ["b1.dcm", "b0.dcm"], B, series="12")
    write_label(tmp_path / "0_label.dcm", "12")
    write_tiff(tmp_path / "c.tif")
    found = find_slides(sorted(tmp_path.iterdir()))
    assert [source.path.name for source in found.slides] == ["a0.dcm", "b1.dcm", "c.tif"]
    assert_shows(Found(found.slides[:2]), [A, B], 2)


def test_a_fingerprint_covers_the_files_of_a_slide_and_no_others(tmp_path: Path, write_dicom: Write) -> None:
    write_dicom(tmp_path, ["a0", "a1"], A, series="11")
    write_dicom(tmp_path, ["b0"], B, series="12")
    before = fingerprint(tmp_path / "a0")
    write_dicom(tmp_path, ["b0"], C, series="12")
    (tmp_path / "notes.txt").write_text("x")
    assert fingerprint(tmp_path / "a0") == before
    write_dicom(tmp_path, ["a0", "a1"], np.concatenate([A[:-1], C[-1:]]), series="11")
    assert fingerprint(tmp_path / "a0") != before


def write_tiff(path: Path, *, big: bool = False) -> None:
    tifffile.imwrite(path, A, tile=(64, 64), photometric="rgb", metadata=None, bigtiff=big)


def test_tiffs_are_found_whatever_their_suffix(tmp_path: Path) -> None:
    names = ["a.btf", "b.tf8", "c.TIF", "d", "e.ome.tf2", "TCGA-1.9F1A", "TCGA-1.9F1B", "g.ptif"]
    for name in names:
        write_tiff(tmp_path / name, big=name in ("a.btf", "b.tf8", "d"))
    found = find_slides([tmp_path])
    assert [source.path.name for source in found.slides] == sorted(names)
    assert {source.slide_id for source in found.slides} == {"a", "b", "c", "d", "e", "TCGA-1.9F1A", "TCGA-1.9F1B", "g"}
    for source in found.slides:
        assert np.array_equal(open_slide(source.path).read_level(0, 0, 0, Extent(200, 130)), A)


def test_what_is_not_taken_is_named_with_its_reason(tmp_path: Path) -> None:
    write_tiff(tmp_path / "a.tif")
    write_tiff(tmp_path / "a.tif.bak")
    write_tiff(tmp_path / "half.tif.part")
    for name in ("x.vsi", "x.csv", "y.csv", "z.geojson", "none", ".hidden"):
        (tmp_path / name).write_bytes(b"something")
    for name in ("one.png", "two.jpg", "three.png"):
        Image.fromarray(A).save(tmp_path / name)
    (tmp_path / "store.zarr").mkdir()
    (tmp_path / "inner").mkdir()
    write_tiff(tmp_path / "inner" / "b.tif")
    (tmp_path / "inner" / "back").symlink_to(tmp_path)
    found = find_slides([tmp_path])
    assert [source.slide_id for source in found.slides] == ["a", "b"]
    assert found.sentence == (
        "a.tif.bak, half.tif.part: unfinished, packed or put aside by its name; "
        "3 files (.csv, without suffix): no slide's name or content; "
        "3 files (.png, .jpg): look like images, which `histogen import-images` makes tiles of; "
        "x.vsi: a format that is not read; z.geojson: regions, by their names, which `--annotations FOLDER` "
        "reads; store.zarr: a Zarr folder, but no image of OME-Zarr"
    )


def test_the_files_of_a_scanner_s_slide_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / "a.mrxs").write_bytes(b"\xff\xd8")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "Data0000.dat").write_bytes(b"x")
    (tmp_path / "b.vms").write_bytes(b"x")
    (tmp_path / "b.opt").write_bytes(b"x")
    (tmp_path / "b.jpg").write_bytes(b"x")
    found = find_slides([tmp_path])
    assert ([source.slide_id for source in found.slides], found.left) == (["a", "b"], ())


def test_a_folder_of_images_says_what_to_type(tmp_path: Path) -> None:
    folder = tmp_path / "my tiles"
    folder.mkdir()
    for number in range(3):
        Image.fromarray(A).save(folder / f"{number}.png")
    with pytest.raises(
        ConfigError, match=r"3 files \(\.png\) that look like images; .* run: histogen import-"
    ) as raised:
        find_slides([folder])
    words = shlex.split(re.sub(".*run: ", "", str(raised.value)))
    assert words == ["histogen", "import-images", str(folder), "--out", "my tiles.zarr"]


def test_a_folder_without_slides_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "a.vsi").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"holds no slides \(a\.vsi: a format that is not read\)"):
        find_slides([tmp_path])


def manifest(folder: Path, *rows: str) -> Path:
    (folder / "m.csv").write_text("\n".join(rows), encoding="utf-8")
    return folder / "m.csv"


def test_ids_from_a_manifest_without_names_are_those_from_the_folder(tmp_path: Path) -> None:
    """Spaces, umlauts, names too long for what is made of them, dots, and endings that only some tools know."""
    names = [
        "Prä parat 1.tif",
        "Größe ß 2.tif",
        "L" * 240 + ".tif",
        "a.ome.tif",
        "S-1.v2",
        "b b.svs",
        "b_b.svs",
        "-x.tif",
    ]
    for name in names:
        tifffile.imwrite(tmp_path / name, A)
    from_folder = find_slides([tmp_path]).slides
    from_manifest = find_slides([manifest(tmp_path, "path", *(source.path.name for source in from_folder))]).slides
    assert from_manifest == from_folder
    ids = [source.slide_id for source in from_folder]
    assert len(set(ids)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]{0,159}", name) for name in ids)
    assert {"a", "S-1.v2", "b_b"} < set(ids)


def test_long_names_that_differ_at_their_end_are_kept_apart(tmp_path: Path) -> None:
    for end in "xyz":
        tifffile.imwrite(tmp_path / f"{'L' * 200}{end}.tif", A)
    assert len({source.slide_id for source in find_slides([tmp_path]).slides}) == 3


def test_what_a_manifest_states_wins_over_the_folder_beside_it(tmp_path: Path) -> None:
    (tmp_path / "slides").mkdir()
    for name in ("a", "b"):
        tifffile.imwrite(tmp_path / "slides" / f"{name}.tif", A)
    listed = manifest(tmp_path, "path,slide_id,label", "slides/a.tif,S1,tumour")
    for given in ([listed, tmp_path / "slides"], [tmp_path / "slides", listed]):
        found = {source.slide_id: source.label for source in find_slides(given).slides}
        assert found == {"S1": "tumour", "b": None}


def test_two_manifests_that_say_different_things_of_a_slide_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", A)
    first = manifest(tmp_path, "path,label", "a.tif,tumour").rename(tmp_path / "first.csv")
    second = manifest(tmp_path, "path,label", "a.tif,stroma")
    with pytest.raises(ConfigError, match="slide 'a' is in two manifests that say different things of it; give one"):
        find_slides([first, second])
    assert len(find_slides([first, first]).slides) == 1


@pytest.mark.parametrize("name", ["list.xlsx", "list.TSV", "list.txt", "list.json"])
def test_a_list_in_another_format_is_answered_with_what_to_save(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("path\na.tif\n")
    with pytest.raises(ConfigError, match=r"is no slide; a list of slides is a CSV file with a column path"):
        find_slides([tmp_path / name])


def test_a_manifest_may_end_in_capitals(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", A)
    listed = manifest(tmp_path, "path", "a.tif").rename(tmp_path / "M.CSV")
    assert [source.slide_id for source in find_slides([listed]).slides] == ["a"]
