"""Student and teacher: a backbone, a head, and one pass per crop size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from histogen.encoders.timm import build_vit
from histogen.ssl.heads import DinoHead
from histogen.ssl.settings import SslSettings
from histogen.ssl.teacher import copy_weights


class DinoNetwork(nn.Module):
    """Backbone and head over views of one or several sizes."""

    def __init__(self, backbone: nn.Module, head: DinoHead) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, crops: Sequence[torch.Tensor]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Return the outputs of each of ``crops`` ([V, B, 3, h, w] → [V, B, K]), and the features of all [M, D].

        Crops of one size go through the backbone together, in the order in which sizes first appear.
        """
        sizes = list(dict.fromkeys(crop.shape[-1] for crop in crops))
        features: list[torch.Tensor] = []
        for size in sizes:
            same = [crop.flatten(0, 1) for crop in crops if crop.shape[-1] == size]
            features.append(self.backbone(torch.cat(same) if len(same) > 1 else same[0]))
        all_features = torch.cat(features)
        raw = self.head(all_features)
        places = [k for size in sizes for k, crop in enumerate(crops) if crop.shape[-1] == size]
        lengths = [crops[k].shape[0] * crops[k].shape[1] for k in places]
        outputs: dict[int, torch.Tensor] = {}
        for k, part in zip(places, raw.split(lengths), strict=True):
            outputs[k] = part.view(*crops[k].shape[:2], -1)
        return [outputs[k] for k in range(len(crops))], all_features


def model_arguments(settings: SslSettings) -> dict[str, object]:
    """Return timm's arguments of the backbone."""
    return {"img_size": settings.crops.global_px, **settings.model.arguments}


def build_networks(settings: SslSettings, *, seed: int) -> tuple[DinoNetwork, DinoNetwork]:
    """Return student and teacher with the same weights, drawn from ``seed``; only the student has drop path."""
    model = settings.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pair = []
        for drop_path in (model.drop_path, 0.0):
            backbone = build_vit(model.name, model_arguments(settings), drop_path=drop_path)
            head = DinoHead(
                int(backbone.num_features),  # type: ignore[arg-type]
                model.prototypes,
                hidden=model.head_hidden,
                bottleneck=model.head_bottleneck,
                layers=model.head_layers,
                norm_last_layer=model.norm_last_layer,
            )
            pair.append(DinoNetwork(backbone, head))
    student, teacher = pair
    copy_weights(student, teacher)
    return student, teacher
