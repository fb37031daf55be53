"""The whole of ``histogen tile``: what a user gets, whatever the slides are and however often it is killed."""

from __future__ import annotations

import functools
import io
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

import histogen
from histogen.errors import ConfigError, OutputExistsError
from histogen.geometry import Extent
from histogen.pipelines.outputs import Outcome
from histogen.pipelines.tile.command import TileConfig, run
from histogen.slides.base import open_slide
from histogen.slides.drawn import draw_slide
from histogen.slides.native import NativeSlide
from histogen.slides.tiff_writer import write_svs
from histogen.store.jpeg import complete_jpeg
from histogen.store.tile_store import TileStore
from histogen.tiles.source_codec import passthrough_settings

SMALL = Extent(1500, 1100)
DENSE = {"tile_px": 32, "stride_px": 16, "min_tissue_fraction": 0.3, "max_pen_fraction": 1.0}
"""Overlapping small tiles, so that a small slide has several shards."""


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for seed in range(2):
        draw_slide(folder / f"s{seed}.svs", seed=seed, extent=SMALL, region_um=250)
    return folder


def tile(slides: Path | list[Path], out: Path, **settings: object) -> Outcome:
    paths = [slides] if isinstance(slides, Path) else slides
    return run(TileConfig.model_validate({"slides": paths, "out": out, "tile_px": 64, **settings}))


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name not in ("report.json", "report.html", "config.yaml", "run.json")
    }


def test_stores_hold_the_slide_s_pixels_places_and_labels(slides: Path, tmp_path: Path) -> None:
    outcome = tile(slides, tmp_path / "tiles", annotations=slides)
    assert (outcome.exit_code, outcome.failures) == (0, ())
    tiles = histogen.open_tiles(tmp_path / "tiles")
    assert [store.store_id for store in tiles.stores] == ["s0", "s1"]
    assert set(tiles.categories("label")) == {"glands", "stroma", "lymphocytes", "adipose", "mucus", "necrosis"}
    assert (tiles.column("tissue_fraction") >= 0.5).all()
    assert np.isfinite(tiles.column("focus")).all()
    slide = open_slide(slides / "s1.svs", reader="openslide")
    for index in np.flatnonzero(tiles.store_of(np.arange(len(tiles))) == 1)[::7]:
        x, y = (round(float(tiles.column(name)[index])) for name in ("x_l0", "y_l0"))
        error = tiles[int(index)].astype(float) - slide.read_level(0, x, y, Extent(64, 64))
        assert 20 * np.log10(255 / np.sqrt((error**2).mean())) > 30
    group = zarr.open_group(tmp_path / "tiles" / "s0.zarr", mode="r")
    assert np.array_equal(group["tiles"][3], TileStore.open_(tmp_path / "tiles" / "s0.zarr").read_tile(3))
    assert group.attrs["histogen"]["provenance"]["slide"]["mpp"] == [0.5, 0.5]
    assert (tmp_path / "tiles" / "thumbnails" / "s0.jpg").stat().st_size > 1000


def test_same_settings_same_bytes(slides: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        tile(slides, tmp_path / name, **DENSE)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_a_worker_process_writes_the_same_bytes(slides: Path, tmp_path: Path) -> None:
    tile(slides, tmp_path / "a", **DENSE)
    tile(slides, tmp_path / "b", workers=2, **DENSE)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_bad_slides_are_sentences_and_the_others_are_done(slides: Path, tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    shutil.copy(slides / "s0.svs", folder / "good.svs")
    (folder / "cut.svs").write_bytes((slides / "s1.svs").read_bytes()[:40_000])
    (folder / "empty.svs").write_bytes(b"")
    (folder / "letter.svs").write_bytes(b"Dear sir, this is no slide.\n" * 100)
    (folder / "zeros.svs").write_bytes(b"\0" * 5000)
    write_svs(folder / "nompp.svs", np.full((400, 600, 3), 180, np.uint8), mpp=None)
    hurt = folder / "hurt.svs"
    shutil.copy(slides / "s1.svs", hurt)
    level = NativeSlide(hurt).tiff_levels[0]
    broken = 2 * level.columns + 2
    with hurt.open("r+b") as file:
        file.seek(int(level.offsets[broken]))
        file.write(b"\x01" * int(level.sizes[broken]))

    outcome = tile(folder, tmp_path / "tiles")
    report = json.loads((tmp_path / "tiles" / "report.json").read_text())
    rows = {row["slide_id"]: row for row in report["slides"]}
    assert outcome.exit_code == 1
    assert rows["good"]["tiles"] > 50
    assert rows["good"]["failures"] == []
    for name in ("cut", "empty", "letter", "zeros", "nompp"):
        assert len(rows[name]["failures"]) == 1
        assert name in rows[name]["failures"][0]
        assert "\n" not in rows[name]["failures"][0]
    assert "add a column 'mpp' to the manifest or pass --slide-mpp" in rows["nompp"]["failures"][0]

    clean = tile([slides / "s1.svs"], tmp_path / "clean")
    store = TileStore.open_(tmp_path / "tiles" / "hurt.zarr")
    intact = TileStore.open_(tmp_path / "clean" / "s1.zarr")
    x, y = (store.read_rows(f"columns/{name}") for name in ("x_l0", "y_l0"))
    touches = (x < 768) & (x + 64 > 512) & (y < 768) & (y + 64 > 512)
    assert clean.exit_code == 0
    assert touches.any()
    assert (store.tile_ok == ~touches).all()
    assert rows["hurt"]["tiles"] == int((~touches).sum())
    assert len(rows["hurt"]["failures"]) == int(touches.sum())
    assert "cannot be read at level 0, tile (2, 2)" in rows["hurt"]["failures"][0]
    for index in np.flatnonzero(~touches)[::11].tolist():
        assert store.read_payload(index) == intact.read_payload(index)
    resumed = tile(folder, tmp_path / "tiles", resume=True)
    assert resumed.failures == outcome.failures


def test_resume_does_what_is_missing_and_nothing_else(slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "tiles"
    tile(slides, out, **DENSE)
    before = contents(out)
    store = TileStore.open_(out / "s0.zarr")
    assert store.num_shards > 2
    shard, kept = store.path / "tiles/c/1/0/0/0", store.path / "tiles/c/0/0/0/0"
    shard.unlink()
    (store.path / "ledger/tiles/1.json").unlink()
    (store.path / "tiles/c/1/0/0/0.tmp.dead").write_bytes(b"half a shard")
    untouched = kept.stat().st_mtime_ns
    tile(slides, out, resume=True, **DENSE)
    assert contents(out) == before
    assert kept.stat().st_mtime_ns == untouched


def test_an_output_is_not_touched_unasked_nor_resumed_with_other_settings(slides: Path, tmp_path: Path) -> None:
    copy = tmp_path / "slides"
    shutil.copytree(slides, copy)
    out = tmp_path / "tiles"
    tile(copy, out)
    before = contents(out)
    with pytest.raises(OutputExistsError):
        tile(copy, out)
    with pytest.raises(ConfigError, match=r"mpp: 0.5 -> 0.6"):
        tile(copy, out, resume=True, mpp=0.6)
    draw_slide(copy / "s1.svs", seed=99, extent=SMALL)
    with pytest.raises(ConfigError, match=r"inputs.s1"):
        tile(copy, out, resume=True)
    assert contents(out) == before


def test_a_manifest_states_mpp_split_group_and_label(slides: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "slides.csv"
    manifest.write_text(
        "path,slide_id,mpp,split,group,label\n"
        f"{slides / 's0.svs'},first,0.4,train,p1,tumour\n{slides / 's1.svs'},second,,test,p2,\n"
    )
    tile([manifest], tmp_path / "tiles")
    first = TileStore.open_(tmp_path / "tiles" / "first.zarr")
    assert first.provenance["slide"]["mpp_source"] == "manifest"
    steps = np.diff(np.unique(first.read_rows("columns/x_l0")))
    assert np.allclose(steps / np.rint(steps / 80), 80)
    tiles = histogen.open_tiles(tmp_path / "tiles")
    assert tiles.categories("split") == ["test", "train"]
    assert tiles.categories("label") == ["tumour"]
    assert set(tiles.column("label")[tiles.store_of(np.arange(len(tiles))) == 1]) == {-1}


def test_two_slides_of_one_name_are_refused(slides: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    shutil.copy(slides / "s0.svs", tmp_path / "other" / "s0.svs")
    with pytest.raises(ConfigError, match="slide id 's0' stands for both"):
        tile([slides, tmp_path / "other"], tmp_path / "tiles")
    assert not (tmp_path / "tiles").exists()


def test_torch_is_not_imported(slides: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from histogen.pipelines.tile.command import TileConfig, run\n"
        f"run(TileConfig(slides=[Path({str(slides / 's0.svs')!r})], out=Path({str(tmp_path / 't')!r}), tile_px=64))\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0


def kill_half_way(command: list[str], out: Path, num_shards: int) -> bool:
    """Start a run, kill it (SIGKILL) when some shards are noted but not all; whether that was managed."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            done = len(list(out.glob("*.zarr/ledger/tiles/*.json")))
            if 0 < done < num_shards:
                process.send_signal(signal.SIGKILL)
                process.wait()
                break
    return 0 < len(list(out.glob("*.zarr/ledger/tiles/*.json"))) < num_shards


def test_killed_and_resumed_gives_the_same_bytes(slides: Path, tmp_path: Path) -> None:
    tile(slides, tmp_path / "whole", **DENSE)
    expected = contents(tmp_path / "whole")
    num_shards = len(list((tmp_path / "whole").glob("*.zarr/ledger/tiles/*.json")))
    settings = [f"--set={key}={value}" for key, value in DENSE.items()]
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "histogen", "tile", str(slides), "--out", str(out), *settings]
    for _ in range(5):
        shutil.rmtree(out, ignore_errors=True)
        if kill_half_way(command, out, num_shards):
            break
    assert len(list(out.glob("*.zarr/ledger/tiles/*.json"))) < num_shards
    done = subprocess.run([*command, "--resume"], capture_output=True, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert contents(out) == expected


@pytest.mark.real
def test_real_slides_tile_through(real_data: Path, tmp_path: Path) -> None:
    """A DICOM folder is one slide; its makers encoded the SVS's pixels anew, so that they are only about the same."""
    names = ("CMU-1-Small-Region.svs", "dicom_CMU-1-Small-Region", "MoNuSAC_TCGA-5P-A9K0_1.svs")
    outcome = tile([real_data / "slides" / name for name in names], tmp_path / "tiles", tile_px=224)
    assert outcome.exit_code == 0
    svs, dicom = (TileStore.open_(tmp_path / "tiles" / f"{name}.zarr") for name in ("CMU-1-Small-Region", names[1]))
    assert svs.num_tiles == dicom.num_tiles > 40
    assert svs.provenance["slide"]["reader"] == "native"
    assert dicom.provenance["slide"]["vendor"] == "dicom"
    assert np.array_equal(svs.read_rows("columns/x_l0"), dicom.read_rows("columns/x_l0"))
    assert np.abs(svs.read_tile(20).astype(int) - dicom.read_tile(20)).mean() < 8


def test_threads_do_not_change_a_byte(slides: Path, tmp_path: Path) -> None:
    tile(slides, tmp_path / "a", mpp=0.61, **DENSE)
    tile(slides, tmp_path / "b", mpp=0.61, threads=3, **DENSE)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.mark.parametrize("abbreviated", [False, True])
def test_passthrough_copies_the_slide_s_own_bytes(tmp_path: Path, abbreviated: bool) -> None:
    """Aperio's abbreviated RGB streams carry no tables; the store's codec keeps them; OpenSlide's pixels come out."""
    path = tmp_path / "slide.svs"
    draw_slide(tmp_path / "drawn.svs", seed=3, extent=SMALL, region_um=250)
    pixels = NativeSlide(tmp_path / "drawn.svs").read_level(0, 0, 0, Extent(1280, 1024))
    write_own_tiles(path, pixels, abbreviated=abbreviated)
    outcome = tile(path, tmp_path / "tiles", tile_px=256, mpp="native", codec="source", min_tissue_fraction=0.2)
    assert outcome.exit_code == 0
    store, source = TileStore.open_(tmp_path / "tiles" / "slide.zarr"), NativeSlide(path)
    reference = open_slide(path, reader="openslide")
    group = zarr.open_group(store.path, mode="r")
    x, y = (store.read_rows(f"columns/{name}") for name in ("x_l0", "y_l0"))
    assert store.num_tiles >= 5
    for index in range(store.num_tiles):
        at = int(y[index] / 256) * 5 + int(x[index] / 256)
        assert store.read_payload(index) == source.read_payload(0, at)
        expected = reference.read_level(0, int(x[index]), int(y[index]), Extent(256, 256))
        assert np.array_equal(store.read_tile(index), expected)
        assert np.array_equal(group["tiles"][index], expected)


def write_own_tiles(path: Path, pixels: np.ndarray, *, abbreviated: bool) -> None:
    """Write an Aperio-like file whose JPEG streams are made here: whole, or RGB with the tables kept apart."""
    settings = {"subsampling": "444", "outcolorspace": "RGB"} if abbreviated else {"subsampling": "420"}
    parts = [
        pixels[top : top + 256, left : left + 256]
        for top in range(0, pixels.shape[0], 256)
        for left in range(0, pixels.shape[1], 256)
    ]
    streams = [
        bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(p), level=70, colorspace="RGB", **settings)) for p in parts
    ]
    tables = None
    if abbreviated:
        first = streams[0]
        kept, taken, at = [], [], 2
        while first[at + 1] != 0xDA:
            end = at + 2 + int.from_bytes(first[at + 2 : at + 4], "big")
            (taken if first[at + 1] in (0xDB, 0xC4) else kept).append(first[at:end])
            at = end
        tables = b"\xff\xd8" + b"".join(taken) + b"\xff\xd9"
        for segment in taken:
            streams = [stream.replace(segment, b"", 1) for stream in streams]
    tifffile.imwrite(
        path, iter(streams), shape=pixels.shape, dtype=np.uint8, tile=(256, 256), compression="jpeg",
        photometric="rgb" if abbreviated else "ycbcr", subsampling=(1, 1) if abbreviated else (2, 2),
        compressionargs={"outcolorspace": "rgb" if abbreviated else "ycbcr"},
        jpegtables=tables, description="Aperio Image Library v1\r\nx|AppMag = 20|MPP = 0.5", metadata=None,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tile_px": 64}, "stores tiles of 256 x 256 px; use tile_px=256"),
        ({"tile_px": 256, "mpp": 0.6}, "has levels of 0.5, 2 mpp, none of 0.6; use mpp=native"),
        ({"tile_px": 256, "reader": "openslide"}, "whose stored tiles can be copied; use codec=jpeg"),
    ],
)
def test_passthrough_that_does_not_fit_says_what_would(
    slides: Path, tmp_path: Path, settings: dict, message: str
) -> None:
    outcome = tile([slides / "s0.svs"], tmp_path / "tiles", codec="source", **settings)
    assert outcome.exit_code == 1
    assert message in outcome.failures[0]


def test_the_source_s_tables_on_its_own_blocks_lose_least(slides: Path, tmp_path: Path) -> None:
    losses = {}
    for name, settings in {
        "source": {"jpeg": {"level": "source"}},
        "plain": {"jpeg": {"level": 85}, "tile_px": 72},
    }.items():
        tile([slides / "s0.svs"], tmp_path / name, **settings)
        losses[name] = json.loads((tmp_path / name / "report.json").read_text())["slides"][0]["loss_db"]
    assert losses["source"] > 50 > losses["plain"]


@pytest.mark.parametrize("rgb", [False, True])
def test_the_source_s_tables_are_taken_whatever_they_are(tmp_path: Path, rgb: bool) -> None:
    """Oracles: Pillow's reading of the stored tables, and OpenSlide's pixels for the loss that the report states."""
    path = tmp_path / "slide.svs"
    draw_slide(tmp_path / "drawn.svs", seed=3, extent=SMALL, region_um=250)
    pixels = NativeSlide(tmp_path / "drawn.svs").read_level(0, 0, 0, Extent(1280, 1024))
    write_own_tiles(path, pixels, abbreviated=rgb)
    settings = {"tile_px": 128, "mpp": "native", "min_tissue_fraction": 0.2}
    tile(path, tmp_path / "tiles", jpeg={"level": "source"}, **settings)
    tile(path, tmp_path / "plain", **settings)
    store = TileStore.open_(tmp_path / "tiles" / "slide.zarr")
    source, reference = NativeSlide(path), open_slide(path, reader="openslide")
    stored = complete_jpeg(source.read_payload(0, 7), passthrough_settings(source.tiff_levels[0]))
    with Image.open(io.BytesIO(stored)) as ours, Image.open(io.BytesIO(store.read_payload(3))) as theirs:
        assert ours.quantization == theirs.quantization
    x, y = (store.read_rows(f"columns/{name}") for name in ("x_l0", "y_l0"))
    errors = [
        (
            (store.read_tile(i).astype(float) - reference.read_level(0, int(x[i]), int(y[i]), Extent(128, 128))) ** 2
        ).mean()
        for i in range(store.num_tiles)
    ]
    plain, exact = (
        json.loads((tmp_path / name / "report.json").read_text())["slides"][0]["loss_db"] for name in ("plain", "tiles")
    )
    assert 10 * np.log10(255**2 / np.mean(errors)) > 55
    every = max(1, len(errors) // 8)
    sample = np.mean(errors[every // 2 :: every])
    assert exact == pytest.approx(10 * np.log10(255**2 / max(sample, 255**2 / 10**9.9)), abs=0.01)
    assert exact > plain + 5


def test_several_resolutions_in_one_pass(slides: Path, tmp_path: Path) -> None:
    outcome = tile([slides / "s0.svs"], tmp_path / "tiles", mpp=[0.5, 1.0])
    fine = TileStore.open_(tmp_path / "tiles" / "mpp-0.5" / "s0@0.5.zarr")
    coarse = TileStore.open_(tmp_path / "tiles" / "mpp-1.0" / "s0@1.0.zarr")
    assert (fine.mpp, coarse.mpp) == (0.5, 1.0)
    assert outcome.results["tiles"] == fine.num_tiles + coarse.num_tiles
    x, y = (coarse.read_rows(f"columns/{name}") for name in ("x_l0", "y_l0"))
    middle = coarse.num_tiles // 2
    slide = open_slide(slides / "s0.svs", reader="openslide")
    region = slide.read_level(0, int(x[middle]), int(y[middle]), Extent(128, 128)).astype(float)
    halves = region.reshape(64, 2, 64, 2, 3).mean((1, 3))
    assert np.abs(coarse.read_tile(middle) - halves).mean() < 6


def test_region_of_interest_in_and_kept_tiles_out_as_geojson(slides: Path, tmp_path: Path) -> None:
    left = [[0, 0], [750, 0], [750, 1100], [0, 1100], [0, 0]]
    roi = {"features": [{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [left]}, "properties": {}}]}
    (tmp_path / "roi.geojson").write_text(json.dumps(roi))
    tile([slides / "s0.svs"], tmp_path / "part", roi=tmp_path / "roi.geojson", geojson=True)
    tile([slides / "s0.svs"], tmp_path / "all")
    part, whole = (TileStore.open_(tmp_path / name / "s0.zarr") for name in ("part", "all"))
    x_part, x_whole = (store.read_rows("columns/x_l0") for store in (part, whole))
    assert len(x_part) == (x_whole + 32 <= 750).sum() < len(x_whole)
    features = json.loads((tmp_path / "part" / "geojson" / "s0.geojson").read_text())["features"]
    assert [f["geometry"]["coordinates"][0][0][0] for f in features] == x_part.tolist()
    for name in ("tissue_fraction", "focus", "blank"):
        said = [f["properties"]["measurements"][name] for f in features]
        assert np.allclose(said, part.read_rows(f"columns/{name}"), atol=1e-4)
    (tmp_path / "empty").mkdir()
    without = tile([slides / "s0.svs"], tmp_path / "none", roi=tmp_path / "empty")
    assert "slide 's0' has no region of interest" in without.failures[0]


class LoadsNothing(sqlite3.Connection):
    """A connection for Pythons that were built without SQLite extensions, which TIAToolbox asks for."""

    def enable_load_extension(self, enabled: bool) -> None:
        """Do nothing."""


def test_labels_from_an_annotation_store(slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from shapely.geometry import box
    from tiatoolbox.annotation.storage import Annotation, SQLiteStore

    if not hasattr(sqlite3.Connection, "enable_load_extension"):
        monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=LoadsNothing))
    store = SQLiteStore(tmp_path / "s0.db")
    store.append(Annotation(box(0, 0, 750, 1100), {"type": "left"}))
    store.append(Annotation(box(750, 0, 1500, 1100), {"type": "right"}))
    store.commit()
    store.close()
    tile([slides / "s0.svs"], tmp_path / "tiles", annotations=tmp_path)
    tiles = histogen.open_tiles(tmp_path / "tiles")
    assert tiles.categories("label") == ["left", "right"]
    assert ((tiles.column("x_l0") + 32 > 750) == (tiles.column("label") == 1)).all()


def test_padding_keeps_the_border(tmp_path: Path) -> None:
    pixels = np.full((200, 300, 3), (180, 110, 160), np.uint8)
    write_svs(tmp_path / "s.svs", pixels, mpp=0.5, downsamples=())
    flat = {"tissue": {"method": "none", "remove_pen": False}, "min_tissue_fraction": 0.0}
    tile([tmp_path / "s.svs"], tmp_path / "drop", tile_px=128, **flat)
    tile([tmp_path / "s.svs"], tmp_path / "pad", tile_px=128, edge="pad", **flat)
    drop, pad = (TileStore.open_(tmp_path / name / "s.zarr") for name in ("drop", "pad"))
    assert (drop.num_tiles, pad.num_tiles) == (2, 6)
    corner = pad.read_tile(5)
    assert np.abs(corner[:64, :36].astype(int) - (180, 110, 160)).max() <= 3
    assert corner[80:, 50:].min() >= 252
    report = json.loads((tmp_path / "drop" / "report.json").read_text())
    assert report["duplicates"] == 1


@pytest.mark.parametrize("writer", ["trident", "clam"])
def test_other_tools_coordinates_are_the_tiles(slides: Path, tmp_path: Path, writer: str) -> None:
    """Oracle: the pixels that OpenSlide shows there, reduced by the mean over blocks."""
    import h5py

    coords = np.array([[513, 387], [3, 1], [641, 387], [700, 1039]])
    said = {"trident": {"patch_size": 64, "patch_size_level0": 128}, "clam": {"patch_size": 128, "patch_level": 0}}
    (tmp_path / "h5").mkdir()
    with h5py.File(tmp_path / "h5" / "s0_patches.h5", "w") as file:
        file.create_dataset("coords", data=coords).attrs.update(said[writer])
    outcome = tile([slides / "s0.svs"], tmp_path / "tiles", positions=tmp_path / "h5", mpp=1.0)
    store = TileStore.open_(tmp_path / "tiles" / "s0.zarr")
    assert outcome.exit_code == 0
    places = np.stack([store.read_rows(f"columns/{name}") for name in ("x_l0", "y_l0")], 1)
    assert np.array_equal(places, coords)
    assert store.read_rows("columns/tissue_fraction")[1] == 0
    slide = open_slide(slides / "s0.svs", reader="openslide")
    for index, (x, y) in enumerate(coords.tolist()):
        expected = slide.read_level(0, x, y, Extent(128, 128)).reshape(64, 2, 64, 2, 3).mean((1, 3))
        assert np.abs(store.read_tile(index) - expected).mean() < 4
    assert tile([slides / "s0.svs"], tmp_path / "tiles", positions=tmp_path / "h5", mpp=1.0, resume=True).exit_code == 0
    other = tile([slides / "s0.svs"], tmp_path / "other", positions=tmp_path / "h5", mpp=0.7)
    assert "lists tiles of 128 px of level 0, 64 px at 0.7 mpp are 89.6; set mpp=1," in other.failures[0]
    missing = tile([slides / "s1.svs"], tmp_path / "missing", positions=tmp_path / "h5", mpp=1.0)
    assert "slide 's1' has no positions" in missing.failures[0]


@pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning")
def test_stain_statistics_are_columns(slides: Path, tmp_path: Path) -> None:
    """Oracle: the stains that the slide was drawn with (haematoxylin absorbs red more than eosin does)."""
    outcome = tile([slides / "s0.svs"], tmp_path / "tiles", stain={"statistics": True}, tile_px=128)
    assert outcome.failures == ()
    store = TileStore.open_(tmp_path / "tiles" / "s0.zarr")
    vectors = store.read_rows("columns/stain_vectors").reshape(-1, 2, 3)
    strengths = store.read_rows("columns/stain_strengths")
    assert np.isfinite(strengths).mean() > 0.8
    first, second = np.nanmedian(vectors, 0)
    assert np.allclose(np.linalg.norm(vectors[np.isfinite(strengths[:, 0])], axis=2), 1, atol=1e-5)
    assert first[0] > second[0] + 0.2
    assert (np.nanmedian(strengths, 0) > 0.1).all()


@pytest.mark.filterwarnings("ignore:Tensorflow not installed:ImportWarning")
def test_stain_normalisation_brings_slides_together(slides: Path, tmp_path: Path) -> None:
    """Oracle: the spread between slides of the tiles' mean colour, which normalisation must shrink."""
    import cv2

    reference = open_slide(slides / "s1.svs").thumbnail(400)
    cv2.imwrite(str(tmp_path / "target.png"), reference[..., ::-1])
    stain = {"method": "reinhard", "target": str(tmp_path / "target.png")}
    distances = []
    for name, settings in {"plain": {}, "normal": {"stain": stain}}.items():
        outcome = tile(slides, tmp_path / name, min_tissue_fraction=1.0, tile_px=128, **settings)
        assert outcome.failures == ()
        tiles = histogen.open_tiles(tmp_path / name)
        means = tiles.read_tiles(np.arange(len(tiles))).mean((1, 2))
        of = tiles.store_of(np.arange(len(tiles)))
        distances.append(np.abs(means[of == 0].mean(0) - means[of == 1].mean(0)).mean())
    assert distances[1] < 0.5 * distances[0]


def test_97_of_100_are_done(tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    rng = np.random.default_rng(0)
    plain = np.full((130, 150, 3), (190, 120, 170), np.uint8)
    for number in range(100):
        pixels = np.clip(plain + rng.normal(0, 12, plain.shape), 0, 255).astype(np.uint8)
        write_svs(folder / f"n{number:03d}.svs", pixels, mpp=0.5, downsamples=())
    content = (folder / "n010.svs").read_bytes()
    (folder / "n010.svs").write_bytes(content[: len(content) // 2])
    (folder / "n020.svs").write_bytes(bytes(len(content)))
    hurt = NativeSlide(folder / "n030.svs").tiff_levels[0]
    with (folder / "n030.svs").open("r+b") as file:
        file.seek(int(hurt.offsets[0]))
        file.write(b"\0" * int(hurt.sizes[0]))
    outcome = tile(folder, tmp_path / "tiles", tissue={"method": "none", "remove_pen": False})
    rows = json.loads((tmp_path / "tiles" / "report.json").read_text())["slides"]
    failed = [row["slide_id"] for row in rows if row["failures"]]
    assert outcome.exit_code == 1
    assert failed == ["n010", "n020", "n030"]
    assert sum(row["tiles"] == 4 for row in rows) == 97
    page = (tmp_path / "tiles" / "report.html").read_text()
    assert len(re.findall("<td[^>]*>n0", page)) == 100
    assert "n010.svs&#x27; cannot be opened: the file is cut" in page
