"""How much of its conditioning a trained E-LDM uses: its held-out loss with the right embedding, another, and none."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from histogen.diffusion.loss import NUM_TIMESTEPS
from histogen.evaluation.means import mean_interval
from histogen.pipelines.train_eldm.task import NUM_BANDS, EldmTask

TOLD = ("right", "other", "none")
"""What the denoiser is told: the tile's own embedding, that of another tile, the null."""
LEAST_GAIN = 0.001
"""Share of the loss that the own embedding must take off to count as used. Ours: with many tiles a smaller difference
can be no chance, and still be seen in no tile."""


def conditioning_use(task: EldmTask) -> dict[str, Any]:
    """Return the held-out losses of ``task`` by what it is told and by noise level, as JSON values.

    ``gain`` is how much lower the loss is with the right embedding than with another tile's; its interval draws slides
    where there are several. The conditioning counts as ``ignored`` where the interval does not lie above zero, or the
    gain is less than ``LEAST_GAIN`` of the loss. Loss is weighted as in training; within a level it is not.
    """
    errors, timesteps, weights = (values.double().cpu().numpy() for values in task.errors_by_conditioning())
    slides = task.tiles.store_of(task.heldout)
    levels = []
    for band in range(NUM_BANDS):
        first, last = (NUM_TIMESTEPS * edge // NUM_BANDS for edge in (band, band + 1))
        noise = task.objective.noise[[first, last - 1]].tolist()
        levels.append(
            {"timesteps": [first, last - 1], "noise": [round(level, 4) for level in noise]}
            | _losses(errors[:, band], slides, task.settings.seed)
        )
    overall = _losses((weights * errors).mean(axis=1), slides, task.settings.seed)
    return {
        "tiles": len(task.heldout),
        **overall,
        "ignored": not (overall["gain_ci95"][0] > 0 and overall["gain"] >= LEAST_GAIN * overall["loss"]["other"]),
        "null_trained": task.settings.drop > 0,
        "levels": levels,
    }


def _losses(errors: NDArray[np.float64], slides: NDArray[np.int64], seed: int) -> dict[str, Any]:
    """Return the mean of errors [3, N] (right, other, none), and the gain of right over other with its interval."""
    clusters = slides if len(np.unique(slides)) > 1 else None
    gain = mean_interval(errors[1] - errors[0], np.zeros(len(slides), np.int64), clusters=clusters, seed=seed)
    return {
        "loss": {told: _short(mean) for told, mean in zip(TOLD, errors.mean(axis=1), strict=True)},
        "gain": _short(gain.value),
        "gain_ci95": [_short(gain.low), _short(gain.high)],
    }


def _short(value: float) -> float:
    return float(f"{value:.6g}")
