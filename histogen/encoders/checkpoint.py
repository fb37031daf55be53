"""Weights from files: what is in them, and what of it fits a model."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from timm.layers import SwiGLUPacked, resample_abs_pos_embed
from torch import nn

from histogen.encoders.base import EncoderCard, key_of
from histogen.encoders.unwrap import choose_state, named_as_timm, recorded_heads
from histogen.errors import EncoderError, WeightsError
from histogen.training.weights import read_content

HEAD = re.compile(r"^(head|fc|classifier|dino_head|ibot_head|head_drop|projector|predictor)\.|^mask_token$")
"""What is left of a file without a word where the model has no place for it: what came after the features."""


@dataclass(frozen=True)
class LoadReport:
    """Which keys of a model were loaded, which it lacks, and which keys of the file it has no place for."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    resampled: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    """Heads of the file, which features have no use for."""

    @property
    def complete(self) -> bool:
        """Whether every key of the model was loaded and every key of the file used."""
        return not self.missing and not self.unexpected

    def sentence(self) -> str:
        """Return the report in words."""
        parts = [f"{len(self.loaded)} loaded"]
        for word in ("missing", "unexpected", "resampled", "left"):
            keys = getattr(self, word)
            if keys:
                parts.append(f"{len(keys)} {word} ({', '.join(keys[:6])}{', …' if len(keys) > 6 else ''})")
        return ", ".join(parts)


def check_complete(report: LoadReport, *, what: str, advice: str = "give weights of this very model") -> None:
    """Raise EncoderError, listing the keys, when ``report`` is not complete."""
    if not report.complete:
        raise EncoderError(f"the weights in '{what}' do not fit: {report.sentence()}; {advice}")


Channels = tuple[float, float, float]
"""A number for red, green and blue, of pixels in 0–1."""


@dataclass(frozen=True)
class WeightsFile:
    """A file of weights as a user names it: ``FILE#KEY#mean:R,G,B#std:R,G,B``, all but the file optional."""

    path: Path
    key: str | None = None
    """Which weights of a file that holds several."""
    mean: Channels | None = None
    std: Channels | None = None
    """What the network was trained with; None where the loader's usual ones hold."""

    @classmethod
    def parse(cls, given: str) -> WeightsFile:
        """Return the parts of ``given``; a file whose own name holds a # is taken as it is.

        Raises:
            EncoderError: a part is given twice, or mean and std are not three numbers each.
        """
        path, parts = given, list[str]()
        while "#" in path and not Path(path).exists():
            path, _, part = path.rpartition("#")
            parts.append(part)
        said: dict[str, str] = {}
        for part in parts:
            name, colon, text = part.partition(":")
            name, text = (name, text) if colon and name in ("mean", "std") else ("key", part)
            if name in said:
                raise EncoderError(f"'{given}' gives {name} twice; write FILE#KEY#mean:R,G,B#std:R,G,B")
            said[name] = text
        if ("mean" in said) != ("std" in said):
            raise EncoderError(f"'{given}' gives one of mean and std; give both: FILE#mean:R,G,B#std:R,G,B")
        norm = {name: _channels(said[name], name, given) for name in ("mean", "std") if name in said}
        return cls(Path(path), said.get("key"), **norm)

    def at(self, path: Path) -> str:
        """Return how the same weights are named where the file lies at ``path``."""
        return f"{path}{self.suffix()}"

    def suffix(self) -> str:
        """Return what stands behind the file's name."""
        norm = [f"#{name}:{_text(numbers)}" for name, numbers in (("mean", self.mean), ("std", self.std)) if numbers]
        return "".join(["" if self.key is None else f"#{self.key}", *norm])

    def named(self, card: EncoderCard, name: str) -> EncoderCard:
        """Return ``card`` of these weights, called ``name``, with the normalisation that is given, if one is.

        Embeddings of one network by two normalisations differ: so do the names of the cards.
        """
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        mean, std = self.mean or card.mean, self.std or card.std
        told = digest
        if (mean, std) != (card.mean, card.std):
            told = hashlib.sha256(f"{digest} {_text(mean)} {_text(std)}".encode()).hexdigest()
        return replace(card, name=key_of(name, told), mean=mean, std=std, weights_sha256=digest)


def _channels(text: str, name: str, given: str) -> Channels:
    try:
        red, green, blue = (float(number) for number in text.split(","))
    except ValueError as error:
        raise EncoderError(f"{name} in '{given}' cannot be '{text}'; give three numbers: {name}:R,G,B") from error
    for number in (red, green, blue):
        if not (0 <= number <= 1) or (name == "std" and number == 0):
            above = " above 0" if name == "std" else ""
            raise EncoderError(
                f"{name} in '{given}' cannot be {number:g}: pixels are in 0 to 1; give numbers{above} to 1"
            )
    return red, green, blue


def _text(numbers: Channels) -> str:
    return ",".join(f"{number:.9g}" for number in numbers)


@dataclass(frozen=True)
class Weights:
    """The tensors of one network in a file, by timm's names, and what the file itself says of its attention heads."""

    state: dict[str, torch.Tensor]
    heads: int | None


def read_weights(path: Path, *, key: str | None = None) -> Weights:
    """Return the weights in a safetensors or torch file: the teacher's or averaged ones unless ``key`` says which.

    Nothing in the file is executed.

    Raises:
        WeightsError: the file is missing, cannot be read as weights, or holds none.
        EncoderError: it has nothing under ``key``.
    """
    content = read_content(path)
    state = choose_state(content, key=key, what=str(path))
    if not state:
        raise WeightsError(f"'{path}' holds no tensors by name; give a file of weights")
    named = named_as_timm(state, what=str(path))
    width = named["patch_embed.proj.weight"].shape[0] if "patch_embed.proj.weight" in named else 0
    return Weights(named, recorded_heads(content, width) or _heads_of_norms(named))


def _heads_of_norms(weights: Mapping[str, torch.Tensor]) -> int | None:
    """Return the heads of a transformer that normalises each head's queries: the one place where weights tell."""
    norm, first = weights.get("blocks.0.attn.q_norm.weight"), weights.get("blocks.0.attn.qkv.weight")
    return None if norm is None or first is None else first.shape[1] // len(norm)


def load_matching(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> LoadReport:
    """Load what fits of ``weights`` into ``model`` and report the rest; a position embedding is resampled to fit."""
    own = model.state_dict()
    fitting: dict[str, torch.Tensor] = {}
    resampled: list[str] = []
    unexpected: list[str] = []
    left: list[str] = []
    for key, value in weights.items():
        if (
            key == "pos_embed"
            and key in own
            and own[key].shape != value.shape
            and value.shape[-1] == own[key].shape[-1]
        ):
            prefix = 0 if getattr(model, "no_embed_class", False) else int(getattr(model, "num_prefix_tokens", 1))
            value = resample_abs_pos_embed(value, model.patch_embed.grid_size, num_prefix_tokens=prefix)  # type: ignore
            resampled.append(key)
        if key in own and own[key].shape == value.shape:
            fitting[key] = value
        elif key not in own and HEAD.match(key):
            left.append(key)
        elif key in own:
            unexpected.append(f"{key} {tuple(value.shape)}, not {tuple(own[key].shape)}")
        else:
            unexpected.append(f"{key} {tuple(value.shape)}")
    model.load_state_dict(fitting, strict=False)
    missing = tuple(key for key in own if key not in fitting)
    return LoadReport(tuple(fitting), missing, tuple(unexpected), tuple(resampled), tuple(left))


def vit_arguments(weights: Mapping[str, torch.Tensor], *, heads: int) -> dict[str, Any]:
    """Return the arguments of the vision transformer with ``heads`` that ``weights`` (timm's names) belong to.

    Raises:
        EncoderError: they are not a vision transformer's, or cannot have as many heads.
    """
    try:
        dim, _, patch, _ = weights["patch_embed.proj.weight"].shape
        tokens = weights["pos_embed"].shape[1]
        hidden = weights["blocks.0.mlp.fc1.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise EncoderError(
            "the weights are not a vision transformer's (no patch_embed.proj.weight, pos_embed or blocks.0.mlp); "
            "give timm:NAME@FILE to say which model they belong to"
        ) from error
    if heads < 1 or dim % heads:
        raise EncoderError(f"weights of width {dim} cannot have {heads} attention heads; mend what says so")
    depth = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks."))
    registers = weights["reg_token"].shape[1] if "reg_token" in weights else 0
    places = tokens if registers else tokens - 1
    grid = round(places**0.5)
    if grid**2 != places:
        raise EncoderError(f"pos_embed has {places} places, which is no square of patches; give timm:NAME@FILE")
    arguments: dict[str, Any] = {"patch_size": patch, "embed_dim": dim, "depth": depth, "num_heads": heads}
    arguments["img_size"] = grid * patch
    if hidden != 4 * dim:
        ratio = hidden / dim
        arguments["mlp_ratio"] = ratio if int(dim * ratio) == hidden else (hidden + 0.5) / dim
    if weights["blocks.0.mlp.fc2.weight"].shape[1] * 2 == hidden:
        arguments |= {"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU}
    if "blocks.0.ls1.gamma" in weights:
        arguments["init_values"] = 1e-5
    if registers:
        arguments |= {"reg_tokens": registers, "no_embed_class": True}
    return arguments
