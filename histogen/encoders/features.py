"""From what a network puts out to one embedding per image, as a card says."""

from __future__ import annotations

import torch
from torch import nn

from histogen.encoders.published import Feature
from histogen.errors import EncoderError


def with_feature(model: nn.Module, feature: Feature, *, what: str, registers: int | None = None) -> nn.Module:
    """Return ``model`` so that it gives ``feature``, [B, D]; ``registers`` is None for timm's models, which know them.

    Raises:
        EncoderError: the model cannot give it.
    """
    if registers is not None:
        return TransformersFeature(model, feature, prefix=1 + registers)
    if feature == "pooled":
        return model
    if feature in ("cls", "cls+mean") and int(getattr(model, "num_prefix_tokens", 0)) > 0:
        return TokenFeature(model, feature)
    if feature == "stage3" and hasattr(model, "forward_intermediates"):
        return StageFeature(model, feature)
    raise EncoderError(f"the card of '{what}' asks for the feature '{feature}', which its model does not have")


def _joined(tokens: torch.Tensor, feature: Feature, prefix: int) -> torch.Tensor:
    """Return the class token of tokens [B, prefix + N, D], with ``cls+mean`` joined by the mean of the N patches."""
    if feature == "cls":
        return tokens[:, 0]
    return torch.cat([tokens[:, 0], tokens[:, prefix:].mean(dim=1)], dim=1)


class FeatureOf(nn.Module):
    """A network, and what of its output is the embedding."""

    def __init__(self, model: nn.Module, feature: Feature) -> None:
        super().__init__()
        self.model, self.feature = model, feature


class TokenFeature(FeatureOf):
    """Tokens of one of timm's transformers, after its last norm, to an embedding."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return [B, D], or [B, 2 D] with the patches' mean, of normalised pixels [B, 3, H, W]."""
        tokens = self.model.forward_features(pixels)  # type: ignore[operator]
        return _joined(tokens, self.feature, self.model.num_prefix_tokens)  # type: ignore[arg-type]


class StageFeature(FeatureOf):
    """The third stage of one of timm's convolutional networks, averaged over places."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return [B, D] of normalised pixels [B, 3, H, W]."""
        (stage,) = self.model.forward_intermediates(  # type: ignore[operator]
            pixels, indices=[3], stop_early=True, intermediates_only=True
        )
        return stage.mean(dim=(2, 3))


class TransformersFeature(FeatureOf):
    """What a model of transformers gives, to an embedding."""

    def __init__(self, model: nn.Module, feature: Feature, *, prefix: int) -> None:
        super().__init__(model, feature)
        self.prefix = prefix

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return [B, D], or [B, 2 D] with the patches' mean, of normalised pixels [B, 3, H, W]."""
        found = self.model(pixel_values=pixels)
        if self.feature in ("pooler", "pooled"):
            return found.pooler_output
        return _joined(found.last_hidden_state, self.feature, self.prefix)
