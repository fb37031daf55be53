"""The order in which tiles are seen: computed at any position, never replayed.

A Feistel network over the next even power of two, walked until it lands inside the set (Black & Rogaway 2002,
"Ciphers with arbitrary finite domains"), is a permutation that costs a few integer operations per position.
Restoring a position among 10^8 tiles therefore costs what the next batch costs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histogen.errors import ConfigError
from histogen.seeds import derive_seed, mix64

NUM_ROUNDS = 8
"""Rounds of the Feistel network; four give a pseudorandom permutation, eight leave a margin for weak round keys."""


def permute(positions: np.ndarray, num_items: int, *, seed: int) -> np.ndarray:
    """Return the items at ``positions`` of a permutation of ``range(num_items)``.

    Args:
        positions: int64 [B], each in [0, num_items).
        num_items: size of the permuted set, at least 1.
        seed: one permutation per seed.

    Returns:
        int64 [B], each in [0, num_items), distinct where the positions are.
    """
    positions = np.asarray(positions, dtype=np.int64)
    if positions.size and (positions.min() < 0 or positions.max() >= num_items):
        raise IndexError(f"positions must be in [0, {num_items})")
    half_bits = max(1, (int(num_items - 1).bit_length() + 1) // 2)
    keys = np.array([derive_seed(seed, "round", r) for r in range(NUM_ROUNDS)], dtype=np.uint64)
    values = positions.astype(np.uint64)
    outside = np.ones(values.shape, dtype=bool)
    while outside.any():
        values[outside] = _feistel(values[outside], half_bits, keys)
        outside = values >= num_items
    return values.astype(np.int64)


def _feistel(values: np.ndarray, half_bits: int, keys: np.ndarray) -> np.ndarray:
    mask = np.uint64((1 << half_bits) - 1)
    left, right = values >> np.uint64(half_bits), values & mask
    for key in keys:
        left, right = right, left ^ (mix64(right ^ key) & mask)
    return (left << np.uint64(half_bits)) | right


@dataclass(frozen=True)
class TileOrder:
    """Shuffled epochs of full batches over ``num_items`` items; what is left of an epoch is dropped, as DINO does."""

    num_items: int
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if not 1 <= self.batch_size <= self.num_items:
            raise ConfigError(
                f"a batch of {self.batch_size} cannot be drawn from {self.num_items} tiles; "
                f"set the batch size to at most {self.num_items} or give more tiles"
            )

    @property
    def steps_per_epoch(self) -> int:
        """Full batches in one epoch."""
        return self.num_items // self.batch_size

    def epoch_of(self, step: int) -> int:
        """Return the epoch (from 0) that ``step`` (from 0) belongs to."""
        return step // self.steps_per_epoch

    def batch(self, step: int) -> np.ndarray:
        """Return the items of batch ``step``: int64 [B]."""
        epoch, within = divmod(step, self.steps_per_epoch)
        positions = np.arange(within * self.batch_size, (within + 1) * self.batch_size, dtype=np.int64)
        return permute(positions, self.num_items, seed=derive_seed(self.seed, "epoch", epoch))
