"""The configs that come with the package, found by their name under ``configs/``."""

from __future__ import annotations

import difflib
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
    names = [f"{path.parent.name}/{path.stem}" for path in sorted(folder.glob("*/*.yaml"))]
    wanted = str(name).removesuffix(".yaml")
    near = [one for one in names if one.rpartition("/")[2] == wanted] or difflib.get_close_matches(wanted, names, n=1)
    near = near or [one for one in names if one.partition("/")[0] == wanted.partition("/")[0]]
    hint = f"did you mean {' or '.join(near)}" if near else "configs/README.md lists these"
    raise ConfigError(f"config '{name}' does not exist, neither as a file nor among the shipped ones; {hint}")
