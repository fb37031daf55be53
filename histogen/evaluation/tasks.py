"""A classification task: labelled tiles, who trains and who tests, and what is resampled for intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histogen.errors import ConfigError
from histogen.evaluation.bootstrap import FEW_CLUSTERS, SIGNIFICANT
from histogen.evaluation.splits import Split, given_split, split_by_group, split_by_tile

MIN_CLUSTERS = math.ceil(1 - math.log2(SIGNIFICANT))
"""Test slides from which p can fall below :data:`SIGNIFICANT`: exchanging whole slides has 2^n outcomes."""


@dataclass(frozen=True)
class Task:
    """Labels [N] as codes of ``classes`` (-1 for none), groups [N] or None, and the split.

    ``unit`` names a group (``slide`` or ``group``).
    """

    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    groups: NDArray[np.int64] | None
    unit: str
    split: Split

    @property
    def train_labels(self) -> NDArray[np.int64]:
        """Labels of the training tiles [n]."""
        return self.labels[self.split.train]

    @property
    def test_labels(self) -> NDArray[np.int64]:
        """Labels of the test tiles [m]."""
        return self.labels[self.split.test]

    @property
    def train_groups(self) -> NDArray[np.int64] | None:
        """Groups of the training tiles [n], if there are any."""
        return None if self.groups is None else self.groups[self.split.train]

    @property
    def clusters(self) -> NDArray[np.int64] | None:
        """What a bootstrap draw resamples: the groups of the test tiles [m]; None, hence tiles, if there is but one."""
        if self.groups is None or len(np.unique(self.groups[self.split.test])) < 2:
            return None
        return self.groups[self.split.test]

    @property
    def cluster_count(self) -> tuple[str, int]:
        """The name of what is resampled, and how many of it the test has."""
        if self.clusters is None:
            return "tile", len(self.split.test)
        return self.unit, len(np.unique(self.clusters))


def build_task(
    labels: NDArray[np.integer],
    names: Sequence[str],
    *,
    groups: NDArray[np.integer] | None,
    unit: str = "slide",
    split_codes: NDArray[np.integer] | None,
    split_names: Sequence[str] = (),
    how: str = "auto",
    test_share: float = 0.25,
    seed: int,
) -> Task:
    """Return the task of telling the labelled tiles' classes.

    Args:
        labels: [N] codes of ``names``, -1 for none; groups: [N] slide or patient of each tile, -1 for none.
        split_codes: [N] codes of ``split_names``, used when ``how`` is ``column``, or ``auto`` and it is there.
        how: ``auto`` (column, else slide, else tile), ``column``, ``slide`` or ``tile``.

    Raises:
        ConfigError: fewer than two classes, or the tiles cannot be split as asked.
    """
    labelled = np.asarray(labels) >= 0
    present = np.unique(np.asarray(labels)[labelled])
    if len(present) < 2:
        raise ConfigError(f"the tiles have labels of {len(present)} classes; a benchmark needs at least two")
    dense = np.full(len(labels), -1, dtype=np.int64)
    dense[labelled] = np.searchsorted(present, np.asarray(labels)[labelled])
    grouped = None if groups is None else _own_group_where_none(groups)
    split = _split(how, dense, grouped, labelled, split_codes, list(split_names), test_share, seed)
    return Task(dense, tuple(names[code] for code in present), grouped, unit, split)


def caveats(task: Task) -> list[str]:
    """Return a sentence for everything about the task that makes its figures weaker than they look."""
    notes = []
    unit, count = task.cluster_count
    if unit != "tile" and count < FEW_CLUSTERS:
        notes.append(f"The test has {count} {unit}s only: intervals over so few are too narrow; read them as a hint.")
    if unit != "tile" and 2 / 2**count > SIGNIFICANT:
        notes.append(
            f"With {count} test {unit}s p cannot fall below {2 / 2**count:.3g}, whatever the encoders do: no "
            f"difference can be shown at {SIGNIFICANT:g}; take at least {MIN_CLUSTERS} test {unit}s."
        )
    if unit == "tile" and task.split.how.startswith("random tiles"):
        notes.append(
            "Tiles were split at random: neighbours from one slide may be on both sides, which flatters every encoder "
            "and makes the intervals too narrow."
        )
    untaught = set(task.test_labels) - set(task.train_labels)
    if untaught:
        names = ", ".join(task.classes[code] for code in sorted(untaught))
        notes.append(f"No training tile has class {names}: its test tiles count as errors.")
    if unlabelled := int((task.labels < 0).sum()):
        notes.append(f"{unlabelled:,} tiles without a label were left out.")
    return notes


def _split(
    how: str,
    labels: NDArray[np.int64],
    groups: NDArray[np.int64] | None,
    labelled: NDArray[np.bool_],
    split_codes: NDArray[np.integer] | None,
    split_names: list[str],
    share: float,
    seed: int,
) -> Split:
    if how == "column" and split_codes is None:
        raise ConfigError("the tiles have no column 'split'; use split=slide or split=tile")
    if split_codes is not None and how in ("auto", "column"):
        return given_split(split_codes, split_names, labelled)
    several = groups is not None and len(np.unique(groups[labelled])) > 1
    if groups is not None and (how == "slide" or (how == "auto" and several)):
        return split_by_group(labels, groups, labelled, share=share, seed=seed)
    if how == "slide":
        raise ConfigError("the tiles come from one store without groups; use split=tile, and read it with care")
    return split_by_tile(labels, labelled, share=share, seed=seed)


def _own_group_where_none(groups: NDArray[np.integer]) -> NDArray[np.int64]:
    result = np.asarray(groups, dtype=np.int64).copy()
    none = result < 0
    result[none] = result.max(initial=0) + 1 + np.arange(int(none.sum()))
    return result
