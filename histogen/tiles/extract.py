"""Cut tiles out of a slide: neighbours are read together, and what cannot be read is left out and said."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from histogen.errors import SlideError
from histogen.slides.base import Slide
from histogen.store.jpeg import JpegSettings, decode_jpeg, encode_jpeg
from histogen.tiles.grid import Grid, Placed
from histogen.tiles.quality import reason_to_drop, score_tiles
from histogen.tiles.spec import QualitySettings

RUN_TILES = 16
"""Most neighbouring tiles read at once: enough to share what lies between them, few enough to stay in cache."""
BLOCK_PIXELS = 16_000_000
"""Slide pixels in one row of a block of columns (with what is decoded above and below it): half of the cache of
:mod:`histogen.slides.native`, so that what is decoded for one row is still there for the next."""
LOSS_EVERY, LOSS_LEAST = 128, 8
"""Every so many tiles the encoding's loss is measured, more often in a short list: at least so many times."""

Run = tuple[tuple[int, int], list[int]]
"""(column, row) of the first tile, and the positions of neighbours in a row."""


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
    squared_error: float = 0.0
    """Mean squared error of the encoding, summed over the tiles it was measured on."""
    measured: int = 0
    stains: np.ndarray | None = None
    """Stain statistics, float32 [n, 8], where they were asked for."""


@dataclass(frozen=True)
class Recipe:
    """What becomes of a tile's pixels."""

    jpeg: JpegSettings
    quality: QualitySettings = QualitySettings()
    transform: Callable[[np.ndarray], np.ndarray] | None = None
    """Applied to each tile, uint8 [H, W, 3], after it was scored: stain normalisation."""
    encode: Callable[[np.ndarray], bytes] | None = None
    """Encodes a tile, uint8 [H, W, 3], where ``jpeg`` does not say how: with the slide's own tables."""
    stains: Callable[[np.ndarray], np.ndarray] | None = None
    """Gives the stain statistics, float32 [8], of a tile before ``transform``."""


def empty(count: int, *, stains: bool = False) -> Extracted:
    """Return a result in which no tile is there yet."""
    focus, blank = (np.full(count, np.nan, np.float32) for _ in range(2))
    return Extracted([None] * count, focus, blank, stains=np.full((count, 8), np.nan, np.float32) if stains else None)


def extract_tiles(slide: Slide, grid: Grid, columns: np.ndarray, rows: np.ndarray, recipe: Recipe) -> Extracted:
    """Read and encode the tiles at ``columns``, ``rows`` (int [n] each) of ``grid``.

    Raises:
        SlideError: none of the tiles can be read.
    """
    result = empty(len(columns), stains=recipe.stains is not None)
    _extract_runs(slide, grid, runs_of(grid, columns, rows), recipe, result)
    if len(columns) and len(result.unreadable) == len(columns):
        raise SlideError(next(iter(result.unreadable.values())))
    return result


def _extract_runs(slide: Slide, grid: Grid, runs: Iterable[Run], recipe: Recipe, result: Extracted) -> None:
    encoded_as = recipe.jpeg.subsampling if recipe.transform is None else None
    every = max(1, min(LOSS_EVERY, len(result.payloads) // LOSS_LEAST))
    for first, members in runs:
        for positions, tiles in _read_run(slide, grid, first, members, result, encoded_as):
            result.focus[positions], result.blank[positions] = score_tiles(tiles)
            for position, tile in zip(positions, tiles, strict=True):
                reason = reason_to_drop(result.focus[position], result.blank[position], recipe.quality)
                if reason is not None:
                    result.dropped[reason] = result.dropped.get(reason, 0) + 1
                    continue
                payload = result.payloads[position] = _encode(tile, recipe)
                if recipe.stains is not None and result.stains is not None:
                    result.stains[position] = recipe.stains(tile)
                if position % every == every // 2:
                    box = grid.box(first[0] + members.index(position), first[1])
                    _measure_loss(payload, slide.read_row(box, grid.tile_px, grid.stride_px, 1)[0], recipe, result)


def _encode(tile: np.ndarray, recipe: Recipe) -> bytes:
    pixels = tile if recipe.transform is None else recipe.transform(tile)
    return encode_jpeg(pixels, recipe.jpeg) if recipe.encode is None else recipe.encode(pixels)


def _measure_loss(payload: bytes, tile: np.ndarray, recipe: Recipe, result: Extracted) -> None:
    """Note how far what was stored is from what the slide shows (or what became of that)."""
    pixels = tile if recipe.transform is None else recipe.transform(tile)
    error = decode_jpeg(payload, settings=recipe.jpeg).astype(np.float32) - pixels
    result.squared_error += float((error**2).mean())
    result.measured += 1


def runs_of(grid: Grid, columns: np.ndarray, rows: np.ndarray) -> Iterator[Run]:
    """Yield runs of neighbours in a row, block of columns by block of columns.

    Blocks keep what has to stay decoded small on very wide slides.
    """
    size_l0 = grid.size_l0
    block = max(RUN_TILES, int(BLOCK_PIXELS / (size_l0[1] + 512) / max(1.0, grid.step_l0[0])))
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
            and not isinstance(grid, Placed)
        )
        if run and not follows:
            yield (int(columns[run[0]]), int(rows[run[0]])), run
            run = []
        run.append(position)
    if run:
        yield (int(columns[run[0]]), int(rows[run[0]])), run


def _read_run(
    slide: Slide,
    grid: Grid,
    first: tuple[int, int],
    members: list[int],
    result: Extracted,
    encoded_as: str | None,
) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yield (positions, pixels [n, H, W, 3]) of the tiles of one run; when it cannot be read as one, tile by tile."""
    column, row = first
    try:
        box, count = grid.box(column, row, len(members)), len(members)
        tiles = slide.read_row(box, grid.tile_px, grid.stride_px, count, encoded_as=encoded_as)
    except SlideError as error:
        if len(members) == 1:
            result.unreadable[members[0]] = str(error)
            return
        for offset, member in enumerate(members):
            yield from _read_run(slide, grid, (column + offset, row), [member], result, encoded_as)
        return
    yield members, tiles
