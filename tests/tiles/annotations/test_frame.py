"""From which corner regions count on a slide with bounds: found out, said, set, or refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely

from histogen.errors import SlideError
from histogen.geometry import BoxL0, Extent
from histogen.slides.base import BaseSlide, Level
from histogen.tiles.annotations.frame import Frame, place_areas
from histogen.tiles.annotations.read import Areas, read_areas
from histogen.tiles.regions import Region
from histogen.tiles.tissue import TissueMask

BOUNDS = BoxL0(500, 300, 1000, 400)
BOX = tuple[float, float, float, float]


class Scanned(BaseSlide):
    """2000 x 1200 px, of which BOUNDS was scanned."""

    def _open(self) -> None:
        self.levels = (Level(Extent(2000, 1200), 1.0),)
        self.bounds_l0 = BOUNDS

    def read_level(self, *_: object) -> np.ndarray:
        """Not asked for."""
        raise NotImplementedError

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def slide() -> Scanned:
    return Scanned(Path("s.mrxs"))


def tissue(*boxes: BOX) -> TissueMask:
    """Tissue in boxes of level-0 pixels, on a map of 10 px per pixel; everywhere without any."""
    mask = np.full((120, 200), not boxes)
    for left, top, right, bottom in boxes:
        mask[int(top / 10) : int(bottom / 10), int(left / 10) : int(right / 10)] = True
    return TissueMask(mask, np.zeros_like(mask), (10.0, 10.0))


def areas(*boxes: BOX, of_qupath: bool = True, num_flat: int = 0) -> Areas:
    return Areas(Path("a.geojson"), [Region("a", shapely.box(*box)) for box in boxes], num_flat, of_qupath)


def placed(found: Areas, slide: BaseSlide, mask: TissueMask, frame: Frame = "auto") -> tuple[list[BOX], str]:
    regions, notes = place_areas(found, slide, mask, frame)
    return [region.geometry.bounds for region in regions], "; ".join(notes)


INSIDE = ((0, 0, 480, 390), (500, 10, 990, 390))
MOVED = [(500, 300, 980, 690), (1000, 310, 1490, 690)]


@pytest.mark.parametrize("of_qupath", [False, True])
def test_regions_count_from_the_corner_from_which_they_lie_in_the_scan(slide: Scanned, of_qupath: bool) -> None:
    found, note = placed(areas(*INSIDE, of_qupath=of_qupath), slide, tissue())
    assert (found, note) == (MOVED, "'a.geojson' is counted from the bounds' corner (500, 300)")
    found, note = placed(areas(*MOVED, of_qupath=of_qupath), slide, tissue())
    assert (found, note) == (MOVED, "'a.geojson' is counted from the canvas' corner")


def test_where_both_fit_the_maker_s_habit_counts(slide: Scanned) -> None:
    both = (500, 300, 600, 380)  # in the scan from either corner
    assert placed(areas(both), slide, tissue())[0] == [(1000, 600, 1100, 680)]
    assert placed(areas(both, of_qupath=False), slide, tissue())[0] == [both]
    for frame, expected in (("canvas", both), ("bounds", (1000, 600, 1100, 680))):
        for of_qupath in (False, True):
            assert placed(areas(both, of_qupath=of_qupath), slide, tissue(), frame)[0] == [expected]


@pytest.mark.parametrize("of_qupath", [False, True])
def test_where_the_tissue_speaks_against_the_habit_it_is_refused(slide: Scanned, of_qupath: bool) -> None:
    box = (500, 300, 600, 380)
    other = box if of_qupath else (1000, 600, 1100, 680)
    with pytest.raises(SlideError, match="set frame=canvas or frame=bounds") as refused:
        placed(areas(box, of_qupath=of_qupath), slide, tissue(other))
    assert "100%" in str(refused.value)
    assert placed(areas(box, of_qupath=of_qupath), slide, tissue(other), "canvas")[0] == [box]


def test_most_regions_beside_the_tissue_are_refused_unless_the_frame_is_set(slide: Scanned) -> None:
    blank = [(1200, 310, 1300, 400), (1300, 310, 1400, 400), (510, 310, 600, 400)]
    mask = tissue((500, 300, 700, 690))
    message = "2 of 3 regions in 'a.geojson' lie where slide 's' has no tissue; give .* frame=canvas .* or frame=bounds"
    with pytest.raises(SlideError, match=message):
        placed(areas(*blank), slide, mask)
    assert placed(areas(*blank), slide, mask, "canvas")[0] == blank
    assert placed(areas(*blank[1:]), slide, mask)[0] == blank[1:]  # one of two is not most


def test_a_mask_beyond_the_scan_is_no_tissue(slide: Scanned) -> None:
    """Without a tissue method the mask is set everywhere, also where nothing was scanned."""
    with pytest.raises(SlideError, match="has no tissue"):
        placed(areas((1600, 900, 1990, 1190), of_qupath=False), slide, tissue())


@pytest.mark.parametrize("frame", ["auto", "canvas", "bounds"])
def test_most_regions_outside_of_the_slide_are_refused_and_some_are_said(slide: Scanned, frame: Frame) -> None:
    away = (5000, 5000, 5100, 5100)
    with pytest.raises(SlideError, match=r"2 of 3 regions in 'a.geojson' lie outside of slide 's' \(2000 x 1200 px\)"):
        placed(areas(away, away, MOVED[0]), slide, tissue(), frame)
    slide.bounds_l0 = None
    regions, note = placed(areas(away, *MOVED, num_flat=3), slide, tissue(), frame)
    assert regions == [away, *MOVED]
    assert note == (
        "3 drawings in 'a.geojson' have no area and were left out; "
        "1 of 3 regions in 'a.geojson' lie outside of the slide"
    )


def test_slides_whose_bounds_begin_at_the_corner_have_one_frame(slide: Scanned) -> None:
    for bounds in (None, BoxL0(0, 0, 1500, 1100)):
        slide.bounds_l0 = bounds
        assert placed(areas((10, 10, 90, 90)), slide, tissue(), "bounds") == ([(10, 10, 90, 90)], "")


def test_what_counts_from_the_glass_is_where_it_is(slide: Scanned) -> None:
    found = replace(areas(MOVED[0]), on_glass=True)
    assert placed(found, slide, tissue(), "bounds") == ([MOVED[0]], "")


def test_qupath_s_files_are_known_and_moved_with_their_holes(slide: Scanned, tmp_path: Path) -> None:
    ring, hole = ([[x, y] for x, y in shapely.box(*box).exterior.coords] for box in (INSIDE[0], (100, 100, 200, 150)))
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring, hole]},
               "properties": {"objectType": "annotation", "classification": {"name": "a"}}}  # fmt: skip
    (tmp_path / "a.geojson").write_text(json.dumps(feature))
    regions, _ = place_areas(read_areas(tmp_path / "a.geojson"), slide, tissue(), "auto")
    assert regions[0].name == "a"
    assert regions[0].geometry.equals(shapely.box(*MOVED[0]).difference(shapely.box(600, 400, 700, 450)))
