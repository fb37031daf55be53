"""What benchmarks said of tiles, as columns that colour them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histogen.errors import HistogenError, ManifestError
from histogen.table import read_table
from histogen.view.answers import Answers
from histogen.view.sources import find_predictions
from histogen.view.tiles import Tiles

NUMBERS = ".attention"
"""The end of the names of columns of numbers."""
KEYS = ("store", "row", "label")


def add_predictions(answers: Answers, paths: Sequence[Path]) -> None:
    """Add a column for each test of each encoder in the benchmarks among ``paths`` and two levels below."""
    for file in find_predictions(paths):
        try:
            _add(answers, file)
        except HistogenError as error:
            answers.tiles.note(error)


def _add(answers: Answers, file: Path) -> None:
    rows = read_table(file, what="predictions", needs=["store", "row"])
    numbers = np.array([_number_of(answers.tiles, row) for _, row in rows], np.int64)
    order = np.argsort(numbers, kind="stable")
    order = order[numbers[order] >= 0]
    if not len(order):  # all of other stores
        return
    for name in (name for name in rows[0].values if name not in KEYS):
        said = [row[name] for _, row in rows]
        names = [] if name.endswith(NUMBERS) else sorted({value for value in said if value})
        values = _codes(said, names) if names else _floats(said, file, name)
        column = partial(_column, answers.tiles, numbers[order], values[order])
        answers.add_column(re.sub(r"[^A-Za-z0-9_.+@-]", "-", f"{file.parent.name}.{name}"), column, names)


def _number_of(tiles: Tiles, row: Mapping[str, str]) -> int:
    number = tiles.number_of(row["store"], int(row["row"])) if row["row"].isdecimal() else None
    return -1 if number is None else number


def _codes(said: Sequence[str], names: Sequence[str]) -> NDArray[np.int32]:
    places = {name: code for code, name in enumerate(names)}
    return np.array([places.get(value, -1) for value in said], np.int32)


def _floats(said: Sequence[str], file: Path, name: str) -> NDArray[np.float32]:
    try:
        return np.array([float(value or "nan") for value in said], np.float32)
    except ValueError as error:
        raise ManifestError(f"'{file}': column '{name}' holds what is no number ({error}); benchmark again") from error


def _column(tiles: Tiles, numbers: NDArray[np.int64], values: NDArray[Any], position: int) -> NDArray[Any]:
    """Return the values of one store's tiles; -1 or NaN where the benchmark said nothing."""
    found = np.full(tiles.stores[position].num_tiles, -1 if values.dtype == np.int32 else np.nan, values.dtype)
    low, high = np.searchsorted(numbers, tiles.starts[position : position + 2])
    found[numbers[low:high] - tiles.starts[position]] = values[low:high]
    return found
