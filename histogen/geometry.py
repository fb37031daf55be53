"""Frozen value types for lengths and boxes, each with its frame.

Frames: ``_l0`` means pixels of level 0 of a slide (the finest); a bare ``_px`` means pixels at the mpp that the
name or the docstring states. An extent is (width, height); an array's shape is (rows, columns, …).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Extent:
    """Width and height in pixels of one frame."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Mpp:
    """Microns per pixel along x and y."""

    x: float
    y: float

    @property
    def mean(self) -> float:
        """Geometric mean of both axes, microns per pixel."""
        return float((self.x * self.y) ** 0.5)


@dataclass(frozen=True, slots=True)
class BoxL0:
    """A rectangle in level-0 pixels: left, top, width, height; fractions of a pixel are meant."""

    x: float
    y: float
    width: float
    height: float
