"""Schedules as functions of the step, so that a resumed run needs no schedule state.

The cosine with linear warm-up is DINO's (Caron et al. 2021, arXiv 2104.14294): the warm-up ends on the peak and the
cosine starts on it, so the peak is held for two steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Cosine:
    """From ``start`` linearly to ``peak`` in ``warmup_steps``, then along a half cosine towards ``end``.

    ``end`` is reached at ``num_steps``, one step after the last.
    """

    peak: float
    end: float
    num_steps: int
    warmup_steps: int = 0
    start: float = 0.0

    def __call__(self, step: int) -> float:
        """Return the value at ``step`` (from 0); after the last step it stays at ``end``."""
        if step < self.warmup_steps:
            return self.start + (self.peak - self.start) * step / max(1, self.warmup_steps - 1)
        progress = min(1.0, (step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps))
        return self.end + 0.5 * (self.peak - self.end) * (1.0 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class LinearWarmup:
    """From ``start`` linearly to ``end`` over ``num_warmup`` ticks (the last of them is ``end``), then constant."""

    start: float
    end: float
    num_warmup: int

    def __call__(self, tick: int) -> float:
        """Return the value at ``tick`` (from 0)."""
        if tick >= self.num_warmup or self.num_warmup == 1:
            return self.end
        return self.start + (self.end - self.start) * tick / (self.num_warmup - 1)
