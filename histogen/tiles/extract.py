"""Cut tiles out of a slide: neighbours are read together, and what cannot be read is left out and said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from histogen.errors import SlideError
from histogen.geometry import Extent
from histogen.slides.base import Slide
from histogen.store.jpeg import JpegSettings, encode_jpeg
from histogen.tiles.grid import Grid
from histogen.tiles.quality import reason_to_drop, score_tile
from histogen.tiles.spec import QualitySettings

RUN_TILES = 16
"""Most neighbouring tiles read at once: enough to share what lies between them, few enough to stay in cache."""
BLOCK_PIXELS = 24_000_000
"""Level pixels of one row of a block of columns: what is decoded for it is still there for the next row."""


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
        for position, tile in _read_run(slide, grid, first, members, result):
            focus, blank = score_tile(tile)
            result.focus[position], result.blank[position] = focus, blank
            reason = reason_to_drop(focus, blank, quality)
            if reason is None:
                result.payloads[position] = encode_jpeg(np.ascontiguousarray(tile), jpeg)
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
    block = max(RUN_TILES, int(BLOCK_PIXELS / (size_l0[1] + 1024) / max(1.0, grid.stride_px * grid.pixel_l0[0])))
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
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (position, pixels) of the tiles of one run; when it cannot be read as one, tile by tile."""
    column, row = first
    extent = Extent((len(members) - 1) * grid.stride_px + grid.tile_px, grid.tile_px)
    try:
        pixels = slide.read_region(grid.box(column, row, len(members)), extent)
    except SlideError as error:
        if len(members) == 1:
            result.unreadable[members[0]] = str(error)
            return
        for offset, member in enumerate(members):
            yield from _read_run(slide, grid, (column + offset, row), [member], result)
        return
    for offset, member in enumerate(members):
        left = offset * grid.stride_px
        yield member, pixels[:, left : left + grid.tile_px]
