"""What a tile is: the settings of the grid, the tissue and the quality filters."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from histogen.config import Settings


class TissueSettings(Settings):
    """How tissue is found on an overview of the slide. Defaults were chosen on drawn and on real H&E slides."""

    method: Literal["optical_density", "otsu", "saturation", "morphological", "none"] = "optical_density"
    """What tells tissue from glass: summed optical density, grey level, or saturation; ``morphological`` is
    TIAToolbox's masker as it is (no gap, hole or least area of these settings); ``none`` keeps every tile, and looks
    for no ink."""
    mpp: float = Field(default=8.0, gt=0)
    """Microns per pixel of the overview; coarser when the slide is."""
    faint: bool = False
    """Take faint tissue too: the threshold follows the noise of the glass, not Otsu."""
    close_um: float = Field(default=30.0, ge=0)
    """Gaps up to twice this wide are closed."""
    max_hole_mm2: float = Field(default=0.06, ge=0)
    """Holes (lumens, fat) up to this area count as tissue."""
    min_area_mm2: float = Field(default=0.01, ge=0)
    """Smaller pieces are not tissue."""
    remove_pen: bool = True
    """Blue, green, red and black ink, and black borders, are not tissue."""
    pen_margin_um: float = Field(default=24.0, ge=0)
    """What is this near to ink is not tissue either."""


class QualitySettings(Settings):
    """Filters on the pixels of a tile; its scores are stored whether or not a filter is set."""

    min_focus: float | None = Field(default=None, ge=0)
    """Least variance of the second difference along rows (green channel); ``None`` keeps all."""
    max_blank: float | None = Field(default=None, ge=0, le=1)
    """Largest share of nearly white pixels; ``None`` keeps all."""


class StainSettings(Settings):
    """Stain normalisation (TIAToolbox) of every tile, towards the stains of a reference image."""

    method: Literal["none", "macenko", "vahadane", "reinhard", "ruifrok"] = "none"
    """Macenko et al. (2009), Vahadane et al. (2016), Reinhard et al. (2001), or fixed stains (Ruifrok & Johnston)."""
    target: Path | None = None
    """The reference, an image file with tissue; needed unless the method is ``none``."""

    statistics: bool = False
    """Store each tile's stains before normalisation (Macenko's method): columns ``stain_vectors`` (haematoxylin's and
    eosin's optical densities of R, G, B) and ``stain_strengths`` (99th percentile of each). Milliseconds each."""

    @model_validator(mode="after")
    def _has_target(self) -> StainSettings:
        if self.method != "none" and self.target is None:
            raise ValueError(f"stain.method={self.method} needs stain.target, an image of tissue to normalise to")
        return self
