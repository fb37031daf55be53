"""Colour: torchvision's jitter, grayscale and solarize on batches, clipped after each operation as Pillow does.

One matrix for the whole jitter would be exact without clipping; on tiles with a bright background it is not (a factor
of 1.4 clips most of the glass), so the operations run one after the other, in place, each in its drawn order.
"""

from __future__ import annotations

import numpy as np
import torch

from histogen.ssl.draws import BRIGHTNESS, CONTRAST, HUE, SATURATION, Draws

GRAY = (0.299, 0.587, 0.114)
"""Weights of Pillow's conversion to one channel (ITU-R 601)."""
HED_FROM_STAIN = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
"""Optical density in red, green, blue of haematoxylin, eosin and the residual (Ruifrok & Johnston 2001)."""
SOLARIZE_FROM = 128.0 / 255.0


def colour_(views: torch.Tensor, draws: Draws) -> torch.Tensor:
    """Change the colour of ``views`` [B, V, 3, h, w], float in 0–1, in place, as drawn; returns it."""
    flat = views.view(-1, *views.shape[2:])
    factors, order = draws.factors.reshape(-1, 4), draws.order.reshape(-1, 4)
    grayscale, solarize = draws.grayscale.reshape(-1), draws.solarize.reshape(-1)
    stain = draws.stain.reshape(-1, 6)
    # one view at a time stays in a CPU's cache; a GPU wants them all at once
    step = 1 if flat.device.type == "cpu" else len(flat)
    for start in range(0, len(flat), step):
        part = slice(start, start + step)
        _colour_part(flat[part], factors[part], order[part], grayscale[part], solarize[part], stain[part])
    return views


def _colour_part(
    x: torch.Tensor,
    factors: np.ndarray,
    order: np.ndarray,
    grayscale: np.ndarray,
    solarize: np.ndarray,
    stain: np.ndarray,
) -> None:
    _on(x, ~np.isnan(stain[:, 0]), _stain_, stain)
    for place in range(4):
        for operation, function, none in _JITTER:
            drawn = (order[:, place] == operation) & (factors[:, operation] != none)
            _on(x, drawn, function, factors[:, operation])
    _on(x, grayscale, _grayscale_)
    _on(x, solarize, _solarize_)


def _on(x: torch.Tensor, which: np.ndarray, function, *parameters: np.ndarray) -> None:  # type: ignore[no-untyped-def]
    """Apply ``function`` in place to the views of ``x`` that ``which`` names."""
    if not which.any():
        return
    values = [torch.from_numpy(p[which]).to(x.device, torch.float32) for p in parameters]
    if which.all():
        function(x, *values)
        return
    index = torch.from_numpy(np.flatnonzero(which)).to(x.device)
    part = x[index]
    function(part, *values)
    x[index] = part


def _gray(x: torch.Tensor) -> torch.Tensor:
    return (x[:, 0:1] * GRAY[0]).add_(x[:, 1:2], alpha=GRAY[1]).add_(x[:, 2:3], alpha=GRAY[2])


def _brightness_(x: torch.Tensor, factor: torch.Tensor) -> None:
    x.mul_(factor.view(-1, 1, 1, 1)).clamp_(0.0, 1.0)


def _contrast_(x: torch.Tensor, factor: torch.Tensor) -> None:
    weights = torch.tensor(GRAY, device=x.device)
    mean = (x.mean((2, 3)) * weights).sum(1)
    x.mul_(factor.view(-1, 1, 1, 1)).add_(((1.0 - factor) * mean).view(-1, 1, 1, 1)).clamp_(0.0, 1.0)


def _saturation_(x: torch.Tensor, factor: torch.Tensor) -> None:
    gray = _gray(x).mul_((1.0 - factor).view(-1, 1, 1, 1))
    x.mul_(factor.view(-1, 1, 1, 1)).add_(gray).clamp_(0.0, 1.0)


def _hue_(x: torch.Tensor, shift: torch.Tensor) -> None:
    """Turn the hue by ``shift`` of the circle; value and saturation (HSV) stay."""
    high, low = x.amax(1), x.amin(1)
    spread = high - low
    red, green, blue = x.unbind(1)
    safe = spread.clamp(min=1e-8)
    hue = torch.where(
        high == red,
        (green - blue) / safe,
        torch.where(high == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    hue.add_(6.0 * shift.view(-1, 1, 1))
    for channel, offset in enumerate((5.0, 3.0, 1.0)):
        place = (hue + offset).remainder_(6.0)
        x[:, channel] = high - spread * torch.minimum(place, 4.0 - place).clamp_(0.0, 1.0)


def _stain_(x: torch.Tensor, parameters: torch.Tensor) -> None:
    """Scale and shift the density of each stain (Tellez et al. 2018, "HED jitter")."""
    stains = torch.tensor(HED_FROM_STAIN, device=x.device, dtype=torch.float32)
    stains = stains / stains.norm(dim=1, keepdim=True)
    density = x.mul(255.0).add_(1.0).div_(256.0).log_().neg_().flatten(2)  # [N, 3, pixels]
    scale, shift = parameters[:, :3], parameters[:, 3:]
    matrix = (torch.linalg.inv(stains) * 1.0)[None] @ (scale[:, :, None] * stains)  # row vectors: od @ matrix
    bias = shift @ stains
    changed = torch.baddbmm(bias[:, :, None], matrix.transpose(1, 2), density)
    x.copy_(changed.neg_().exp_().mul_(256.0).sub_(1.0).div_(255.0).clamp_(0.0, 1.0).view_as(x))


def _grayscale_(x: torch.Tensor) -> None:
    x.copy_(_gray(x).expand_as(x))


def _solarize_(x: torch.Tensor) -> None:
    x.copy_(torch.where(x >= SOLARIZE_FROM, 1.0 - x, x))


_JITTER = (
    (BRIGHTNESS, _brightness_, 1.0),
    (CONTRAST, _contrast_, 1.0),
    (SATURATION, _saturation_, 1.0),
    (HUE, _hue_, 0.0),
)
