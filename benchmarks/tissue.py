"""Tissue against the truth of drawn slides, by method: intersection over union, and ink in kept tiles.

    python benchmarks/tissue.py [--slides 12]

The overlap is taken away from ink, whose margin is cut out of the tissue on purpose.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np
from common import machine

from histogen.geometry import Extent
from histogen.slides.base import open_slide, require_mpp
from histogen.slides.drawn import CELL_PX, DrawnTruth, draw_slide
from histogen.tiles.grid import Grid
from histogen.tiles.plan import SlidePlan, plan_slide
from histogen.tiles.spec import TissueSettings

TILE_PX = 128
METHODS = ("optical_density", "otsu", "saturation")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slides", type=int, default=12)
    arguments = parser.parse_args()
    print(machine("opencv-python"))
    rows: dict[str, list[tuple[float, float]]] = {method: [] for method in METHODS}
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(arguments.slides):
            path = Path(folder) / f"{seed}.svs"
            truth = draw_slide(path, seed=seed, extent=Extent(3000, 2200))
            for method in METHODS:
                rows[method].append(judge(path, truth, method))
    for method, values in rows.items():
        overlaps, ink = np.array(values).T
        print(
            f"{method:<16s} IoU: least {overlaps.min():.3f}, median {np.median(overlaps):.3f}; "
            f"most ink in a kept tile {100 * ink.max():.1f} %"
        )


def judge(path: Path, truth: DrawnTruth, method: str) -> tuple[float, float]:
    """Return the intersection over union, and the largest share of true ink in a kept tile."""
    slide = open_slide(path)
    grid = Grid(slide.extent, require_mpp(slide), TILE_PX, TILE_PX, 0.5)
    settings = TissueSettings.model_validate({"method": method})
    plan = plan_slide(slide, grid, tissue=settings, min_tissue_fraction=0.5, max_pen_fraction=0.0)
    shape = truth.class_map.shape
    found = cv2.resize(plan.tissue.mask.astype(np.uint8), shape[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
    far = ~cv2.dilate(truth.pen_mask.astype(np.uint8), np.ones((33, 33), np.uint8)).astype(bool)
    both, either = found & truth.tissue_mask, found | truth.tissue_mask
    return float((both & far).sum() / (either & far).sum()), most_ink(plan, truth)


def most_ink(plan: SlidePlan, truth: DrawnTruth) -> float:
    """Return the largest share of ink in a kept tile, by the truth."""
    cells = TILE_PX // CELL_PX
    corners = [(round(x / CELL_PX), round(y / CELL_PX)) for x, y in zip(*plan.positions_l0, strict=True)]
    return max(float(truth.pen_mask[y : y + cells, x : x + cells].mean()) for x, y in corners)


if __name__ == "__main__":
    main()
