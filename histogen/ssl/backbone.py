"""The backbone that is trained: any timm model that gives pooled features, with what each kind needs.

A vision transformer is started as DINO's and takes crops of any size its patch divides. A convolutional network takes
crops as they come, as DINO's own code does with ResNet-50. One with batch normalisation keeps its teacher in training
mode (as DINO's code keeps it): the teacher normalises by its own batches, and the statistics it gathers there are those
of the exported encoder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from histogen.encoders.timm import build_vit
from histogen.errors import ConfigError, EncoderError, first_line

TRANSFORMERS = ("vit_", "deit", "eva")


def is_vit(name: str) -> bool:
    """Return whether timm builds model ``name`` for a size of images, and resizes its positions for others."""
    return name.startswith(TRANSFORMERS)


def model_arguments(name: str, arguments: Mapping[str, Any], *, image_px: int) -> dict[str, Any]:
    """Return timm's arguments of a backbone for images of ``image_px``: only a transformer is built for a size."""
    return {"img_size": image_px, **arguments} if is_vit(name) else dict(arguments)


def build_backbone(
    name: str, arguments: Mapping[str, Any], *, image_px: int, sizes: Sequence[int], drop_path: float = 0.0
) -> nn.Module:
    """Return an untrained timm model without classifier; ``sizes`` are the sides of the crops it will be given.

    Raises:
        ConfigError, EncoderError: timm has no such model, it does not take these arguments or such crops, or it gives
            no pooled features.
    """
    given = model_arguments(name, arguments, image_px=image_px)
    if is_vit(name):
        return build_vit(name, given, drop_path=drop_path)
    if not timm.is_model(name.partition(".")[0]):
        build_vit(name, given)  # says what timm lacks, and what is near
    extra = {"drop_path_rate": drop_path} if drop_path else {}
    try:
        model = timm.create_model(name, pretrained=False, **{**given, **extra, "num_classes": 0})
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise EncoderError(
            f"timm cannot build '{name}' with {dict(given) | extra}: {error}; mend model.arguments, or set "
            "model.drop_path to 0 where the model knows none"
        ) from error
    _check_crops(name, model, sizes)
    return model


def _check_crops(name: str, model: nn.Module, sizes: Sequence[int]) -> None:
    """Raise ConfigError unless ``model`` gives [B, num_features] for crops of every size."""
    width = int(model.num_features)  # type: ignore[arg-type]
    model.eval()
    for size in sizes:
        try:
            with torch.no_grad():
                shape = list(model(torch.zeros(1, 3, size, size)).shape)
        except (RuntimeError, ValueError, AssertionError) as error:
            raise ConfigError(
                f"model '{name}' cannot take crops of {size} px ({first_line(error)}); take larger ones, or another "
                "model"
            ) from error
        if shape != [1, width]:
            raise ConfigError(
                f"model '{name}' gives {shape} for a crop of {size} px, not pooled features [1, {width}]; set its "
                "pooling in model.arguments, or take another model"
            )
    model.train()


def has_batch_norm(model: nn.Module) -> bool:
    """Return whether any layer of ``model`` normalises over the batch."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())


def is_plain_vit(model: nn.Module) -> bool:
    """Return whether single patches of ``model`` can be masked."""
    return isinstance(model, VisionTransformer)
