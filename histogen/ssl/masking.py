"""Masked patches (iBOT, Zhou et al. 2022): which patches are hidden from the student.

Half of the global views are masked, a share of 10 to 50 % of their patches each (iBOT's law), in blocks as BEiT draws
them (Bao et al. 2022). Where no block fits any more, single patches fill up to the drawn number (ours).
"""

from __future__ import annotations

import math

import numpy as np

from histogen.seeds import numpy_rng

MIN_BLOCK, MIN_ASPECT, NUM_TRIES = 4, 0.3, 10
"""BEiT's: least patches of a block, least height over width (the greatest is its inverse), tries per block."""


def draw_masks(
    num_views: int, grid: int, *, share: float, ratio: tuple[float, float], seed: int, positions: np.ndarray
) -> np.ndarray:
    """Return bool [V, B, grid, grid], true where a patch is hidden.

    Args:
        num_views: V.
        grid: patches along a side of the view.
        share: of the views that are masked.
        ratio: of the patches that are hidden in a masked view, uniform between the two.
        seed: the step's.
        positions: int [B], of the tiles in the global batch; a mask depends on ``seed``, view and position alone.
    """
    masks = np.zeros((num_views, len(positions), grid, grid), dtype=bool)
    for view in range(num_views):
        for row, position in enumerate(positions.tolist()):
            rng = numpy_rng(seed, "mask", view, position)
            if rng.random() < share:
                _hide_blocks(masks[view, row], max(1, round(rng.uniform(*ratio) * grid**2)), rng)
    return masks


def _hide_blocks(mask: np.ndarray, number: int, rng: np.random.Generator) -> None:
    """Hide ``number`` patches of ``mask`` [grid, grid], in place."""
    grid, tries = len(mask), 0
    while (left := number - int(mask.sum())) and tries < NUM_TRIES:
        area = rng.uniform(min(MIN_BLOCK, left), left)
        aspect = math.exp(rng.uniform(math.log(MIN_ASPECT), -math.log(MIN_ASPECT)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        tries += 1
        if not (0 < height <= grid and 0 < width <= grid):
            continue
        top, start = rng.integers(grid - height + 1), rng.integers(grid - width + 1)
        block = mask[top : top + height, start : start + width]
        if 0 < block.size - int(block.sum()) <= left:
            block[:], tries = True, 0
    free = np.flatnonzero(~mask)
    mask.reshape(-1)[rng.choice(free, number - int(mask.sum()), replace=False)] = True
