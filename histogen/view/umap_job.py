"""UMAP (McInnes et al. 2018, arXiv 1802.03426) in a process of its own, so that a server answers meanwhile.

``python -m histogen.view.umap_job VECTORS.npy PLACES.npy SEED`` prints ``DONE OF`` after every epoch. One thread and a
fixed seed: the same embeddings give the same map.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np

NEIGHBOURS = 15
FEW = 10
"""Tiles of which no spectrum can be found to begin with."""


class _Lines:
    """Takes what tqdm writes, and prints each state of it as a line."""

    def write(self, text: str) -> None:
        if text.strip():
            sys.stdout.write(text.strip() + "\n")

    def flush(self) -> None:
        sys.stdout.flush()


def main(vectors: Path, places: Path, seed: int) -> None:
    """Lay out embeddings [N, D] by cosine distance, and write float32 [N, 2]."""
    values = np.load(vectors, allow_pickle=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what it lacks for other uses, and that a seed means one thread
        import umap

        job = umap.UMAP(
            n_neighbors=min(NEIGHBOURS, len(values) - 1), metric="cosine", random_state=seed, n_jobs=1, verbose=True,
            init="spectral" if len(values) > FEW else "random",
            tqdm_kwds={"file": _Lines(), "bar_format": "{n_fmt} {total_fmt}", "desc": "", "disable": False},
        )  # fmt: skip
        made = job.fit_transform(values).astype(np.float32)
    np.save(places, made, allow_pickle=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
