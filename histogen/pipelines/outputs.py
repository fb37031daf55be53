"""The output folder of a stage: claimed once, resumed only with the same settings, marked when complete."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import histogen
from histogen.config import StageConfig, changed_keys, dump_config, read_yaml
from histogen.errors import ConfigError, OutputExistsError, OutputInUseError
from histogen.files import is_temporary, read_json, remove_temporaries, write_atomic
from histogen.lease import LEASE_NAME, give_back, lease_folder, take
from histogen.remote import as_path, check_reachable, is_remote, remove_tree
from histogen.store.tile_store import TileStore

CONFIG_NAME = "config.yaml"
RUN_NAME = "run.json"


def records_folder(out: Path) -> Path:
    """Return where the config and the record of the stage in ``out`` are: beside its lease."""
    return lease_folder(out)


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
    makes_stores: bool = False,
) -> Path:
    """Make ``config.out`` the output of ``command`` with these settings, this process its only writer, and return it.

    ``inputs`` maps the name of each input to its content hash; a resumed stage must have the same ones, but for those
    that ``is_used`` says nothing is made from yet: they may come, go and change. ``precision``, resolved, is recorded.
    ``located`` are settings that only say where inputs are. What ``makes_stores`` may go to object storage.

    Raises:
        OutputExistsError: it exists and neither resume nor overwrite is set; nothing was touched.
        OutputInUseError: another process is writing it.
        ConfigError: resume, but the settings or inputs differ from the recorded ones; or another command made it; or
            overwrite would delete an input; or it cannot be written.
    """
    out = config.out
    if is_remote(out):
        if not makes_stores:
            raise ConfigError(f"{command} writes to local folders, not to '{out}'; choose another --out and copy it")
        check_reachable(out)
    record = {"command": command, "status": "started", "histogen": histogen.__version__, "inputs": dict(inputs or {})}
    record |= {} if precision is None else {"precision": precision}
    is_new = not out.exists() or _is_unclaimed(out)
    if not is_new:
        _check_may_go_on(config, command)
    try:
        records_folder(out).mkdir(parents=True, exist_ok=True)
        take(records_folder(out))
    except OSError as error:
        raise ConfigError(f"output '{out}' cannot be written ({error.strerror}); choose another --out") from error
    try:
        if is_new or config.overwrite:
            if not is_new:
                _delete_own(out)
            _begin(config, record)
        else:
            _check_same(out, config, record, located, is_used)
            _go_on(out, record, precision)
    except BaseException:
        give_back(records_folder(out))
        raise
    return out


def _check_may_go_on(config: StageConfig, command: str) -> None:
    """Refuse what is there already unless it is this command's, and is to be resumed or made anew."""
    out = config.out
    _check_command(out, command)
    if config.overwrite:
        _check_holds_no_input(config)
    if not is_claimed(out):
        if config.overwrite:
            raise ConfigError(f"will not overwrite '{out}': it is not an output of histogen; choose another --out")
        if config.resume:
            raise ConfigError(f"'{out}' is not an output of histogen (no {CONFIG_NAME}); choose another --out")
        raise OutputExistsError(f"'{out}' exists and is no output of histogen; choose another --out")
    if not (config.overwrite or config.resume):
        raise OutputExistsError(f"output '{out}' exists; pass --resume to continue it or --overwrite to redo it")


def _begin(config: StageConfig, record: Mapping[str, Any]) -> None:
    out = config.out
    try:
        write_atomic(records_folder(out) / RUN_NAME, json.dumps(record, indent=1))
        asked = config.model_copy(update={"resume": False, "overwrite": False})  # what it is, not how it was begun
        write_atomic(records_folder(out) / CONFIG_NAME, dump_config(asked))  # last: it is what makes the claim
    except OSError as error:
        raise ConfigError(f"output '{out}' cannot be written ({error.strerror}); choose another --out") from error


def _go_on(out: Path, record: Mapping[str, Any], precision: str | None) -> None:
    """Bring the record of a resumed stage up to date."""
    run = read_run(out)
    if run.get("inputs") != record["inputs"]:  # more to do, though what was there before may be complete
        run |= {"inputs": record["inputs"], "status": "started"}
        write_atomic(records_folder(out) / RUN_NAME, json.dumps(run, indent=1))
    if precision is not None and run.get("precision") != precision:  # begun before precision was recorded
        write_atomic(records_folder(out) / RUN_NAME, json.dumps(run | {"precision": precision}, indent=1))


def finish_output(out: Path, **results: Any) -> None:
    """Mark the stage in ``out`` as complete, with ``results`` (JSON values) beside it.

    What a worker left that was killed on the way is deleted; nobody may be writing in ``out`` any more.
    """
    remove_temporaries(out)
    record = records_folder(out) / RUN_NAME
    write_atomic(record, json.dumps({**read_run(out), "status": "complete", "results": results}, indent=1))


@contextmanager
def only_writer(stores: Sequence[TileStore], rows: str, *, anew: bool = False) -> Iterator[None]:
    """Be the only process that writes ``rows`` of ``stores`` while the block runs; what killed ones left of them goes.

    ``anew`` deletes what is there of them first.

    Raises:
        OutputInUseError: another process is writing them.
    """
    taken = []
    try:
        for store in stores:
            notes = store.path / "ledger" / rows
            notes.mkdir(parents=True, exist_ok=True)
            take(notes)
            taken.append(notes)
            if anew:
                store.delete_rows(rows)
                notes.mkdir()
                take(notes)
            _remove_temporaries(store, rows)
        yield
        for store in stores:
            _remove_temporaries(store, rows)  # of workers that were killed meanwhile
    finally:
        for notes in taken:
            give_back(notes)


def remove_leftovers(stores: Iterable[TileStore], rows: str) -> None:
    """Remove what a killed writer left of itself in stores that have all of ``rows``: its lease, half-written files.

    Where somebody writes, or nothing can be removed, all stays as it is.
    """
    for store in stores:
        notes = store.path / "ledger" / rows
        if (notes / LEASE_NAME).exists():
            with suppress(OutputInUseError, OSError):
                take(notes)
                _remove_temporaries(store, rows)
                give_back(notes)


def _remove_temporaries(store: TileStore, rows: str) -> None:
    for folder in (store.path / "ledger" / rows, store.path / rows):
        remove_temporaries(folder)


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
    return all(path.name in (RUN_NAME, LEASE_NAME) or is_temporary(path) for path in files)


def _check_command(out: Path, command: str) -> None:
    """Refuse the output of another command: what that made is no run of this one to continue or to delete."""
    by = read_run(out).get("command") if is_claimed(out) else None
    if by not in (None, command):
        raise ConfigError(f"'{out}' is an output of {by}, not of {command}; choose another --out")


def _check_holds_no_input(config: StageConfig) -> None:
    """Refuse to delete what the stage is about to read."""
    values = [value for field in config.model_dump(exclude={"out"}).values() for value in _listed(field)]
    out = config.out.resolve()
    paths = ((value, as_path(value).resolve()) for value in values if isinstance(value, str | Path))
    inside = [value for value, path in paths if out in (path, *path.parents)]
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
    """Delete what a stage has made, what makes the claim last; the lease stays."""
    records = records_folder(out)
    last = [records / CONFIG_NAME, records / RUN_NAME]
    for path in [*out.iterdir(), *(records.iterdir() if records != out else ())]:
        if path in (records, records / LEASE_NAME, *last):
            continue
        if path.is_dir() and not path.is_symlink():
            remove_tree(path)
        else:
            path.unlink()
    for path in last:
        path.unlink(missing_ok=True)
