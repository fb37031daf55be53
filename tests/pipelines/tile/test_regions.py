"""Regions drawn elsewhere label the tiles that they were drawn on, also where a slide has bounds."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

import histogen
from histogen.errors import ConfigError
from histogen.pipelines.outputs import Outcome
from histogen.pipelines.tile.command import TileConfig, run
from histogen.pipelines.tile.estimate import run_plan
from histogen.slides.base import open_slide
from histogen.slides.tiff_writer import write_svs
from histogen.store.tile_store import TileStore

PX = 64
CORNER, SCANNED = (5 * PX, 2 * PX), (8 * PX, 6 * PX)
CANVAS = (16 * PX, 11 * PX)


def write_scn(path: Path) -> None:
    """Write a Leica SCN of 0.5 micron pixels: SCANNED px of tissue, from CORNER on a canvas of CANVAS px."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(90, 180, (SCANNED[1], SCANNED[0], 3)).astype(np.uint8)
    view, offset, extent = ([v * 500 for v in pair] for pair in (SCANNED, CORNER, CANVAS))
    text = f"""<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01"><collection name="c"
    sizeX="{extent[0]}" sizeY="{extent[1]}"><image name="a"><creationDate>2020-01-01T00:00:00Z</creationDate>
    <device model="Leica SCN400" version="1"/><pixels sizeX="{SCANNED[0]}" sizeY="{SCANNED[1]}">
    <dimension sizeX="{SCANNED[0]}" sizeY="{SCANNED[1]}" r="0" ifd="0"/></pixels>
    <view sizeX="{view[0]}" sizeY="{view[1]}" offsetX="{offset[0]}" offsetY="{offset[1]}"/><scanSettings>
    <objectiveSettings><objective>20</objective></objectiveSettings><illuminationSettings>
    <illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image></collection></scn>"""
    tifffile.imwrite(
        path, pixels, photometric="rgb", tile=(128, 128), compression="jpeg", description=text, metadata=None,
        software=False, bigtiff=True, resolution=(20_000, 20_000), resolutionunit="CENTIMETER",
    )  # fmt: skip


@pytest.fixture(scope="module")
def scn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slides") / "s.scn"
    write_scn(path)
    return path


def tile(slides: Path, out: Path, **settings: Any) -> Outcome:
    flat = {"tile_px": PX, "mpp": "native", "tissue": {"method": "none"}}
    return run(TileConfig.model_validate({"slides": [slides], "out": out, **flat, **settings}))


CLASSES = {"left": (0, 0, 3, 6), "right": (3, 0, 8, 4), "low": (3, 4, 8, 6)}
"""Left, top, right, bottom, tiles from the corner of the scan."""


def ring(name: str, corner: tuple[int, int]) -> list[list[int]]:
    left, top, right, bottom = (v * PX for v in CLASSES[name])
    x, y = corner
    return [
        [x + left, y + top],
        [x + right, y + top],
        [x + right, y + bottom],
        [x + left, y + bottom],
        [x + left, y + top],
    ]


def geojson(corner: tuple[int, int], *, of_qupath: bool = True) -> str:
    said = {n: {"classification": {"names": ["x", n]}, "name": "ROI"} if of_qupath else {"label": n} for n in CLASSES}
    return json.dumps([
        {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring(n, corner)]}, "properties": said[n]}
        for n in CLASSES
    ])  # fmt: skip


def image_scope(corner: tuple[int, int]) -> str:
    def region(name: str) -> str:
        rows = "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in ring(name, corner))
        return f'<Annotation Name="{name}"><Regions><Region><Vertices>{rows}</Vertices></Region></Regions></Annotation>'

    return f"<Annotations>{''.join(region(name) for name in CLASSES)}</Annotations>"


def check_labels(out: Path, prefix: str = "", corner: tuple[int, int] = CORNER) -> None:
    """The tiles of the scan (from ``corner`` on), and no others, have the class of the rectangle in which they lie."""
    tiles = histogen.open_tiles(out)
    names, codes = tiles.categories("label"), tiles.column("label")
    for x, y, code in zip(tiles.column("x_l0"), tiles.column("y_l0"), codes, strict=True):
        column, row = (x - corner[0]) / PX, (y - corner[1]) / PX
        inside = [n for n, (a, b, c, d) in CLASSES.items() if a <= column < c and b <= row < d]
        assert (names[code] if code >= 0 else None) == (f"{prefix}{inside[0]}" if inside else None)
    assert (codes >= 0).sum() == 8 * 6


@pytest.mark.parametrize(
    ("text", "frame"),
    [
        (geojson((0, 0)), "auto"),
        (geojson((0, 0)), "bounds"),
        (geojson(CORNER), "auto"),
        (geojson(CORNER), "canvas"),
        (geojson(CORNER, of_qupath=False), "auto"),
        (image_scope(CORNER), "auto"),
        (image_scope((0, 0)), "bounds"),
    ],
)
def test_labels_and_regions_of_interest_lie_on_the_scan(scn: Path, tmp_path: Path, text: str, frame: str) -> None:
    (tmp_path / "a").write_text(text)
    outcome = tile(scn, tmp_path / "tiles", annotations=tmp_path / "a", frame=frame)
    assert not outcome.failures
    assert "to be looked at: s ('a' is counted from the" in outcome.summary
    check_labels(tmp_path / "tiles", "x: " if "ROI" in text else "")
    tile(scn, tmp_path / "roi", roi=tmp_path / "a", frame=frame)
    kept = histogen.open_tiles(tmp_path / "roi")
    assert len(kept) == 8 * 6
    assert (kept.column("x_l0").min(), kept.column("y_l0").min()) == CORNER


def test_the_wrong_frame_is_refused_or_what_was_asked_for(scn: Path, tmp_path: Path) -> None:
    bounds = open_slide(scn).bounds_l0
    assert bounds is not None
    assert (bounds.x, bounds.y, bounds.width, bounds.height) == (*CORNER, *SCANNED)
    far = (CORNER[0] + SCANNED[0] + PX, CORNER[1])
    (tmp_path / "a.geojson").write_text(geojson(far))
    outcome = tile(scn, tmp_path / "tiles", annotations=tmp_path / "a.geojson")
    assert "regions in" in outcome.failures[0]
    assert "set frame=canvas" in outcome.failures[0] or "outside of slide" in outcome.failures[0]
    assert not (tmp_path / "tiles" / "s.zarr").exists()


@pytest.mark.parametrize(("frame", "corner"), [("auto", (0, 0)), ("bounds", (0, 0)), ("canvas", CORNER)])
def test_tiles_go_out_as_geojson_in_the_frame_of_qupath_and_come_back(
    scn: Path, tmp_path: Path, frame: str, corner: tuple[int, int]
) -> None:
    (tmp_path / "roi").write_text(geojson(CORNER, of_qupath=False))
    tile(scn, tmp_path / "tiles", roi=tmp_path / "roi", frame="canvas" if frame == "canvas" else "auto", geojson=True)
    written = tmp_path / "tiles" / "geojson" / "s.geojson"
    features = json.loads(written.read_text())["features"]
    corners = {tuple(one["geometry"]["coordinates"][0][0]) for one in features}
    assert corners == {(corner[0] + x * PX, corner[1] + y * PX) for x in range(8) for y in range(6)}
    assert not tile(scn, tmp_path / "again", roi=written, frame=frame).failures
    again, first = (histogen.open_tiles(tmp_path / name) for name in ("again", "tiles"))
    for name in ("x_l0", "y_l0"):
        np.testing.assert_array_equal(again.column(name), first.column(name))


def write_ndpi(path: Path, right_nm: int, down_nm: int) -> None:
    """Write an NDPI of SCANNED px of 0.5 microns, whose middle lies so far from that of the glass."""
    pixels = np.random.default_rng(0).integers(90, 180, (SCANNED[1], SCANNED[0], 3)).astype(np.uint8)
    said = [(65420, 4, 1, 1), (65421, 11, 1, 20.0), (65422, 9, 1, right_nm), (65423, 9, 1, down_nm), (65424, 9, 1, 0)]
    tifffile.imwrite(
        path, pixels, photometric="rgb", compression="jpeg", rowsperstrip=SCANNED[1], metadata=None, software=False,
        resolution=(20_000, 20_000), resolutionunit="CENTIMETER", extratags=[(*one, True) for one in said],
    )  # fmt: skip


@pytest.mark.parametrize(("right_nm", "down_nm"), [(0, 0), (-12_345_000, 6_000_500), (31_000, -7_000_000)])
def test_ndpa_labels_the_tiles_of_its_ndpi(tmp_path: Path, right_nm: int, down_nm: int) -> None:
    """Oracle: the middle of the image is at its offset, and a pixel is 500 nm, whatever resolution the user states."""
    write_ndpi(tmp_path / "s.ndpi", right_nm, down_nm)

    def view(name: str) -> str:
        middle_x, middle_y = SCANNED[0] / 2, SCANNED[1] / 2
        rows = "".join(
            f"<point><x>{right_nm + (x - middle_x) * 500}</x><y>{down_nm + (y - middle_y) * 500}</y></point>"
            for x, y in ring(name, (0, 0))
        )
        return (
            f"<ndpviewstate><title>{name}</title><coordformat>nanometers</coordformat><annotation type='freehand' "
            f"displayname='AnnotateFreehand'><closed>1</closed><pointlist>{rows}</pointlist></annotation></ndpviewstate>"
        )

    (tmp_path / "s.ndpi.ndpa").write_text(f"<annotations>{''.join(view(name) for name in CLASSES)}</annotations>")
    assert not tile(tmp_path / "s.ndpi", tmp_path / "tiles", annotations=tmp_path, slide_mpp=0.4).failures
    check_labels(tmp_path / "tiles", corner=(0, 0))


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two")
    pixels = np.random.default_rng(1).integers(90, 180, (6 * PX, 8 * PX, 3)).astype(np.uint8)
    for name in ("a.svs", "b.svs"):
        write_svs(folder / name, pixels, mpp=0.5, downsamples=())
    return folder


SQUARE = {"type": "Polygon", "coordinates": [[[0, 0], [PX, 0], [PX, PX], [0, PX]]]}
ONE = json.dumps({"type": "Feature", "geometry": SQUARE, "properties": {"label": "x"}})


@pytest.mark.parametrize(
    "name", ["a.geojson", "a.svs.geojson", "a.json", "a.GEOJSON", "a.geojson.gz", "a.svs.json.gz", "a.xml", "a.XML"]
)
def test_a_folder_holds_a_file_for_each_slide_by_any_of_its_names(two: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "regions").mkdir()
    data = image_scope((0, 0)) if name.lower().endswith("xml") else ONE
    (tmp_path / "regions" / name).write_bytes(gzip.compress(data.encode()) if name.endswith("gz") else data.encode())
    outcome = tile(two, tmp_path / "tiles", annotations=tmp_path / "regions")
    assert not outcome.failures
    store = TileStore.open_(tmp_path / "tiles" / "a.zarr")
    assert (store.read_rows("columns/label") >= 0).any()
    assert "to be looked at: b (has no file of annotations)" in outcome.summary
    assert "label" not in TileStore.open_(tmp_path / "tiles" / "b.zarr").list_rows("columns")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"annotations '.*' have no file of any of the 2 slides \(it is empty\); name them as the slides"),
        (["c.geojson", "x.txt"], r"\(it holds c\.geojson, x\.txt\)"),
        (["a.geojson", "a.xml"], r"'.*a\.geojson' and 'a\.xml' are both of slide 'a'; keep one of them"),
    ],
)  # fmt: skip
def test_a_folder_that_fits_no_slide_or_one_twice_is_refused(
    two: Path, tmp_path: Path, names: list[str], message: str
) -> None:
    (tmp_path / "regions").mkdir()
    for name in names:
        (tmp_path / "regions" / name).write_text(ONE)
    with pytest.raises(ConfigError, match=message):
        tile(two, tmp_path / "tiles", annotations=tmp_path / "regions")
    assert not (tmp_path / "tiles").exists()


@pytest.mark.parametrize("key", ["annotations", "roi", "positions"])
def test_one_file_for_several_slides_is_refused(two: Path, tmp_path: Path, key: str) -> None:
    (tmp_path / "r.geojson").write_text(ONE)
    config = TileConfig.model_validate({"slides": [two], "out": tmp_path / "tiles", key: tmp_path / "r.geojson"})
    for command in (run, run_plan):
        with pytest.raises(ConfigError, match=rf"{key} '.*' is one file, and there are 2 slides; give a folder"):
            command(config)


def test_positions_of_another_slide_are_refused_and_those_of_a_level_are_cut(two: Path, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    corners = np.array([[0, 0], [PX, PX], [2 * PX, PX // 2]])
    said = {"patch_level": 1, "patch_size": PX // 4, "downsample": (4.0, 4.0), "level_dim": (2 * PX, 3 * PX // 2)}
    (tmp_path / "h5").mkdir()
    for name, more in (("a", {"name": "a"}), ("b", {"name": "c"})):
        with h5py.File(tmp_path / "h5" / f"{name}.h5", "w") as h5:
            h5.create_dataset("coords", data=corners).attrs.update({**said, **more})
    outcome = tile(two, tmp_path / "tiles", positions=tmp_path / "h5")
    assert len(outcome.failures) == 1
    assert "it is of slide 'c' (its name); give the file of this slide" in outcome.failures[0]
    store = TileStore.open_(tmp_path / "tiles" / "a.zarr")
    places = np.stack([store.read_rows(f"columns/{name}") for name in ("x_l0", "y_l0")], 1)
    np.testing.assert_array_equal(places, corners)
