"""Test tiles as another laboratory would give them: stained otherwise, out of focus, compressed harder.

An encoder is worth having for what survives such a change. Where training and test tiles share their slides' stain,
colour alone tells the classes; on restained test tiles it does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from skimage.color import hed_from_rgb, rgb_from_hed

from histogen.evaluation.settings import RobustnessSettings
from histogen.seeds import derive_seed, uniforms
from histogen.store.jpeg import JpegSettings, decode_jpeg, encode_jpeg

DENSITY = -np.log((np.arange(256, dtype=np.float32) + 1) / 256)
"""Optical density of each grey level; black is finite, white is 0."""


@dataclass(frozen=True)
class Shift:
    """One change of test tiles, and how strong it is: a share of the optical density, pixels, or libjpeg's quality."""

    kind: Literal["stain", "blur", "jpeg"]
    strength: float

    @property
    def name(self) -> str:
        """What tables call it, as ``stain ±20 %``."""
        amount = {
            "stain": f"±{100 * self.strength:g} %",
            "blur": f"{self.strength:g} px",
            "jpeg": f"quality {self.strength:g}",
        }
        return f"{self.kind} {amount[self.kind]}"

    def apply(self, tiles: NDArray[np.uint8], items: NDArray[np.int64], *, seed: int) -> NDArray[np.uint8]:
        """Return ``tiles`` [N, H, W, 3], uint8 RGB, changed; ``items`` [N] are their numbers.

        What is drawn for a tile depends on ``seed`` and its number alone.
        """
        if self.kind == "stain":
            return restain(tiles, 1 + self.strength * (2 * uniforms(derive_seed(seed, "stain"), items, 3) - 1))
        if self.kind == "blur":
            blurred = gaussian_filter(tiles.astype(np.float32), (0, self.strength, self.strength, 0), mode="nearest")
            return np.rint(blurred).astype(np.uint8)
        settings = JpegSettings(level=int(self.strength), subsampling="420")
        return np.stack([decode_jpeg(encode_jpeg(tile, settings)) for tile in tiles])


def shifts_of(settings: RobustnessSettings) -> tuple[Shift, ...]:
    """Return the changes that ``settings`` ask for, in their order."""
    stain = [Shift("stain", strength) for strength in settings.stain]
    blur = [Shift("blur", strength) for strength in settings.blur]
    return (*stain, *blur, *(Shift("jpeg", quality) for quality in settings.jpeg))


def restain(tiles: NDArray[np.uint8], factors: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return ``tiles`` [N, H, W, 3], uint8 RGB, with the density of each stain times ``factors`` [N, 3].

    Stains are haematoxylin, eosin and what is left, by scikit-image's matrices (Ruifrok & Johnston 2001); their
    densities are scaled as in "HED jitter" (Tellez et al. 2018), without its shift: glass stays glass.
    """
    changed = np.empty_like(tiles)
    for number, tile in enumerate(tiles):
        matrix = (hed_from_rgb * factors[number]) @ rgb_from_hed
        density = DENSITY[tile] @ matrix.astype(np.float32)
        changed[number] = np.rint(np.clip(256 * np.exp(-density) - 1, 0, 255))
    return changed
