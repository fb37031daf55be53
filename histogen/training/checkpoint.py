"""Checkpoints that are whole or absent, verified by their SHA-256, of which the last few are kept.

``checkpoints/step-00000120.pt`` holds the state; ``step-00000120.json``, written after it, holds its digest. A
checkpoint without its JSON, or whose digest does not match, is passed over for the one before it.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch

from histogen.errors import CheckpointError
from histogen.files import write_atomic
from histogen.training.weights import UNREADABLE


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], *, keep: int) -> Path:
    """Write ``state`` as the checkpoint after ``step`` steps, delete all but the newest ``keep``, return its path.

    What was left by a process that was killed between a checkpoint and its JSON is deleted too.
    ``state`` may nest dicts, lists and tuples of tensors, numbers and strings.
    """
    buffer = io.BytesIO()
    torch.save(_with_one_of_each(state), buffer)
    data = buffer.getvalue()
    path = folder / f"step-{step:08d}.pt"
    write_atomic(path, data)
    note = {"step": step, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    write_atomic(path.with_suffix(".json"), json.dumps(note))
    prune(folder, keep=keep, before=step)
    return path


def prune(folder: Path, *, keep: int, before: int) -> None:
    """Delete all but the newest ``keep`` checkpoints, of those before step ``before``, and what killed runs left."""
    for old in list_checkpoints(folder)[:-keep] if keep > 0 else []:
        if step_of(old) < before:
            old.with_suffix(".json").unlink()
            old.unlink(missing_ok=True)
    for state in folder.glob("step-*.pt"):
        if _is_of_a_step(state) and not state.with_suffix(".json").exists():
            state.unlink()


def _with_one_of_each(value: Any) -> Any:
    """Return ``value`` with equal strings being one object: those that are one and those that are two differ as bytes.

    A string of the code and one that came out of a checkpoint are two; a resumed run writes what others write.
    """
    if isinstance(value, dict):
        same = copy.copy(value)  # of its class, with its attributes
        same.clear()
        same.update((_with_one_of_each(key), _with_one_of_each(inner)) for key, inner in value.items())
        return same
    if isinstance(value, list | tuple):
        return type(value)(_with_one_of_each(inner) for inner in value)
    return sys.intern(value) if type(value) is str else value


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in ``folder`` that have their JSON, oldest first."""
    notes = sorted(path for path in folder.glob("step-*.json") if _is_of_a_step(path))
    return [path.with_suffix(".pt") for path in notes]


def _is_of_a_step(path: Path) -> bool:
    return path.stem.partition("-")[2].isdecimal()


def step_of(path: Path) -> int:
    """Return how many steps were done when the checkpoint ``path`` was written."""
    return int(path.stem.partition("-")[2])


def load_newest(folder: Path, *, map_location: torch.device | str = "cpu") -> tuple[int, dict[str, Any]] | None:
    """Return (step, state) of the newest checkpoint that verifies; None when there is none at all.

    Raises:
        CheckpointError: there are checkpoints, and none of them verifies.
    """
    paths = list_checkpoints(folder)
    for path in reversed(paths):
        state = _verified(path, map_location)
        if state is not None:
            return step_of(path), state
    if paths:
        raise CheckpointError(
            f"none of the {len(paths)} checkpoints in '{folder}' verifies; start again with --overwrite"
        )
    return None


def _verified(path: Path, map_location: torch.device | str) -> dict[str, Any] | None:
    """Return the state in a checkpoint; None where it cannot be: the checkpoint before it is used then."""
    try:
        note = json.loads(path.with_suffix(".json").read_text())
        data = path.read_bytes()
        if not isinstance(note, dict) or hashlib.sha256(data).hexdigest() != note.get("sha256"):
            return None
        with warnings.catch_warnings(action="ignore"):  # torch warns of protocols that it then refuses
            state = torch.load(io.BytesIO(data), map_location=map_location, weights_only=True)
    except (*UNREADABLE, RecursionError, MemoryError):
        return None
    return state if isinstance(state, dict) else None
