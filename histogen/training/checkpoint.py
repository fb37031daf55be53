"""Checkpoints that are whole or absent, verified by their SHA-256, of which the last few are kept.

``checkpoints/step-00000120.pt`` holds the state; ``step-00000120.json``, written after it, holds its digest. A
checkpoint without its JSON, or whose digest does not match, is passed over for the one before it.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any

import torch

from histogen.errors import CheckpointError
from histogen.files import write_atomic
from histogen.training.weights import UNREADABLE


def save_checkpoint(folder: Path, step: int, state: dict[str, Any], *, keep: int) -> Path:
    """Write ``state`` as the checkpoint after ``step`` steps, delete all but the newest ``keep``, return its path.

    ``state`` may nest dicts, lists and tuples of tensors, numbers and strings.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    path = folder / f"step-{step:08d}.pt"
    write_atomic(path, data)
    note = {"step": step, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    write_atomic(path.with_suffix(".json"), json.dumps(note))
    for old in list_checkpoints(folder)[:-keep] if keep > 0 else []:
        old.with_suffix(".json").unlink()
        old.unlink(missing_ok=True)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in ``folder`` that have their JSON, oldest first."""
    notes = sorted(path for path in folder.glob("step-*.json") if path.stem.partition("-")[2].isdecimal())
    return [path.with_suffix(".pt") for path in notes]


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
        state = torch.load(io.BytesIO(data), map_location=map_location, weights_only=True)
    except (*UNREADABLE, RecursionError):
        return None
    return state if isinstance(state, dict) else None
