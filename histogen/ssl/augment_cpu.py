"""Views on a CPU, in 8 bits per channel and in DINO's order of operations, as Pillow makes them.

Each view is a handful of calls into torch's antialiased 8-bit bicubic and OpenCV, which work at the width of the
CPU's registers; rounding to 8 bits after each operation is what Pillow does as well.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from histogen.ssl.colour import GRAY, stain_matrices
from histogen.ssl.draws import BRIGHTNESS, CONTRAST, HUE, SATURATION, Draws
from histogen.ssl.resample import blur_kernels

Picture = NDArray[np.uint8]
_DENSITY = -np.log((np.arange(256, dtype=np.float32) + 1.0) / 256.0)
"""Optical density of each of the 256 values."""
_DOWN = -0.5
"""Pillow cuts off where OpenCV rounds."""


def write_views(
    pixels: torch.Tensor,
    draws: Draws,
    slots: np.ndarray,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    out: torch.Tensor,
) -> None:
    """Write the views of ``pixels`` (uint8 [B, H, W, 3]) as drawn, normalised, to ``out[slots[b, v], b]``.

    ``draws`` are of views [B, V], ``slots`` int [B, V]; ``out`` is float32 [slots, B, 3, px, px].
    """
    px, target = out.shape[-1], out.numpy()
    kernels = blur_kernels(draws.sigma.reshape(-1)).astype(np.float32).reshape(*draws.sigma.shape, -1)
    for b in range(len(pixels)):
        tile = pixels[b : b + 1].permute(0, 3, 1, 2)
        for v in range(slots.shape[1]):
            view = colour_and_blur(crop(tile, draws, b, v, px), draws, b, v, kernels[b, v])
            planes = cv2.split(view)
            for plane, place, m, s in zip(planes, target[int(slots[b, v]), b], mean, std, strict=True):
                cv2.addWeighted(plane, 1.0 / (255.0 * s), plane, 0.0, -m / s, dst=place, dtype=cv2.CV_32F)


def crop(tile: torch.Tensor, draws: Draws, b: int, v: int, px: int) -> Picture:
    """Return the drawn box of ``tile`` (uint8 [1, 3, H, W], channels last in memory) resized, flipped and turned."""
    top, left, height, width = (int(a[b, v]) for a in (draws.top, draws.left, draws.height, draws.width))
    box = tile[:, :, top : top + height, left : left + width].contiguous(memory_format=torch.channels_last)
    if (height, width) != (px, px):
        box = functional.interpolate(box, (px, px), mode="bicubic", antialias=True, align_corners=False)
    view: Picture = box[0].permute(1, 2, 0).numpy()
    across, down = bool(draws.flip[b, v]), bool(draws.vertical_flip[b, v])
    if across or down:
        view = cv2.flip(view, (1 if across else 0) if across != down else -1)  # type: ignore[assignment]
    return cv2.transpose(view) if draws.transpose[b, v] else view  # type: ignore[return-value]


def colour_and_blur(view: Picture, draws: Draws, b: int, v: int, kernel: NDArray[np.float32]) -> Picture:
    """Return ``view`` [px, px, 3] with the drawn stain, colour, grayscale, blur (by ``kernel``) and solarization."""
    if not np.isnan(draws.stain[b, v, 0]):
        view = _stain(view, draws.stain[b, v])
    factors = draws.factors[b, v].tolist()
    for operation in draws.order[b, v].tolist():
        if factors[operation] != (0.0 if operation == HUE else 1.0):
            view = _JITTER[operation](view, factors[operation])
    if draws.grayscale[b, v]:
        view = cv2.cvtColor(cv2.cvtColor(view, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)  # type: ignore[assignment]
    if draws.sigma[b, v] > 0:
        taps = kernel[kernel > 0]
        view = cv2.sepFilter2D(view, -1, taps, taps, borderType=cv2.BORDER_REPLICATE)  # type: ignore[assignment]
    if draws.solarize[b, v]:
        view = np.where(view < 128, view, 255 - view)
    return view


def _linear(view: Picture, factor: float, offset: float) -> Picture:
    return cv2.addWeighted(view, factor, view, 0.0, offset + _DOWN)  # type: ignore[return-value]


def _brightness(view: Picture, factor: float) -> Picture:
    return _linear(view, factor, 0.0)


def _contrast(view: Picture, factor: float) -> Picture:
    mean = int(np.dot(cv2.mean(view)[:3], GRAY) + 0.5)
    return _linear(view, factor, (1.0 - factor) * mean)


def _saturation(view: Picture, factor: float) -> Picture:
    matrix = np.full((3, 4), _DOWN, dtype=np.float32)
    matrix[:, :3] = factor * np.eye(3) + (1.0 - factor) * np.asarray(GRAY)
    return cv2.transform(view, matrix)  # type: ignore[return-value]


def _hue(view: Picture, shift: float) -> Picture:
    turned = cv2.cvtColor(view, cv2.COLOR_RGB2HSV_FULL)
    turned[:, :, 0] += np.uint8(int(shift * 255) % 256)
    return cv2.cvtColor(turned, cv2.COLOR_HSV2RGB_FULL)  # type: ignore[return-value]


def _stain(view: Picture, parameters: np.ndarray) -> Picture:
    matrix, bias = stain_matrices(parameters[None])
    change = np.concatenate([matrix[0].T, bias[0][:, None]], axis=1).astype(np.float32)
    light = cv2.exp(cv2.transform(cv2.LUT(view, _DENSITY), -change))
    return cv2.addWeighted(light, 256.0, light, 0.0, -1.0, dtype=cv2.CV_8U)  # type: ignore[return-value]


_JITTER = {BRIGHTNESS: _brightness, CONTRAST: _contrast, SATURATION: _saturation, HUE: _hue}
