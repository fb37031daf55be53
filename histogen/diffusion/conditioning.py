"""From an embedding to what the U-Net is told: spherical interpolation, standardisation, the null, the injections.

Embeddings live on the unit sphere. Before the U-Net sees one, it is L2-normalised and standardised by the statistics
of the training tiles' embeddings (our choice: after L2 the common direction of a self-supervised encoder dominates,
and a Linear learns it away slowly). The published ``token`` keeps mean 0 and standard deviation 1.

**The null** (what "no conditioning" is) has one definition: the zero vector where the U-Net receives its conditioning,
that is after standardisation. Training drops to it and guidance samples with it through :meth:`Conditioner.null`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor
from torch.nn.functional import normalize

from histogen.errors import EncoderError

INJECTIONS: Mapping[str, str] = {
    "token": "one cross-attention token from one Linear (Large-Image-Diffusion's way, presumed that of the paper)",
    "k_tokens": "32 cross-attention tokens from one Linear and a LayerNorm (diffusers' ImageProjection)",
    "time_add": "an MLP of the embedding added to the time embedding (RCG's way with ADM)",
    "adaln": "as time_add, and every residual block scales and shifts its normalised features by the sum",
}
"""How the U-Net is told, by name."""

MIN_NORM = 1e-12


def slerp(source: Tensor, partner: Tensor, alpha: Tensor | float) -> Tensor:
    """Interpolate on the unit sphere; ``alpha`` is the weight of ``source``: 1 gives the source's direction back.

    The great circle is walked from the source towards the partner by the angle ``(1 - alpha) * theta`` (Shoemake 1985,
    with the usual argument turned round to fit Gen-SIS' Algorithm 1). ``theta`` comes from an arctangent, and the
    direction of travel from Gram-Schmidt, so nearly parallel and nearly opposite pairs keep full precision without a
    special case. Exactly opposite pairs have no one great circle: the one towards the source's smallest axis is taken.

    Args:
        source: [..., D], any float type; need not be normalised.
        partner: [..., D].
        alpha: a number, or [...] (one per pair), in [0, 1].

    Returns:
        [..., D] unit vectors in the type of ``source``; computed in float64.

    Raises:
        EncoderError: a vector has norm 0 or is not finite, or alpha lies outside [0, 1].
    """
    first, second = _unit(source, "source"), _unit(partner, "partner")
    weight = torch.as_tensor(alpha, dtype=torch.float64, device=first.device)
    if bool(((weight < 0) | (weight > 1) | weight.isnan()).any()):
        raise EncoderError("alpha lies outside [0, 1]; it is the weight of the source")
    theta = 2 * torch.atan2((first - second).norm(dim=-1), (first + second).norm(dim=-1))
    angle = ((1 - weight) * theta).unsqueeze(-1)
    return (torch.cos(angle) * first + torch.sin(angle) * _direction(first, second)).to(source.dtype)


def _unit(vectors: Tensor, what: str) -> Tensor:
    norms = vectors.double().norm(dim=-1, keepdim=True)
    if not bool((norms > MIN_NORM).all() & norms.isfinite().all()):
        raise EncoderError(f"a {what} embedding has norm 0 or is not finite, so it has no direction; embed it again")
    return vectors.double() / norms


def _direction(first: Tensor, second: Tensor) -> Tensor:
    """Return the unit vector orthogonal to ``first`` on the great circle through both."""
    first, second = torch.broadcast_tensors(first, second)
    residual = _orthogonal(second - first, first)
    # for (nearly) opposite vectors the sum carries the direction with more digits than the difference
    residual = torch.where((first * second).sum(-1, keepdim=True) < 0, _orthogonal(second + first, first), residual)
    axis = torch.zeros_like(first).scatter(-1, first.abs().argmin(-1, keepdim=True), 1.0)
    anywhere = _orthogonal(axis, first)
    none = residual.norm(dim=-1, keepdim=True) < 1e-15
    return normalize(torch.where(none, anywhere, residual), dim=-1, eps=MIN_NORM**2)


def _orthogonal(vectors: Tensor, unit: Tensor) -> Tensor:
    return vectors - (vectors * unit).sum(-1, keepdim=True) * unit


def tells_apart(unit: Tensor, rounding: float) -> bool:
    """Whether unit vectors float64 [N, D] differ by more than ``rounding`` (relative) in any dimension.

    Dimensions are judged one by one: a large one that is the same for all hides what small ones tell.
    """
    mean = unit.mean(0)
    std = (unit - mean).square().mean(0).sqrt()
    return bool((std > rounding * unit.square().mean(0).sqrt()).any())


class Conditioner(ModelMixin, ConfigMixin):
    """Makes embeddings into the vectors the U-Net receives; has no trained parameters, two measured buffers."""

    mean: Tensor
    std: Tensor

    @register_to_config
    def __init__(self, embedding_dim: int, injection: str = "adaln") -> None:
        super().__init__()
        if injection not in INJECTIONS:
            raise EncoderError(f"unknown injection '{injection}'; use one of {', '.join(INJECTIONS)}")
        self.register_buffer("mean", torch.zeros(embedding_dim))
        self.register_buffer("std", torch.ones(embedding_dim))

    @torch.no_grad()
    def fit(self, embeddings: Tensor) -> None:
        """Measure the mean and standard deviation of the L2-normalised ``embeddings`` [N, D].

        ``token`` keeps mean 0 and standard deviation 1, as published.

        Raises:
            EncoderError: they do not differ, or are not finite: there is no scale to bring them to.
        """
        if self.config["injection"] == "token":
            return
        unit = normalize(embeddings.double(), dim=-1)
        # one scale for all dimensions: a dimension that hardly varies carries noise, not information
        std = float((unit - unit.mean(0)).square().mean().sqrt())
        if not (isfinite(std) and tells_apart(unit, torch.finfo(embeddings.dtype).eps)):
            raise EncoderError(f"{len(unit)} embeddings do not differ, or are not finite; embed with another encoder")
        self.mean.copy_(unit.mean(0))
        self.std.fill_(std)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return the conditioning float32 [B, D] of raw or interpolated ``embeddings`` [B, D]."""
        return (normalize(embeddings.float(), dim=-1) - self.mean) / self.std

    def null(self, batch: int) -> Tensor:
        """Return the null float32 [batch, D]; the one definition for training and sampling."""
        return torch.zeros(batch, self.config["embedding_dim"], device=self.mean.device)

    def drop(self, conditioning: Tensor, dropped: Tensor) -> Tensor:
        """Return ``conditioning`` [B, D] with the null in the rows where ``dropped`` (bool [B]) is true."""
        return torch.where(dropped[:, None], self.null(len(conditioning)).to(conditioning.dtype), conditioning)

    def inputs(self, conditioning: Tensor) -> dict[str, Any]:
        """Return the keyword arguments by which a ``UNet2DConditionModel`` receives ``conditioning`` [B, D]."""
        injection = self.config["injection"]
        if injection == "token":
            return {"encoder_hidden_states": conditioning[:, None]}
        if injection == "k_tokens":
            return {"encoder_hidden_states": None, "added_cond_kwargs": {"image_embeds": conditioning}}
        return {"encoder_hidden_states": conditioning.new_zeros(len(conditioning), 1, 1), "class_labels": conditioning}
