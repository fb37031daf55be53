"""Encoders that are timm models: building them, loading their weights, and timm's own folder format.

The export is what ``timm.models.save_for_hf`` writes (``config.json``, ``model.safetensors``), so that
``timm.create_model("local-dir:RUN/encoder", pretrained=True)`` gives the same embeddings, bit for bit.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from histogen.encoders.base import Encoder, EncoderCard, key_of
from histogen.encoders.checkpoint import WeightsFile, check_complete, load_matching, read_weights
from histogen.encoders.published import similar_names
from histogen.errors import EncoderError
from histogen.files import read_json, whole_file, write_atomic
from histogen.training.weights import UNREADABLE

CARD_NAME = "histogen.json"
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def build_vit(name: str, arguments: Mapping[str, Any], *, drop_path: float = 0.0) -> nn.Module:
    """Return an untrained timm vision transformer without classifier, for any image size that its patch divides.

    Initialised as DINO's (Linear, position and CLS token: truncated normal, 0.02; patch convolution: PyTorch's).

    Raises:
        EncoderError: timm has no such model, or it does not take these arguments.
    """
    try:
        model = timm.create_model(
            name,
            pretrained=False,
            drop_path_rate=drop_path,
            **{"dynamic_img_size": True, **arguments, "num_classes": 0},
        )
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        first = " ".join(str(error).partition("\n")[0].partition(", but expected one of")[0].split())
        raise EncoderError(f"timm cannot build '{name}' with {dict(arguments)}: {first}; {_advice(name)}") from error
    if isinstance(getattr(model, "cls_token", None), nn.Parameter):
        nn.init.trunc_normal_(model.cls_token, std=0.02)  # type: ignore[arg-type]
    return model


def _advice(name: str) -> str:
    base, known = name.partition(".")[0], timm.list_models()
    if base in known:
        return "mend model.arguments"
    near = difflib.get_close_matches(base, known, n=3) or ["vit_small_patch16_224"]
    return f"model.name must be a model of timm, for example {' or '.join(near)}"


def export_encoder(
    model: nn.Module,
    folder: Path,
    *,
    name: str,
    architecture: str,
    arguments: Mapping[str, Any],
    image_px: int,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
    source: str,
    supervision: str,
) -> EncoderCard:
    """Write ``model`` as a timm folder with a card, and return the card."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with whole_file(folder / "model.safetensors") as temporary:
        save_file(state, temporary, metadata={"format": "pt"})
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    plain = isinstance(model, VisionTransformer)
    built = {"dynamic_img_size": True} if "img_size" in arguments else {}
    own = getattr(model, "pretrained_cfg", {})
    config = {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": model.num_features,
        **({"global_pool": "token"} if plain else {}),
        "model_args": {**built, **arguments, "num_classes": 0},
        "pretrained_cfg": {
            "tag": "histogen",
            "input_size": [3, image_px, image_px],
            "fixed_input_size": False,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "mean": list(mean),
            "std": list(std),
            "num_classes": 0,
            "first_conv": own.get("first_conv", "patch_embed.proj"),
            "classifier": own.get("classifier", "head"),
        },
    }
    card = EncoderCard(
        name=key_of(name, digest),
        dim=int(model.num_features),  # type: ignore[arg-type]
        image_px=image_px,
        mean=mean,
        std=std,
        weights_sha256=digest,
        source=source,
        supervision=supervision,
    )
    write_atomic(folder / CARD_NAME, json.dumps(card.to_json(), indent=1))
    write_atomic(folder / "config.json", json.dumps(config, indent=1))  # last: its presence says the export is whole
    return card


def load_export(folder: Path, *, name: str) -> Encoder:
    """Return the encoder in a timm folder, ours or anybody's; ``name`` serves where the folder has no card.

    Raises:
        EncoderError: the folder is not what timm exports, or its weights do not fit its config.
    """
    weights = folder / "model.safetensors"
    if not weights.is_file():
        raise EncoderError(f"encoder folder '{folder}' has no model.safetensors; export it again")
    try:
        model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
    except UNREADABLE as error:
        said = " ".join(str(error).split()) or "its weights do not fit its config"
        raise EncoderError(
            f"encoder folder '{folder}' cannot be loaded by timm: {said[:300]}{' …' if len(said) > 300 else ''}; "
            "export it again"
        ) from error
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    if (folder / CARD_NAME).is_file():
        values = read_json(folder / CARD_NAME)
        card = EncoderCard.from_json({**values, "weights_sha256": digest, "name": key_of(name, digest)})
        return Encoder(model, card)
    return Encoder(model, _card_of(model, name=name, digest=digest, source=str(folder.name), supervision="unknown"))


def load_timm(rest: str) -> Encoder:
    """Return ``timm:NAME`` with timm's pretrained weights, or ``timm:NAME@FILE`` with those of a local file.

    Images are prepared as timm's evaluation does. With a file, the side is that of the file's position embedding, and
    mean and std must be known: by a tag of NAME (``vit_small_patch16_224.dino``), or given behind the file.

    Raises:
        EncoderError: no such model, its weights are not to be had, the file's weights do not fit, or what they were
            trained with is not known.
    """
    name, _, given = rest.partition("@")
    if not given:
        model = _create(name, pretrained=True)
        supervision = f"as stated by timm for '{name}'"
        return Encoder(
            model, _card_of(model, name=name, digest=digest_of(model), source=f"timm:{rest}", supervision=supervision)
        )
    file = WeightsFile.parse(given)
    weights = read_weights(file.path, key=file.key).state
    if file.mean is None and "." not in name:
        raise EncoderError(_unknown_normalisation(name, file))
    model = build_vit(name, _side_of(name, weights)) if name.startswith("vit") else _create(name, pretrained=False)
    check_complete(load_matching(model, weights), what=str(file.path))
    card = _card_of(model, name=name, digest="", source=f"timm:{rest}", supervision="unknown")
    if side := getattr(getattr(model, "patch_embed", None), "img_size", None):
        resize_px = card.resize_px and card.resize_px * side[0] // card.image_px
        card = replace(card, image_px=side[0], resize_px=resize_px)
    return Encoder(model, file.named(card, name))


def _side_of(name: str, weights: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Return the side of the images that ``weights`` were trained on, where it is not that of timm's model."""
    if "pos_embed" not in weights or "patch_embed.proj.weight" not in weights:
        return {}
    with torch.device("meta"):
        own = build_vit(name, {})
    prefix = 0 if getattr(own, "no_embed_class", False) else int(getattr(own, "num_prefix_tokens", 1))
    grid = math.isqrt(max(0, weights["pos_embed"].shape[1] - prefix))
    if grid**2 + prefix != weights["pos_embed"].shape[1]:
        return {}
    return {"img_size": grid * weights["patch_embed.proj.weight"].shape[-1]}


def _unknown_normalisation(name: str, file: WeightsFile) -> str:
    near = [f"{card}@{file.path}" for card in similar_names(name)]
    cards = f", or the card that it belongs to ({', '.join(near[:4])})" if near else ""
    return (
        f"'{file.path}' does not say what its images were normalised by, nor does 'timm:{name}'; give "
        f"timm:{name}@{replace(file, mean=IMAGENET_MEAN, std=IMAGENET_STD).at(file.path)} if these are right{cards}"
    )


def load_random(rest: str) -> Encoder:
    """Return ``random:NAME`` or ``random:NAME@SEED``: an untrained timm model, a baseline for benchmarks.

    Raises:
        EncoderError: no such model, or the seed is no number.
    """
    name, _, seed = rest.partition("@")
    if not (seed or "0").isdigit():
        raise EncoderError(f"the seed of 'random:{rest}' cannot be '{seed}'; give a number: random:{name}@1")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(seed or 0))
        model = _create(name, pretrained=False)
    card = _card_of(model, name=f"random-{name}", digest=digest_of(model), source=f"random:{rest}", supervision="")
    return Encoder(model, card)


def _create(name: str, *, pretrained: bool) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0)
    except RuntimeError as error:
        if not timm.is_model(name.partition(".")[0]) and ":" not in name:
            models = timm.list_models()
            near = [model for model in models if model.startswith(name)][:3] or difflib.get_close_matches(name, models)
            hint = f"did you mean {' or '.join(near)}" if near else "timm.list_models() in Python lists them"
            raise EncoderError(f"timm has no model '{name}'; {hint}") from error
        raise EncoderError(f"no pretrained weights for 'timm:{name}': {error}") from error
    except OSError as error:  # what huggingface_hub raises when offline and not cached
        raise EncoderError(
            f"the weights of 'timm:{name}' are neither in the local cache nor to be fetched; "
            f"fetch them first or give a file: timm:{name}@weights.safetensors"
        ) from error


def transform_of(model: nn.Module) -> dict[str, Any]:
    """Return what timm's own evaluation does to images before ``model``: sides, interpolation, mean and std.

    Raises:
        EncoderError: it interpolates in a way that is not known here.
    """
    data = timm.data.resolve_model_data_config(model)
    image_px = int(data["input_size"][-1])
    resize_px = int(image_px / data["crop_pct"])
    if data["interpolation"] not in ("bilinear", "bicubic"):
        raise EncoderError(
            f"timm resizes for this model by '{data['interpolation']}'; only bilinear and bicubic are known"
        )
    return {
        "image_px": image_px,
        "resize_px": None if resize_px == image_px else resize_px,
        "interpolation": data["interpolation"],
        "mean": tuple(data["mean"]),
        "std": tuple(data["std"]),
    }


def _card_of(model: nn.Module, *, name: str, digest: str, source: str, supervision: str) -> EncoderCard:
    return EncoderCard(
        name=key_of(name, digest),
        dim=int(model.num_features),  # type: ignore[arg-type]
        weights_sha256=digest,
        source=source,
        supervision=supervision or "none (untrained)",
        **transform_of(model),
    )


def digest_of(model: nn.Module) -> str:
    """Return the SHA-256 of a model's names and weights."""
    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
