"""The configs that come with the package, found by their name under ``configs/``."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from histogen.errors import ConfigError


def find_config(name: str | Path) -> Path:
    """Return the YAML called ``name``: a path, or one of those shipped (``pretrain/demo.yaml``, ``pretrain/demo``).

    Raises:
        ConfigError: neither exists.
    """
    if Path(name).exists():
        return Path(name)
    folder = Path(str(importlib.resources.files("histogen.configs")))
    for shipped in (folder / name, folder / f"{name}.yaml"):
        if shipped.is_file() and folder in shipped.resolve().parents:
            return shipped
    raise ConfigError(f"config '{name}' does not exist: it is neither a file nor one of the shipped configs")
