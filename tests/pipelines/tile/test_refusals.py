"""What ``histogen tile`` refuses to do, in one sentence."""

from __future__ import annotations

from pathlib import Path

from histogen.geometry import Extent
from histogen.pipelines.tile.command import TileConfig, run
from histogen.slides.drawn import draw_slide


def test_a_slide_much_coarser_than_the_tiles_is_refused_with_its_resolution(tmp_path: Path) -> None:
    slide = tmp_path / "coarse.svs"
    draw_slide(slide, seed=1, extent=Extent(640, 512), mpp=4.0)
    outcome = run(TileConfig(slides=[slide], out=tmp_path / "tiles", tile_px=32, mpp=1.0))
    assert outcome.exit_code == 1
    assert "4 microns per pixel, 4 times coarser than the tiles" in outcome.failures[0]
