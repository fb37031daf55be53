"""Manifests of published sets: drawn files of each layout are labelled as the set is; what is missing is named."""

from __future__ import annotations

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from histogen.errors import ConfigError, ManifestError, StoreError
from histogen.pipelines.import_images import ImportImagesConfig, run
from histogen.store.arrays import CIFAR_BYTES, read_image
from histogen.store.data_manifest import DataManifest, data_manifests, load_manifest, scan_manifest
from histogen.store.image_folder import ImageFolder
from histogen.store.tile_set import TileSet

ROOT = Path(__file__).parents[2]
PATIENT = "benign/SOB/adenosis/SOB_B_A_14-22549AB/40X/SOB_B_A-14-22549AB-40-001.png"
PATHS: dict[str, dict[str, tuple[str | None, str | None, str | None]]] = {
    "nct-crc-he-100k": {
        "NCT-CRC-HE-100K/ADI/ADI-AAA.tif": ("ADI", "train", None),
        "NCT-CRC-HE-100K/TUM/TUM-AAB.tif": ("TUM", "train", None),
        "CRC-VAL-HE-7K/STR/STR-TCGA-AAC.tif": ("STR", "test", None),
    },
    "bach": {
        "ICIAR2018_BACH_Challenge/Photos/Benign/b001.tif": ("Benign", None, None),
        "ICIAR2018_BACH_Challenge/Photos/InSitu/is001.tif": ("InSitu", None, None),
    },
    "breakhis": {
        f"BreaKHis_v1/histology_slides/breast/{PATIENT}": ("benign", None, "14-22549AB"),
        "BreaKHis_v1/histology_slides/breast/malignant/SOB/lobular_carcinoma/SOB_M_LC_14-12204/400X/a.png": (
            "malignant", None, "14-12204",
        ),
    },
    "bracs": {
        "BRACS_RoI/latest_version/train/0_N/BRACS_1.png": ("0_N", "train", None),
        "BRACS_RoI/latest_version/val/6_IC/BRACS_2.png": ("6_IC", "val", None),
        "BRACS_RoI/latest_version/test/5_DCIS/BRACS_3.png": ("5_DCIS", "test", None),
    },
    "tcga-ut": {
        "Adrenocortical_carcinoma/0/TCGA-OR-A5J1-01Z-00-DX1.hash/1_1.jpg": (
            "Adrenocortical_carcinoma", None, "TCGA-OR-A5J1-01Z-00-DX1",
        ),
    },
    "lc25000": {
        "lung_colon_image_set/colon_image_sets/colon_aca/colonca1.jpeg": ("colon_aca", None, None),
        "lung_colon_image_set/lung_image_sets/lung_scc/lungscc1.jpeg": ("lung_scc", None, None),
    },
    "imagenet-1k": {
        "train/n01440764/n01440764_18.JPEG": ("n01440764", "train", None),
        "val/n02102040/ILSVRC2012_val_00000001.JPEG": ("n02102040", "val", None),
    },
    "imagenette": {
        "imagenette2-160/train/n01440764/a.JPEG": ("n01440764", "train", None),
        "imagenette2-160/val/n03888257/b.JPEG": ("n03888257", "val", None),
    },
    "imagenet-sample": {"n01496331_electric_ray.JPEG": ("electric_ray", None, None)},
    "tcga-texture": {"0KNpXTsaNix2T6.jpg": (None, None, None)},
}  # fmt: skip
"""What lies where, with its label, split and group; beside it, an image that is not of the set."""
TABLES = {
    "mhist": (
        "annotations.csv",
        "Image Name,Majority Vote Label,Number of Annotators who Selected SSA (Out of 7),Partition\n"
        "MHIST_aaa.png,SSA,6,train\nMHIST_aab.png,HP,0,test\n",
        {"images/MHIST_aaa.png": ("SSA", "train", None), "images/MHIST_aab.png": ("HP", "test", None)},
    ),
    "tiny-imagenet": (
        "tiny-imagenet-200/val/val_annotations.txt",
        "val_0.JPEG\tn03444034\t0\t32\t44\t62\n",
        {
            "tiny-imagenet-200/val/images/val_0.JPEG": ("n03444034", "val", None),
            "tiny-imagenet-200/train/n01443537/images/n01443537_0.JPEG": ("n01443537", "train", None),
        },
    ),
    "lc25000-lung3": (
        "splits.csv",
        "path,label,split,group_original_photo,source_path\nlung_n/a.jpeg,lung_n,train,lung_n_7,x\n",
        {"lung_n/a.jpeg": ("lung_n", "train", "lung_n_7")},
    ),
}
OWN = ("colorectal-5", "colorectal-5-96px", "tiny-imagenet-10")
"""Like lc25000-lung3, whose table they share, without groups."""
SLIDES = ("panda", "bracs-slides", "camelyon16")
ARRAYS = ("patchcamelyon", "cifar-10")


def draw(root: Path, *paths: str) -> None:
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (number * 40 % 256, 90, 120)).save(root / path)


def said(images: ImageFolder) -> dict[str, tuple[str | None, str | None, str | None]]:
    return {r.path: (r.label, r.split, r.groups.get("group")) for r in images.records}


def test_every_manifest_is_tried_here_and_told_in_the_readme() -> None:
    assert set(data_manifests()) == {*PATHS, *TABLES, *OWN, *SLIDES, *ARRAYS}
    readme = (ROOT / "data_manifests" / "README.md").read_text()
    for name, file in data_manifests().items():
        manifest = load_manifest(name)
        assert f"| `{name}` | {manifest.title} |" in readme
        assert file.read_text().startswith("# ")
        assert all(re.fullmatch("[0-9a-f]{32}", md5) for md5 in manifest.checksums.values())


@pytest.mark.parametrize(
    ("name", "split", "total"),
    [
        ("nct-crc-he-100k", "train", 100_000), ("nct-crc-he-100k", "test", 7_180), ("mhist", "train", 2_175),
        ("mhist", "test", 977), ("breakhis", "all", 7_909), ("bracs", "train", 3_657), ("bracs", "val", 312),
        ("bracs", "test", 570), ("lc25000", "all", 25_000), ("cifar-10", "train", 50_000), ("bach", "all", 400),
    ],
)  # fmt: skip
def test_counts_add_up_to_what_the_papers_say(name: str, split: str, total: int) -> None:
    counts = load_manifest(name).counts[split]
    assert isinstance(counts, dict)
    assert sum(counts.values()) == total


@pytest.mark.parametrize("name", PATHS)
def test_paths_say_what_an_image_is(name: str, tmp_path: Path) -> None:
    draw(tmp_path, *PATHS[name], "elsewhere/other.png")
    found = scan_manifest(tmp_path, load_manifest(name), name=name, partial=True)
    assert said(found) == PATHS[name]
    assert found.num_unlisted == 1


@pytest.mark.parametrize("name", TABLES)
def test_tables_say_what_an_image_is(name: str, tmp_path: Path) -> None:
    file, text, expected = TABLES[name]
    draw(tmp_path, *expected)
    (tmp_path / file).write_text(text)
    manifest = load_manifest(name)
    assert said(scan_manifest(tmp_path, manifest, name=name, partial=True)) == expected
    listed = next(path for path in sorted(expected) if Path(path).name in text)
    (tmp_path / listed).unlink()
    with pytest.raises(ManifestError, match=f"image '{listed}' is not in"):
        scan_manifest(tmp_path, manifest, name=name, partial=True)
    (tmp_path / file).write_text("a,b\n1,2\n")
    if manifest.tables[0].columns is None:
        with pytest.raises(ManifestError, match="has no column"):
            scan_manifest(tmp_path, manifest, name=name, partial=True)


@pytest.mark.parametrize("name", OWN)
def test_selections_share_one_table(name: str, tmp_path: Path) -> None:
    draw(tmp_path, "a/x.jpg")
    (tmp_path / "splits.csv").write_text("path,label,split,source_path\na/x.jpg,a,test,y\n")
    found = scan_manifest(tmp_path, load_manifest(name), name=name, partial=True)
    assert said(found) == {"a/x.jpg": ("a", "test", None)}


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    whole = DataManifest.model_validate(
        {**load_manifest("bach").model_dump(), "counts": {"all": {"Benign": 2, "InSitu": 1, "Normal": 1}}}
    )
    photos = [f"Photos/Benign/b{k}.tif" for k in range(2)]
    draw(tmp_path, *photos, "Photos/InSitu/i.tif", "Photos/Normal/n.tif")
    assert len(scan_manifest(tmp_path, whole, name="bach").records) == 4
    (tmp_path / photos[0]).unlink()
    draw(tmp_path, "Photos/Invasive/v.tif")
    with pytest.raises(ConfigError) as refused:
        scan_manifest(tmp_path, whole, name="bach")
    assert "is not all of bach: Benign 1 of 2, Invasive 1, which is no class of it; get what is missing (" in str(
        refused.value
    )
    assert "--set partial=true" in str(refused.value)
    tried = whole.model_copy(update={"counts": {"test": {"Benign": 1}}})
    with pytest.raises(ConfigError, match="split test: Benign 0 of 1; 4 images without a split; get what"):
        scan_manifest(tmp_path, tried, name="bach")
    two = whole.model_copy(update={"counts": {"all": 5}})
    with pytest.raises(ConfigError, match="4 of 5 images"):
        scan_manifest(tmp_path, two, name="bach")


def test_a_split_that_the_set_has_not_is_named(tmp_path: Path) -> None:
    file, text, expected = TABLES["mhist"]
    draw(tmp_path, *expected)
    (tmp_path / file).write_text(text.replace(",test\n", ",tset\n"))
    manifest = load_manifest("mhist").model_copy(update={"counts": {"train": {"SSA": 1}}})
    with pytest.raises(ConfigError, match="is not all of mhist: 1 images of a split tset, which it has not; get"):
        scan_manifest(tmp_path, manifest, name="mhist")


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("images: [{match: '(a'}]", "is no regular expression"),
        ("images: [{match: '(?P<lable>a)'}]", "has a group 'lable'; there are group, label, split"),
        ("tables: [{file: ../t.csv, path: '{path}', label: l}]", "leads out of the set's folder"),
        ("tables: [{file: t.csv, path: '{path.__class__}', label: l}]", "which names no column"),
        ("tables: [{file: t.csv, path: '{', label: l}]", "tables"),
        ("arrays: [{images: x.npz}]", "is neither of .h5, .bin"),
        ("kind: slides", "a set of slides says what to run"),
    ],
)
def test_a_manifest_of_ones_own_that_cannot_be_used_is_a_sentence(part: str, sentence: str, tmp_path: Path) -> None:
    text = f"title: T\nsource: S\nlicence: L\nprotocol: P\n{part}\n"
    (tmp_path / "mine.yaml").write_text(text if part.startswith("kind") else f"kind: tiles\n{text}")
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        load_manifest(str(tmp_path / "mine.yaml"))


def test_an_expression_with_alternatives_is_one_expression(tmp_path: Path) -> None:
    draw(tmp_path, "deep/a.png", "deep/b.png", "deep/ab.png")
    mine = "title: T\nkind: tiles\nsource: S\nlicence: L\nprotocol: P\nimages: [{match: 'a\\.png|b\\.png'}]\n"
    (tmp_path / "mine.yaml").write_text(mine)
    found = scan_manifest(tmp_path, load_manifest(str(tmp_path / "mine.yaml")), name="mine")
    assert list(said(found)) == ["deep/a.png", "deep/b.png"]


def test_another_folder_a_missing_one_and_a_set_of_slides_are_said(tmp_path: Path) -> None:
    draw(tmp_path, "cat.png")
    with pytest.raises(ConfigError, match="has none of the images of mhist, which lie as annotations.csv"):
        scan_manifest(tmp_path, load_manifest("mhist"), name="mhist")
    with pytest.raises(ConfigError, match="is no folder; give the one into which mhist was unpacked"):
        scan_manifest(tmp_path / "no", load_manifest("mhist"), name="mhist")
    for name in SLIDES:
        with pytest.raises(ConfigError, match="is a set of slides; run: histogen tile "):
            scan_manifest(tmp_path, load_manifest(name), name=name)
    with pytest.raises(ConfigError, match="did you mean bach"):
        load_manifest("bahc")


def write_pcam(root: Path, images: np.ndarray, labels: np.ndarray) -> None:
    for split, part in (("train", slice(0, 6)), ("valid", slice(6, 8)), ("test", slice(8, 10))):
        stem = root / f"camelyonpatch_level_2_split_{split}"
        with h5py.File(f"{stem}_x.h5", "w") as file:
            file["x"] = images[part]
        with h5py.File(f"{stem}_y.h5", "w") as file:
            file["y"] = labels[part].reshape(-1, 1, 1, 1)


def test_images_in_hdf5_become_tiles(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = np.repeat(np.repeat(rng.integers(0, 256, (10, 12, 12, 3), np.uint8), 8, axis=1), 8, axis=2)
    labels = rng.integers(0, 2, 10)
    (tmp_path / "pcam").mkdir()
    write_pcam(tmp_path / "pcam", images, labels)
    config = {"folder": tmp_path / "pcam", "manifest": "patchcamelyon", "out": tmp_path / "out.zarr"}
    with pytest.raises(ConfigError, match="split train: 6 of 262,144 images; split val: 2 of 32,768"):
        run(ImportImagesConfig.model_validate(config))
    assert run(ImportImagesConfig.model_validate({**config, "partial": True})).failures == ()
    tiles = TileSet.open_(tmp_path / "out.zarr")
    assert (tiles.tile_px, tiles.stores[0].mpp) == (96, 0.972)
    paths = [record.path for record in scan_manifest(
        tmp_path / "pcam", load_manifest("patchcamelyon"), name="", partial=True).records]  # fmt: skip
    offset = {"train": 0, "valid": 6, "test": 8}
    for row, path in enumerate(paths):
        split, number = re.fullmatch(r"camelyonpatch_level_2_split_(\w+)_x.h5#(\d+)", path).groups()  # type: ignore[union-attr]
        where = offset[split] + int(number)
        assert np.abs(tiles[row].astype(int) - images[where]).mean() < 4  # JPEG's
        assert tiles.categories("label")[tiles.column("label")[row]] == ("normal", "tumour")[labels[where]]
        assert tiles.categories("split")[tiles.column("split")[row]] == split.removesuffix("id")


def test_cifar_is_read_as_its_page_says(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    images, labels = rng.integers(0, 256, (7, 32, 32, 3), np.uint8), rng.integers(0, 10, 7).astype(np.uint8)
    for name, part in (("data_batch_1", slice(0, 5)), ("test_batch", slice(5, 7))):
        rows = [bytes([label]) + image.transpose(2, 0, 1).tobytes() for label, image in
                zip(labels[part], images[part], strict=True)]  # fmt: skip
        (tmp_path / f"{name}.bin").write_bytes(b"".join(rows))
    found = scan_manifest(tmp_path, load_manifest("cifar-10"), name="cifar-10", partial=True)
    names = load_manifest("cifar-10").names
    expected = [(f"data_batch_1.bin#{k}", names[labels[k]], "train") for k in range(5)]
    expected += [(f"test_batch.bin#{k}", names[labels[5 + k]], "test") for k in range(2)]
    assert [(r.path, r.label, r.split) for r in found.records] == expected
    np.testing.assert_array_equal(read_image(tmp_path / "data_batch_1.bin", 3), images[3])
    with pytest.raises(StoreError, match="holds 2 images, not one of number 2"):
        read_image(tmp_path / "test_batch.bin", 2)
    (tmp_path / "test_batch.bin").write_bytes(b"\0" * (CIFAR_BYTES + 1))
    with pytest.raises(StoreError, match="no whole number of records"):
        scan_manifest(tmp_path, load_manifest("cifar-10"), name="cifar-10", partial=True)


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "folder", "count"),
    [
        ("colorectal-5", "tiles_crc5", 2500), ("colorectal-5-96px", "tiles_crc5_96px", 13381),
        ("lc25000-lung3", "tiles_lc25000_lung3", 1662), ("tiny-imagenet-10", "natural_tinyimagenet10", 5500),
        ("imagenet-sample", "natural_imagenet_varsize", 60), ("tcga-texture", "tiles_tcga_unlabelled", 240),
    ],
)  # fmt: skip
def test_sets_at_hand_are_whole(name: str, folder: str, count: int, real_data: Path) -> None:
    assert len(scan_manifest(real_data / folder, load_manifest(name), name=name).records) == count
