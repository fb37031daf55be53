"""From what a checkpoint holds to the weights of one network: which of them, without wrappers, by timm's names."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

import torch

from histogen.errors import EncoderError

State = dict[str, torch.Tensor]

AVERAGED = ("teacher", "model_ema", "state_dict_ema", "ema_state_dict", "ema", "momentum_encoder")
"""Under which key, or before which dot of a name, checkpoints keep the averaged weights that are evaluated."""
PLAIN = ("student", "state_dict", "model", "model_state_dict", "net", "base_encoder")
"""The same for the trained ones, and for the only ones."""
PREFIXES = ("module.", "_orig_mod.", "backbone.", "encoder.", "model.")
INNER = re.compile(r"_orig_mod\.|_fsdp_wrapped_module\.|_checkpoint_wrapped_module\.")
CHUNK = re.compile(r"^blocks\.\d+\.(\d+\.)")
SWIGLU = {"mlp.w12.": "mlp.fc1.", "mlp.w3.": "mlp.fc2."}
"""DINOv2's names, and timm's, of the two projections of a gated MLP."""


def choose_state(content: Any, *, key: str | None, what: str) -> State:
    """Return the tensors by name under ``key``; by default the teacher's or averaged ones where there are both.

    Raises:
        EncoderError: there are no tensors, or none under ``key``.
    """
    if key is not None:
        chosen = _under(content, key)
        if not chosen:
            raise EncoderError(f"'{what}' has nothing under the key '{key}'; it has {', '.join(_keys(content))}")
        return chosen
    state = _descend(content)
    for name in (*AVERAGED, "student", "base_encoder"):
        if part := _with_prefix(state, name):
            return part
    return state


def named_as_timm(state: State, *, what: str) -> State:
    """Return ``state`` without the wrappers' prefixes, DINOv2's chunks, gated MLPs and registers as timm has them.

    Raises:
        EncoderError: two tensors come to bear one name.
    """
    own: State = {}
    origin: dict[str, str] = {}
    for key, value in state.items():
        name = _plain(key)
        if name in own:
            raise EncoderError(
                f"'{what}' has '{origin[name]}' and '{key}', both '{name}' of a network; say which by --checkpoint-key"
            )
        own[name], origin[name] = value, key
    return _with_timm_registers(own)


def recorded_heads(content: Any, width: int) -> int | None:
    """Return the number of attention heads that a checkpoint's own arguments state for a ``width``, if they do."""
    for name in ("args", "config", "cfg", "hyper_parameters", "model_args"):
        said = content.get(name) if isinstance(content, Mapping) else None
        said = vars(said) if isinstance(said, argparse.Namespace) else said
        if not isinstance(said, Mapping):
            continue
        for key in ("num_heads", "heads"):
            if isinstance(said.get(key), int):
                return int(said[key])
        for key in ("arch", "model", "model_name", "architecture"):
            heads = _heads_of(str(said.get(key, "")), width)
            if heads:
                return heads
    return None


_ARCHITECTURES = {
    "tiny": (192, 3), "small": (384, 6), "base": (768, 12), "large": (1024, 16), "huge": (1280, 16),
    "giant2": (1536, 24),
}  # fmt: skip
"""Width and heads of the vision transformers that DINO, iBOT, DINOv2 and DeiT call by these names."""


def _heads_of(architecture: str, width: int) -> int | None:
    named = re.match(r"(?:vit|deit)_(tiny|small|base|large|huge|giant2)(?:_|$)", architecture)
    if not named:
        return None
    said, heads = _ARCHITECTURES[named[1]]
    return heads if said == width else None


def _descend(content: Any) -> State:
    """Return the tensors of the preferred mapping inside ``content``."""
    if not isinstance(content, Mapping):
        return {}
    for name in (*AVERAGED, *PLAIN):
        if isinstance(content.get(name), Mapping) and (state := _descend(content[name])):
            return state
    return {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}


def _under(content: Any, key: str) -> State:
    node = content
    for part in key.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    if isinstance(node, Mapping):
        return _descend(node)
    if not isinstance(content, Mapping):
        return {}
    flat = {name: value for name, value in content.items() if isinstance(value, torch.Tensor)}
    states = [flat] + [_descend(value) for value in content.values() if isinstance(value, Mapping)]
    return next((found for state in states if (found := _with_prefix(state, key))), {})


def _with_prefix(state: State, name: str) -> State:
    """Return what of ``state`` is named ``name.…``, wrappers before it aside, without that."""
    pattern = re.compile(rf"^(?:module\.|_orig_mod\.)*{re.escape(name)}\.")
    return {pattern.sub("", key): value for key, value in state.items() if pattern.match(key)}


def _keys(content: Any) -> list[str]:
    if not isinstance(content, Mapping):
        return ["no keys"]
    inner = [str(key) for key, value in content.items() if isinstance(value, Mapping)]
    flat = [str(key) for state in (content, *content.values()) if isinstance(state, Mapping) for key in state]
    prefixes = [name for name in (*AVERAGED, *PLAIN) if any(key.startswith(f"{name}.") for key in flat)]
    return list(dict.fromkeys([*inner, *prefixes])) or ["one network only (leave the key out)"]


def _plain(key: str) -> str:
    while prefix := next((prefix for prefix in PREFIXES if key.startswith(prefix)), None):
        key = key.removeprefix(prefix)
    key = CHUNK.sub(r"blocks.\1", INNER.sub("", key))
    for theirs, ours in SWIGLU.items():
        key = key.replace(theirs, ours)
    return key


def _with_timm_registers(weights: State) -> State:
    """Return DINOv2's weights with registers as timm has them: the class token has its place embedded already."""
    if "register_tokens" not in weights or "pos_embed" not in weights or "cls_token" not in weights:
        return weights
    place = weights["pos_embed"]
    own = {key: value for key, value in weights.items() if key != "register_tokens"}
    own["reg_token"] = weights["register_tokens"]
    own["cls_token"] = weights["cls_token"] + place[:, :1]
    own["pos_embed"] = place[:, 1:]
    return own
