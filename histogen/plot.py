"""The pictures of ``histogen view`` as matplotlib figures, for notebooks (after ``%matplotlib inline``) and papers.

Every function takes ``paths`` as ``histogen view`` does: stores, slides, runs, and folders of these.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from histogen.errors import ConfigError, HistogenError, StoreError
from histogen.view.answers import Answers
from histogen.view.maps import Maps
from histogen.view.neighbours import encoders_of, nearest
from histogen.view.sources import find_sources
from histogen.view.synthetic import Synthetic
from histogen.view.tiles import slide_of

Paths = Path | str | Sequence[Path | str]
OVERVIEW_PX = 1500
INCHES = 1.4
"""Side of a tile in a figure."""


def slide(paths: Paths, slide_id: str, *, column: str | None = None) -> Figure:
    """Return a slide with the tiles that were cut from it, coloured by ``column`` where one is given; axes in level 0.

    Raises:
        HistogenError: no slide or column is called so.
    """
    answers = _open(paths)
    about = answers.slide(slide_id)
    figure = Figure(figsize=(9, max(2.0, 9 * about["height"] / max(about["width"], 1))), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(0, about["width"]), ylim=(about["height"], 0), title=slide_id, aspect="equal")
    if about["error"] is None:
        picture = answers.pyramids.get(slide_id).slide.thumbnail(OVERVIEW_PX)
        axes.imshow(picture, extent=(0, about["width"], about["height"], 0))
    for position, store in enumerate(answers.tiles.stores):
        if store.kind == "slide" and slide_of(store) == slide_id:
            _draw_grid(axes, answers, position, column)
    return figure


def map(paths: Paths, encoder: str | None = None, *, column: str = "kind", seed: int = 0) -> Figure:  # noqa: A001
    """Return the embeddings of ``encoder`` (the first, where it is not said) along their two main directions.

    Raises:
        HistogenError: there are no such embeddings, or no such column.
    """
    answers = _open(paths)
    encoder = encoder or _encoders(answers)[0]
    maps = Maps(answers, [encoder], seed=seed)
    found = maps.components(encoder)
    places = np.concatenate(list(maps.places(encoder)))
    figure = Figure(figsize=(8, 6), layout="constrained")
    axes = figure.add_subplot()
    _draw_points(axes, places, maps.values(encoder, "pca", column), answers.categories(column), column)
    shares = [f"{100 * share:.0f} % of the variance" for share in found.explained[:2]]
    axes.set(xlabel=shares[0], ylabel=shares[1], title=encoder)
    return figure


def neighbours(paths: Paths, tile: str, encoders: Sequence[str] | None = None, *, k: int = 8) -> Figure:
    """Return a tile (``store:row``) and its ``k`` nearest over all stores, a row for each encoder, with their cosines.

    Raises:
        HistogenError: there is no such tile, or it has no embedding by one of ``encoders``.
    """
    answers = _open(paths)
    number, names = _number(answers, tile), list(encoders or _encoders(answers))
    rows = []
    for name in names:
        near = nearest(answers.tiles, number, name, k=k)
        rows.append([(number, name), *((one, f"{cosine:.3f}") for one, cosine in near)])
    return _sheet(answers, rows)


def synthetic(paths: Paths, tile: str) -> Figure:
    """Return a source (``store:row``, or that of a synthetic tile) and what was made of it, a row each.

    Raises:
        HistogenError: there is no such tile, or nothing was made of it.
    """
    answers = _open(paths)
    family = Synthetic(answers).family(str(_number(answers, tile)))
    if not family["made"]:
        raise StoreError(f"nothing was made of tile '{tile}' in these stores; give the synthetic ones too")
    rows = []
    for one in family["made"]:
        origin = [(family["source"], "source")] if family["source"] is not None else []
        partner = [(one["partner"], "partner")] if one["partner"] is not None else []
        alpha = f", alpha {one['alpha']:.2f}" if partner else ""
        rows.append([*origin, (one["number"], f"{one['kind']}{alpha}"), *partner])
    return _sheet(answers, rows)


def _open(paths: Paths) -> Answers:
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    return Answers(find_sources([Path(path) for path in given]), title="plot")


def _encoders(answers: Answers) -> list[str]:
    found = encoders_of(answers.tiles)
    if not found:
        raise StoreError("none of these stores has embeddings; run histogen embed")
    return found


def _number(answers: Answers, tile: str) -> int:
    store_id, _, row = tile.rpartition(":")
    number = answers.tiles.number_of(store_id, int(row)) if row.isdecimal() else None
    if number is None:
        raise ConfigError(f"there is no tile '{tile}' in these stores; write STORE:ROW")
    return number


def _draw_grid(axes: Axes, answers: Answers, position: int, column: str | None) -> None:
    present = np.flatnonzero(answers.tiles.present(position))
    x, y = (answers.values(position, axis)[present] for axis in ("x_l0", "y_l0"))
    width, height = answers.size_l0(position)
    squares = PatchCollection([Rectangle(place, width, height) for place in zip(x, y, strict=True)], linewidths=0.3)
    squares.set(edgecolor="black", facecolor="none")
    if column is not None:
        colours = _colour(axes, answers.values(position, column)[present], answers.categories(column), column)
        squares.set(facecolor=colours, alpha=0.45)
    axes.add_collection(squares)


def _draw_points(axes: Axes, places: NDArray[Any], values: NDArray[Any], names: Sequence[str], column: str) -> None:
    axes.scatter(places[:, 0], places[:, 1], s=6, c=_colour(axes, values, names, column), linewidths=0)


def _colour(axes: Axes, values: NDArray[Any], names: Sequence[str], column: str) -> NDArray[Any]:
    """Return a colour [n, 4] for each value, and put what they mean beside the axes; grey is no value."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    grey = (0.6, 0.6, 0.6, 1.0)
    if names:
        table = np.array([colormaps["tab20"](code % 20) for code in range(len(names))] + [grey])
        used = [code for code in np.unique(values) if code >= 0]
        handles = [Rectangle((0, 0), 1, 1, facecolor=table[code]) for code in used]
        axes.legend(handles, [names[code] for code in used], title=column, loc="upper left", bbox_to_anchor=(1, 1))
        return np.asarray(table[values])
    finite = values[np.isfinite(values)]
    scale = ScalarMappable(Normalize(*(np.quantile(finite, (0.02, 0.98)) if len(finite) else (0, 1))), "cividis")
    axes.figure.colorbar(scale, ax=axes, label=column)
    return np.where(np.isfinite(values)[:, None], scale.to_rgba(np.nan_to_num(values)), grey)


def _sheet(answers: Answers, rows: Sequence[Sequence[tuple[int, str]]]) -> Figure:
    """Return tiles in rows, each with a text over it; one that cannot be read stays empty and says so."""
    wide = max(len(row) for row in rows)
    figure = Figure(figsize=(INCHES * wide, (INCHES + 0.3) * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), wide, squeeze=False)
    for axes, cell in (
        (grid[line, place], row[place : place + 1]) for line, row in enumerate(rows) for place in range(wide)
    ):
        axes.set_axis_off()
        for number, text in cell:
            axes.set_title(text, fontsize=7)
            try:
                axes.imshow(answers.tiles.pixels(number))
            except HistogenError:
                axes.text(0.5, 0.5, "cannot be read", ha="center", fontsize=7, transform=axes.transAxes)
    return figure
