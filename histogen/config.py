"""YAML files to frozen pydantic models, strictly; dotted overrides; the resolved copy beside each output."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from histogen.errors import ConfigError

Precision = Literal["auto", "float32", "bfloat16", "float16"]
"""Arithmetic of networks; ``auto`` is bfloat16 where the hardware multiplies it, else float32."""


class Settings(BaseModel):
    """Base of every config: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class StageConfig(Settings):
    """What every command understands."""

    out: Path
    """Where the output goes."""
    seed: int = 0
    """Seed of the whole stage; same seed, same bytes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where torch computes; ``auto`` takes CUDA where there is one."""
    resume: bool = False
    """Continue an output that exists; its settings must be the same."""
    overwrite: bool = False
    """Delete an output that exists and start again."""


class ChosenTiles(Settings):
    """Which tiles a command works on; what is left out takes no part in anything that is learnt or made."""

    tiles: list[Path]
    """Tile stores, folders of them, or manifests."""
    where: dict[str, Any] = {}
    """Keep the tiles whose columns have these values, for example ``{split: train}``."""


class BulkConfig(StageConfig):
    """What every bulk command (one shard map) understands besides."""

    workers: int = Field(default=0, ge=0)
    """Local Dask worker processes; 0 runs in this process."""
    scheduler: str | None = None
    """Address of a running Dask scheduler, for example ``tcp://head:8786``."""


UNRECORDED = frozenset({"out", "resume", "overwrite", "workers", "threads", "scheduler", "device", "reference"})
"""Keys that change how or where a stage runs, not what it makes: resume does not compare them."""

S = TypeVar("S", bound=Settings)


def load_config(
    cls: type[S],
    *,
    file: Path | None = None,
    overrides: Iterable[str] = (),
    flags: Mapping[str, Any] | None = None,
) -> S:
    """Build a config from defaults, then ``file``, then ``--set a.b=c`` overrides, then command-line flags.

    Raises:
        ConfigError: a file, key or value cannot be used; the message names it and says what would do.
    """
    written = read_yaml(file) if file is not None else {}
    values = copy.deepcopy(written)
    for override in overrides:
        _apply_override(values, override)
    values.update({key: value for key, value in (flags or {}).items() if value is not None})
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        blamed = file if _from_file(written, values, _first_of(error)["loc"]) else None
        raise ConfigError(_sentence(cls, error, blamed)) from error


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; nothing in it is executed.

    Raises:
        ConfigError: the file is missing, not YAML, or not a mapping.
    """
    try:
        values = yaml.safe_load(file.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"config '{file}' does not exist; check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        raise ConfigError(f"config '{file}' is not YAML ({' '.join(str(error).split())}); mend it") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"config '{file}' holds a {type(values).__name__}, not keys and values; mend it")
    return values


def dump_config(config: Settings) -> str:
    """Return the resolved config as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return ``"a.b: 1 -> 2"`` for every recorded key that differs between two resolved configs."""
    changes: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        if not prefix and key in UNRECORDED:
            continue
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            changes += changed_keys(a, b, f"{prefix}{key}.")
        elif a != b:
            changes.append(f"{prefix}{key}: {a} -> {b}")
    return changes


def _apply_override(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set '{override}' is not of the form a.b=c")
    *parents, leaf = path.split(".")
    node = values
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set '{override}': '{parent}' is a value, not a group of keys")
        node = child
    try:
        node[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set '{override}': the value is not YAML; quote it") from error


def _first_of(error: ValidationError) -> Any:
    """The mistake to speak of: an unknown key before a missing one, which it may have been meant for."""
    found = error.errors()
    return next((each for each in found if each["type"] == "extra_forbidden"), found[0])


def _sentence(cls: type[BaseModel], error: ValidationError, file: Path | None) -> str:
    first = _first_of(error)
    path = ".".join(str(part) for part in first["loc"])
    where = f" in {file}" if file else ""
    if first["type"] == "extra_forbidden":
        known = _known_keys(cls, first["loc"][:-1])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, n=1)
        hint = f"did you mean '{near[0]}'" if near else f"known keys are {', '.join(known)}"
        return f"unknown key '{path}'{where}; {hint}"
    if first["type"] == "missing":
        return f"'{path}' is not given{where}; add it with --set {path}=… or in the config"
    if first["type"] == "value_error":  # of a validator over several keys: it names them
        message = first["msg"].removeprefix("Value error, ")
        return f"{path + ': ' if path else ''}{message}{where}"
    loc, said = first["loc"], [first]
    if loc and _is_branch(cls, loc):  # one value, of none of several types: what each of them says, or the nearest one
        loc = loc[:-1]
        said = [other for other in error.errors() if other["loc"][: len(loc)] == loc]
        nearest = max(said, key=lambda other: len(other["loc"]))
        if len(nearest["loc"]) > len(loc) + 1:
            first, said, loc = nearest, [nearest], (*loc, *nearest["loc"][len(loc) + 1 :])
    path = ".".join(str(part) for part in loc)
    message = " or ".join(dict.fromkeys(other["msg"][0].lower() + other["msg"][1:] for other in said))
    return f"'{path}' cannot be {first.get('input')!r}{where}: {message}"


def _from_file(written: Any, values: Any, loc: tuple[int | str, ...]) -> bool:
    """Whether what is wrong at ``loc`` of ``values`` was ``written`` in the file, not said on the command line."""
    if not loc or not isinstance(written, dict) or not isinstance(values, dict):
        return bool(written == values)
    return loc[0] in written and loc[0] in values and _from_file(written[loc[0]], values[loc[0]], loc[1:])


def _is_branch(cls: type[BaseModel], loc: tuple[int | str, ...]) -> bool:
    """Whether the last part of ``loc`` is no key but one of the types that a value may have."""
    return isinstance(loc[-1], str) and loc[-1] not in _known_keys(cls, loc[:-1])


def _known_keys(cls: type[BaseModel], parents: tuple[int | str, ...]) -> list[str]:
    for parent in parents:
        field = cls.model_fields.get(str(parent))
        inner = field.annotation if field else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        cls = inner
    return sorted(cls.model_fields)
