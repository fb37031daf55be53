"""The checkpoints of DINO, DINOv2 and Gen-DINO as their authors publish them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from histogen.encoders.base import Encoder, EncoderCard
from histogen.encoders.checkpoint import WeightsFile, check_complete, load_matching, read_weights, vit_arguments
from histogen.encoders.timm import IMAGENET_MEAN, IMAGENET_STD, build_vit
from histogen.errors import EncoderError


def load_dino(file: WeightsFile) -> Encoder:
    """Return the encoder in a checkpoint of DINO, DINOv2 or Gen-DINO: the teacher unless its key says otherwise.

    Its attention heads come from the arguments that DINO keeps beside its weights; ImageNet's normalisation unless
    another is given.

    Raises:
        EncoderError: it is not a vision transformer, does not say how many heads it has, or some keys do not fit.
    """
    path = file.path
    weights = read_weights(path, key=file.key)
    if weights.heads is None:
        vit_arguments(weights.state, heads=1)  # what is no vision transformer at all is said first
        asked = replace(file, mean=file.mean or IMAGENET_MEAN, std=file.std or IMAGENET_STD)
        raise EncoderError(
            f"'{path}' does not say how many attention heads its model has; name the model, and what it was "
            "trained with: "
            f"timm:{_likely_name(weights.state)}@{asked.at(path)}"
        )
    arguments = vit_arguments(weights.state, heads=weights.heads)
    model = build_vit("vit_small_patch16_224", arguments)
    check_complete(load_matching(model, weights.state), what=str(path))
    card = EncoderCard(
        name="",
        dim=arguments["embed_dim"],
        image_px=224 if arguments["img_size"] % 14 == 0 and arguments["img_size"] > 224 else arguments["img_size"],
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        weights_sha256="",
        source=file.at(Path(path.name)),
        supervision="as its authors state",
    )
    return Encoder(model, file.named(card, path.stem if file.key is None else f"{path.stem}-{file.key}"))


def _likely_name(state: Mapping[str, torch.Tensor]) -> str:
    """Return a model of timm with the width and patch of ``state``, which a user may mean."""
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    size = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1536: "giant"}.get(width)
    if size is None:
        return "NAME"
    if "blocks.0.ls1.gamma" not in state:
        return f"vit_{size}_patch{patch}_224"
    return f"vit_{size}_patch{patch}_{'reg4_' if 'reg_token' in state else ''}dinov2"
