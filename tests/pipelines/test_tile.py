"""The whole of ``histogen tile``: what a user gets, whatever the slides are and however often it is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

import histogen
from histogen.errors import ConfigError, OutputExistsError
from histogen.geometry import Extent
from histogen.pipelines.tile import TileConfig, run
from histogen.slides.base import open_slide
from histogen.slides.drawn import draw_slide
from histogen.slides.native import NativeSlide
from histogen.slides.tiff_writer import write_svs
from histogen.store.tile_store import TileStore

SMALL = Extent(1500, 1100)
DENSE = {"tile_px": 32, "stride_px": 16, "min_tissue_fraction": 0.3, "max_pen_fraction": 1.0}
"""Overlapping small tiles, so that a small slide has several shards."""


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for seed in range(2):
        draw_slide(folder / f"s{seed}.svs", seed=seed, extent=SMALL, region_um=250)
    return folder


def tile(slides: Path | list[Path], out: Path, **settings: object) -> histogen.pipelines.tile.Outcome:  # type: ignore
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
        "import sys; from pathlib import Path; from histogen.pipelines.tile import TileConfig, run\n"
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
    assert np.abs(svs.read_tile(20).astype(int) - dicom.read_tile(20)).mean() < 6
