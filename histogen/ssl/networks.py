"""Student and teacher: a backbone, a head, and one pass per crop size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from histogen.errors import ConfigError
from histogen.ssl.backbone import build_backbone, has_batch_norm, is_plain_vit
from histogen.ssl.drop_path import give_masks, sample_drop_paths
from histogen.ssl.heads import DinoHead
from histogen.ssl.settings import SslSettings
from histogen.ssl.teacher import copy_weights


class DinoNetwork(nn.Module):
    """Backbone and head over views of one or several sizes.

    With ``masked`` it has a mask token beside the backbone, from 0 (as iBOT's); the exported encoder has none.
    """

    def __init__(self, backbone: nn.Module, head: DinoHead, *, masked: bool = False) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.has_batch_norm = has_batch_norm(backbone)
        self.drop_paths = sample_drop_paths(backbone)
        self.masks_of: tuple[int, np.ndarray] | None = None
        """Seed of the step, and the tiles' places in the global batch, int64 [B]: what drop path's masks follow."""
        if masked:
            if not is_plain_vit(backbone):
                name = type(backbone).__name__
                raise ConfigError(f"masks.weight needs a plain vision transformer, not {name}; set it to 0")
            self.mask_token = nn.Parameter(torch.zeros(int(backbone.embed_dim)))  # type: ignore[arg-type]

    def forward(
        self, crops: Sequence[torch.Tensor], masks: torch.Tensor | None = None, *, hide: bool = True
    ) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor | None]:
        """Return the outputs of each of ``crops`` ([V, B, 3, h, w] → [V, B, K]), and the features of all [N, D].

        Crops of one size go through the backbone together, in the order in which sizes first appear.

        With ``masks``, bool [V, B, h, w] over the patches of the first crops, the outputs at these patches come third,
        [M, K]; with ``hide`` the network sees the mask token there.
        """
        sizes = list(dict.fromkeys(crop.shape[-1] for crop in crops))
        features: list[torch.Tensor] = []
        patches: list[torch.Tensor] = []
        for size in sizes:
            same = [crop.flatten(0, 1) for crop in crops if crop.shape[-1] == size]
            pixels = torch.cat(same) if len(same) > 1 else same[0]
            if self.masks_of is not None and self.drop_paths:
                views = [(k, v) for k, crop in enumerate(crops) if crop.shape[-1] == size for v in range(len(crop))]
                give_masks(self.drop_paths, views, self.masks_of[1], seed=self.masks_of[0], device=pixels.device)
            if masks is not None and not features:
                pooled, at_masks = self._masked(pixels, masks.flatten(0, 1), hide)
                features.append(pooled)
                patches.append(at_masks)
            else:
                features.append(self.backbone(pixels))
        all_features = torch.cat(features)
        raw = self.head(torch.cat([all_features, *patches]))
        raw, at_patches = raw.split([len(all_features), len(raw) - len(all_features)])
        places = [k for size in sizes for k, crop in enumerate(crops) if crop.shape[-1] == size]
        lengths = [crops[k].shape[0] * crops[k].shape[1] for k in places]
        outputs: dict[int, torch.Tensor] = {}
        for k, part in zip(places, raw.split(lengths), strict=True):
            outputs[k] = part.view(*crops[k].shape[:2], -1)
        return [outputs[k] for k in range(len(crops))], all_features, at_patches if patches else None

    def _masked(self, pixels: torch.Tensor, masks: torch.Tensor, hide: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """Return features [N, D] and the tokens [M, D] of the masked patches; ``masks`` are of the first images."""
        vit: Any = self.backbone
        first = len(masks)
        embedded = vit.patch_embed(pixels)  # [N, h, w, D]
        if hide:
            seen = torch.where(masks[..., None], self.mask_token.to(embedded.dtype), embedded[:first])
            embedded = torch.cat([seen, embedded[first:]])
        tokens = vit.norm(vit.blocks(vit.norm_pre(vit.patch_drop(vit._pos_embed(embedded)))))
        return vit.forward_head(tokens), tokens[:first, vit.num_prefix_tokens :][masks.flatten(1)]


def build_networks(settings: SslSettings, *, seed: int) -> tuple[DinoNetwork, DinoNetwork]:
    """Return student and teacher with the same weights, drawn from ``seed``; only the student has drop path.

    Raises:
        ConfigError, EncoderError: there is no such model, or it cannot be trained on such crops.
    """
    model, crops = settings.model, settings.crops
    sizes = [crops.global_px, *[crops.local_px] * (crops.num_local > 0)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pair = []
        for drop_path in (model.drop_path, 0.0):
            backbone = build_backbone(
                model.name, model.arguments, image_px=crops.global_px, sizes=sizes, drop_path=drop_path
            )
            head = DinoHead(
                int(backbone.num_features),  # type: ignore[arg-type]
                model.prototypes,
                hidden=model.head_hidden,
                bottleneck=model.head_bottleneck,
                layers=model.head_layers,
                norm_last_layer=model.norm_last_layer,
            )
            pair.append(DinoNetwork(backbone, head, masked=settings.masks.weight > 0))
    student, teacher = pair
    copy_weights(student, teacher)
    return student, teacher
