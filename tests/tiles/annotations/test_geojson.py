"""GeoJSON as QuPath and others write it: which class a region has, in which wrappers, with which outlines."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histogen.errors import SlideError
from histogen.tiles.annotations.read import read_annotations, read_areas

SQUARE = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]


def feature(ring: list[list[float]] = SQUARE, *holes: list[list[float]], **properties: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring, *holes]},
        "properties": properties,
    }


def write(folder: Path, content: Any) -> Path:
    (folder / "a.geojson").write_text(json.dumps(content))
    return folder / "a.geojson"


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ({"classification": {"name": "Tumor"}}, "Tumor"),
        ({"classification": {"name": "Tumor: Positive"}}, "Tumor: Positive"),
        ({"classification": {"names": ["Tumor", "Positive"]}}, "Tumor: Positive"),
        ({"classification": {"names": ["Tumor"], "color": [1, 2, 3]}}, "Tumor"),
        ({"classification": {"names": ["Tumor", None]}}, "Tumor"),
        ({"classification": {"names": [], "name": "Tumor"}}, "Tumor"),
        ({"classification": {"name": "Positive", "parentClass": {"name": "Tumor"}}}, "Tumor: Positive"),
        ({"classification": {"name": "Positive", "parentClass": "Tumor"}}, "Tumor: Positive"),
        ({"classification": {"name": "Tumor: Positive", "parentClass": {"name": "Tumor"}}}, "Tumor: Positive"),
        (
            {"classification": {"name": "c", "parentClass": {"name": "b", "parentClass": {"name": "a"}}}},
            "a: b: c",
        ),
        ({"classification": "Tumor"}, "Tumor"),
        ({"classification": {"name": " Tumor "}, "name": "ROI 7"}, "Tumor"),
        ({"classification": {"name": "Ignore*"}}, "Ignore*"),
        ({"objectType": "annotation", "name": "ROI 7"}, ""),
        ({"classification": None, "name": "ROI 7"}, ""),
        ({"isLocked": False, "name": "ROI 7"}, ""),
        ({"name": "tumour"}, "tumour"),
        ({"label": "a", "name": "b"}, "a"),
        ({"class": "c", "label": "a"}, "c"),
        ({"type": "t", "name": "b"}, "t"),
        ({"label": None, "type": "t"}, "t"),
        ({"label": 0}, "0"),
        ({"label": 1.0}, "1"),
        ({"classification": {"name": "0"}}, "0"),
        ({"classification": {"name": 0}}, "0"),
        ({}, ""),
    ],
)
def test_a_class_is_what_its_maker_calls_one(tmp_path: Path, properties: dict[str, Any], name: str) -> None:
    areas = read_areas(write(tmp_path, feature(**properties)))
    assert [region.name for region in areas.regions] == [name]
    assert areas.of_qupath == bool({"classification", "objectType", "isLocked"} & set(properties))


def test_old_qupath_files_are_known_by_their_ids(tmp_path: Path) -> None:
    plain = {**feature(name="ROI 7"), "id": "PathAnnotationObject"}
    areas = read_areas(write(tmp_path, plain))
    assert (areas.of_qupath, areas.regions[0].name) == (True, "")
    with pytest.raises(SlideError, match=r"no area with a class \(1 areas without one\)"):
        read_annotations(tmp_path / "a.geojson")


@pytest.mark.parametrize(
    "properties",
    [{"label": True}, {"label": ["a"]}, {"classification": [1]}, {"classification": {"name": {}}}, {"label": 1e999}],
)
def test_what_is_no_name_is_refused(tmp_path: Path, properties: dict[str, Any]) -> None:
    with pytest.raises(SlideError, match="are not GeoJSON"):
        read_areas(write(tmp_path, feature(**properties)))


WRAPPERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "collection": lambda one: {"type": "FeatureCollection", "features": [one]},
    "untyped": lambda one: {"features": [one]},
    "lone": lambda one: one,
    "list": lambda one: [one],
    "collections": lambda one: [{"type": "FeatureCollection", "features": [one]}, {"features": []}],
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "gzip"])
def test_wrappers_and_encodings_do_not_matter(tmp_path: Path, wrapper: str, encoding: str) -> None:
    text = json.dumps(WRAPPERS[wrapper](feature(classification={"name": "Drüse"})), ensure_ascii=False)
    data = gzip.compress(text.encode()) if encoding == "gzip" else text.encode(encoding)
    (tmp_path / "a").write_bytes(data)
    regions = read_annotations(tmp_path / "a").regions
    assert [(region.name, region.geometry.area) for region in regions] == [("Drüse", 10_000)]


PENTAGRAM = [[50 + 50 * np.sin(a), 50 - 50 * np.cos(a)] for a in 4 * np.pi / 5 * np.arange(5)]
OUTER, INNER = 50.0, 50.0 * np.sin(np.pi / 10) / np.sin(7 * np.pi / 10)


@pytest.mark.parametrize(
    ("rings", "area"),
    [
        ([SQUARE], 10_000),
        ([SQUARE[:-1]], 10_000),  # not closed
        ([SQUARE[::-1]], 10_000),
        ([[[x, y, 7] for x, y in SQUARE]], 10_000),
        ([SQUARE, [[20, 20], [60, 20], [60, 50], [20, 50], [20, 20]]], 8_800),
        ([SQUARE, [[0, 20], [40, 20], [40, 60], [0, 60], [0, 20]]], 8_400),  # shares an edge with the outline
        # two holes that share an edge
        ([SQUARE, [[10, 10], [40, 10], [40, 40], [10, 40]], [[40, 10], [70, 10], [70, 40], [40, 40]]], 8_200),
        # two holes that overlap
        ([SQUARE, [[10, 10], [40, 10], [40, 40], [10, 40]], [[30, 10], [70, 10], [70, 40], [30, 40]]], 8_200),
        ([[[0, 0], [100, 100], [100, 0], [0, 100], [0, 0]]], 5_000),  # a bow tie: both of its halves
        ([PENTAGRAM], 5 * OUTER * INNER * np.sin(np.pi / 5)),  # with its middle
        ([[[0, 0], [100, 0], [100, 100], [50, 100], [50, 140], [50, 100], [0, 100], [0, 0]]], 10_000),  # a spike
    ],
)  # fmt: skip
def test_outlines_enclose_what_one_sees(tmp_path: Path, rings: list[Any], area: float) -> None:
    regions = read_annotations(write(tmp_path, feature(*rings, label="a"))).regions
    assert [region.geometry.area for region in regions] == [pytest.approx(area)]
    assert regions[0].geometry.is_valid


def test_parts_are_one_region_and_what_has_no_area_is_counted(tmp_path: Path) -> None:
    ring = [[200, 0], [210, 0], [210, 10], [200, 10]]
    geometries: list[Any] = [
        {"type": "MultiPolygon", "coordinates": [[SQUARE], [ring]]},
        {"type": "MultiPolygon", "coordinates": [[SQUARE], [[[50, 0], [150, 0], [150, 100], [50, 100]]]]},
        {"type": "GeometryCollection", "geometries": [{"type": "Point", "coordinates": [1, 1]},
                                                       {"type": "Polygon", "coordinates": [SQUARE]}]},
        {"type": "Point", "coordinates": [1, 1]},
        {"type": "MultiPoint", "coordinates": [[1, 1], [2, 2]]},
        {"type": "LineString", "coordinates": [[1, 1], [9, 9]]},
        {"type": "Polygon", "coordinates": [[[0, 0], [5, 5], [10, 10], [0, 0]]]},
        {"type": "Polygon", "coordinates": []},
        None,
    ]  # fmt: skip
    features = [{"type": "Feature", "geometry": g, "properties": {"label": "a"}} for g in geometries]
    areas = read_areas(write(tmp_path, features))
    assert [region.geometry.area for region in areas.regions] == [10_100, 15_000, 10_000]
    assert areas.num_flat == 6
    assert [r.geometry.area for r in read_areas(write(tmp_path, geometries[0])).regions] == [10_100]


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "null", "3", '"a"', "{}", "[1]", '{"features": null}', '{"features": {"a": 1}}',
        '{"type": "Feature", "geometry": {"type": "Blob", "coordinates": [1]}}',
        '{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}}',
        '{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[["a", 0], [1, 1], [2, 0]]]}}',
        '{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[Infinity, 0], [1, 1], [2, 0]]]}}',
        '{"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [[[NaN, 0], [1, 1], [2, 0]]]}}',
        '{"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2]}, "properties": [1]}',
        "[" * 100_000,
        '{"features":' * 100_000,
    ],
)  # fmt: skip
def test_what_is_no_geojson_is_one_sentence(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.geojson").write_text(content)
    with pytest.raises(SlideError, match=r"annotations '.*' are not GeoJSON \(.{1,200}\); export them again"):
        read_areas(tmp_path / "a.geojson")


def test_bytes_that_unpack_to_too_much_or_are_cut_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = gzip.compress(json.dumps(feature(label="a")).encode())
    (tmp_path / "cut").write_bytes(packed[:-9])
    with pytest.raises(SlideError, match="are not"):
        read_areas(tmp_path / "cut")
    (tmp_path / "bomb").write_bytes(gzip.compress(b" " * 5000))
    monkeypatch.setattr("histogen.tiles.annotations.read.MAX_UNPACKED", 4096)
    with pytest.raises(SlideError, match="when unpacked"):
        read_areas(tmp_path / "bomb")
