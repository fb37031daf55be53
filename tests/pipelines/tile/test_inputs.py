"""What ``histogen tile`` makes of inputs that change, are mended, or cannot be used."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from histogen.errors import ConfigError, ManifestError
from histogen.geometry import Extent
from histogen.pipelines.outputs import Outcome, is_complete
from histogen.pipelines.tile.command import TileConfig, run
from histogen.slides.base import open_slide
from histogen.slides.drawn import draw_slide
from histogen.slides.tiff_writer import write_svs
from histogen.store.layout import chunk_path
from histogen.store.tile_store import TileStore


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    draw_slide(folder / "a.svs", seed=0, extent=Extent(1500, 1100), region_um=250)
    return folder / "a.svs"


def tile(slides: Path, out: Path, **settings: object) -> Outcome:
    return run(TileConfig.model_validate({"slides": [slides], "out": out, "tile_px": 64, **settings}))


def test_a_manifest_that_states_something_else_is_not_resumed(slide: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "m.csv"
    manifest.write_text(f"path,mpp,label\n{slide},0.5,x\n")
    tile(manifest, tmp_path / "tiles")
    manifest.write_text(f"path,mpp,label\n{slide},0.25,x\n")
    with pytest.raises(ConfigError, match=r"cannot resume .*inputs\.a/mpp: .*0\.5.* -> .*0\.25"):
        tile(manifest, tmp_path / "tiles", resume=True)


def test_annotations_that_changed_are_not_resumed(slide: Path, tmp_path: Path) -> None:
    areas = tmp_path / "a.geojson"
    shutil.copy(slide.with_suffix(".geojson"), areas)
    tile(slide, tmp_path / "tiles", annotations=areas)
    areas.write_text(areas.read_text().replace("glands", "crypts"))
    with pytest.raises(ConfigError, match=r"inputs\.a/annotations"):
        tile(slide, tmp_path / "tiles", annotations=areas, resume=True)


def test_a_failed_slide_is_mended_and_a_new_one_added_by_resuming(slide: Path, tmp_path: Path) -> None:
    """The store of the slide that was done is left as it is; the folder may be spelled in another way."""
    folder = tmp_path / "slides"
    folder.mkdir()
    shutil.copy(slide, folder / "a.svs")
    (folder / "b.svs").write_bytes(b"")
    assert tile(folder, tmp_path / "tiles").exit_code == 1
    done = (tmp_path / "tiles" / "a.zarr" / "zarr.json").stat().st_mtime_ns
    for name in ("b.svs", "c.svs"):
        draw_slide(folder / name, seed=1, extent=Extent(1500, 1100), region_um=250)
    outcome = tile(tmp_path / "tiles" / ".." / "slides", tmp_path / "tiles", resume=True)
    assert outcome.failures == ()
    assert "3 slides" in outcome.summary
    assert is_complete(tmp_path / "tiles")
    assert (tmp_path / "tiles" / "a.zarr" / "zarr.json").stat().st_mtime_ns == done
    draw_slide(folder / "b.svs", seed=2, extent=Extent(1500, 1100), region_um=250)
    with pytest.raises(ConfigError, match=r"inputs\.b: "):
        tile(folder, tmp_path / "tiles", resume=True)


def test_a_shard_that_is_gone_is_cut_again(slide: Path, tmp_path: Path) -> None:
    tile(slide, tmp_path / "tiles")
    file = chunk_path(tmp_path / "tiles" / "a.zarr" / "tiles", 0, 4)
    before = file.read_bytes()
    file.unlink()
    assert not TileStore.open_(tmp_path / "tiles" / "a.zarr").is_complete()
    tile(slide, tmp_path / "tiles", resume=True)
    assert file.read_bytes() == before


def test_a_resolution_that_fails_leaves_the_others(slide: Path, tmp_path: Path) -> None:
    outcome = tile(slide, tmp_path / "tiles", mpp=[0.1, 0.5])
    whole = TileStore.open_(tmp_path / "tiles" / "mpp-0.5" / "a@0.5.zarr")
    assert whole.is_complete()
    assert outcome.results["tiles"] == whole.num_tiles > 0
    assert len(outcome.failures) == 1
    assert outcome.failures[0].startswith("at 0.1 mpp: slide 'a' is at 0.5")
    assert "0 slides in" in outcome.summary
    assert "1 slides have failures" in outcome.summary


def test_without_a_tissue_method_every_tile_is_kept_ink_or_not(slide: Path, tmp_path: Path) -> None:
    tile(slide, tmp_path / "tiles", tissue={"method": "none"}, tile_px=100)
    assert TileStore.open_(tmp_path / "tiles" / "a.zarr").num_tiles == 15 * 11


@pytest.mark.parametrize(
    ("coords", "message"),
    [
        ([[0.0, 300.0], [1_000_000.0, 5.0]], r"1 tiles outside of slide 'a' \(1500 x 1100 px\), the first in row 1"),
        ([[0.0, 300.0], [5.0, float("nan")]], r"coords \[5.0, nan\] in row 1; give numbers"),
    ],
)
def test_positions_that_cannot_be_are_named(slide: Path, tmp_path: Path, coords: list, message: str) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["coords"] = np.array(coords)
    outcome = tile(slide, tmp_path / "tiles", positions=tmp_path / "a.h5")
    assert len(outcome.failures) == 1
    assert re.search(message, outcome.failures[0])


def test_a_region_of_interest_beside_the_tissue_is_said_to_be_so(slide: Path, tmp_path: Path) -> None:
    corner = [[0, 0], [20, 0], [20, 20], [0, 20], [0, 0]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [corner]}, "properties": {}}
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    outcome = tile(slide, tmp_path / "tiles", roi=tmp_path / "a.geojson")
    assert "1 of 1 regions in" in outcome.failures[0]


@pytest.mark.parametrize("key", ["annotations", "roi", "positions", "stain.target"])
def test_a_file_that_is_not_there_is_said_before_anything_is_made(slide: Path, tmp_path: Path, key: str) -> None:
    missing = tmp_path / "none.geojson"
    settings = {"stain": {"method": "macenko", "target": missing}} if "." in key else {key: missing}
    with pytest.raises(ConfigError, match=rf"{key} '.*none\.geojson' does not exist; check the path"):
        tile(slide, tmp_path / "tiles", **settings)
    assert not (tmp_path / "tiles").exists()


def test_an_output_that_cannot_be_written_is_one_sentence(slide: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"cannot be written \(Not a directory\); choose another --out"):
        tile(slide, tmp_path / "file" / "tiles")


def test_what_was_not_taken_for_a_slide_is_said(slide: Path, tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    shutil.copy(slide, folder / "a.svs")
    (folder / "notes.txt").write_text("x")
    outcome = tile(folder, tmp_path / "tiles")
    assert outcome.exit_code == 0
    assert "not taken: notes.txt: no slide's name or content" in outcome.summary
    report = json.loads((tmp_path / "tiles" / "report.json").read_text())
    assert report["not_taken"] == {str(folder / "notes.txt"): "no slide's name or content"}
    assert "notes.txt" in (tmp_path / "tiles" / "report.html").read_text()


def test_slide_mpp_fills_gaps_and_does_not_correct(slide: Path, tmp_path: Path) -> None:
    """In a mixed folder: one slide states its resolution, one does not, a third is corrected by the manifest."""
    folder = tmp_path / "slides"
    folder.mkdir()
    for name in ("says", "corrected"):
        shutil.copy(slide, folder / f"{name}.svs")
    pixels = open_slide(slide).read_level(0, 0, 0, Extent(1500, 1100))
    write_svs(folder / "silent.svs", pixels, mpp=None)
    own = open_slide(slide).mpp
    assert own is not None
    manifest = folder / "m.csv"
    manifest.write_text("path,mpp\nsays.svs,\ncorrected.svs,0.75\nsilent.svs,\n")
    outcome = tile(manifest, tmp_path / "tiles", slide_mpp=0.7)
    assert outcome.failures == ()
    stores = {name: TileStore.open_(tmp_path / "tiles" / f"{name}.zarr") for name in ("says", "corrected", "silent")}
    stated = {name: store.provenance["slide"] for name, store in stores.items()}
    assert {name: one["mpp"] for name, one in stated.items()} == {
        "says": [own.x, own.y], "corrected": [0.75, 0.75], "silent": [0.7, 0.7],
    }  # fmt: skip
    assert {name: one["mpp_source"] for name, one in stated.items()} == {
        "says": "metadata", "corrected": "manifest", "silent": "flag",
    }  # fmt: skip
    said = f"the file says {own.x:.4g} (metadata)"
    assert f"mpp 0.7 is for slides that do not state theirs, {said}" in stated["says"]["flags"]
    assert f"mpp 0.75 is stated, {said}" in stated["corrected"]["flags"]
    assert stated["silent"]["flags"] == []
    assert "to be looked at" in outcome.summary


def test_a_command_s_last_line_names_its_page(slide: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from histogen.cli.common import finish

    outcome = tile(slide, tmp_path / "tiles")
    assert outcome.page is not None
    assert outcome.page.is_file()
    finish(outcome)
    assert capsys.readouterr().out.splitlines()[-1] == f"report: {tmp_path / 'tiles' / 'report.html'}"


def test_an_image_that_is_a_tile_is_answered_with_what_to_type(tmp_path: Path) -> None:
    Image.fromarray(np.full((96, 96, 3), 200, np.uint8)).save(tmp_path / "tile.png")
    outcome = tile(tmp_path / "tile.png", tmp_path / "tiles")
    assert outcome.summary.endswith("no slide could be tiled; 1 slides have failures")
    assert "pass --slide-mpp" in outcome.failures[0]
    assert outcome.failures[0].endswith("histogen import-images FOLDER --out STORE")


@pytest.mark.parametrize("name", ["../../evil", "{outside}/evil", "p/q", "..", "Prä parat", "L" * 240])
def test_an_id_that_is_no_name_is_refused_before_anything_is_made(slide: Path, tmp_path: Path, name: str) -> None:
    name = name.format(outside=tmp_path / "outside")
    (tmp_path / "in").mkdir()
    manifest = tmp_path / "in" / "m.csv"
    manifest.write_text(f"path,slide_id\n{slide},b\n{slide},{name}\n")
    with pytest.raises(ManifestError, match=r"m\.csv:3: slide_id "):
        tile(manifest, tmp_path / "in" / "tiles")
    assert [path.name for path in tmp_path.rglob("*")] == ["in", "m.csv"]


def test_slides_with_long_and_odd_names_are_tiled_from_a_manifest_at_two_resolutions(
    slide: Path, tmp_path: Path
) -> None:
    names = ["Größe ß 2.svs", "L" * 240 + ".svs"]
    for name in names:
        shutil.copy(slide, tmp_path / name)
    manifest = tmp_path / "m.csv"
    manifest.write_text("path\n" + "\n".join(names), encoding="utf-8")
    outcome = tile(manifest, tmp_path / "tiles", mpp=[0.5, 1.0], tissue={"method": "none"}, geojson=True)
    assert outcome.failures == ()
    stores = [TileStore.open_(path) for path in (tmp_path / "tiles").glob("mpp-*/*.zarr")]
    assert sorted(store.num_tiles for store in stores) == [11 * 8, 11 * 8, 23 * 17, 23 * 17]
