"""A selection of tiles, kept as a column of every store, so that ``where`` finds it in any command."""

from __future__ import annotations

from typing import Any

import numpy as np

from histogen.errors import ConfigError, StoreError
from histogen.names import why_not_plain
from histogen.store.layout import Column
from histogen.view.answers import Answers
from histogen.view.tiles import BUILT_IN

CHOSEN, OTHER = "chosen", "other"
MOST_LETTERS = 40


class Selection:
    """The action ``select`` with ``{"name": …, "numbers": […]}``."""

    def __init__(self, answers: Answers) -> None:
        self.answers, self.tiles = answers, answers.tiles
        answers.add_action("select", self.save)

    def save(self, asked: Any) -> dict[str, str]:
        """Write column ``name``: ``chosen`` for the tiles of ``numbers``, ``other`` for all else; say how to use it.

        Raises:
            ConfigError, StoreError: the name cannot be used or is taken, a number is none, or a store is not written.
        """
        name, numbers = (asked.get(key) if isinstance(asked, dict) else None for key in ("name", "numbers"))
        if not isinstance(name, str) or (why := why_not_plain(name, most=MOST_LETTERS)):
            raise ConfigError(f"'{str(name):.60}' {why if isinstance(name, str) else 'is no name'}")
        if name in BUILT_IN or name in self.answers.column_types():
            raise ConfigError(f"a column '{name}' is there already; give the selection another name")
        if not isinstance(numbers, list) or not all(type(one) is int and 0 <= one < len(self.tiles) for one in numbers):
            raise ConfigError("a selection is a list of tiles' numbers; reload the page")
        self._write(name, np.isin(np.arange(len(self.tiles)), numbers))
        self.tiles.forget_columns()
        return {"where": f"--set where.{name}={CHOSEN}"}

    def _write(self, name: str, chosen: np.ndarray) -> None:
        written = []
        for store, start in zip(self.tiles.stores, self.tiles.starts[:-1], strict=True):
            codes = (~chosen[start : start + store.num_tiles]).astype(np.int8)
            try:
                written.append(store)
                store.write_column(name, Column(codes, (CHOSEN, OTHER)))
            except OSError as error:
                for one in written:
                    one.delete_rows(f"columns/{name}")
                said = f"store '{store.path}' cannot be written ({error.strerror})"
                raise StoreError(f"{said}; copy it, or take the list of tiles") from error
