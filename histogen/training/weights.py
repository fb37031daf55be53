"""Named tensors: read from any file of weights without running code in it, and digested, to name a model by them."""

from __future__ import annotations

import argparse
import hashlib
import pickle  # noqa: TID251 - only the name of the error that a refused file raises
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file

from histogen.errors import WeightsError

NOT_TENSORS = (pickle.UnpicklingError, LookupError, TypeError, ValueError, AttributeError)
"""What torch's restricted unpickler raises on a file of something else."""
UNREADABLE = (*NOT_TENSORS, RuntimeError, EOFError, OSError, safetensors.SafetensorError)


def read_tensors(path: Path, *, nested: Sequence[str] = ("state_dict",)) -> dict[str, torch.Tensor]:
    """Return the tensors, by name, of a safetensors file or of a torch file that holds nothing but data.

    A checkpoint may hold them under one of the keys ``nested``; the first that is there is looked into.

    Raises:
        WeightsError: the file is missing, damaged, would run code, or holds no tensors by name.
    """
    if not path.is_file():
        raise WeightsError(f"weights '{path}' {'are no file' if path.exists() else 'do not exist'}; check the path")
    try:
        if path.suffix == ".safetensors":
            content: Any = load_file(path)
        else:  # DINO keeps its arguments beside the weights; torch warns of protocols of files that it then refuses
            with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals([argparse.Namespace]):
                content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = "it is no file of weights, or would run code" if isinstance(error, NOT_TENSORS) else _first_line(error)
        raise WeightsError(
            f"'{path}' holds no readable weights ({reason}); copy it again, or save its state_dict as .safetensors"
        ) from error
    tensors = _tensors_in(content, nested)
    if not tensors:
        raise WeightsError(f"'{path}' holds no tensors by name; give a file of weights")
    return tensors


def weights_sha256(state: Mapping[str, torch.Tensor]) -> str:
    """Return one digest of named tensors: of names, dtypes, shapes and bytes, in the order of names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _tensors_in(content: Any, nested: Sequence[str]) -> dict[str, torch.Tensor]:
    if not isinstance(content, Mapping):
        return {}
    for key in nested:
        if isinstance(content.get(key), Mapping):
            return _tensors_in(content[key], nested)
    return {key: value for key, value in content.items() if isinstance(value, torch.Tensor)}


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:160]
