"""Resizing of 8-bit images exactly as Pillow does it, on any device.

The transforms that published encoders were used with resize in Pillow: antialiased, first along rows and then along
columns, each result rounded to 8 bits, with weights in fixed point of 22 bits. Sums of such products are whole numbers
below 2^53, so that matrix products in float64 give the very same bytes, in whatever order they are added.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

Interpolation = Literal["bilinear", "bicubic"]
FIXED_POINT = 1 << 22
"""Pillow keeps weights as whole multiples of 2^-22 (32 bits less 8 for the pixel and 2 to spare)."""
SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}


def resize(images: torch.Tensor, px: int, interpolation: Interpolation) -> torch.Tensor:
    """Return square images [B, 3, H, W] of whole values in 0-255 at [B, 3, px, px], float32, as Pillow would."""
    height, width = images.shape[-2:]
    with torch.autocast(images.device.type, enabled=False):
        pixels = images.double()
        if width != px:
            pixels = _rounded(pixels @ _matrix(width, px, interpolation, images.device).T)
        if height != px:
            pixels = _rounded(_matrix(height, px, interpolation, images.device) @ pixels)
    return pixels.float()


def centre(images: torch.Tensor, px: int) -> torch.Tensor:
    """Return the middle [..., px, px] of images that are at least as large, as torchvision's CenterCrop."""
    top, left = (round((side - px) / 2.0) for side in images.shape[-2:])
    return images[..., top : top + px, left : left + px]


def _rounded(values: torch.Tensor) -> torch.Tensor:
    return (values + 0.5).floor_().clamp_(0.0, 255.0)


@lru_cache(maxsize=32)
def _matrix(source: int, target: int, interpolation: Interpolation, device: torch.device) -> torch.Tensor:
    return torch.from_numpy(weights(source, target, interpolation)).to(device)


def weights(source: int, target: int, interpolation: Interpolation) -> NDArray[np.float64]:
    """Return Pillow's weights, float64 [target, source]: row i makes pixel i of the target."""
    scale = source / target
    stretch = max(scale, 1.0)
    reach = SUPPORT[interpolation] * stretch
    found = np.zeros((target, source))
    for i in range(target):
        middle = (i + 0.5) * scale
        first, last = max(0, int(middle - reach + 0.5)), min(source, int(middle + reach + 0.5))
        own = _kernel((np.arange(first, last) - middle + 0.5) / stretch, interpolation)
        found[i, first:last] = own / own.sum()
    return np.trunc(found * FIXED_POINT + np.copysign(0.5, found)) / FIXED_POINT


def _kernel(x: NDArray[np.floating], interpolation: Interpolation) -> NDArray[np.floating]:
    """Return the triangle, or Keys' cubic with a = -1/2 (Keys 1981), which is Pillow's."""
    x = np.abs(x)
    if interpolation == "bilinear":
        return np.maximum(1.0 - x, 0.0)
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
