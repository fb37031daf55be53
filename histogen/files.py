"""Files that are either whole or absent."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

TEMPORARY = ".tmp."


def write_atomic(path: Path, data: str | bytes) -> None:
    """Write ``data`` under a temporary name, sync it, and rename it to ``path``; parents are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}{TEMPORARY}{uuid.uuid4().hex}")
    with temporary.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def is_temporary(path: Path) -> bool:
    """Whether ``path`` is what :func:`write_atomic` leaves when it is killed."""
    return TEMPORARY in path.name


def remove_temporaries(folder: Path) -> None:
    """Delete what killed writers left under ``folder``; nobody may be writing there."""
    for path in folder.rglob(f"*{TEMPORARY}*"):
        path.unlink(missing_ok=True)
