"""The seed of a tile, a shard, a worker or a step, derived from the seed of a run.

A derived seed depends only on the run's seed and the path of names and numbers given, never on the
order in which seeds are asked for, so work can be split, killed and resumed without changing a result.
"""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, *path: str | int) -> int:
    """Return a seed in [0, 2**63) for ``path`` under ``seed``.

    >>> derive_seed(0, "tile", 3) == derive_seed(0, "tile", 3) != derive_seed(0, "tile", 4)
    True
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in (int(seed), *path))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def numpy_rng(seed: int, *path: str | int) -> np.random.Generator:
    """Return a NumPy generator seeded by :func:`derive_seed`."""
    return np.random.Generator(np.random.PCG64(derive_seed(seed, *path)))
