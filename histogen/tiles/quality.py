"""Scores of a tile's pixels: how sharp, how empty."""

from __future__ import annotations

import cv2
import numpy as np

from histogen.tiles.spec import QualitySettings

NEARLY_WHITE = 215
SECOND_DIFFERENCE = np.array([[1, -2, 1]], np.float32)
"""What ``cv2.Sobel`` of second order and size 1 computes, at a third of its time."""


def score_tiles(tiles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (focus, blank), float32 [n] each, of uint8 RGB tiles [n, H, W, 3].

    Focus is the variance of the second difference along rows of the green channel, where both stains absorb most;
    blank is the share of nearly white pixels. Every fourth row and second column is looked at: eight times faster,
    and both scores stay monotone.
    """
    count = len(tiles)
    focus, blank = np.empty(count, np.float32), np.empty(count, np.float32)
    green = np.ascontiguousarray(tiles[:, ::4, ::2, 1])
    rows, width = green.shape[1:]
    flat = green.reshape(-1, width)
    edges = cv2.filter2D(flat, cv2.CV_16S, SECOND_DIFFERENCE)
    white = cv2.threshold(flat, NEARLY_WHITE, 1, cv2.THRESH_BINARY)[1]
    for at in range(count):
        _, deviation = cv2.meanStdDev(edges[at * rows : (at + 1) * rows])
        focus[at] = float(deviation[0, 0]) ** 2
        blank[at] = cv2.countNonZero(white[at * rows : (at + 1) * rows]) / (rows * width)
    return focus, blank


def reason_to_drop(focus: float, blank: float, settings: QualitySettings) -> str | None:
    """Return which filter a tile fails: ``focus``, ``blank`` or None."""
    if settings.min_focus is not None and focus < settings.min_focus:
        return "focus"
    if settings.max_blank is not None and blank > settings.max_blank:
        return "blank"
    return None
