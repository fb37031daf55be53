"""Encoders by their cards: published ones by name, a user's own by a YAML file, with weights from the hub or a file.

A specification is ``NAME``, ``NAME@WEIGHTS``, ``CARD.yaml`` or ``CARD.yaml@WEIGHTS``; ``transformers:FOLDER`` takes
what a card would say from the folder's own ``preprocessor_config.json``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
from timm.layers import SwiGLUPacked
from torch import nn

from histogen.encoders.base import Encoder, EncoderCard, key_of
from histogen.encoders.checkpoint import WeightsFile, check_complete, load_matching, read_weights
from histogen.encoders.features import with_feature
from histogen.encoders.published import PublishedCard, own_card, published_card, published_names
from histogen.encoders.timm import digest_of, transform_of
from histogen.errors import EncoderError
from histogen.files import read_json
from histogen.training.weights import UNREADABLE

LAYERS = {"SwiGLUPacked": SwiGLUPacked, "SiLU": nn.SiLU, "GELU": nn.GELU}
"""Arguments of timm's models that are classes, by the names that cards use."""
PILLOW = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers of the two interpolations, as ``preprocessor_config.json`` has them."""


def is_card(spec: str) -> bool:
    """Return whether a specification without a path of that name begins with a card.

    Raises:
        EncoderError: a folder or file here has the name of a published encoder.
    """
    name = spec.partition("@")[0]
    if name in published_names():
        if Path(name).exists():
            raise EncoderError(f"'{name}' is a published encoder, and lies here too; write ./{name} for what lies here")
        return True
    return name.endswith((".yaml", ".yml")) and Path(name).is_file()


def load_carded(spec: str) -> Encoder:
    """Return the encoder of a card, with the weights behind the @, or those of the hub.

    Raises:
        EncoderError: it needs another package, its weights are not to be had, or they do not fit its card.
        ConfigError: a user's card is none.
    """
    name, _, given = spec.partition("@")
    card = published_card(name) if name in published_names() else own_card(Path(name))
    if card.loader == "package":
        raise EncoderError(
            f"'{card.name}' needs {card.needs}, which histogen does not run; embed with it, and "
            "`histogen import-features` takes the features"
        )
    if card.loader == "timm":
        return _timm_encoder(card, WeightsFile.parse(given) if given else None)
    if given and not Path(given).is_dir():
        raise EncoderError(
            f"'{card.name}' is loaded from a folder with its config.json, not from '{given}'; give that folder"
        )
    if card.loader == "transformers":
        return _transformers_encoder(card, given)
    return _config_encoder(card, given)


def build(card: PublishedCard) -> nn.Module:
    """Return the untrained network of a card for ``timm``.

    Raises:
        EncoderError: timm cannot build it so.
    """
    try:
        return timm.create_model(str(card.architecture), pretrained=False, num_classes=0, **_arguments(card))
    except UNREADABLE as error:
        raise EncoderError(
            f"timm cannot build '{card.architecture}' as the card of '{card.name}' says: {_line(error)}; mend the card"
        ) from error


def _arguments(card: PublishedCard) -> dict[str, Any]:
    return {key: LAYERS.get(value, value) if isinstance(value, str) else value for key, value in card.arguments.items()}


def _timm_encoder(card: PublishedCard, file: WeightsFile | None) -> Encoder:
    if file is not None and file.mean is not None:
        raise EncoderError(
            f"the card of '{card.name}' has its normalisation; leave #mean and #std out, or change the card"
        )
    path = file.path if file is not None else _fetched(card, str(card.file))
    model = build(card)
    report = load_matching(model, read_weights(path, key=file.key if file else None).state)
    check_complete(report, what=str(path), advice=f"give those of {card.hub or card.name}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return _encoder(card, with_feature(model, card.feature, what=card.name), digest)


def _config_encoder(card: PublishedCard, folder: str) -> Encoder:
    """Load a timm folder, of the hub or here, that says itself what its card leaves open."""
    where = f"local-dir:{folder}" if folder else f"hf-hub:{card.hub}"
    with _reachable(card):
        model = timm.create_model(where, pretrained=True, num_classes=0, **_arguments(card))
    told = card.model_copy(update=transform_of(model))
    return _encoder(told, with_feature(model, card.feature, what=card.name), digest_of(model))


def _transformers_encoder(card: PublishedCard, folder: str) -> Encoder:
    import transformers  # only here: it takes seconds

    kind = getattr(transformers, str(card.architecture), None)
    if kind is None:
        raise EncoderError(f"transformers has no model class '{card.architecture}'; mend the card of '{card.name}'")
    with _reachable(card):
        model, found = kind.from_pretrained(folder or card.hub, output_loading_info=True, trust_remote_code=False)
    missing = [
        key for key in found["missing_keys"] if card.feature in ("pooler", "pooled") or not key.startswith("pooler.")
    ]
    if missing or found["mismatched_keys"]:
        raise EncoderError(
            f"the weights of '{card.name}' do not fit {card.architecture}: {len(missing)} missing "
            f"({', '.join(sorted(missing)[:4])}); give those of {card.hub or card.name}"
        )
    return _encoder(card, with_feature(model, card.feature, what=card.name, registers=card.registers), digest_of(model))


def load_transformers(rest: str) -> Encoder:
    """Return ``transformers:FOLDER`` or ``transformers:ORG/NAME``: the class token after the last norm.

    Raises:
        EncoderError: the folder does not say which model it is and how its images are prepared, or cannot be loaded.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoModel

    named = PublishedCard(
        name="transformers", loader="transformers", architecture="AutoModel", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5),
        dim=1, licence="see its page", hub=rest,
    )  # fmt: skip
    with _reachable(named):
        config = AutoConfig.from_pretrained(rest, trust_remote_code=False)
        if Path(rest).is_dir():
            told = read_json(Path(rest) / "preprocessor_config.json")
        else:
            told = AutoImageProcessor.from_pretrained(rest, trust_remote_code=False).to_dict()
        architecture = type(AutoModel.from_config(config)).__name__
    card = named.model_copy(
        update={
            "name": key_of(Path(rest).name, "").rstrip("-").lower(), "architecture": architecture,
            "dim": config.hidden_size, "registers": int(getattr(config, "num_register_tokens", 0)),
            "supervision": "as its page states", **_prepared(told, rest),
        }
    )  # fmt: skip
    return _transformers_encoder(card, rest)


def _prepared(told: dict[str, Any], what: str) -> dict[str, Any]:
    """Return the transform of a ``preprocessor_config.json``."""
    size = told.get("size")
    side = size if isinstance(size, int) else (size or {}).get("shortest_edge") or (size or {}).get("height")
    cut = told.get("crop_size") if told.get("do_center_crop") else None
    cut = cut if isinstance(cut, int) or cut is None else cut.get("height")
    interpolation = PILLOW.get(int(told.get("resample", -1)))
    if not side or interpolation is None or not told.get("image_mean") or not told.get("image_std"):
        raise EncoderError(
            f"'{what}' does not say how its images are prepared (size, resample 2 or 3, image_mean, image_std in "
            "preprocessor_config.json); write a card for it"
        )
    return {
        "resize_px": side if cut and side != cut else None, "image_px": cut or side, "interpolation": interpolation,
        "mean": tuple(told["image_mean"]), "std": tuple(told["image_std"]),
    }  # fmt: skip


def _encoder(card: PublishedCard, model: nn.Module, digest: str) -> Encoder:
    """Return the encoder; its name tells apart what two cards make of the same weights."""
    assert card.mean is not None
    assert card.std is not None
    decides = card.model_dump(mode="json", include={
        "architecture", "arguments", "resize_px", "image_px", "interpolation", "mean", "std", "feature", "registers",
    })  # fmt: skip
    told = hashlib.sha256(f"{digest} {json.dumps(decides, sort_keys=True)}".encode()).hexdigest()
    return Encoder(
        model,
        EncoderCard(
            name=key_of(card.name, told), dim=card.dim, image_px=card.image_px, mean=card.mean, std=card.std,
            weights_sha256=digest, source=card.hub or card.name, supervision=card.supervision,
            resize_px=card.resize_px, interpolation=card.interpolation, feature=card.feature,
            architecture=f"{card.architecture or 'config.json'} {json.dumps(card.arguments, sort_keys=True)}",
            licence=card.licence, mpp=card.mpp, tile_px=card.tile_px,
        ),
    )  # fmt: skip


def _fetched(card: PublishedCard, file: str) -> Path:
    from huggingface_hub import hf_hub_download

    with _reachable(card):
        return Path(hf_hub_download(str(card.hub), file))


@contextmanager
def _reachable(card: PublishedCard) -> Iterator[None]:
    """Turn what is raised where weights are not to be had into one sentence that says what to do.

    Raises:
        EncoderError: they are not in the cache and not to be fetched, or cannot be loaded.
    """
    from huggingface_hub.errors import GatedRepoError

    login = f"agree to the terms on the page of {card.hub} and log in (`hf auth login`)"
    instead = f"or give what you have: {card.name}@{'FOLDER' if card.loader != 'timm' else card.file or 'FILE'}"
    try:
        yield
    except EncoderError:
        raise
    except GatedRepoError as error:
        raise EncoderError(f"the weights of '{card.name}' need a login; {login}, {instead}") from error
    except (OSError, *UNREADABLE) as error:
        first = login if card.gated else f"fetch {card.hub} where there is a network"
        raise EncoderError(
            f"the weights of '{card.name}' are neither in the local cache nor to be fetched ({_line(error)}); "
            f"{first}, {instead}"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160].rstrip(".") or type(error).__name__
