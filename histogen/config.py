"""YAML files to frozen pydantic models, strictly; dotted overrides; the resolved copy beside each output."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from histogen.errors import ConfigError, MissingSettingError
from histogen.names import too_long_part
from histogen.plain_yaml import MAX_DEPTH, check_texts, dump_yaml, parse_yaml
from histogen.remote import as_path
from histogen.sentences import Loc, first_of, missing_keys, path_in, refusal, sentence_of, shown

StorePath = Annotated[Path, AfterValidator(as_path)]
"""Where tile stores are: a local path, or one on object storage."""

Precision = Literal["auto", "float32", "bfloat16", "float16"]
"""Arithmetic of networks; ``auto`` is bfloat16 where the hardware multiplies it, else float32."""


class Settings(BaseModel):
    """Base of every config: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


class StageConfig(Settings):
    """What every command understands."""

    out: StorePath
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

    tiles: list[StorePath]
    """Tile stores, folders of them, or manifests; local, or on object storage (``s3://bucket/tiles``)."""
    where: dict[str, Any] = {}
    """Keep the tiles whose columns have these values, for example ``{split: train}``."""


class BulkConfig(StageConfig):
    """What every bulk command (one shard map) understands besides."""

    workers: int = Field(default=0, ge=0)
    """Local Dask worker processes; 0 runs in this process."""
    scheduler: str | None = None
    """Address of a running Dask scheduler, for example ``tcp://head:8786``."""
    cluster: Path | None = None
    """YAML of a queue (SLURM, PBS …) in which workers are started as jobs; see :mod:`histogen.compute.job_queue`."""
    dask_report: Path | None = None
    """Folder for Dask's performance reports; its dashboard is served while the work runs."""

    @property
    def bulk(self) -> dict[str, Any]:
        """Where bulk work runs, as keyword arguments of another stage's config."""
        return {key: getattr(self, key) for key in ("workers", "scheduler", "cluster", "dask_report")}


UNRECORDED = frozenset(
    {"out", "resume", "overwrite", "workers", "threads", "scheduler", "cluster", "dask_report", "device", "reference"}
)
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
        MissingSettingError: a key that has no default is given nowhere.
    """
    written = read_yaml(file) if file is not None else {}
    values = copy.deepcopy(written)
    for override in overrides:
        _apply_override(values, override)
    values.update({key: value for key, value in (flags or {}).items() if value is not None})
    check_texts(values)

    def where(path: Loc) -> str:
        return f" in {file}" if file is not None and _from_file(written, values, path) else ""

    try:
        config = cls.model_validate(values)
    except ValidationError as error:
        if missing := missing_keys(error):
            raise MissingSettingError(missing, file) from error
        blamed = where(path_in(values, first_of(error)["loc"]))
        raise ConfigError(sentence_of(cls, error, values, blamed)) from error
    for path, value, number in _truths_as_numbers(values, config):
        instead = "a whole number" if isinstance(number, int) else "a number"
        raise ConfigError(refusal(path, value, where(path), instead))
    for key, value in config:
        for file_path in [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, Path)]:
            if part := too_long_part(file_path):
                raise ConfigError(f"'{key}' has a name that no file can have, '{part}'{where((key,))}; mend it")
    return config


def read_yaml(file: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file; nothing in it is executed.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or not a mapping.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ConfigError(f"config '{file}' does not exist; check the path") from error
    except OSError as error:
        raise ConfigError(f"config '{file}' cannot be read ({error.strerror}); give a YAML file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"config '{file}' is not text in UTF-8 ({error.reason}); save it as such") from error
    values = parse_yaml(text, where=f"config '{file}'")
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"config '{file}' holds {shown(values)}, not keys and values; mend it")
    return values


def dump_config(config: Settings) -> str:
    """Return the resolved config as YAML."""
    return dump_yaml(config.model_dump(mode="json"))


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
    if len(parents) >= MAX_DEPTH:
        raise ConfigError(f"--set '{override:.60}' has {len(parents)} keys in each other; no setting lies so deep")
    node = values
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set '{override}': '{parent}' is a value, not a group of keys")
        node = child
    node[leaf] = parse_yaml(text, where=f"--set '{override:.60}'")


def _truths_as_numbers(values: Any, made: Any, path: Loc = ()) -> Iterator[tuple[Loc, bool, int | float]]:
    """Where ``true`` or ``false`` was ``made`` a number: pydantic takes them for 1 and 0."""
    if isinstance(values, bool):
        if isinstance(made, int | float) and not isinstance(made, bool):
            yield path, values, made
    elif isinstance(values, dict):
        for key, inner in values.items():
            found = getattr(made, key, None) if isinstance(made, BaseModel) else None
            yield from _truths_as_numbers(inner, found, (*path, key))
    elif isinstance(values, list | tuple) and isinstance(made, list | tuple):
        for index, inner in enumerate(values):
            yield from _truths_as_numbers(inner, made[index], (*path, index))


def _from_file(written: Any, values: Any, path: Loc) -> bool:
    """Whether what is wrong at ``path`` of ``values`` was ``written`` in the file, not said on the command line."""
    if not path or not isinstance(written, dict) or not isinstance(values, dict):
        return bool(written == values)
    return path[0] in written and path[0] in values and _from_file(written[path[0]], values[path[0]], path[1:])
