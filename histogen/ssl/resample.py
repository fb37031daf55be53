"""Crop, resize, flip, turn and blur in one resampling, all views at once, for a GPU: two matrices per view.

Bicubic resizing with antialiasing (as Pillow's: Keys 1981 with a = -1/2, its support widened when it shrinks), flips
and a Gaussian blur are linear and separable, so each view is ``rows @ tile @ columns``; a quarter turn transposes the
result. Blurring here, before colour, equals blurring after it except where colour clips.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from histogen.ssl.draws import Draws
from histogen.training.transfer import on_device


def matrices(draws: Draws, side: int, px: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the two matrices of each view of tiles of ``side``, float32 [B * V, px, side], blur included."""
    rows = axis_weights(draws.height, draws.top, draws.vertical_flip, side, px, device)
    columns = axis_weights(draws.width, draws.left, draws.flip, side, px, device)
    blurred = np.flatnonzero(draws.sigma.reshape(-1) > 0)
    if len(blurred):
        which = on_device(blurred, device)
        kernels = blur_matrices(draws.sigma.reshape(-1)[blurred], px, device)
        rows[which] = kernels @ rows[which]
        columns[which] = kernels @ columns[which]
    return rows, columns


def resample(images: torch.Tensor, draws: Draws, px: int) -> torch.Tensor:
    """Return all views of tiles at once.

    Args:
        images: uint8 [B, H, W, 3], square.
        draws: of views [B, V].
        px: side of the views.

    Returns:
        float32 [B, V, 3, px, px] in 0–1, contiguous.
    """
    batch, side, _, _ = images.shape
    views, device = draws.top.shape[1], images.device
    rows, columns = matrices(draws, side, px, device)
    rows = rows.reshape(batch, views * px, side)
    pixels = images.permute(0, 1, 3, 2).contiguous().to(torch.float32).mul_(1.0 / 255.0).view(batch, side, 3 * side)
    tall = torch.bmm(rows, pixels).view(batch * views, px * 3, side)
    out = torch.bmm(tall, columns.transpose(1, 2)).view(batch * views, px, 3, px).permute(0, 2, 1, 3).contiguous()
    turned = np.flatnonzero(draws.transpose.reshape(-1))
    if len(turned):
        which = on_device(turned, device)
        out[which] = out[which].transpose(-1, -2)
    return out.clamp_(0.0, 1.0).view(batch, views, 3, px, px)


def axis_weights(
    length: np.ndarray, offset: np.ndarray, flip: np.ndarray, side: int, px: int, device: torch.device
) -> torch.Tensor:
    """Return float32 [N, px, side]: how much of each pixel along one axis of a tile goes into each of ``px``.

    ``length`` and ``offset`` (pixels, of the box) and ``flip`` are arrays of N values in any shape. Each row sums to 1.
    """
    length, offset, flip = length.reshape(-1), offset.reshape(-1), flip.reshape(-1)
    scale = length / px
    stretch = np.maximum(scale, 1.0)
    taps = int(2 * math.ceil(2.0 * float(stretch.max()))) + 1
    place = np.arange(px)[None, :]
    place = np.where(flip[:, None], px - 1 - place, place)
    centre = (place + 0.5) * scale[:, None]
    first = np.floor(centre - 2.0 * stretch[:, None] + 0.5).astype(np.int64).clip(0)
    nearest = on_device((first - centre + 0.5).astype(np.float32), device)
    stretch_t = on_device(stretch.astype(np.float32), device)[:, None, None]
    longest = on_device(length, device)[:, None, None]
    index = on_device(first, device)[..., None] + torch.arange(taps, device=device)
    distance = ((nearest[..., None] + torch.arange(taps, device=device, dtype=torch.float32)) / stretch_t).abs_()
    weights = _cubic(distance).mul_(index < longest)
    weights = weights.div_(weights.sum(-1, keepdim=True))
    index = (index + on_device(offset, device)[:, None, None]).clamp_(max=side)
    out = torch.zeros(len(length), px, side + 1, device=device)  # the last takes the taps beyond the end: they weigh 0
    return out.scatter_(2, index, weights)[..., :side]


def _cubic(distance: torch.Tensor) -> torch.Tensor:
    """Return Keys' cubic (a = -1/2) at ``distance`` ≥ 0, written in truncated powers to need no branches."""
    outer, inner = (2.0 - distance).clamp_(min=0.0), (1.0 - distance).clamp_(min=0.0)
    return 0.5 * outer.square() * (outer - 1.0) + inner.square() * (1.0 - 2.0 * inner)


def blur_matrices(sigma: np.ndarray, px: int, device: torch.device) -> torch.Tensor:
    """Return float32 [N, px, px]: Pillow's Gaussian blur of deviation ``sigma`` along one axis, edges extended."""
    kernel = blur_kernels(sigma)
    taps = kernel.shape[1]
    place = np.arange(px)
    tap = place[None, :] - place[:, None] + taps // 2  # of column j in row i
    padded = on_device(np.pad(kernel, ((0, 0), (0, 1))).astype(np.float32), device)
    out = padded[:, on_device(np.where((tap >= 0) & (tap < taps), tap, taps), device)]
    # an edge pixel takes every tap beyond it: sums are looked up, since adding in place has no order on a GPU
    upto = np.pad(kernel.cumsum(1), ((0, 0), (1, 0)))  # of the first 0, 1, … taps
    out[..., 0] = on_device(upto[:, (tap[:, 0] + 1).clip(0, taps)].astype(np.float32), device)
    out[..., -1] = on_device((upto[:, -1:] - upto[:, tap[:, -1].clip(0, taps)]).astype(np.float32), device)
    return out


def blur_kernels(sigma: np.ndarray) -> np.ndarray:
    """Return float64 [N, taps]: three box filters with fractional ends (Gwosdek et al. 2011), as Pillow blurs.

    Their variance is exactly ``sigma`` squared, which a sampled and cut Gaussian's is not.
    """
    variance = np.asarray(sigma, dtype=np.float64) ** 2 / 3.0
    half = np.floor((np.sqrt(12.0 * variance + 1.0) - 1.0) / 2.0)
    end = (2 * half + 1) * (half * (half + 1) - 3.0 * variance) / (6.0 * (variance - (half + 1) ** 2))
    reach = int(half.max()) + 1
    offsets = np.abs(np.arange(-reach, reach + 1))[None, :]
    box = np.where(offsets <= half[:, None], 1.0, np.where(offsets == half[:, None] + 1, end[:, None], 0.0))
    box /= box.sum(axis=1, keepdims=True)
    out = box
    for _ in range(2):
        wide = np.zeros((len(box), out.shape[1] + 2 * reach))
        for tap in range(box.shape[1]):
            wide[:, tap : tap + out.shape[1]] += box[:, tap : tap + 1] * out
        out = wide
    return out
