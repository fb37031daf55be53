"""import-images: what becomes of each file, of labels and splits, and of a run that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

import histogen
from histogen.errors import ConfigError, ManifestError, OutputExistsError, StoreError
from histogen.pipelines.import_images import ImportImagesConfig, run
from histogen.pipelines.inspect import describe
from histogen.store import layout
from histogen.store.images import is_baseline_rgb
from histogen.store.tile_set import TileSet
from histogen.testing.contracts import drawn_tiles


def save(path: Path, pixels: np.ndarray, mode: str = "RGB", **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path, **options)
    return path


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "SHARD_TILES", 4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, 10 images of 32 px: JPEG and PNG."""
    for k, pixels in enumerate(drawn_tiles(10, 32)):
        options = {"quality": 95} if k % 2 else {}
        save(tmp_path / "images" / ("cat" if k < 4 else "dog") / f"{k}.{'jpg' if k % 2 else 'png'}", pixels, **options)
    return tmp_path / "images"


def imported(folder: Path, out: Path, **settings: object) -> TileSet:
    outcome = run(ImportImagesConfig(folder=folder, out=out, **settings))
    assert not outcome.failures
    return histogen.open_tiles(out)


@pytest.mark.usefixtures("small_shards")
def test_class_folders_become_labels_and_jpegs_are_copied_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    tiles = imported(folder, tmp_path / "s.zarr")
    paths = tiles.texts("path")
    assert paths == [f"cat/{k}.{'jpg' if k % 2 else 'png'}" for k in range(4)] + [
        f"dog/{k}.{'jpg' if k % 2 else 'png'}" for k in range(4, 10)
    ]
    assert [tiles.categories("label")[code] for code in tiles.column("label")] == [p.split("/")[0] for p in paths]
    assert tiles.tile_px == 32
    assert tiles.kinds == ("natural",)
    for index, path in enumerate(paths):
        if path.endswith("jpg"):
            assert tiles.read_payload(index) == (folder / path).read_bytes()
        else:
            difference = tiles[index].astype(int) - np.asarray(Image.open(folder / path))
            assert np.abs(difference).mean() < 2


def test_a_store_in_a_folder_takes_the_name_of_the_images(folder: Path, tmp_path: Path) -> None:
    imported(folder, tmp_path / "out")
    assert (tmp_path / "out" / "images.zarr" / "zarr.json").exists()


def test_train_and_test_folders_become_splits(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for name in ("a", "b"):
            save(tmp_path / "i" / split / name / "1.png", drawn_tiles(1, 16)[0])
    tiles = imported(tmp_path / "i", tmp_path / "s.zarr")
    assert [tiles.categories("split")[c] for c in tiles.column("split")] == ["train", "train", "val", "val"]
    assert [tiles.categories("label")[c] for c in tiles.column("label")] == ["a", "b", "a", "b"]


@pytest.mark.parametrize("beside", ["stray.png", "extra/1.png", "deep/er/2.jpg"])
def test_what_lies_beside_the_folders_of_splits_makes_them_no_classes(tmp_path: Path, beside: str) -> None:
    for split in ("train", "Test"):
        for name in ("a", "b"):
            save(tmp_path / "i" / split / name / "1.png", drawn_tiles(1, 16)[0])
    save(tmp_path / "i" / beside, drawn_tiles(1, 16)[0])
    with pytest.raises(ConfigError, match=rf"folders Test and train, and 1 images beside them, the first '{beside}'"):
        run(ImportImagesConfig(folder=tmp_path / "i", out=tmp_path / "s.zarr"))
    assert not (tmp_path / "s.zarr").exists()


def test_one_class_may_be_called_train(tmp_path: Path) -> None:
    for name in ("train", "ship"):
        save(tmp_path / "i" / name / "1.png", drawn_tiles(1, 16)[0])
    assert imported(tmp_path / "i", tmp_path / "s.zarr").categories("label") == ["ship", "train"]


def test_the_summary_counts_classes_and_splits(tmp_path: Path) -> None:
    for split, number in (("train", 3), ("test", 2)):
        for name in ("fat", "gland"):
            for k in range(number - (name == "gland")):
                save(tmp_path / "i" / split / name / f"{k}.png", drawn_tiles(1, 16)[0])
    outcome = run(ImportImagesConfig(folder=tmp_path / "i", out=tmp_path / "s.zarr"))
    assert outcome.summary.splitlines()[1:] == ["2 classes: fat 5, gland 3", "2 splits: test 3, train 5"]
    save(tmp_path / "flat" / "1.png", drawn_tiles(1, 16)[0])
    flat = run(ImportImagesConfig(folder=tmp_path / "flat", out=tmp_path / "f.zarr"))
    assert flat.summary.splitlines()[1:] == ["classes: none", "splits: none"]


def test_one_image_of_another_size_does_not_change_the_others(tmp_path: Path) -> None:
    """Nine JPEGs keep their bytes; the odd one is resampled, and named."""
    for number in range(9):
        save(tmp_path / "i" / f"{number}.jpg", drawn_tiles(1, 32)[0])
    save(tmp_path / "i" / "odd.jpg", drawn_tiles(1, 32)[0][:31])
    outcome = run(ImportImagesConfig(folder=tmp_path / "i", out=tmp_path / "s.zarr"))
    tiles = histogen.open_tiles(tmp_path / "s.zarr")
    assert tiles.tile_px == 32
    for number in range(9):
        assert tiles.read_payload(number) == (tmp_path / "i" / f"{number}.jpg").read_bytes()
    assert "9 of them byte for byte" in outcome.summary
    assert "1 are not 32 x 32 px (the first: odd.jpg): resampled" in outcome.summary


def test_images_of_many_sizes_become_256_px(tmp_path: Path) -> None:
    for side in (20, 24, 28):
        save(tmp_path / "i" / f"{side}.png", drawn_tiles(1, side)[0])
    outcome = run(ImportImagesConfig(folder=tmp_path / "i", out=tmp_path / "s.zarr"))
    assert histogen.open_tiles(tmp_path / "s.zarr").tile_px == 256
    assert "3 are not 256 x 256 px" in outcome.summary


def test_images_that_cannot_be_one_tile_of_8_bits_are_refused_each_in_a_sentence(tmp_path: Path) -> None:
    """Colours of 16 bits, which Pillow opens by their high bytes, and files of several pages."""
    folder = tmp_path / "i"
    deep = np.full((16, 16, 3), 4095, np.uint16)  # white in 12 bits; its high bytes are nearly black
    folder.mkdir()
    (folder / "deep.png").write_bytes(imagecodecs.png_encode(deep))
    tifffile.imwrite(folder / "deep.tif", deep, photometric="rgb")
    (folder / "grey.png").write_bytes(imagecodecs.png_encode(np.ascontiguousarray(deep[..., 0])))
    pages = [Image.fromarray(tile) for tile in drawn_tiles(3, 16)]
    pages[0].save(folder / "pages.tif", save_all=True, append_images=pages[1:])
    pages[0].save(folder / "moving.gif", save_all=True, append_images=pages[1:])
    save(folder / "good.png", drawn_tiles(1, 16)[0])
    tifffile.imwrite(folder / "good.tif", drawn_tiles(1, 16)[0], photometric="rgb")
    outcome = run(ImportImagesConfig(folder=folder, out=tmp_path / "s.zarr"))
    said = {sentence.split("'")[1].rpartition("/")[2]: sentence for sentence in outcome.failures}
    assert set(said) == {"deep.png", "deep.tif", "grey.png", "pages.tif", "moving.gif"}
    for name in ("deep.png", "deep.tif", "grey.png"):
        assert "has 16 bits per channel, and nothing says what is white; convert it to 8 bits" in said[name]
    for name in ("pages.tif", "moving.gif"):
        assert "has 3 pages" in said[name]
    tiles = histogen.open_tiles(tmp_path / "s.zarr")
    assert [tiles.texts("path")[i] for i in range(len(tiles))] == ["good.png", "good.tif"]


def test_a_table_gives_label_split_and_groups_of_the_images_it_lists(folder: Path, tmp_path: Path) -> None:
    (folder / "splits.csv").write_text(
        "path,label,split,group_patient,note\ndog/5.jpg,D,test,P2,x\ncat/1.jpg,C,train,P1,y\ncat/0.png,,train,,\n"
    )
    outcome = run(ImportImagesConfig(folder=folder, out=tmp_path / "s.zarr"))
    assert "7 not in the table were left out" in outcome.summary
    tiles = histogen.open_tiles(tmp_path / "s.zarr")
    assert tiles.texts("path") == ["cat/0.png", "cat/1.jpg", "dog/5.jpg"]
    assert tiles.column("label").tolist() == [-1, 0, 1]
    assert tiles.categories("label") == ["C", "D"]
    assert [tiles.categories("split")[c] for c in tiles.column("split")] == ["train", "train", "test"]
    assert tiles.column("group_patient").tolist() == [-1, 0, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name\nx\n", "has no column 'path'"),
        ("path,label,label\ncat/1.jpg,a,b\n", "has column 'label' twice"),
        ("path,split\ncat/1.jpg,train\ncat/2.jpg,Train\n", "splits.csv:3: split 'Train' is 'train' on line 2"),
        ("path,Group\ncat/1.jpg,p\n", "has a column 'Group', which is not 'group'"),
        ("path;label\ncat/1.jpg;a\n", "has semicolons between its columns"),
        ("path\ncat/none.png\n", "splits.csv:2: image 'cat/none.png' is not in"),
        ("path\ncat/1.jpg\ncat/1.jpg\n", "splits.csv:3: image 'cat/1.jpg' is on line 2 too"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_sentence(folder: Path, tmp_path: Path, text: str, message: str) -> None:
    (folder / "splits.csv").write_text(text)
    with pytest.raises(ManifestError, match=message):
        run(ImportImagesConfig(folder=folder, out=tmp_path / "s.zarr"))
    assert not (tmp_path / "s.zarr").exists()


def test_images_of_any_mode_become_rgb(tmp_path: Path) -> None:
    pixels = drawn_tiles(1, 24)[0]
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    save(tmp_path / "i/a_grey.jpg", pixels, "L", quality=95)
    save(tmp_path / "i/b_grey.png", pixels, "L")
    save(tmp_path / "i/c_alpha.png", pixels, "RGBA")
    save(tmp_path / "i/d_palette.png", pixels, "P")
    save(tmp_path / "i/e_cmyk.jpg", pixels, "CMYK", quality=95)
    tiles = imported(tmp_path / "i", tmp_path / "s.zarr")
    assert len(tiles) == 5
    for index in (0, 1):
        assert np.abs(tiles[index].astype(int) - grey[:, :, None]).max() <= 6
    assert np.abs(tiles[2].astype(int) - pixels).mean() < 3


def test_mixed_sizes_are_cut_to_their_centre_square_and_resampled(tmp_path: Path) -> None:
    wide = np.zeros((40, 100, 3), np.uint8)
    wide[:, 30:70] = [200, 30, 30]
    save(tmp_path / "i/wide.png", wide)
    save(tmp_path / "i/tall.png", np.ascontiguousarray(wide.transpose(1, 0, 2)))
    tiles = imported(tmp_path / "i", tmp_path / "s.zarr", tile_px=20)
    for tile in tiles.read_tiles([0, 1]):
        assert np.abs(tile.astype(int) - [200, 30, 30]).max() <= 4  # the centre square, nothing of the black sides
    assert imported(tmp_path / "i", tmp_path / "d.zarr").tile_px == 256


def test_only_baseline_rgb_jpegs_count_as_such(tmp_path: Path) -> None:
    pixels = drawn_tiles(1, 32)[0]
    assert is_baseline_rgb(save(tmp_path / "a.jpg", pixels).read_bytes())
    for bad in (
        save(tmp_path / "b.jpg", pixels, progressive=True),
        save(tmp_path / "c.jpg", pixels, "L"),
        save(tmp_path / "d.png", pixels),
    ):
        assert not is_baseline_rgb(bad.read_bytes())
    assert not is_baseline_rgb(b"")
    assert not is_baseline_rgb(b"\xff\xd8\xff")


@pytest.mark.usefixtures("small_shards")
def test_unreadable_images_are_a_sentence_each_and_the_others_are_done(folder: Path, tmp_path: Path) -> None:
    good = (folder / "dog/9.jpg").read_bytes()
    (folder / "cat/1.jpg").write_bytes(good[:-20])
    (folder / "dog/5.jpg").write_text("no image")
    (folder / "dog/7.jpg").write_bytes(b"")
    Image.fromarray(np.zeros((32, 32), np.uint16)).save(folder / "dog/8.png")
    outcome = run(ImportImagesConfig(folder=folder, out=tmp_path / "s.zarr", tile_px=32))
    assert outcome.exit_code == 1
    assert len(outcome.failures) == 4
    for name, reason in [
        ("1.jpg", "truncated"),
        ("5.jpg", "not an image"),
        ("7.jpg", "not an image"),
        ("8.png", "16 bits"),
    ]:
        assert any(name in sentence and reason in sentence for sentence in outcome.failures), (name, outcome.failures)
    tiles = histogen.open_tiles(tmp_path / "s.zarr")
    assert tiles.ids() == [f"s:{k}" for k in (0, 2, 3, 4, 6, 9)]
    again = run(ImportImagesConfig(folder=folder, out=tmp_path / "s.zarr", tile_px=32, resume=True))
    assert again.failures == outcome.failures


@pytest.mark.usefixtures("small_shards")
def test_resuming_makes_exactly_the_damaged_shard_anew(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = ImportImagesConfig(folder=folder, out=tmp_path / "s.zarr")
    run(config)
    shards = sorted(path for path in (tmp_path / "s.zarr" / "tiles" / "c").rglob("*") if path.is_file())
    right, written = [path.read_bytes() for path in shards], [path.stat().st_mtime_ns for path in shards]
    assert len(shards) > 1
    torn = bytearray(right[1])
    torn[60] ^= 4
    shards[1].write_bytes(torn)
    tiles = histogen.open_tiles(tmp_path / "s.zarr")
    with pytest.raises(StoreError, match="is damaged"):
        tiles.read_tiles(range(len(tiles)))
    run(config.model_copy(update={"resume": True}))
    assert "shards 1 differ from their notes, and are made anew" in capsys.readouterr().err
    assert [path.read_bytes() for path in shards] == right
    assert [path.stat().st_mtime_ns == then for path, then in zip(shards, written, strict=True)].count(False) == 1


def test_an_existing_store_is_left_alone_unless_told(folder: Path, tmp_path: Path) -> None:
    config = ImportImagesConfig(folder=folder, out=tmp_path / "s.zarr")
    run(config)
    before = contents(tmp_path / "s.zarr")
    with pytest.raises(OutputExistsError, match="pass --resume to continue it or --overwrite"):
        run(config)
    assert contents(tmp_path / "s.zarr") == before
    with pytest.raises(ConfigError, match="tile_px: None -> 16"):
        run(ImportImagesConfig(folder=folder, out=tmp_path / "s.zarr", tile_px=16, resume=True))
    (folder / "dog" / "new.png").write_bytes((folder / "dog/4.png").read_bytes())
    with pytest.raises(ConfigError, match="inputs.images"):
        run(config.model_copy(update={"resume": True}))
    run(config.model_copy(update={"overwrite": True}))
    assert len(histogen.open_tiles(tmp_path / "s.zarr")) == 11


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name, message in [("none", "is not a folder"), ("empty", "has no image")]:
        with pytest.raises(ConfigError, match=message):
            run(ImportImagesConfig(folder=tmp_path / name, out=tmp_path / "s.zarr"))
    (tmp_path / "empty" / "a.jpg").write_text("x")
    with pytest.raises(ConfigError, match="no file in .* can be opened as an image"):
        run(ImportImagesConfig(folder=tmp_path / "empty", out=tmp_path / "s.zarr"))


def contents(store: Path) -> dict[str, bytes]:
    """Every file of a store but the recorded config, which names where the store is."""
    files = {p.relative_to(store).as_posix(): p.read_bytes() for p in store.rglob("*") if p.is_file()}
    del files["ledger/config.yaml"]
    return files


@pytest.mark.usefixtures("small_shards")
def test_two_processes_make_the_same_bytes_as_one(folder: Path, tmp_path: Path) -> None:
    imported(folder, tmp_path / "one" / "s.zarr")
    imported(folder, tmp_path / "two" / "s.zarr", workers=2)
    assert contents(tmp_path / "one" / "s.zarr") == contents(tmp_path / "two" / "s.zarr")


SLOW = """
import sys, time
from pathlib import Path
from histogen.pipelines import import_images
from histogen.store import layout
layout.SHARD_TILES = 4
fast = import_images.tile_payload
def slow(*args):
    time.sleep(0.05)
    return fast(*args)
import_images.tile_payload = slow
import_images.run(import_images.ImportImagesConfig(folder=Path(sys.argv[1]), out=Path(sys.argv[2]), resume=True))
"""


@pytest.mark.usefixtures("small_shards")
def test_killed_and_resumed_it_makes_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed" / "s.zarr"
    for shards_before_the_kill in (0, 1, 2):
        child = subprocess.Popen([sys.executable, "-c", SLOW, str(folder), str(out)], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while len(list(out.glob("ledger/tiles/*.json"))) < shards_before_the_kill or not out.exists():
            assert child.poll() is None, "it ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        child.send_signal(signal.SIGKILL)
        child.wait()
    (out / "tiles" / f"junk.tmp.{os.getpid()}").touch()
    imported(folder, out, resume=True)
    imported(folder, tmp_path / "whole" / "s.zarr")
    assert contents(out) == contents(tmp_path / "whole" / "s.zarr")


@pytest.mark.usefixtures("small_shards")
def test_inspect_says_what_is_in_the_store(folder: Path, tmp_path: Path) -> None:
    imported(folder, tmp_path / "s.zarr")
    text = describe(tmp_path / "s.zarr").summary
    for part in ("import-images", "complete", "10 of 32 px", "3 of 3 done", "cat 4, dog 6", "level 90"):
        assert part in text
    imported(folder, tmp_path / "t.zarr")
    assert "2 tile stores, 20 tiles" in describe(tmp_path).summary
    (tmp_path / "empty").mkdir()
    for path, message in [(tmp_path / "none", "does not exist"), (tmp_path / "empty", "without a run or a tile store")]:
        with pytest.raises(ConfigError, match=message):
            describe(path)


@pytest.mark.real
def test_real_natural_images_and_a_labelled_tile_set(real_data: Path, tmp_path: Path) -> None:
    natural = imported(real_data / "natural_tinyimagenet10", tmp_path / "n.zarr")
    assert (len(natural), natural.tile_px, len(natural.categories("label"))) == (5500, 64, 10)
    crc = imported(real_data / "tiles_crc5", tmp_path / "c.zarr")
    assert {"train", "test"} <= set(crc.categories("split"))
    assert crc.read_payload(0) == (real_data / "tiles_crc5" / crc.texts("path")[0]).read_bytes()
