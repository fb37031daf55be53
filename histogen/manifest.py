"""Manifests: CSV files (data_manifests/*.csv) that list the slides or the stores of a run."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from histogen.errors import ManifestError
from histogen.geometry import Mpp

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
    extra: Mapping[str, str] = field(default_factory=dict)


def read_slide_manifest(manifest: Path) -> list[SlideRecord]:
    """Return the slides of a manifest; relative paths are relative to the manifest.

    Raises:
        ManifestError: a column or value cannot be used, or a slide id occurs twice; the row is named.
    """
    records: list[SlideRecord] = []
    lines: dict[str, int] = {}
    for line, row in _rows(manifest):
        path = _path(manifest, row["path"])
        record = SlideRecord(
            path=path,
            slide_id=row.get("slide_id") or path.stem,
            mpp=_mpp(manifest, line, row),
            annotations=_path(manifest, row["annotations"]) if row.get("annotations") else None,
            label=row.get("label") or None,
            split=row.get("split") or None,
            group=row.get("group") or None,
            extra={key: value for key, value in row.items() if key not in SLIDE_COLUMNS},
        )
        if record.slide_id in lines:
            first = lines[record.slide_id]
            raise ManifestError(f"{manifest}:{line}: slide '{record.slide_id}' is on line {first} too; name it apart")
        lines[record.slide_id] = line
        records.append(record)
    return records


def read_store_manifest(manifest: Path) -> list[Path]:
    """Return the stores of a manifest; relative paths are relative to the manifest."""
    return [_path(manifest, row["path"]) for _, row in _rows(manifest)]


def manifest_hash(manifest: Path) -> str:
    """Return the SHA-256 of the manifest's bytes."""
    return hashlib.sha256(manifest.read_bytes()).hexdigest()


def _rows(manifest: Path) -> list[tuple[int, dict[str, str]]]:
    try:
        with manifest.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restkey="", skipinitialspace=True)
            names = reader.fieldnames or []
            rows = [(reader.line_num, row) for row in reader]
    except FileNotFoundError as error:
        raise ManifestError(f"manifest '{manifest}' does not exist; check the path") from error
    except (UnicodeDecodeError, csv.Error, IsADirectoryError) as error:
        raise ManifestError(f"manifest '{manifest}' is not a CSV file ({error}); save it as one, in UTF-8") from error
    if "path" not in names:
        raise ManifestError(f"manifest '{manifest}' has no column 'path' (it has {', '.join(names) or 'none'}); add it")
    if not rows:
        raise ManifestError(f"manifest '{manifest}' lists nothing; add a row")
    return [(line, _checked_row(manifest, line, row)) for line, row in rows]


def _checked_row(manifest: Path, line: int, row: Mapping[str, str | None]) -> dict[str, str]:
    if "" in row or None in row.values():
        raise ManifestError(f"{manifest}:{line}: the row has not as many values as there are columns; mend it")
    values = {key: (value or "").strip() for key, value in row.items()}
    if not values["path"]:
        raise ManifestError(f"{manifest}:{line}: 'path' is empty; fill it or delete the row")
    return values


def _path(manifest: Path, value: str) -> Path:
    return manifest.parent / Path(value).expanduser()


def _mpp(manifest: Path, line: int, row: Mapping[str, str]) -> Mpp | None:
    texts = [row.get("mpp_x") or row.get("mpp"), row.get("mpp_y") or row.get("mpp")]
    if not any(texts):
        return None
    try:
        x, y = (float(text or "") for text in texts)
    except ValueError as error:
        raise ManifestError(
            f"{manifest}:{line}: mpp {texts[0]!r} x {texts[1]!r} is not two numbers; mend it"
        ) from error
    if not (0 < x < math.inf and 0 < y < math.inf):
        raise ManifestError(f"{manifest}:{line}: mpp {x} x {y} is not above zero; give microns per pixel")
    return Mpp(x, y)
