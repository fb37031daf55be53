"""The page as one folder that opens from disk, without a server: a sample of tiles, and all that is known of them.

Every answer that the page may ask for is a file of its name: ``data/….js`` calls ``H.give``, ``image/…`` is a picture.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histogen.errors import HistogenError, OutputExistsError
from histogen.progress import progress_bar
from histogen.seeds import numpy_rng
from histogen.store.layout import SYNTHETIC
from histogen.view.answers import Answers
from histogen.view.packing import pack
from histogen.view.pyramid import SQUARE
from histogen.view.server import static_files
from histogen.view.synthetic import origins
from histogen.view.tiles import Tiles

MOST_TILES = 5000
OVERVIEW_PX = 4096
"""Longer side of the finest zoom of a slide that is exported."""
SERVED, FROM_FILES = 'data-from="server"', 'data-from="files"'


def choose_sample(tiles: Tiles, *, most: int, seed: int) -> NDArray[np.int64]:
    """Return at most ``most`` tiles, int64 ascending: by chance, each with what it was made from, or was made of it."""
    there = [tiles.starts[k] + np.flatnonzero(tiles.present(k)) for k in range(len(tiles.stores))]
    numbers = np.concatenate([*there, np.zeros(0, np.int64)])
    if len(numbers) <= most:
        return numbers
    source, partner = np.arange(len(tiles)), np.full(len(tiles), -1)
    for position, store in enumerate(tiles.stores):
        if store.kind in SYNTHETIC:
            rows = slice(tiles.starts[position], tiles.starts[position + 1])
            source[rows], partner[rows] = origins(tiles, position, "source"), origins(tiles, position, "partner")
    families: dict[int, set[int]] = {}
    for number in numbers.tolist():
        family = families.setdefault(int(source[number]), set())
        family |= {one for one in (number, int(source[number]), int(partner[number])) if one >= 0}
    chosen: set[int] = set()
    for key in numpy_rng(seed, "export").permutation(sorted(families)).tolist():
        if len(chosen | families[key]) <= most:
            chosen |= families[key]
    return np.intersect1d(np.fromiter(chosen, np.int64, len(chosen)), numbers)


def export(answers: Answers, folder: Path, *, seed: int, overwrite: bool, most: int = MOST_TILES) -> int:
    """Write the page into ``folder``, whole or not at all, and return how many tiles it shows.

    Raises:
        OutputExistsError: the folder is there, and is no page of before or may not be overwritten.
    """
    _check_free(folder, overwrite=overwrite)
    answers.tiles.is_frozen = True
    total = sum(int(answers.tiles.present(k).sum()) for k in range(len(answers.tiles.stores)))
    numbers = choose_sample(answers.tiles, most=most, seed=seed)
    if len(numbers) < total:
        answers.tiles.keep_only(numbers)
    answers.facts["sample"] = {"numbers": pack(numbers), "of": total}
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    page = _Page(answers, temporary)
    page.rooms()
    with progress_bar("export", total=len(numbers), unit="tiles") as bar:
        for number in numbers.tolist():
            page.tile(number)
            bar.advance()
    page.data("index")  # last: it says what could not be read
    for name, text in static_files().items():
        write_plain(temporary / name, text.replace(SERVED, FROM_FILES).encode())
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    return len(numbers)


class _Page:
    """Writes answers into files of their names; what cannot be read is left out, and noted."""

    def __init__(self, answers: Answers, folder: Path) -> None:
        self.answers, self.folder = answers, folder

    def data(self, name: str, change: Callable[[Any], Any] = lambda said: said) -> Any:
        try:
            said = change(self.answers.data(name))
        except HistogenError as error:
            self.answers.tiles.note(error)
            return None
        text = f"H.give({json.dumps(name)}, {json.dumps(said, allow_nan=False)});\n"
        write_plain(self.folder / "data" / f"{name}.js", text.encode())
        return said

    def image(self, name: str) -> None:
        try:
            write_plain(self.folder / "image" / name, self.answers.image(name))
        except HistogenError as error:
            self.answers.tiles.note(error)

    def rooms(self) -> None:
        """Write what belongs to no single tile."""
        index = self.answers.index()
        for slide in index["slides"]:
            self.slide(slide["id"])
        columns = [column["name"] for column in index["columns"]]
        for position, store in enumerate(index["stores"]):
            if store["kind"] == "slide":
                for name in (f"places/{position}", *(f"column/{position}/{column}" for column in columns)):
                    self.data(name)
        for encoder in index["encoders"]:
            for method in ("pca", "umap"):
                said = self.data(f"map/{encoder}/{method}")
                for column in columns if said and "x" in said else ():
                    self.data(f"map/{encoder}/column/{method}/{column}")
        self.data("sources")
        for run in (self.data("runs") or {"runs": []})["runs"]:
            said = self.data(f"run/{run['number']}")
            for place in range(len(said["previews"]) if said else 0):
                self.image(f"preview/{run['number']}/{place}.png")

    def slide(self, slide_id: str) -> None:
        """Write a slide's zooms down to :data:`OVERVIEW_PX`."""

        def coarse(said: dict[str, Any]) -> dict[str, Any]:
            longer = max(said["width"], said["height"])
            finest = [zoom for zoom in range(said["zooms"]) if longer >> zoom <= OVERVIEW_PX]
            return {**said, "finest": finest[0] if finest else 0}

        if slide_id in self.answers.facts.get("outlines", ()):
            self.data(f"outlines/{slide_id}")
        said = self.data(f"slide/{slide_id}", coarse)
        for zoom in range(said["finest"], said["zooms"]) if said else ():
            size = SQUARE << zoom
            for row in range(-(-said["height"] // size)):
                for column in range(-(-said["width"] // size)):
                    self.image(f"slide/{slide_id}/{zoom}/{column}_{row}.jpg")

    def tile(self, number: int) -> None:
        """Write a tile, its neighbours, and its family."""
        self.image(f"tile/{number}.jpg")
        said = self.data(f"tile/{number}")
        if self.answers.facts["encoders"]:
            self.data(f"neighbours/{number}")
        if self.answers.facts["synthetic"]:
            self.data(f"synthetic/{number}")
            if said and said["kind"] in SYNTHETIC:
                self.data(f"copy/{number}")


def write_plain(path: Path, data: bytes) -> None:
    """Write one of many files of a folder that is renamed when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def _check_free(folder: Path, *, overwrite: bool) -> None:
    if not folder.exists():
        return
    index = folder / "index.html"
    is_ours = index.is_file() and FROM_FILES in index.read_text(errors="replace")
    if not is_ours:
        raise OutputExistsError(f"'{folder}' exists and is no page that was exported; choose another folder")
    if not overwrite:
        raise OutputExistsError(f"page '{folder}' exists; pass --overwrite to export it anew")
