"""The shard map: one pure worker, many units, whatever they run on.

Every bulk stage (tiling, import, embedding, latent caching, synthesis) is this: for each output shard that is not
there yet, a worker computes it and writes it atomically. A unit carries paths and ranges, never pixels. Resume is the
caller's: it passes the units that are missing.
"""

from __future__ import annotations

import os
import platform
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, TypeVar

import histogen
from histogen.compute.client import Compute, Kept, Lost
from histogen.errors import ConfigError, HistogenError
from histogen.files import disk_sentence
from histogen.progress import progress_bar

VERSIONED = ("numpy", "torch")


class Unit(Protocol):
    """What one worker call does: a frozen dataclass that can be sent to another machine."""

    @property
    def key(self) -> str:
        """What it is called in messages, for example ``S12/3``."""

    @property
    def num_items(self) -> int:
        """How many items (tiles) it makes."""


U = TypeVar("U", bound=Unit)
Result = Mapping[str, Any]


@dataclass(frozen=True)
class UnitFailure:
    """A unit that was not done, and one sentence that says why."""

    key: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.key}: {self.sentence}"


@dataclass(frozen=True)
class MapReport:
    """What a shard map did: units and items done, failures, and what workers returned, both in the order of units."""

    done: int
    items: int
    failures: tuple[UnitFailure, ...]
    results: tuple[tuple[str, dict[str, Any]], ...]
    seconds: float


def run_units(
    worker: Callable[[U], Result | None],
    units: Sequence[U],
    *,
    compute: Compute | Kept,
    description: str,
    item_name: str = "tiles",
    items_done: int = 0,
) -> MapReport:
    """Run ``worker`` on every unit, with a progress bar in items; a unit that fails never ends the run.

    ``worker`` must be a function of a module or a ``functools.partial`` of one. A unit whose worker process dies is
    tried again elsewhere. ``items_done`` is what earlier runs did already; only the bar uses it.

    Raises:
        ConfigError: the Dask scheduler asked for does not answer.
        ComputeError: Dask's workers cannot be started.
    """
    start = time.monotonic()
    outcomes: dict[int, dict[str, Any] | UnitFailure] = {}
    total = items_done + sum(unit.num_items for unit in units)
    with progress_bar(description, total=total, unit=item_name, done=items_done) as bar:
        if units:
            with compute.open_() as executor:
                for position, outcome in executor.map(partial(_guarded, worker, Path.cwd(), versions()), list(units)):
                    key = units[position].key
                    outcomes[position] = UnitFailure(key, outcome.reason) if isinstance(outcome, Lost) else outcome
                    if not isinstance(outcomes[position], UnitFailure):
                        bar.advance(units[position].num_items)
    return _report(units, outcomes, time.monotonic() - start)


def _report(units: Sequence[Unit], outcomes: Mapping[int, dict[str, Any] | UnitFailure], seconds: float) -> MapReport:
    failures: list[UnitFailure] = []
    results: list[tuple[str, dict[str, Any]]] = []
    items = 0
    for position, unit in enumerate(units):
        outcome = outcomes[position]
        if isinstance(outcome, UnitFailure):
            failures.append(outcome)
        else:
            results.append((unit.key, outcome))
            items += unit.num_items
    return MapReport(len(results), items, tuple(failures), tuple(results), seconds)


@cache
def versions() -> dict[str, str]:
    """Return the versions, here, of what shapes the bytes that a unit writes."""
    return {"histogen": histogen.__version__, **{name: metadata.version(name) for name in VERSIONED}}


def _guarded(
    worker: Callable[[U], Result | None], folder: Path, wanted: Mapping[str, str], unit: U
) -> dict[str, Any] | UnitFailure:
    """Run one unit; the boundary behind which no error ends the run."""
    try:
        _check_versions(wanted)
        _enter(folder)
        return dict(worker(unit) or {})
    except HistogenError as error:
        return UnitFailure(unit.key, str(error))
    except Exception as error:  # noqa: BLE001 - the worker boundary: one unit never ends the run
        if isinstance(error, OSError) and (sentence := disk_sentence(error)):
            return UnitFailure(unit.key, sentence)
        frame = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(frame.filename).name}:{frame.lineno} in {frame.name}"
        return UnitFailure(unit.key, f"{type(error).__name__}: {error} ({where})")


def _check_versions(wanted: Mapping[str, str]) -> None:
    differing = [f"{name} {have}, not {wanted[name]}" for name, have in versions().items() if have != wanted[name]]
    if differing:
        raise ConfigError(
            f"a Dask worker on '{platform.node()}' has {' and '.join(differing)} as this command, so its tiles could "
            "differ; start workers in the same environment"
        )


def _enter(folder: Path) -> None:
    """Work in the caller's folder, so that relative paths mean the same on every machine."""
    if Path.cwd() == folder:
        return
    try:
        os.chdir(folder)
    except OSError as error:
        raise ConfigError(
            f"a Dask worker on '{platform.node()}' cannot enter '{folder}' ({error.strerror}); start workers where the "
            "same folders are mounted under the same paths"
        ) from error
