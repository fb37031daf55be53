"""The contract of a tile store on disk: every path, every ``zarr.json`` and the types of its columns.

::

    <store_id>.zarr/
      zarr.json               group; attributes {"histogen": {format, kind, store_id, tile_px, mpp, num_tiles, …}}
      tiles/                  uint8 [N, H, W, 3]; one shard file per 1,024 tiles, one JPEG per inner chunk
      columns/<name>/         one value (or k values) per tile                     } row arrays: uncompressed, a chunk
      embeddings/<encoder>/   float [N, D]                                         } file per shard (columns: per 65,536
      latents/<autoencoder>/  float16 [N, variants, 2C, h, w]                      } rows) with its CRC-32C at its end
      ledger/<stage>/<s>.json the note of shard s of a stage, written last

Everything but the ledger is plain Zarr v3. All metadata are written when a store or array is made; workers only
add chunk files. An absent tile has no bytes: its index entry is (2**64 - 1, 2**64 - 1), as Zarr says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from histogen.errors import StoreError
from histogen.files import write_atomic
from histogen.names import MAX_NAME, PLAIN, why_not_plain

FORMAT = 1
SYNTHETIC = ("generative", "interpolated")
KINDS = ("slide", "natural", *SYNTHETIC)
SHARD_TILES = 1024
COLUMN_ROWS = 65_536
ABSENT = np.uint64(2**64 - 1)
ROW_GROUPS = ("columns", "embeddings", "latents")
TILES = "tiles"
DTYPES = frozenset(
    ("bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)), "float16", "float32", "float64")
)
MAX_COUNT = 2**40
"""More rows, or numbers in a row, than any store has."""
CODEC_NAME = "imagecodecs_jpeg"
CHECKSUM = "crc32c"
"""Zarr's codec of the checksum at the end of a chunk; arrays of before it was written have none."""

MAX_NAME_LETTERS = MAX_NAME + 40
"""Letters of a store's id or an array's name: a slide's id and what is added to it."""


@dataclass(frozen=True)
class Column:
    """One value per tile: ``values`` [N] or [N, k], and what its numbers mean.

    ``categories`` gives the names of the codes of a categorical column (-1 is none); ``is_text`` says that ``values``
    is uint8 [N, k], zero-padded UTF-8. ``by_shard`` says that they are written again, with the tiles of each shard.
    """

    values: NDArray[Any]
    categories: tuple[str, ...] | None = None
    is_text: bool = False
    by_shard: bool = False

    @classmethod
    def categorical(
        cls, names: Sequence[str | None], categories: Sequence[str] | None = None, dtype: str = "int16"
    ) -> Column:
        """Code ``names`` (None: no value, code -1) by ``categories``, which default to the sorted distinct names.

        Raises:
            StoreError: a name is not among the categories, or there are more than ``dtype`` can count.
        """
        known = tuple(sorted({n for n in names if n is not None}) if categories is None else categories)
        codes = {name: code for code, name in enumerate(known)}
        unknown = next((n for n in names if n is not None and n not in codes), None)
        if unknown is not None:
            raise StoreError(f"'{unknown}' is not one of the categories {', '.join(known)}; add it to them")
        if len(known) > np.iinfo(dtype).max:
            raise StoreError(f"{len(known)} categories do not fit {dtype}; use fewer or a wider type")
        values = np.array([-1 if n is None else codes[n] for n in names], dtype=dtype)
        return cls(values, known)

    @classmethod
    def text(cls, strings: Sequence[str]) -> Column:
        """Pack strings into uint8 [N, k], UTF-8, padded with zeros."""
        encoded = [s.encode() for s in strings]
        width = max((len(e) for e in encoded), default=0) or 1
        packed = np.frombuffer(b"".join(e.ljust(width, b"\0") for e in encoded), np.uint8)
        return cls(packed.reshape(len(encoded), width), is_text=True)

    @property
    def attributes(self) -> dict[str, Any]:
        """What the array's attributes say about the values."""
        if self.categories is not None:
            return {"categories": list(self.categories)}
        return {"text": "utf-8"} if self.is_text else {}


def as_column(values: Column | ArrayLike) -> Column:
    """Return ``values`` as a :class:`Column`."""
    return values if isinstance(values, Column) else Column(np.asarray(values))


def unpack_text(values: NDArray[np.uint8]) -> list[str]:
    """Return the strings in zero-padded UTF-8 rows [N, k].

    Raises:
        StoreError: they are not UTF-8.
    """
    try:
        return [row.tobytes().rstrip(b"\0").decode() for row in values]
    except (UnicodeDecodeError, AttributeError) as error:
        raise StoreError(f"a column of texts is not UTF-8 ({error}); make the store again") from error


@dataclass(frozen=True)
class ArrayLayout:
    """What the reading path needs to know of one array: its shape [N, …], dtype, rows per chunk, attributes.

    ``checksum`` says whether the CRC-32C of each chunk stands behind it.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    shard_rows: int
    fill: float = 0
    attributes: Mapping[str, Any] = field(default_factory=dict)
    checksum: bool = True

    @property
    def row_shape(self) -> tuple[int, ...]:
        """Shape of one row."""
        return self.shape[1:]

    @property
    def row_bytes(self) -> int:
        """Bytes of one row on disk (row arrays only; tiles are compressed)."""
        return int(np.prod(self.row_shape, dtype=np.int64)) * self.dtype.itemsize

    def metadata(self) -> dict[str, Any]:
        """Return ``zarr.json`` of an uncompressed array chunked along its first axis."""
        endian = {"configuration": {"endian": "little"}} if self.dtype.itemsize > 1 else {}
        return _array_metadata(
            self.shape, (self.shard_rows, *self.row_shape), self.dtype.name, _fill_to_json(self.fill, self.dtype),
            [{"name": "bytes", **endian}, *([{"name": CHECKSUM}] if self.checksum else [])], self.attributes,
        )  # fmt: skip

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> ArrayLayout:
        """Read the layout back from ``zarr.json``.

        Raises:
            StoreError: something is missing, or not what it must be.
        """
        chunk = _at(metadata, "chunk_grid", "configuration", "chunk_shape", 0)
        attributes = metadata.get("attributes", {})
        categories = attributes.get("categories", []) if isinstance(attributes, Mapping) else None
        wrong = (
            ("shape", not _are_counts(_at(metadata, "shape")) or not metadata["shape"]),
            ("data_type", str(_at(metadata, "data_type")) not in DTYPES),
            ("chunk_shape", not _are_counts([chunk]) or chunk == 0),
            ("attributes", not isinstance(categories, list) or not all(isinstance(name, str) for name in categories)),
        )
        if named := [key for key, is_wrong in wrong if is_wrong]:
            raise StoreError(f"its {', '.join(named)} cannot be")
        try:
            fill = _fill_from_json(metadata["fill_value"])
        except (KeyError, ValueError, TypeError) as error:
            raise StoreError("its fill_value cannot be") from error
        dtype = np.dtype(metadata["data_type"]).newbyteorder("<")
        codecs = _at(metadata, "codecs")
        names = [_at(codec, "name") for codec in codecs] if isinstance(codecs, list) else []
        if names not in (["bytes"], ["bytes", CHECKSUM]):
            raise StoreError(f"its codecs are not 'bytes' and '{CHECKSUM}'")
        return cls(tuple(metadata["shape"]), dtype, int(chunk), fill, attributes, CHECKSUM in names)


def check_attributes(attributes: Any, path: Path) -> None:
    """Refuse what the root of a store says of itself where it cannot be.

    Raises:
        StoreError: a key is missing, or its value is of another type.
    """
    if not isinstance(attributes, Mapping) or attributes.get("format") != FORMAT:
        said = attributes.get("format") if isinstance(attributes, Mapping) else attributes
        raise StoreError(f"store '{path}' has format {said!r:.40}, this histogen reads {FORMAT}")
    mpp, name = attributes.get("mpp"), attributes.get("store_id")
    wrong = (
        ("kind", attributes.get("kind") not in KINDS),
        ("store_id", not (isinstance(name, str) and PLAIN.fullmatch(name))),
        ("tile_px", not _are_counts([attributes.get("tile_px")]) or attributes["tile_px"] == 0),
        ("num_tiles", not _are_counts([attributes.get("num_tiles")])),
        ("shard_tiles", not _are_counts([attributes.get("shard_tiles")]) or attributes["shard_tiles"] == 0),
        ("mpp", mpp is not None and not (type(mpp) in (int, float) and 0 < mpp < np.inf)),
        ("provenance", not isinstance(attributes.get("provenance"), dict)),
    )
    if named := [key for key, is_wrong in wrong if is_wrong]:
        raise StoreError(f"store '{path}' has malformed metadata ({', '.join(named)}); make it again")


def _at(node: Any, *keys: str | int) -> Any:
    """Return what lies under ``keys`` of a tree of JSON; None where there is nothing."""
    for key in keys:
        if isinstance(node, Mapping) if isinstance(key, str) else isinstance(node, list):
            node = node.get(key) if isinstance(key, str) else node[key] if len(node) > key else None
        else:
            return None
    return node


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < MAX_COUNT for value in values)


def column_rows_of(num_tiles: int) -> int:
    """Rows per chunk of a column that is written at once: far fewer files than shards, the last one nearly full."""
    return max(1, -(-num_tiles // max(1, -(-num_tiles // COLUMN_ROWS))))


def shard_tiles_of(num_tiles: int) -> int:
    """Tiles per shard of a store of ``num_tiles``."""
    return max(1, min(SHARD_TILES, num_tiles))


def tiles_metadata(num_tiles: int, tile_px: int, codec_config: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``zarr.json`` of the ``tiles`` array: JPEG chunks of one tile inside shards."""
    tile = (tile_px, tile_px, 3)
    sharding = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [1, *tile],
            "codecs": [{"name": CODEC_NAME, "configuration": dict(codec_config)}],
            "index_codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": CHECKSUM}],
            "index_location": "end",
        },
    }
    return _array_metadata((num_tiles, *tile), (shard_tiles_of(num_tiles), *tile), "uint8", 0, [sharding], {})


def group_metadata(attributes: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return ``zarr.json`` of a group."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes or {})}


def ledger_metadata() -> dict[str, Any]:
    """Return ``zarr.json`` of the ledger: an array without elements, so that Zarr does not look for arrays in it."""
    about = {"about": "notes of finished shards, <stage>/<shard>.json; not an array"}
    return _array_metadata((0,), (1,), "uint8", 0, [{"name": "bytes"}], about)


def write_metadata(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Write ``folder/zarr.json``, the same bytes for the same metadata."""
    write_atomic(folder / "zarr.json", json.dumps(metadata, indent=1, ensure_ascii=False))


def read_metadata(folder: Path) -> dict[str, Any]:
    """Return the mapping in ``folder/zarr.json``.

    Raises:
        StoreError: it is missing or not JSON.
    """
    try:
        metadata = json.loads((folder / "zarr.json").read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreError(f"'{folder}' is not a Zarr store (no zarr.json); check the path") from error
    except OSError as error:
        raise StoreError(f"'{folder}/zarr.json' cannot be read ({error.strerror}); restore it") from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"'{folder}/zarr.json' is not JSON ({error}); restore it or make the store again") from error
    if not isinstance(metadata, dict):
        raise StoreError(f"'{folder}/zarr.json' holds no mapping; restore it or make the store again")
    return metadata


def chunk_path(array: Path, shard: int, num_axes: int) -> Path:
    """Return the file of chunk ``shard`` along the first of ``num_axes`` axes."""
    return array.joinpath("c", str(shard), *["0"] * (num_axes - 1))


def check_name(name: str, what: str) -> str:
    """Return ``name`` when it can be the name of a folder anywhere.

    Raises:
        StoreError: it is empty, too long or has other characters than letters, digits and ``_.+@-``.
    """
    if why := why_not_plain(name, most=MAX_NAME_LETTERS):
        raise StoreError(f"{what} '{name:.60}' {why}")
    return name


def _array_metadata(
    shape: Sequence[int], chunk: Sequence[int], dtype: str, fill: Any, codecs: list[Any], attributes: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(shape),
        "data_type": dtype,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": fill,
        "codecs": codecs,
        "attributes": dict(attributes),
    }


def _fill_to_json(fill: float, dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "b":
        return bool(fill)
    if dtype.kind != "f":
        return int(fill)
    return float(fill) if np.isfinite(fill) else {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(fill)]


def _fill_from_json(fill: Any) -> float:
    return float(fill.replace("Infinity", "inf")) if isinstance(fill, str) else fill
