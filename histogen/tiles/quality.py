"""Scores of a tile's pixels: how sharp, how empty."""

from __future__ import annotations

import cv2
import numpy as np

from histogen.tiles.spec import QualitySettings

NEARLY_WHITE = 215


def score_tile(tile: np.ndarray) -> tuple[float, float]:
    """Return (focus, blank) of uint8 RGB [H, W, 3].

    Focus is the variance of the Laplacian of the green channel, where both stains absorb most; blank is the share of
    nearly white pixels. Every second row and column is looked at: four times faster, and both scores stay monotone.
    """
    green = np.ascontiguousarray(tile[::2, ::2, 1])
    _, deviation = cv2.meanStdDev(cv2.Laplacian(green, cv2.CV_16S))
    blank = np.count_nonzero(green > NEARLY_WHITE) / green.size
    return float(deviation[0, 0]) ** 2, blank


def reason_to_drop(focus: float, blank: float, settings: QualitySettings) -> str | None:
    """Return which filter a tile fails: ``focus``, ``blank`` or None."""
    if settings.min_focus is not None and focus < settings.min_focus:
        return "focus"
    if settings.max_blank is not None and blank > settings.max_blank:
        return "blank"
    return None
