"""Manifests: CSV files (data_manifests/*.csv) that list the slides or the stores of a run."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from histogen.errors import ManifestError
from histogen.geometry import Mpp
from histogen.names import why_not_plain
from histogen.table import Row, check_spelling, path_of, read_table

SLIDE_COLUMNS = ("path", "slide_id", "mpp", "mpp_x", "mpp_y", "annotations", "label", "split", "group")


@dataclass(frozen=True)
class SlideRecord:
    """One slide, and what a manifest states about it: what the user states beats what the file says."""

    path: Path
    slide_id: str
    mpp: Mpp | None = None
    annotations: Path | None = None
    label: str | None = None
    split: str | None = None
    group: str | None = None


def read_slide_manifest(manifest: Path, *, id_of: Callable[[Path], str]) -> list[SlideRecord]:
    """Return the slides of a manifest; relative paths are relative to the manifest.

    ``id_of`` gives the id of a slide that the manifest does not name.

    Raises:
        ManifestError: a column or value cannot be used, or a slide id occurs twice; the row is named.
    """
    rows = read_table(manifest, what="manifest", needs=["path"], known=SLIDE_COLUMNS)
    check_spelling(manifest, "split", rows)
    records: list[SlideRecord] = []
    lines: dict[str, int] = {}
    for row in rows:
        path, values = _path(manifest, row, "path"), row.values
        if why := why_not_plain(values["slide_id"]) if values.get("slide_id") else None:
            raise ManifestError(f"{manifest}:{row.line}: slide_id '{values['slide_id']:.60}' {why}")
        record = SlideRecord(
            path=path,
            slide_id=values.get("slide_id") or id_of(path),
            mpp=_mpp(manifest, row.line, values),
            annotations=path_of(manifest, row, "annotations") if values.get("annotations") else None,
            label=values.get("label") or None,
            split=values.get("split") or None,
            group=values.get("group") or None,
        )
        if record.slide_id in lines:
            first = lines[record.slide_id]
            raise ManifestError(
                f"{manifest}:{row.line}: slide '{record.slide_id}' is on line {first} too; delete one, or name them "
                "apart in a column slide_id"
            )
        lines[record.slide_id] = row.line
        records.append(record)
    return records


def read_store_manifest(manifest: Path) -> list[Path]:
    """Return the stores of a manifest; relative paths are relative to the manifest.

    Raises:
        ManifestError: a column or value cannot be used, or it says of stores what only slides have.
    """
    rows = read_table(manifest, what="manifest", needs=["path"], known=SLIDE_COLUMNS)
    said = [column for column in SLIDE_COLUMNS if column in rows[0].values and column != "path"]
    if said:
        raise ManifestError(
            f"manifest '{manifest}' has column '{said[0]}', which is for slides and is not read of tile stores; give "
            "it to histogen tile, or delete the column"
        )
    return [_path(manifest, row, "path") for row in rows]


def manifest_hash(manifest: Path) -> str:
    """Return the SHA-256 of the manifest's bytes."""
    return hashlib.sha256(manifest.read_bytes()).hexdigest()


def _path(manifest: Path, row: Row, column: str) -> Path:
    if not row.values[column]:
        raise ManifestError(f"{manifest}:{row.line}: '{column}' is empty; fill it or delete the row")
    return path_of(manifest, row, column)


def _mpp(manifest: Path, line: int, row: Mapping[str, str]) -> Mpp | None:
    texts = [row.get("mpp_x") or row.get("mpp"), row.get("mpp_y") or row.get("mpp")]
    if not any(texts):
        return None
    if row.get("mpp") and (row.get("mpp_x") or row.get("mpp_y")):
        raise ManifestError(f"{manifest}:{line}: both mpp and mpp_x or mpp_y are given; leave one or the two others")
    try:
        x, y = (float(text or "") for text in texts)
    except ValueError as error:
        raise ManifestError(
            f"{manifest}:{line}: mpp {texts[0]!r} x {texts[1]!r} is not two numbers; write them with a point"
        ) from error
    if not (0 < x < math.inf and 0 < y < math.inf):
        raise ManifestError(f"{manifest}:{line}: mpp {x} x {y} is not above zero; give microns per pixel")
    return Mpp(x, y)
