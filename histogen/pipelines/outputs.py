"""The output folder of a stage: claimed once, resumed only with the same settings, marked when complete."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import histogen
from histogen.config import StageConfig, changed_keys, dump_config, read_yaml
from histogen.errors import ConfigError, OutputExistsError
from histogen.files import is_temporary, read_json, remove_temporaries, write_atomic
from histogen.store.tile_store import TileStore

CONFIG_NAME = "config.yaml"
RUN_NAME = "run.json"


def records_folder(out: Path) -> Path:
    """Return where the config and the record of the stage in ``out`` are.

    An output that is itself a tile store keeps them in its ledger, where Zarr looks for no arrays.
    """
    return out / "ledger" if out.suffix == ".zarr" else out


@dataclass(frozen=True)
class Outcome:
    """What a stage did: where it is, one line about it, a sentence for each unit that failed, and its page."""

    out: Path
    summary: str
    failures: tuple[str, ...] = ()
    results: Mapping[str, Any] = field(default_factory=dict)
    page: Path | None = None

    @property
    def exit_code(self) -> int:
        """0 when all is done, 1 when some units failed."""
        return 1 if self.failures else 0


def claim_output(
    config: StageConfig,
    *,
    command: str,
    inputs: Mapping[str, str] | None = None,
    precision: str | None = None,
    located: Collection[str] = (),
    is_used: Callable[[str], bool] = lambda _: True,
) -> Path:
    """Make ``config.out`` the output of ``command`` with these settings, and return it.

    ``inputs`` maps the name of each input to its content hash; a resumed stage must have the same ones, but for those
    that ``is_used`` says nothing is made from yet: they may come, go and change. ``precision``, resolved, is recorded.
    ``located`` are settings that only say where inputs are.

    Raises:
        OutputExistsError: it exists and neither resume nor overwrite is set; nothing was touched.
        ConfigError: resume, but the settings or inputs differ from the recorded ones; or another command made it; or
            overwrite would delete an input; or it cannot be written.
    """
    out = config.out
    record = {"command": command, "status": "started", "histogen": histogen.__version__, "inputs": dict(inputs or {})}
    record |= {} if precision is None else {"precision": precision}
    if out.exists() and not _is_unclaimed(out):
        _check_command(out, command)
        if config.overwrite:
            _check_holds_no_input(config)
            _delete_own(out)
        elif config.resume:
            _check_same(out, config, record, located, is_used)
            run = read_run(out)
            if run.get("inputs") != record["inputs"]:  # more to do, though what was there before may be complete
                run |= {"inputs": record["inputs"], "status": "started"}
                write_atomic(records_folder(out) / RUN_NAME, json.dumps(run, indent=1))
            if precision is not None and run.get("precision") != precision:  # begun before precision was recorded
                write_atomic(records_folder(out) / RUN_NAME, json.dumps(run | {"precision": precision}, indent=1))
            return out
        else:
            if not is_claimed(out):
                raise OutputExistsError(f"'{out}' exists and is no output of histogen; choose another --out")
            raise OutputExistsError(f"output '{out}' exists; pass --resume to continue it or --overwrite to redo it")
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_atomic(records_folder(out) / RUN_NAME, json.dumps(record, indent=1))
        write_atomic(records_folder(out) / CONFIG_NAME, dump_config(config))  # last: it is what makes the claim
    except OSError as error:
        raise ConfigError(f"output '{out}' cannot be written ({error.strerror}); choose another --out") from error
    return out


def finish_output(out: Path, **results: Any) -> None:
    """Mark the stage in ``out`` as complete, with ``results`` (JSON values) beside it.

    What a worker left that was killed on the way is deleted; nobody may be writing in ``out`` any more.
    """
    remove_temporaries(out)
    record = records_folder(out) / RUN_NAME
    write_atomic(record, json.dumps({**read_run(out), "status": "complete", "results": results}, indent=1))


def read_run(out: Path) -> dict[str, Any]:
    """Return the record of the stage in ``out``; empty when there is none.

    Raises:
        ConfigError: it is not what a stage has recorded.
    """
    path = records_folder(out) / RUN_NAME
    record = read_json(path) if path.exists() else {}
    groups = [key for key in ("results", "inputs") if not isinstance(record.get(key, {}), dict)]
    if groups:
        raise ConfigError(f"'{path}' holds no names and values under '{groups[0]}'; restore it, or start again")
    return record


def read_config(out: Path) -> dict[str, Any]:
    """Return the recorded config of the stage in ``out``; empty when there is none.

    Raises:
        ConfigError: it is not what a stage has recorded.
    """
    path = records_folder(out) / CONFIG_NAME
    return read_yaml(path) if path.exists() else {}


def is_claimed(out: Path) -> bool:
    """Whether ``out`` is the output of some stage."""
    return (records_folder(out) / CONFIG_NAME).exists()


def is_complete(out: Path) -> bool:
    """Whether the stage in ``out`` was marked complete."""
    return read_run(out).get("status") == "complete"


def _is_unclaimed(out: Path) -> bool:
    """Whether ``out`` holds nothing, or only what a claim leaves that was killed half-way."""
    if not out.is_dir():
        return False
    files = (path for path in out.rglob("*") if not path.is_dir())
    return all(path.name == RUN_NAME or is_temporary(path) for path in files)


def _check_command(out: Path, command: str) -> None:
    """Refuse the output of another command: what that made is no run of this one to continue or to delete."""
    by = read_run(out).get("command") if is_claimed(out) else None
    if by not in (None, command):
        raise ConfigError(f"'{out}' is an output of {by}, not of {command}; choose another --out")


def _check_holds_no_input(config: StageConfig) -> None:
    """Refuse to delete what the stage is about to read."""
    values = [value for field in config.model_dump(exclude={"out"}).values() for value in _listed(field)]
    out = config.out.resolve()
    inside = [v for v in values if isinstance(v, str | Path) and out in (Path(v).resolve(), *Path(v).resolve().parents)]
    if inside:
        raise ConfigError(f"--overwrite would delete '{inside[0]}', which is to be read; choose another --out")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _check_same(
    out: Path,
    config: StageConfig,
    record: Mapping[str, Any],
    located: Collection[str],
    is_used: Callable[[str], bool],
) -> None:
    if not is_claimed(out):
        raise ConfigError(f"'{out}' is not an output of histogen (no {CONFIG_NAME}); choose another --out")
    previous = read_run(out)
    old, new = (
        {key: value for key, value in settings.items() if key not in located}
        for settings in (_recorded_settings(out, config), config.model_dump(mode="json"))
    )
    before, now = (
        {"inputs": {key: value for key, value in inputs.items() if is_used(key)}}
        for inputs in (previous.get("inputs", {}), record["inputs"])
    )
    changes = changed_keys(old, new) + changed_keys(before, now)
    if changes:
        raise ConfigError(
            f"cannot resume '{out}': {'; '.join(changes)}; use the recorded settings, another --out, or --overwrite"
        )


def shards_to_make(store: TileStore, *, resume: bool) -> list[int]:
    """Return the shards of tiles that are not there yet; a resumed run also makes those anew that are damaged.

    To find them it reads every byte of what is there: a few percent of the time in which it was made.
    """
    damaged = store.forget_damaged_shards() if resume else []
    if damaged:
        numbers = ", ".join(str(shard) for shard in damaged)
        sys.stderr.write(f"'{store.path}': shards {numbers} differ from their notes, and are made anew\n")
    return store.missing_shards()


def _recorded_settings(out: Path, config: StageConfig) -> dict[str, Any]:
    """Return the recorded settings; those that histogen has got since then count as their defaults."""
    recorded = read_config(out)
    try:
        return type(config).model_validate(recorded).model_dump(mode="json")
    except ValidationError:  # of another command, or with a setting that is no more: compared as it is
        return recorded


def _delete_own(out: Path) -> None:
    if not out.is_dir() or not is_claimed(out):
        raise ConfigError(f"will not overwrite '{out}': it is not an output of histogen; choose another --out")
    shutil.rmtree(out)
