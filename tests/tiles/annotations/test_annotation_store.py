"""TIAToolbox's own class writes the stores that are read here."""

from __future__ import annotations

import functools
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from histogen.errors import SlideError
from histogen.tiles.annotations.read import read_annotations, read_areas


class LoadsNothing(sqlite3.Connection):
    """A connection for Pythons that were built without SQLite extensions, which TIAToolbox asks for."""

    def enable_load_extension(self, enabled: bool) -> None:
        """Do nothing."""


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write (geometry, properties) with TIAToolbox."""
    from tiatoolbox.annotation.storage import Annotation, SQLiteStore

    if not hasattr(sqlite3.Connection, "enable_load_extension"):
        monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=LoadsNothing))

    def make(drawn: list[tuple[Any, dict[str, Any]]], **settings: Any) -> Path:
        store = SQLiteStore(tmp_path / "a.db", **settings)
        store.append_many([Annotation(*one) for one in drawn])
        store.commit()
        store.close()
        return tmp_path / "a.db"

    return make


@pytest.mark.parametrize("compression", ["zlib", None])
def test_geometries_and_classes_come_back(write: Write, compression: str | None) -> None:
    rng = np.random.default_rng(3)
    rings = [np.cumsum(rng.uniform(1, 50, (2, 2)), axis=0) for _ in range(20)]
    boxes = [shapely.box(*ring.ravel()) for ring in rings]
    drawn = [(box, {"type": f"class {i % 3}", "prob": 0.5}) for i, box in enumerate(boxes)]
    many = shapely.MultiPolygon([shapely.box(0, 0, 1, 1), shapely.box(5, 5, 7, 7)])
    holed = shapely.box(0, 0, 9, 9).difference(shapely.box(2, 2, 4, 4))
    drawn += [(many, {"type": 0}), (holed, {"class": "a", "type": "b"}), (boxes[0], {"prob": 1.0})]
    drawn += [(shapely.Point(1, 1), {"type": "p"}), (shapely.LineString([(0, 0), (4, 4)]), {"type": "l"})]
    areas = read_areas(write(drawn, compression=compression))
    expected = [(said.get("class", str(said.get("type", ""))), shape) for shape, said in drawn if shape.area]
    assert [region.name for region in areas.regions] == [name for name, _ in expected]
    assert all(r.geometry.equals(shape) for r, (_, shape) in zip(areas.regions, expected, strict=True))
    assert (areas.num_flat, areas.of_qupath) == (2, False)
    assert len(read_annotations(areas.path).regions) == len(expected) - 1


def test_what_came_from_qupath_keeps_its_classes_and_its_frame(write: Write) -> None:
    box = shapely.box(0, 0, 5, 5)
    said = [
        {"objectType": "annotation", "classification": {"names": ["Tumor", "Positive"]}, "name": "ROI 1"},
        {"objectType": "annotation", "name": "ROI 2"},
    ]
    areas = read_areas(write([(box, one) for one in said]))
    assert areas.of_qupath
    assert [region.name for region in areas.regions] == ["Tumor: Positive", ""]


@pytest.mark.parametrize(
    "spoil",
    [
        "UPDATE annotations SET geometry = x'00'",
        "UPDATE annotations SET geometry = substr(geometry, 1, length(geometry) - 4)",
        "UPDATE annotations SET properties = '{'",
        "UPDATE annotations SET properties = '[1]'",
        "DROP TABLE annotations",
        "DROP TABLE metadata",
    ],
)
def test_a_store_that_is_spoiled_is_one_sentence(write: Write, spoil: str) -> None:
    file = write([(shapely.box(0, 0, 5, 5), {"type": "a"})])
    with sqlite3.connect(file) as connection:
        connection.execute(spoil)
    connection.close()
    with pytest.raises(SlideError, match=r"are not an AnnotationStore \(.+\); export them again"):
        read_areas(file)


def test_a_store_is_only_read(write: Write) -> None:
    file = write([(shapely.box(0, 0, 5, 5), {"type": "a"})])
    before = file.read_bytes()
    file.chmod(0o444)
    assert len(read_areas(file).regions) == 1
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == ["a.db"]


def test_a_geometry_that_is_none_is_said_without_names_of_exceptions(write: Write) -> None:
    path = write([(shapely.box(0, 0, 5, 5), {"type": "a"})], compression=None)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE annotations SET geometry = x'01F401000000000000'")
    connection.close()
    with pytest.raises(SlideError, match=r"are not an AnnotationStore \(Unknown WKB type 500\); export them again$"):
        read_areas(path)
