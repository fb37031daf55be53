"""Files that are either whole or absent."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

from histogen.errors import ConfigError

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


def read_json(path: Path) -> dict[str, Any]:
    """Return the mapping in a file of JSON that histogen, or a library, has left beside an output.

    Raises:
        ConfigError: it cannot be read, is not JSON, or holds no mapping.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"'{path}' cannot be read ({error.strerror}); restore it, or make its folder again"
        ) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"'{path}' is not JSON ({error}); restore it, or make its folder again") from error
    if not isinstance(content, dict):
        raise ConfigError(f"'{path}' holds no names and values; restore it, or make its folder again")
    return content
