"""The configs that come with the package, found by their name under ``configs/``."""

from __future__ import annotations

import difflib
import importlib.resources
from pathlib import Path

from histogen.errors import ConfigError


def shipped_configs() -> dict[str, Path]:
    """Return the shipped configs by name (``pretrain/demo``), in order."""
    folder = Path(str(importlib.resources.files("histogen.configs")))
    return {f"{file.parent.name}/{file.stem}": file for file in sorted(folder.glob("*/*.yaml"))}


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
    names = list(shipped_configs())
    wanted = str(name).removesuffix(".yaml")
    near = [one for one in names if one.rpartition("/")[2] == wanted] or difflib.get_close_matches(wanted, names, n=1)
    near = near or [one for one in names if one.partition("/")[0] == wanted.partition("/")[0]]
    hint = f"did you mean {' or '.join(near)}" if near else "histogen configs lists these"
    raise ConfigError(f"config '{name}' does not exist, neither as a file nor among the shipped ones; {hint}")
