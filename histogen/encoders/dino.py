"""The checkpoints of DINO, DINOv2 and Gen-DINO as their authors publish them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch

from histogen.encoders.base import Encoder, EncoderCard, key_of
from histogen.encoders.checkpoint import check_complete, load_matching, read_weights, vit_arguments
from histogen.encoders.timm import IMAGENET_MEAN, IMAGENET_STD, build_vit
from histogen.errors import EncoderError


def load_dino(path: Path, *, key: str | None = None) -> Encoder:
    """Return the encoder in a checkpoint of DINO, DINOv2 or Gen-DINO: the teacher unless ``key`` says otherwise.

    Its attention heads come from the arguments that DINO keeps beside its weights; ImageNet normalisation.

    Raises:
        EncoderError: it is not a vision transformer, does not say how many heads it has, or some keys do not fit.
    """
    weights = read_weights(path, key=key)
    if weights.heads is None:
        vit_arguments(weights.state, heads=1)  # what is no vision transformer at all is said first
        raise EncoderError(
            f"'{path}' does not say how many attention heads its model has; name the model: "
            f"timm:{_likely_name(weights.state)}@{path}"
        )
    arguments = vit_arguments(weights.state, heads=weights.heads)
    model = build_vit("vit_small_patch16_224", arguments)
    check_complete(load_matching(model, weights.state), what=str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    suffix = "" if key is None else f"-{key}"
    card = EncoderCard(
        name=key_of(path.stem + suffix, digest),
        dim=arguments["embed_dim"],
        image_px=224 if arguments["img_size"] % 14 == 0 and arguments["img_size"] > 224 else arguments["img_size"],
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        weights_sha256=digest,
        source=path.name + suffix.replace("-", "#", 1),
        supervision="as its authors state",
    )
    return Encoder(model, card)


def _likely_name(state: Mapping[str, torch.Tensor]) -> str:
    """Return a model of timm with the width and patch of ``state``, which a user may mean."""
    width, _, patch, _ = state["patch_embed.proj.weight"].shape
    size = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge", 1536: "giant"}.get(width)
    if size is None:
        return "NAME"
    if "blocks.0.ls1.gamma" not in state:
        return f"vit_{size}_patch{patch}_224"
    return f"vit_{size}_patch{patch}_{'reg4_' if 'reg_token' in state else ''}dinov2"
