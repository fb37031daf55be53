"""Train and test tiles: the split that is given, else whole slides or groups, else tiles class by class."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from histogen.errors import ConfigError
from histogen.names import other_spelling
from histogen.seeds import numpy_rng

CANDIDATES = 500


@dataclass(frozen=True)
class Split:
    """Indices [n] of the training and the test tiles, and how they were chosen (``how``, one sentence part)."""

    train: NDArray[np.int64]
    test: NDArray[np.int64]
    how: str


def given_split(codes: NDArray[np.integer], categories: list[str], usable: NDArray[np.bool_]) -> Split:
    """Return the split that a column states: its categories ``train`` and ``test``; others are left out.

    Args:
        codes: [N] category of each tile, -1 for none; usable: [N] tiles that have a label.

    Raises:
        ConfigError: one of the two categories has no usable tile, or is there in other spellings too (``Train``).
    """
    sides = {}
    for name in ("train", "test"):
        if (other := other_spelling(name, categories)) is not None:
            raise ConfigError(
                f"the column 'split' has '{other}', which would take no part beside 'train' and 'test'; write it as "
                f"'{name}' where the tiles were made from, or use split=slide"
            )
        code = categories.index(name) if name in categories else -2
        sides[name] = np.flatnonzero(usable & (codes == code))
        if not len(sides[name]):
            raise ConfigError(f"no labelled tile has split '{name}' (found: {', '.join(categories)}); use split=slide")
    return Split(sides["train"], sides["test"], "given by the column 'split'")


def split_by_group(
    labels: NDArray[np.integer], groups: NDArray[np.integer], usable: NDArray[np.bool_], *, share: float, seed: int
) -> Split:
    """Return a split in which no group (slide, patient) is on both sides.

    Of many seeded choices of test groups, the one is taken that leaves the fewest classes without tiles on a side,
    and then comes nearest to ``share`` of every class.

    Raises:
        ConfigError: there are fewer than two groups.
    """
    members = np.flatnonzero(usable)
    if len(np.unique(groups[members])) < 2:
        raise ConfigError("the labelled tiles come from one slide; use split=tile, and read its figures with care")
    test = _choose_groups(labels[members], groups[members], share=share, seed=seed)
    return Split(members[~test], members[test], "by slide or group, none on both sides")


def split_by_tile(labels: NDArray[np.integer], usable: NDArray[np.bool_], *, share: float, seed: int) -> Split:
    """Return a random split of single tiles that takes ``share`` of every class for the test."""
    members = np.flatnonzero(usable)
    test = _choose_tiles(labels[members], share=share, seed=seed)
    return Split(members[~test], members[test], "random tiles, class by class")


def hold_out(
    labels: NDArray[np.integer], groups: NDArray[np.integer] | None, *, share: float, seed: int
) -> NDArray[np.bool_]:
    """Return which tiles [N] to hold out of training: whole groups if every class stays on both sides, else tiles."""
    if groups is not None and len(np.unique(groups)) >= 2:
        held = _choose_groups(labels, groups, share=share, seed=seed)
        if set(labels[held]) == set(labels[~held]):
            return held
    return _choose_tiles(labels, share=share, seed=seed)


def _choose_tiles(labels: NDArray[np.integer], *, share: float, seed: int) -> NDArray[np.bool_]:
    test = np.zeros(len(labels), dtype=bool)
    rng = numpy_rng(seed, "split", "tiles")
    for code in np.unique(labels):
        members = np.flatnonzero(labels == code)
        # A class with a single tile stays in training: a class that was never taught cannot be recognised.
        count = min(len(members) - 1, max(1, round(share * len(members))))
        test[rng.permutation(members)[:count]] = True
    return test


def _choose_groups(
    labels: NDArray[np.integer], groups: NDArray[np.integer], *, share: float, seed: int
) -> NDArray[np.bool_]:
    names, group_of = np.unique(groups, return_inverse=True)
    classes, class_of = np.unique(labels, return_inverse=True)
    counts = np.zeros((len(names), len(classes)))
    np.add.at(counts, (group_of.reshape(-1), class_of.reshape(-1)), 1.0)
    num_test = min(len(names) - 1, max(1, round(share * len(names))))
    rng = numpy_rng(seed, "split", "groups")
    best = min(
        (rng.permutation(len(names))[:num_test] for _ in range(CANDIDATES)), key=lambda c: _cost(counts, c, share)
    )
    return np.asarray(np.isin(group_of.reshape(-1), best))


def _cost(counts: NDArray[np.float64], chosen: NDArray[np.int64], share: float) -> tuple[int, float]:
    total, test = counts.sum(axis=0), counts[chosen].sum(axis=0)
    missing = int((test == 0).sum() + (test == total).sum())
    return missing, float(np.abs(test / total - share).sum())
