"""Colour: torchvision's jitter, grayscale and solarize on batches, clipped after each operation as Pillow does.

One matrix for the whole jitter would be exact without clipping; on tiles with a bright background it is not (a factor
of 1.4 clips most of the glass), so the operations run one after the other, in place, each in its drawn order.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from histogen.ssl.draws import BRIGHTNESS, CONTRAST, HUE, SATURATION, Draws
from histogen.training.transfer import on_device

GRAY = (0.299, 0.587, 0.114)
"""Weights of Pillow's conversion to one channel (ITU-R 601)."""
HED_FROM_STAIN = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical density in red, green, blue of haematoxylin, eosin and the residual (Ruifrok & Johnston 2001)."""
SOLARIZE_FROM = 128.0 / 255.0


def colour_(views: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Change the colour of ``views`` [B, V, 3, h, w], float in 0–1, in place, as drawn; returns it."""
    x = views.view(-1, *views.shape[2:])
    factors, order = draws.factors.reshape(-1, 4), draws.order.reshape(-1, 4)
    stain = draws.stain.reshape(-1, 6)
    _on(x, ~np.isnan(stain[:, 0]), _stain_, *stain_matrices(stain))
    for place in range(4):
        for operation, function, none in _JITTER:
            drawn = (order[:, place] == operation) & (factors[:, operation] != none)
            _on(x, drawn, function, factors[:, operation, None, None, None])
    _on(x, draws.grayscale.reshape(-1), _grayscale_)
    _on(x, draws.solarize.reshape(-1), _solarize_)
    return views


def _on(x: torch.Tensor, which: np.ndarray, function: Callable[..., None], *parameters: np.ndarray) -> None:
    """Apply ``function`` in place to the views of ``x`` that ``which`` names."""
    if not which.any():
        return
    index = on_device(np.flatnonzero(which), x.device)
    part = x[index]
    function(part, *(on_device(p[which].astype(np.float32), x.device) for p in parameters))
    x[index] = part


def _gray(x: torch.Tensor) -> torch.Tensor:
    return (x[:, 0:1] * GRAY[0]).add_(x[:, 1:2], alpha=GRAY[1]).add_(x[:, 2:3], alpha=GRAY[2])


def _brightness_(x: torch.Tensor, factor: torch.Tensor) -> None:
    x.mul_(factor).clamp_(0.0, 1.0)


def _contrast_(x: torch.Tensor, factor: torch.Tensor) -> None:
    means = x.mean((2, 3), keepdim=True)
    x.mul_(factor).add_(_gray(means) * (1.0 - factor)).clamp_(0.0, 1.0)


def _saturation_(x: torch.Tensor, factor: torch.Tensor) -> None:
    gray = _gray(x).mul_(1.0 - factor)
    x.mul_(factor).add_(gray).clamp_(0.0, 1.0)


def _hue_(x: torch.Tensor, shift: torch.Tensor) -> None:
    """Turn the hue by ``shift`` of the circle; value and saturation (HSV) stay."""
    red, green, blue = x[:, 0:1], x[:, 1:2], x[:, 2:3]
    high, low = torch.maximum(torch.maximum(red, green), blue), torch.minimum(torch.minimum(red, green), blue)
    spread = high - low
    safe = spread.clamp(min=1e-8)
    from_blue = torch.where(high == green, (blue - red).div_(safe).add_(2.0), (red - green).div_(safe).add_(4.0))
    hue = torch.where(high == red, (green - blue).div_(safe), from_blue).add_(6.0 * shift)
    hue.sub_((hue * (1.0 / 6.0)).floor_(), alpha=6.0)  # into 0–6
    torch.addcmul(low, spread, (hue - 3.0).abs_().sub_(1.0).clamp_(0.0, 1.0), out=red)
    torch.addcmul(low, spread, (hue - 2.0).abs_().neg_().add_(2.0).clamp_(0.0, 1.0), out=green)
    torch.addcmul(low, spread, (hue - 4.0).abs_().neg_().add_(2.0).clamp_(0.0, 1.0), out=blue)


def stain_matrices(parameters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return matrix [N, 3, 3] and bias [N, 3] of optical densities, ``od @ matrix + bias``, that scale and shift the
    density of each stain (Tellez et al. 2018, "HED jitter"): three factors, three shifts, [N, 6]."""
    stains = HED_FROM_STAIN / np.linalg.norm(HED_FROM_STAIN, axis=1, keepdims=True)
    scale, shift = parameters[:, :3], parameters[:, 3:]
    return np.linalg.inv(stains)[None] @ (scale[:, :, None] * stains), shift @ stains


def _stain_(x: torch.Tensor, matrix: torch.Tensor, bias: torch.Tensor) -> None:
    density = x.mul(255.0).add_(1.0).div_(256.0).log_().neg_().flatten(2)  # [N, 3, pixels]
    changed = torch.baddbmm(bias[:, :, None], matrix.transpose(1, 2), density)
    x.copy_(changed.neg_().exp_().mul_(256.0).sub_(1.0).div_(255.0).clamp_(0.0, 1.0).view_as(x))


def _grayscale_(x: torch.Tensor) -> None:
    x.copy_(_gray(x).expand_as(x))


def _solarize_(x: torch.Tensor) -> None:
    x.copy_(torch.where(x >= SOLARIZE_FROM, 1.0 - x, x))


_JITTER: tuple[tuple[int, Callable[..., None], float], ...] = (
    (BRIGHTNESS, _brightness_, 1.0),
    (CONTRAST, _contrast_, 1.0),
    (SATURATION, _saturation_, 1.0),
    (HUE, _hue_, 0.0),
)
