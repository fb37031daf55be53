"""Weights from files: what is in them, and what of it fits a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed
from torch import nn

from histogen.errors import EncoderError
from histogen.training.weights import read_tensors

NESTED_KEYS = ("teacher", "student", "state_dict", "model", "model_state_dict")
"""Under which key a checkpoint may hold the weights, in the order of preference; DINO evaluates the teacher."""
PREFIXES = ("module.", "backbone.", "encoder.", "model.")
HEAD = re.compile(r"^(head|fc|classifier|dino_head|ibot_head|head_drop)\.|^mask_token$")


@dataclass(frozen=True)
class LoadReport:
    """Which keys of a model were loaded, which it lacks, and which keys of the file it has no place for."""

    loaded: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    resampled: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether every key of the model was loaded and every key of the file used."""
        return not self.missing and not self.unexpected

    def sentence(self) -> str:
        """Return the report in words."""
        parts = [f"{len(self.loaded)} loaded"]
        for word in ("missing", "unexpected", "resampled"):
            keys = getattr(self, word)
            if keys:
                parts.append(f"{len(keys)} {word} ({', '.join(keys[:6])}{', …' if len(keys) > 6 else ''})")
        return ", ".join(parts)


def check_complete(report: LoadReport, *, what: str, advice: str = "give weights of this very model") -> None:
    """Raise EncoderError, listing the keys, when ``report`` is not complete."""
    if not report.complete:
        raise EncoderError(f"the weights in '{what}' do not fit: {report.sentence()}; {advice}")


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Return the backbone's weights in a safetensors or torch file, without wrappers' prefixes and without heads.

    Nothing in the file is executed.

    Raises:
        WeightsError: the file is missing, cannot be read as weights, or holds none.
    """
    state = read_tensors(path, nested=NESTED_KEYS)
    stripped = {_strip(key): value for key, value in state.items()}
    return _with_timm_registers({key: value for key, value in stripped.items() if not HEAD.match(key)})


def _with_timm_registers(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return DINOv2's weights with registers as timm has them: the class token has its place embedded already."""
    if "register_tokens" not in weights or "pos_embed" not in weights or "cls_token" not in weights:
        return weights
    place = weights["pos_embed"]
    own = {key: value for key, value in weights.items() if key != "register_tokens"}
    own["reg_token"] = weights["register_tokens"]
    own["cls_token"] = weights["cls_token"] + place[:, :1]
    own["pos_embed"] = place[:, 1:]
    return own


def load_matching(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> LoadReport:
    """Load what fits of ``weights`` into ``model`` and report the rest; a position embedding is resampled to fit."""
    own = model.state_dict()
    fitting: dict[str, torch.Tensor] = {}
    resampled: list[str] = []
    unexpected: list[str] = []
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
        else:
            unexpected.append(f"{key} {tuple(value.shape)}")
    model.load_state_dict(fitting, strict=False)
    missing = tuple(key for key in own if key not in fitting)
    return LoadReport(tuple(fitting), missing, tuple(unexpected), tuple(resampled))


def vit_arguments(weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return the arguments of the vision transformer that ``weights`` (DINO's or DINOv2's key names) belong to.

    Raises:
        EncoderError: they are not a vision transformer's.
    """
    try:
        dim, _, patch, _ = weights["patch_embed.proj.weight"].shape
        tokens = weights["pos_embed"].shape[1]
    except (KeyError, ValueError) as error:
        raise EncoderError(
            "the weights are not a vision transformer's (no patch_embed.proj.weight or pos_embed); "
            "give timm:NAME@FILE to say which model they belong to"
        ) from error
    depth = 1 + max(int(key.split(".")[1]) for key in weights if key.startswith("blocks."))
    registers = weights["reg_token"].shape[1] if "reg_token" in weights else 0
    grid = round((tokens if registers else tokens - 1) ** 0.5)
    arguments: dict[str, Any] = {"patch_size": patch, "embed_dim": dim, "depth": depth, "num_heads": max(1, dim // 64)}
    arguments["img_size"] = grid * patch
    if "blocks.0.ls1.gamma" in weights:
        arguments["init_values"] = 1e-5
    if registers:
        arguments |= {"reg_tokens": registers, "no_embed_class": True}
    return arguments


def _strip(key: str) -> str:
    while prefix := next((prefix for prefix in PREFIXES if key.startswith(prefix)), None):
        key = key.removeprefix(prefix)
    return key
