"""Synthetic tiles to look at, beside their sources and partners, for the page of a fidelity run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from histogen.report.page import Section
from histogen.report.samples import interpolation_section, synthesis_section
from histogen.report.stages import InterpolationRow, SourceRow
from histogen.seeds import numpy_rng
from histogen.store.tile_set import TileSet

NUM_SOURCES = 16
PER_SOURCE = 3


def samples_section(
    name: str,
    synthetic: TileSet,
    real: TileSet,
    sources: NDArray[np.int64],
    partners: NDArray[np.int64],
    *,
    seed: int,
) -> Section:
    """Return some sources with up to three tiles made from each; with their partners where they have them.

    ``sources`` and ``partners`` [N] are rows of ``real`` for each synthetic tile; a partner of -1 is none.
    """
    known = np.unique(sources)
    chosen = np.sort(numpy_rng(seed, "fidelity samples", name).permutation(known)[:NUM_SOURCES])
    made = {int(source): np.flatnonzero(sources == source)[:PER_SOURCE] for source in chosen}
    title = f"Samples: {name}"
    if (partners < 0).all():
        rows = [
            SourceRow(real[source], list(synthetic.read_tiles(tiles)), real.ids(source)[0])
            for source, tiles in made.items()
        ]
        return synthesis_section(rows, title)
    alpha = synthetic.column("alpha")
    pairs = [
        InterpolationRow(
            real[source],
            real[int(partners[tiles[0]])],
            [round(float(alpha[tiles[0]]), 2)],
            [synthetic[int(tiles[0])]],
            f"{real.ids(source)[0]} and {real.ids(partners[tiles[0]])[0]}",
        )
        for source, tiles in made.items()
        if partners[tiles[0]] >= 0
    ]
    return interpolation_section(pairs, title)
