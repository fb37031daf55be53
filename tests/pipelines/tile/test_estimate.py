"""``histogen plan`` tells what ``tile`` then makes."""

from __future__ import annotations

from pathlib import Path

from histogen.geometry import Extent
from histogen.pipelines.tile.command import run
from histogen.pipelines.tile.config import TileConfig
from histogen.pipelines.tile.estimate import run_plan
from histogen.slides.drawn import draw_slide


def test_the_plan_is_what_is_made(tmp_path: Path) -> None:
    draw_slide(tmp_path / "slides" / "a.svs", seed=5, extent=Extent(1500, 1100), region_um=250)
    (tmp_path / "slides" / "b.svs").write_bytes(b"no slide")
    config = TileConfig(slides=[tmp_path / "slides"], out=tmp_path / "tiles", tile_px=64)
    planned = run_plan(config)
    assert not config.out.exists()
    assert planned.exit_code == 1
    assert "b.svs" in planned.failures[0]
    made = run(config)
    assert planned.results["tiles"] == made.results["tiles"] > 100
    line = next(text for text in planned.summary.splitlines() if text.startswith("a "))
    gigabytes = float(line.split("tiles")[1].split("GB")[0])
    shards = sum(p.stat().st_size for p in config.out.glob("a.zarr/tiles/c/*/0/0/0"))
    assert abs(gigabytes - shards / 1e9) < 0.0006 + 0.3 * shards / 1e9
