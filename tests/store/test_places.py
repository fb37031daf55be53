"""Positions of CLAM and TRIDENT, written here as each version of theirs writes them, land where their makers meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from histogen.errors import StoreError
from histogen.geometry import Extent
from histogen.slides.base import Level
from histogen.store.export_hdf5 import read_features
from histogen.store.places import Owner, read_places

h5py = pytest.importorskip("h5py")

LEVELS = (Level(Extent(4100, 3000), 1.0), Level(Extent(1025, 750), 4.0), Level(Extent(256, 187), 16.0))
SLIDE = Owner("s", frozenset({"s", "s.svs", "S 1"}), LEVELS[0].extent, LEVELS)
STORE = Owner("s@0.5", frozenset({"s@0.5", "s", "s.svs"}), LEVELS[0].extent)
CORNERS = np.array([[0, 0], [1024, 0], [512, 1984], [3072, 960]])
LEVEL_1 = {"patch_level": 1, "patch_size": 256, "downsample": (4.0, 4.0), "level_dim": (1025, 750), "name": "s"}


def write(folder: Path, coords: Any, said: dict[str, Any], *, old: int = 0, features: bool = False) -> Path:
    """Write a file; ``old``: as CLAM's first version, images of this side beside bare coordinates."""
    with h5py.File(folder / "s.h5", "w") as h5:
        array = h5.create_dataset("coords", data=coords)
        if old:
            array = h5.create_dataset("imgs", shape=(len(coords), old, old, 3), dtype="u1")
        array.attrs.update(said)
        if features:
            h5["features"] = np.ones((len(coords), 2), np.float32)
    return folder / "s.h5"


@pytest.mark.parametrize("owner", [SLIDE, STORE])
@pytest.mark.parametrize(
    ("said", "side"),
    [
        ({"patch_size": 512, "patch_size_level0": 1024, "level0_width": 4100, "level0_height": 3000}, 1024),
        ({"patch_size": 256, "patch_level": 0, "downsample": np.ones(2), "level_dim": (4100, 3000)}, 256),
        (LEVEL_1, 1024),
        ({**LEVEL_1, "name": b"s"}, 1024),
        ({**LEVEL_1, "name": "/data/cohort/s.svs"}, 1024),
        ({**LEVEL_1, "name": "s@2"}, 1024),
        ({**LEVEL_1, "downsample": 4.0}, 1024),
        ({**LEVEL_1, "downsample": (4.0, 4.005)}, 1024),
        ({k: v for k, v in LEVEL_1.items() if k != "downsample"}, 1024),
        ({k: v for k, v in LEVEL_1.items() if k != "level_dim"}, 1024),
        ({**LEVEL_1, "patch_level": 2, "downsample": (16.03, 16.03), "level_dim": (256, 187)}, 4096),
        ({"patch_size": 256}, None),
        ({}, None),
    ],
)
def test_coords_are_level_0_and_sides_are_of_their_level(
    tmp_path: Path, owner: Owner, said: dict[str, Any], side: float | None
) -> None:
    found = read_places(write(tmp_path, CORNERS, said), owner)
    np.testing.assert_array_equal(found.corners, CORNERS)
    assert found.side == (side if side is None else pytest.approx(side, rel=0.003))
    assert found.spacing == min(512, 960)


def test_the_scale_that_only_the_slide_knows_is_open_without_it(tmp_path: Path) -> None:
    said = {"patch_level": 1, "patch_size": 256}
    assert read_places(write(tmp_path, CORNERS, said), SLIDE).side == 1024
    assert read_places(write(tmp_path, CORNERS, said), STORE).side is None
    with pytest.raises(StoreError, match="counts in pixels of a level of which it states no downsample"):
        read_places(write(tmp_path, CORNERS, said, old=256), STORE)


@pytest.mark.parametrize("owner", [SLIDE, STORE])
@pytest.mark.parametrize("reduced", [1, 2])
def test_first_files_count_in_pixels_of_their_level(tmp_path: Path, owner: Owner, reduced: int) -> None:
    """CLAM's first version divides by the level's downsample and by its own reduction, and rounds down."""
    said = {"patch_level": 1, "downsample": (4.0, 4.0), "level_dim": (1025, 750), "wsi_name": "s"}
    said["downsampled_level_dim"] = (1025 // reduced, 750 // reduced)
    found = read_places(write(tmp_path, CORNERS // (4 * reduced), said, old=128), owner)
    np.testing.assert_array_equal(found.corners, CORNERS)
    assert found.side == 128 * 4 * reduced


@pytest.mark.parametrize("owner", [SLIDE, STORE])
@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"name": "t"}, "of slide 't' (its name)"),
        ({"name": "s2"}, "of slide 's2' (its name)"),
        ({"wsi_name": "s-1"}, "slide_id 's-1' in a manifest"),
        ({"patch_size_level0": 64, "level0_width": 4100, "level0_height": 2000}, "of a slide of 4100 x 2000 px"),
        ({**LEVEL_1, "level_dim": (900, 700)}, "level_dim is 900 x 700 px"),
        ({**LEVEL_1, "level_dim": (750, 1025)}, "level_dim is 750 x 1025 px"),
        ({**LEVEL_1, "downsample": (2.0, 2.0)}, "give the file of this slide"),
        ({**LEVEL_1, "downsample": (0.0, 0.0)}, "its downsample is [0.0, 0.0]"),
        ({**LEVEL_1, "patch_size": 0}, "its tiles are 0 px wide"),
        ({**LEVEL_1, "patch_level": -1}, "its patch_level is [-1.0]"),
        ({**LEVEL_1, "patch_level": "one"}, "not a number"),
        ({**LEVEL_1, "level_dim": (1025,)}, "not a width and a height"),
    ],
)
def test_a_file_of_another_slide_is_refused(tmp_path: Path, owner: Owner, said: dict[str, Any], message: str) -> None:
    with pytest.raises(StoreError) as refused:
        read_places(write(tmp_path, CORNERS, said), owner)
    assert message in str(refused.value)
    with pytest.raises(StoreError) as refused:
        read_features(write(tmp_path, CORNERS, said, features=True), owner)
    assert message in str(refused.value)


@pytest.mark.parametrize(
    ("coords", "message"),
    [
        (np.zeros((0, 2)), r"coords \(0, 2\) are not \[N, 2\]"),
        (np.zeros((3, 4)), r"coords \(3, 4\)"),
        (np.array([[0, 0], [np.inf, 1]]), r"coords \[inf, 1.0\] in row 1"),
        (np.array([[0, 0], [1, 2.0**60]]), "in row 1; give numbers of pixels"),
        (np.array([b"a", b"b"]), "no coordinates of CLAM or TRIDENT"),
    ],
)
def test_what_are_no_corners_is_said(tmp_path: Path, coords: np.ndarray, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        read_places(write(tmp_path, coords, {}), SLIDE)


def test_a_level_beyond_the_slide_s_needs_its_downsample(tmp_path: Path) -> None:
    said = {"patch_level": 5, "patch_size": 64}
    with pytest.raises(StoreError, match="patch_level is 5, of which it states no downsample"):
        read_places(write(tmp_path, CORNERS, said), SLIDE)
    assert read_places(write(tmp_path, CORNERS, {**said, "downsample": 64}), SLIDE).side == 4096
