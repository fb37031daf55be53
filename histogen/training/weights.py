"""Named tensors: read from any file of weights without running code in it, and digested, to name a model by them."""

from __future__ import annotations

import argparse
import collections
import hashlib
import pickle  # noqa: TID251 - only the name of the error that a refused file raises
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load_file

from histogen.errors import HistogenError, WeightsError


def _harmless() -> Iterator[Any]:
    """Yield what training loops keep beside weights, and what cannot do anything: numbers, arrays, arguments, paths."""
    multiarray = np._core.multiarray  # type: ignore[attr-defined]
    yield from (argparse.Namespace, np.dtype, np.ndarray, *{type(np.dtype(kind)) for kind in np.typecodes["All"]})
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        yield multiarray.scalar, f"{module}.scalar"
        yield multiarray._reconstruct, f"{module}._reconstruct"
    for name in ("pathlib.PosixPath", "pathlib._local.PosixPath", "pathlib.WindowsPath", "pathlib._local.WindowsPath"):
        yield PurePosixPath, name
    yield collections.defaultdict


HARMLESS = tuple(_harmless())
NOT_TENSORS = (pickle.UnpicklingError, LookupError, TypeError, ValueError, AttributeError)
"""What torch's restricted unpickler raises on a file of something else."""
UNREADABLE = (
    *NOT_TENSORS, RuntimeError, EOFError, OSError, AssertionError, ArithmeticError, safetensors.SafetensorError,
)  # fmt: skip
"""What libraries raise of weights, and of what is said beside them, that cannot be."""


@contextmanager
def usable(what: str, advice: str = "export it again, or give another") -> Iterator[None]:
    """Turn what libraries raise of files that are not what they seem into one sentence about ``what``.

    Raises:
        WeightsError: one of them was raised; histogen's own errors are let through.
    """
    try:
        yield
    except HistogenError:
        raise
    except UNREADABLE as error:
        raise WeightsError(f"{what} cannot be used ({_first_line(error)}); {advice}") from error


def read_content(path: Path) -> Any:
    """Return what a safetensors file holds, or a torch file of nothing but data and what trainings keep beside it.

    Nothing in the file is executed.

    Raises:
        WeightsError: the file is missing, damaged, or would run code.
    """
    if not path.is_file():
        raise WeightsError(f"weights '{path}' {'are no file' if path.exists() else 'do not exist'}; check the path")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        _check_packed(path)
        # torch warns of protocols of files that it then refuses
        with warnings.catch_warnings(action="ignore"), torch.serialization.safe_globals(list(HARMLESS)):
            content = torch.load(path, map_location="cpu", weights_only=True)
        _check_extents(content)
        return content
    except (*UNREADABLE, MemoryError, RecursionError) as error:
        raise WeightsError(
            f"'{path}' holds no readable weights ({_reason(error)}); copy it again, or save its state_dict as "
            ".safetensors"
        ) from error


def _check_packed(path: Path) -> None:
    """Refuse a torch file that unpacks to more than it is: torch itself packs nothing."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(one.file_size for one in archive.infolist())
        if unpacked > path.stat().st_size:
            raise ValueError(f"it unpacks to {unpacked:,} bytes")


def _check_extents(content: Any) -> None:
    """Refuse tensors that say that they are larger than what is stored of them: a network of that size would be made.

    Raises:
        RuntimeError: there is one.
    """
    left, seen = [content], set[int]()
    while left:
        value = left.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, torch.Tensor):
            is_stored = value.layout == torch.strided and not value.is_meta
            if not is_stored or value.numel() * value.element_size() > value.untyped_storage().nbytes():
                raise RuntimeError(f"a tensor {list(value.shape)} is not stored as it is")
        elif isinstance(value, Mapping):
            left += value.values()
        elif isinstance(value, list | tuple):
            left += value


def read_tensors(path: Path, *, nested: Sequence[str] = ("state_dict",)) -> dict[str, torch.Tensor]:
    """Return the tensors, by name, of a file of weights (see :func:`read_content`).

    A checkpoint may hold them under one of the keys ``nested``; the first that is there is looked into.

    Raises:
        WeightsError: the file is missing, damaged, would run code, or holds no tensors by name.
    """
    tensors = _tensors_in(read_content(path), nested)
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


def _reason(error: BaseException) -> str:
    """Return why a file cannot be read, in words."""
    asked = re.search(r"GLOBAL ([\w.]+)", str(error))
    if asked:
        return f"it would run code: {asked[1]}"
    return "it is no file of weights, or would run code" if isinstance(error, NOT_TENSORS) else _first_line(error)


def _first_line(error: BaseException) -> str:
    """Return what an error says first; a heading (torch's "Error(s) in loading:") with the line below it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = " ".join(lines[: 2 if lines and lines[0].endswith(":") else 1])
    said = said if lines and not isinstance(error, KeyError) else f"nothing under {error}"
    return said if len(said) <= 200 else f"{said[:200]} …"
