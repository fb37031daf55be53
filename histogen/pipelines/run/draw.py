"""Draw slides with known classes, the first stage of the demo: no slide has to be downloaded to see the chain work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from histogen.compute.client import Compute
from histogen.compute.run import run_units
from histogen.config import BulkConfig
from histogen.geometry import Extent
from histogen.lease import for_its_output
from histogen.pipelines.outputs import Outcome, claim_output, finish_output
from histogen.seeds import derive_seed
from histogen.slides.drawn import draw_slide


class DrawConfig(BulkConfig):
    """Drawn slides: how many, how large, at which resolution."""

    num_slides: int = Field(default=8, gt=0)
    width_px: int = Field(default=4096, ge=512)
    """Level-0 pixels."""
    height_px: int = Field(default=3072, ge=512)
    """Level-0 pixels."""
    mpp: float = Field(default=0.5, gt=0)
    """Level-0 microns per pixel."""
    region_um: float = Field(default=420.0, gt=0)
    """Width of a region of one class, microns."""
    stain_variation: float = Field(default=1.0, ge=0)
    """How much stains, sharpness and noise differ from slide to slide; 0 is not at all."""


@dataclass(frozen=True)
class DrawUnit:
    """One slide to draw."""

    key: str
    path: Path
    seed: int
    config: DrawConfig
    num_items: int = 1


@for_its_output
def run(config: DrawConfig) -> Outcome:
    """Draw the slides that are not there; same seed, same bytes."""
    out = claim_output(config, command="draw")
    names = [f"drawn-{number:02d}" for number in range(config.num_slides)]
    units = [DrawUnit(name, out / f"{name}.svs", derive_seed(config.seed, "draw", name), config) for name in names]
    missing = [unit for unit in units if not unit.path.with_suffix(".geojson").exists()]
    report = run_units(
        draw,
        missing,
        compute=Compute.from_config(config),
        description="draw",
        item_name="slides",
        items_done=len(units) - len(missing),
    )
    failures = tuple(str(failure) for failure in report.failures)
    if not failures:
        finish_output(out, slides=len(units))
    return Outcome(out, f"{len(units) - len(failures)} drawn slides in {out}", failures)


def draw(unit: DrawUnit) -> dict[str, Any]:
    """Draw one slide and its annotations, which are written last and so mark it as done."""
    c = unit.config
    draw_slide(
        unit.path,
        seed=unit.seed,
        extent=Extent(c.width_px, c.height_px),
        mpp=c.mpp,
        region_um=c.region_um,
        stain_variation=c.stain_variation,
    )
    return {}
