"""What stands on both sides of a given split: groups, and tiles that are the same byte for byte."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from histogen.evaluation.splits import Split


def shared_groups(groups: NDArray[np.integer], split: Split) -> NDArray[np.int64]:
    """Return the codes of the groups that have tiles in training and in the test; ``groups`` [N], -1 for none."""
    both = np.intersect1d(groups[split.train], groups[split.test])
    return both[both >= 0].astype(np.int64)


def shared_tiles(read_payload: Callable[[int], bytes], split: Split) -> NDArray[np.int64]:
    """Return the indices of the test tiles whose compressed bytes a training tile has too."""
    taught = {_digest(read_payload(int(index))) for index in split.train}
    return np.array([index for index in split.test if _digest(read_payload(int(index))) in taught], dtype=np.int64)


def _digest(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=16).digest()
