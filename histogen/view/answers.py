"""What the page asks for, by name, and what it is answered: ``data/…`` as JSON values, ``image/…`` as bytes.

A name is matched against the patterns of a table and looked up among what was found; none is ever made a path.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

import histogen
from histogen.errors import ConfigError, HistogenError, SlideError, StoreError
from histogen.store.jpeg import JpegSettings, encode_jpeg
from histogen.view.packing import pack, plain
from histogen.view.pyramid import Pyramids, num_zooms
from histogen.view.sources import Sources
from histogen.view.tiles import Tiles, slide_of

THUMB_PX = 96
THUMB = JpegSettings(level=80)
NAME = r"[A-Za-z0-9_][A-Za-z0-9_.+@-]*"

Route = tuple[re.Pattern[str], Callable[..., Any]]


class Answers:
    """Answers about slides and tiles; further rooms add their own routes."""

    def __init__(self, sources: Sources, *, title: str) -> None:
        self.title, self.sources = title, sources
        self.tiles = Tiles(sources.stores)
        self.pyramids = Pyramids({record.slide_id: record for record in sources.slides})
        self.facts: dict[str, Any] = {}
        self.closing: list[Callable[[], None]] = []
        """What ends what rooms have begun, when the server ends."""
        self._data: list[Route] = []
        self._images: list[Route] = []
        self._actions: list[Route] = []
        self._virtual: dict[str, tuple[list[str], Callable[[int], NDArray[Any]]]] = {}
        self._categories: dict[str, list[str]] = {}
        self.add_data("index", self.index)
        self.add_data(rf"slide/({NAME})", self.slide)
        self.add_data(r"places/(\d{1,9})", self.places)
        self.add_data(rf"column/(\d{{1,9}})/({NAME})", self.column)
        self.add_data(r"tile/(\d{1,12})", self.tile)
        self.add_image(r"tile/(\d{1,12})\.jpg", lambda number: self.tiles.payload(int(number)))
        self.add_image(r"thumb/(\d{1,12})\.jpg", self.thumb)
        self.add_image(rf"slide/({NAME})/(\d{{1,2}})/(\d{{1,7}})_(\d{{1,7}})\.jpg", self.square)

    def add_data(self, pattern: str, answer: Callable[..., Any]) -> None:
        """Let ``answer`` be asked by the name ``pattern``, a regular expression whose groups it is given."""
        self._data.append((re.compile(pattern), answer))

    def add_image(self, pattern: str, answer: Callable[..., bytes]) -> None:
        """The same for JPEG or PNG files."""
        self._images.append((re.compile(pattern), answer))

    def add_action(self, pattern: str, answer: Callable[..., Any]) -> None:
        """The same for what changes something; ``answer`` is given the body, JSON values, last."""
        self._actions.append((re.compile(pattern), answer))

    def add_column(self, name: str, values: Callable[[int], NDArray[Any]], names: Sequence[str] = ()) -> None:
        """Add a column that is computed: ``values`` returns a store's float32 [n], or codes int32 [n] of ``names``."""
        self._virtual[name] = list(names), values

    def data(self, name: str) -> Any:
        """Return JSON values.

        Raises:
            HistogenError: there is nothing of that name, or it cannot be read.
        """
        return _answer(self._data, name)

    def image(self, name: str) -> bytes:
        """Return the bytes of a JPEG or PNG file; errors as :meth:`data`."""
        answered: bytes = _answer(self._images, name)
        return answered

    def act(self, name: str, body: Any) -> Any:
        """Do what is asked for, and return JSON values; errors as :meth:`data`."""
        return _answer(self._actions, name, body)

    # slides

    def index(self) -> dict[str, Any]:
        """Return what there is, without opening a slide or reading a tile."""
        stores, sources = self.tiles.stores, self.sources
        slides: dict[str, dict[str, Any]] = {
            record.slide_id: {"id": record.slide_id, "has_file": True, "stores": []} for record in sources.slides
        }
        for position, store in enumerate(stores):
            if store.kind == "slide":
                about = {"id": slide_of(store), "has_file": False, "stores": []}
                slides.setdefault(slide_of(store), about)["stores"].append(position)
        return {
            "title": self.title,
            "version": histogen.__version__,
            "stores": [
                {"id": s.store_id, "kind": s.kind, "slide": slide_of(s), "tiles": s.num_tiles, "start": int(start),
                 "tile_px": s.tile_px, "mpp": s.mpp}
                for s, start in zip(stores, self.tiles.starts[:-1], strict=True)
            ],
            "slides": sorted(slides.values(), key=lambda slide: str(slide["id"])),
            "columns": [{"name": name, "type": kind} for name, kind in self.column_types().items()],
            "problems": [*sources.problems, *self.tiles.problems],
            **self.facts,
        }  # fmt: skip

    def slide(self, slide_id: str) -> dict[str, Any]:
        """Return a slide's extent and squares; where its file was not given, or cannot be read, what its store says.

        Raises:
            SlideError: there is neither.
        """
        said, known = self._said_of(slide_id), {record.slide_id for record in self.sources.slides}
        if not said and slide_id not in known:
            raise SlideError(f"no slide is called '{slide_id}' here; reload the page")
        about: dict[str, Any] = {
            "id": slide_id,
            "zooms": 0,
            "finest": 0,
            "flags": [],
            "error": None,
            **_extent(said.get("extent")),
        }
        try:
            pyramid = self.pyramids.get(slide_id)
        except HistogenError as error:
            return {**about, "error": str(error)}
        slide = pyramid.slide
        flags = list(slide.flags())
        if said.get("extent") not in (None, [slide.extent.width, slide.extent.height]):
            flags.append(f"it is not the file that was tiled, whose extent was {said['extent']}")
        return {
            **about,
            "width": slide.extent.width,
            "height": slide.extent.height,
            "zooms": num_zooms(slide.extent),
            "mpp": [slide.mpp.x, slide.mpp.y] if slide.mpp else None,
            "vendor": slide.vendor,
            "flags": flags,
        }

    def _said_of(self, slide_id: str) -> dict[str, Any]:
        stores = (s for s in self.tiles.stores if s.kind == "slide" and slide_of(s) == slide_id)
        said = next((s.provenance.get("slide") for s in stores), None)
        return said if isinstance(said, dict) else {}

    def square(self, slide_id: str, zoom: str, column: str, row: str) -> bytes:
        """Return a square of a slide's deep zoom."""
        return self.pyramids.square(slide_id, int(zoom), int(column), int(row))

    # tiles

    def places(self, position: str) -> dict[str, Any]:
        """Return where the tiles of a store lie, level-0 pixels, and which of them are there."""
        number = self._position(position)
        store, present = self.tiles.stores[number], self.tiles.present(number)
        found: dict[str, Any] = {"present": pack(present)}
        if {"x_l0", "y_l0"} <= self.tiles.columns.keys():
            found |= {axis: pack(self.tiles.column(f"{axis}_l0", number, ())) for axis in ("x", "y")}
        return found | {"size": self.size_l0(number), "tile_px": store.tile_px}

    def size_l0(self, position: int) -> list[float]:
        """Return the level-0 pixels of a tile of a store, across and down."""
        store = self.tiles.stores[position]
        said = store.provenance.get("slide")
        mpp = said.get("mpp") if isinstance(said, dict) else None
        if not (store.mpp and isinstance(mpp, list) and len(mpp) == 2 and all(mpp)):
            return [store.tile_px, store.tile_px]
        return [store.tile_px * store.mpp / mpp[0], store.tile_px * store.mpp / mpp[1]]

    def column(self, position: str, name: str) -> dict[str, Any]:
        """Return a column of one store; the codes of a category are those of all stores."""
        values = self.values(self._position(position), name)
        return {"names": self.categories(name), "values": pack(values)}

    def column_types(self) -> dict[str, str]:
        """Return all columns, computed ones last, to ``category`` or ``number``."""
        return self.tiles.columns | {
            name: "category" if names else "number" for name, (names, _) in self._virtual.items()
        }

    def values(self, position: int, name: str) -> NDArray[Any]:
        """Return a column of one store, codes of :meth:`categories` or numbers."""
        if name in self._virtual:
            return self._virtual[name][1](position)
        return self.tiles.column(name, position, self.categories(name))

    def categories(self, name: str) -> list[str]:
        """Return the names of a category column over all stores, found once."""
        if name in self._virtual:
            return self._virtual[name][0]
        if name not in self._categories:
            self._categories[name] = self.tiles.categories(name)
        return self._categories[name]

    def tile(self, number: str) -> dict[str, Any]:
        """Return what is known of a tile."""
        position, row = self.tiles.locate(int(number))
        store = self.tiles.stores[position]
        return {
            "number": int(number),
            "id": f"{store.store_id}:{row}",
            "store": position,
            "row": row,
            "kind": store.kind,
            "slide": slide_of(store),
            "present": bool(self._is_present(int(number))),
            "values": {name: plain(value) for name, value in self.tiles.row(int(number)).items()},
        }

    def _is_present(self, number: int) -> bool:
        try:
            return bool(self.tiles.payload(number))
        except HistogenError as error:
            self.tiles.note(error)
            return False

    def thumb(self, number: str) -> bytes:
        """Return a tile no larger than :data:`THUMB_PX`, for sheets of many."""
        payload = self.tiles.payload(int(number))
        position, _ = self.tiles.locate(int(number))
        if self.tiles.stores[position].tile_px <= THUMB_PX:
            return payload
        try:  # decoded at an eighth, a quarter or half, whichever is large enough: four times as fast
            pixels = simplejpeg.decode_jpeg(payload, min_height=THUMB_PX, min_width=THUMB_PX)
        except ValueError as error:
            raise StoreError(f"tile {number} does not decode ({error}); remake its store") from error
        small = cv2.resize(pixels, (THUMB_PX, THUMB_PX), interpolation=cv2.INTER_AREA)
        return encode_jpeg(np.asarray(small, np.uint8), THUMB)

    def _position(self, position: str) -> int:
        if int(position) >= len(self.tiles.stores):
            raise ConfigError(f"store {position} is asked for, of {len(self.tiles.stores)}; reload the page")
        return int(position)


def _answer(routes: Sequence[Route], name: str, *more: Any) -> Any:
    for pattern, answer in routes:
        if match := pattern.fullmatch(name):
            return answer(*match.groups(), *more)
    raise ConfigError(f"nothing is called '{name:.80}' here; reload the page")


def _extent(said: Any) -> dict[str, int]:
    if isinstance(said, list) and len(said) == 2 and all(isinstance(side, int) for side in said):
        return {"width": said[0], "height": said[1]}
    return {"width": 0, "height": 0}
