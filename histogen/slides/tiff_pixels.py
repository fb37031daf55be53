"""Stored tiles that are not plain 8-bit RGB: planes, grey, more bits, strips. They become it, or say why not."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from histogen.errors import RefusedSlideError, SlideError
from histogen.geometry import Extent

LEFT_TO_OTHERS = (6, 33003, 33004)
"""Compressions whose colours tifffile leaves as they are stored."""
MAX_PIECE_BYTES = 2**29
"""The largest stored tile or strip that is decoded."""
RAW_PIECE_BYTES = 2**22
"""Uncompressed strips that are larger are read in pieces of this size."""
NUM_LOOKS = 64
"""Stored tiles whose values are looked at, to learn how many of 16 bits are used."""
UNCOMPRESSED, JPEG, YCBCR = 1, 7, 6
MAX_EXCESS = 4
"""How many times the pixels of its tile a compressed picture may have; tiles at the edge may be stored whole."""

Decode = Callable[[bytes, int], np.ndarray]
"""(payload, its index) to [H, W, samples] of whole stored tiles."""


@dataclass(frozen=True)
class Pieces:
    """How the stored tiles of a level become RGB."""

    decode: Decode
    num_planes: int
    """Stored tiles that one tile is made of: 3 where the colours are in planes of their own."""
    index_step: int
    """From the index of a piece to that of the next plane's, as the decoder counts."""
    order: tuple[int, ...] | None
    """Which samples are red, green and blue; None: the first three, or grey."""
    white: int
    """The largest value of a sample."""
    inverted: bool = False
    alpha: int = 0
    """ExtraSamples of the fourth sample: 1 colours are multiplied by it already, 2 they are not, 0 there is none."""

    def rgb(self, payloads: Sequence[bytes], index: int) -> np.ndarray:
        """Return one tile, uint8 RGB [H, W, 3]; ``payloads`` are its planes.

        Raises:
            ValueError, RuntimeError: a payload is damaged.
        """
        parts = [self.decode(payload, index + plane * self.index_step) for plane, payload in enumerate(payloads)]
        pixels = np.concatenate(parts, axis=2) if len(parts) > 1 else parts[0]
        if self.white != 255:
            scaled = np.minimum(pixels, self.white).astype(np.float32) * np.float32(255 / self.white)
            pixels = (scaled + np.float32(0.5)).astype(np.uint8)
        if self.inverted:
            pixels = 255 - pixels
        if self.order is not None:
            return np.ascontiguousarray(pixels[..., list(self.order)])
        if pixels.shape[2] < 3:
            return np.ascontiguousarray(np.repeat(pixels[..., :1], 3, axis=2))
        if self.alpha and pixels.shape[2] > 3:
            return _on_white(pixels[..., :3], pixels[..., 3:4], multiplied=self.alpha == 1)
        return np.ascontiguousarray(pixels[..., :3])


def _on_white(rgb: np.ndarray, alpha: np.ndarray, *, multiplied: bool) -> np.ndarray:
    share = alpha.astype(np.float32) / 255
    seen = rgb if multiplied else rgb * share
    return np.minimum(seen + 255 * (1 - share) + 0.5, 255).astype(np.uint8)


def is_plain(page: Any) -> bool:
    """Whether the tiles of a directory are 8-bit RGB, or YCbCr in JPEG."""
    plain = page.samplesperpixel == 3 and page.bitspersample == 8 and page.planarconfig == 1 and page.is_tiled
    return bool(plain and page.photometric in (2, 6) and page.predictor in (1, 2) and page.fillorder == 1)


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]} …"


def check_sizes(page: Any) -> None:
    """Decline a directory whose extents are no extents.

    Raises:
        SlideError: one of them is not a whole number above zero, or too large.
    """
    names = ["imagewidth", "imagelength", *(["tilewidth", "tilelength"] if page.is_tiled else ["rowsperstrip"])]
    for name in names:
        value = getattr(page, name)
        if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 < value < 2**32:
            raise SlideError(f"its {name} is {_short(value)}, which is no number of pixels")


def check_depth(page: Any) -> None:
    """Refuse, for readers that take the upper 8 of 16 bits, samples of more than 8 bits.

    Raises:
        RefusedSlideError: it has such.
    """
    bits = np.max(page.bitspersample)
    if bits > 8:
        raise RefusedSlideError(
            f"its samples have {bits} bits, of which only the native reader makes 8; convert it to 8 bits"
        )


def check_kind(page: Any) -> None:
    """Refuse samples that nothing here shows rightly.

    Raises:
        RefusedSlideError: they are signed, broken or wide numbers.
        SlideError: another reader may know them.
    """
    if page.sampleformat != 1 or not isinstance(page.bitspersample, int) or page.bitspersample > 16:
        kind = page.dtype.name if page.dtype is not None else f"{page.bitspersample}-bit"
        raise RefusedSlideError(
            f"its samples are {kind}, not the 8 or 16 bits of a stained slide; convert it to 8 bits"
        )
    if page.bitspersample < 8 or page.photometric not in (0, 1, 2, YCBCR):
        raise SlideError(
            f"its samples ({page.bitspersample} bits, photometric {int(page.photometric)}) are not read here"
        )
    if page.compression in LEFT_TO_OTHERS or (page.photometric == YCBCR and page.compression != JPEG):
        raise SlideError(f"compression {int(page.compression)} is not decoded here")


def piece_extent(page: Any) -> Extent:
    """Return the extent of what is read at once: a stored tile, a strip, or some rows of a large uncompressed strip.

    Raises:
        RefusedSlideError: it is too large to be decoded.
    """
    if page.is_tiled:
        extent = Extent(page.tilewidth, page.tilelength)
    else:
        rows = min(int(page.rowsperstrip), page.imagelength)
        extent = Extent(page.imagewidth, _raw_rows(page) if _is_cut(page) else rows)
    per_pixel = page.samplesperpixel * -(-int(np.max(page.bitspersample)) // 8)
    size = extent.width * extent.height * max(3, per_pixel)
    if size > MAX_PIECE_BYTES:
        raise RefusedSlideError(
            f"its pixels are stored in pieces of {size / 1e9:.1f} GB; convert it to a tiled TIFF "
            "(vips tiffsave IN OUT --tile --pyramid)"
        )
    return extent


def pieces_of(pages: Sequence[Any], order: tuple[int, int, int] | None, white: int) -> Pieces:
    """Return how the stored tiles of a level become RGB; ``pages`` are its planes, or the one directory it has."""
    page = pages[0]
    apart = page.planarconfig == 2 and page.samplesperpixel > 1
    piece = piece_extent(page)
    per_plane = -(-page.imagewidth // piece.width) * -(-page.imagelength // piece.height)
    alpha = next((int(kind) for kind in page.extrasamples if int(kind) in (1, 2)), 0)
    return Pieces(
        _raw_decoder(page, piece) if _is_cut(page) else _decoder(page),
        page.samplesperpixel if apart else len(pages), per_plane if apart else 0, order, white,
        inverted=page.photometric == 0, alpha=alpha if page.samplesperpixel == 4 else 0,
    )  # fmt: skip


def piece_places(pages: Sequence[Any], piece: Extent) -> tuple[np.ndarray, np.ndarray]:
    """Return offsets and sizes, int64 [planes * pieces], of what is read at once, plane by plane."""
    if not _is_cut(pages[0]):
        offsets, sizes = (
            [v for page in pages for v in getattr(page, name)] for name in ("dataoffsets", "databytecounts")
        )
        return np.asarray(offsets, np.int64), np.asarray(sizes, np.int64)
    page = pages[0]
    row_bytes = _row_bytes(page)
    tops = np.arange(0, page.imagelength, piece.height, dtype=np.int64)
    rows = np.minimum(piece.height, page.imagelength - tops)
    return page.dataoffsets[0] + tops * row_bytes, rows * row_bytes


def _is_cut(page: Any) -> bool:
    """Whether strips follow each other as one block of bytes, of which any rows can be read."""
    if page.is_tiled or page.compression != UNCOMPRESSED or page.fillorder != 1 or page.bitspersample not in (8, 16):
        return False
    if page.planarconfig == 2 and page.samplesperpixel > 1:
        return False
    rows = min(int(page.rowsperstrip), page.imagelength)
    if rows * _row_bytes(page) <= RAW_PIECE_BYTES:
        return False
    offsets, sizes = np.asarray(page.dataoffsets, np.int64), np.asarray(page.databytecounts, np.int64)
    whole = int(sizes.sum()) >= page.imagelength * _row_bytes(page)
    return whole and bool((offsets[:-1] + sizes[:-1] == offsets[1:]).all())


def _row_bytes(page: Any) -> int:
    return int(page.imagewidth * page.samplesperpixel * page.bitspersample // 8)


def _raw_rows(page: Any) -> int:
    return max(1, RAW_PIECE_BYTES // _row_bytes(page))


def _raw_decoder(page: Any, piece: Extent) -> Decode:
    kind = np.dtype(f"{page.parent.byteorder}u{page.bitspersample // 8}")
    width, samples, height = piece.width, int(page.samplesperpixel), piece.height

    def decode(payload: bytes, index: int) -> np.ndarray:  # noqa: ARG001 - a strip's shape is its payload's
        rows = np.frombuffer(payload, kind).reshape(-1, width, samples)
        return np.pad(rows, ((0, height - len(rows)), (0, 0), (0, 0))) if len(rows) < height else rows

    return decode


def _decoder(page: Any) -> Decode:
    tables, decode_page, extent = page.jpegtables, page.decode, piece_extent(page)

    def decode(payload: bytes, index: int) -> np.ndarray:
        check_payload(payload, extent)
        try:
            decoded, _, _ = decode_page(payload, index, jpegtables=tables, _fullsize=True)
        except (NotImplementedError, TypeError, IndexError, KeyError) as error:
            raise ValueError(f"it is not decoded: {error}") from error
        return np.asarray(decoded[0])

    return decode


def check_payload(payload: bytes, tile: Extent) -> None:
    """Refuse a JPEG or JPEG 2000 whose header asks for far more pixels than its tile has.

    Raises:
        ValueError: it does.
    """
    size = jpeg2000_extent(payload) or jpeg_extent(payload)
    if size is not None and size.width * size.height > MAX_EXCESS * tile.width * tile.height:
        raise ValueError(f"its header says {size.width} x {size.height} px, the tile has {tile.width} x {tile.height}")


def jpeg2000_extent(payload: bytes) -> Extent | None:
    """The extent that a JPEG 2000 codestream, bare or in a JP2 file, says it has; None where there is none."""
    at = payload.find(b"\xff\x4f\xff\x51", 0, 4096)
    if at < 0 or len(payload) < at + 24:
        return None
    right, bottom, left, top = struct.unpack(">4I", payload[at + 8 : at + 24])
    return Extent(max(0, right - left), max(0, bottom - top))


def jpeg_extent(payload: bytes) -> Extent | None:
    """The extent in a JPEG's frame header; None where there is none."""
    at = 2 if payload[:2] == b"\xff\xd8" else len(payload)
    while at + 9 <= len(payload) and payload[at] == 0xFF:
        marker = payload[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">2H", payload[at + 5 : at + 9])
            return Extent(width, height)
        at += 2 + int.from_bytes(payload[at + 2 : at + 4], "big")
    return None


def white_of(pages: Sequence[Any], coarsest: Sequence[Any], stated: int | None) -> int:
    """Return the value that stands for white; ``stated``: the bits that are used, as the file has it.

    A file of 16 bits that says so, or nothing, and holds 12-bit values, would come out black. That of the coarsest
    level is looked at.

    Raises:
        RefusedSlideError: how many bits are used is not stated and cannot be told, or stated wrongly.
    """
    page = pages[0]
    if page.bitspersample <= 8 or page.bitspersample < 16:
        return int(2**page.bitspersample - 1)
    tag = page.tags.get("MaxSampleValue")
    if stated is None and tag is not None:
        stated = int(np.max(tag.value)).bit_length()
    used = _highest(coarsest)
    if stated is not None and 8 <= stated < 16:
        if used >= 2**stated:
            raise RefusedSlideError(
                f"it says that {stated} bits are used, and has values of {used:,}; convert it to 8 bits"
            )
        return int(2**stated - 1)
    if used < 2**15:
        raise RefusedSlideError(
            f"its 16-bit values reach {used:,} only, and it does not say how many bits are used; state them (OME's "
            "SignificantBits, or the tag MaxSampleValue), or convert it to 8 bits"
        )
    return 2**16 - 1


def _highest(pages: Sequence[Any]) -> int:
    """The highest value in some stored tiles of a level."""
    highest = 0
    for page in pages:
        piece = piece_extent(page)
        offsets, sizes = piece_places([page], piece)
        decode = _raw_decoder(page, piece) if _is_cut(page) else _decoder(page)
        for index in np.unique(np.linspace(0, len(offsets) - 1, NUM_LOOKS).astype(int)).tolist():
            page.parent.filehandle.seek(int(offsets[index]))
            payload = page.parent.filehandle.read(int(sizes[index]))
            highest = max(highest, int(decode(payload, index).max(initial=0)))
    return highest
