"""The checkpoints of DINO, DINOv2 and Gen-DINO as their authors publish them."""

from __future__ import annotations

import hashlib
from pathlib import Path

from histogen.encoders.base import Encoder, EncoderCard, key_of
from histogen.encoders.checkpoint import check_complete, load_matching, read_weights, vit_arguments
from histogen.encoders.timm import IMAGENET_MEAN, IMAGENET_STD, build_vit


def load_dino(path: Path) -> Encoder:
    """Return the encoder in a checkpoint of DINO, DINOv2 or Gen-DINO (teacher if both are there).

    Heads are 64 wide, as in every published DINO; ImageNet normalisation.

    Raises:
        EncoderError: it is not a vision transformer, or some keys do not fit.
    """
    weights = read_weights(path)
    arguments = vit_arguments(weights)
    model = build_vit("vit_small_patch16_224", arguments)
    check_complete(load_matching(model, weights), what=str(path))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    card = EncoderCard(
        name=key_of(path.stem, digest),
        dim=arguments["embed_dim"],
        image_px=224 if arguments["img_size"] % 14 == 0 and arguments["img_size"] > 224 else arguments["img_size"],
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        weights_sha256=digest,
        source=path.name,
        supervision="as its authors state",
    )
    return Encoder(model, card)
