"""Cut tiles out of a slide: neighbours are read together, and what cannot be read is left out and said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from histogen.errors import SlideError
from histogen.slides.base import Slide
from histogen.store.jpeg import JpegSettings, encode_jpeg
from histogen.tiles.grid import Grid
from histogen.tiles.quality import reason_to_drop, score_tiles
from histogen.tiles.spec import QualitySettings

RUN_TILES = 16
"""Most neighbouring tiles read at once: enough to share what lies between them, few enough to stay in cache."""
BLOCK_PIXELS = 16_000_000
"""Slide pixels in one row of a block of columns (with what is decoded above and below it): half of the cache of
:mod:`histogen.slides.native`, so that what is decoded for one row is still there for the next."""


@dataclass
class Extracted:
    """JPEGs (None: absent) and scores of a list of tiles."""

    payloads: list[bytes | None]
    focus: np.ndarray
    blank: np.ndarray
    unreadable: dict[int, str] = field(default_factory=dict)
    """Position in the list to the sentence that says why its pixels could not be read."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Filter to the number of tiles that failed it."""


def extract_tiles(
    slide: Slide, grid: Grid, columns: np.ndarray, rows: np.ndarray, jpeg: JpegSettings, quality: QualitySettings
) -> Extracted:
    """Read and encode the tiles at ``columns``, ``rows`` (int [n] each) of ``grid``.

    Raises:
        SlideError: none of them can be read.
    """
    count = len(columns)
    result = Extracted([None] * count, np.full(count, np.nan, np.float32), np.full(count, np.nan, np.float32))
    for first, members in runs_of(grid, columns, rows):
        for positions, tiles in _read_run(slide, grid, first, members, result):
            result.focus[positions], result.blank[positions] = score_tiles(tiles)
            for position, tile in zip(positions, tiles, strict=True):
                reason = reason_to_drop(result.focus[position], result.blank[position], quality)
                if reason is None:
                    result.payloads[position] = encode_jpeg(tile, jpeg)
                else:
                    result.dropped[reason] = result.dropped.get(reason, 0) + 1
    if count and len(result.unreadable) == count:
        raise SlideError(next(iter(result.unreadable.values())))
    return result


def runs_of(grid: Grid, columns: np.ndarray, rows: np.ndarray) -> Iterator[tuple[tuple[int, int], list[int]]]:
    """Yield ((column, row) of the first, positions) of neighbours in a row, block of columns by block of columns.

    Blocks keep what has to stay decoded small on very wide slides.
    """
    size_l0 = grid.size_l0
    block = max(RUN_TILES, int(BLOCK_PIXELS / (size_l0[1] + 512) / max(1.0, grid.stride_px * grid.pixel_l0[0])))
    block -= block % RUN_TILES
    order = np.lexsort((columns, rows, columns // block))
    run: list[int] = []
    for position in order.tolist():
        last = run[-1] if run else None
        follows = (
            last is not None
            and rows[position] == rows[last]
            and columns[position] == columns[last] + 1
            and columns[position] // block == columns[last] // block
            and len(run) < RUN_TILES
            and grid.stride_px <= grid.tile_px
        )
        if run and not follows:
            yield (int(columns[run[0]]), int(rows[run[0]])), run
            run = []
        run.append(position)
    if run:
        yield (int(columns[run[0]]), int(rows[run[0]])), run


def _read_run(
    slide: Slide, grid: Grid, first: tuple[int, int], members: list[int], result: Extracted
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield (positions, pixels [n, H, W, 3]) of the tiles of one run; when it cannot be read as one, tile by tile."""
    column, row = first
    try:
        tiles = slide.read_row(grid.box(column, row, len(members)), grid.tile_px, grid.stride_px, len(members))
    except SlideError as error:
        if len(members) == 1:
            result.unreadable[members[0]] = str(error)
            return
        for offset, member in enumerate(members):
            yield from _read_run(slide, grid, (column + offset, row), [member], result)
        return
    yield members, tiles
