"""What is in a folder of images: the files, in a fixed order, and the label, split and groups of each."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from histogen.errors import ConfigError, ManifestError
from histogen.store.arrays import split_path
from histogen.store.images import SUFFIXES
from histogen.store.layout import Column
from histogen.table import check_spelling, read_table

SPLITS_NAME = "splits.csv"
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}


@dataclass(frozen=True)
class ImageRecord:
    """One image: its path relative to the folder (with ``/``), and what is said of it."""

    path: str
    label: str | None = None
    split: str | None = None
    groups: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class ImageFolder:
    """The images of a folder, sorted by path, and how many it has besides that ``splits.csv`` does not list."""

    root: Path
    records: tuple[ImageRecord, ...]
    num_unlisted: int = 0

    @property
    def columns(self) -> dict[str, Column]:
        """The columns ``path``, ``label``, ``split`` and ``group…`` of the store, those of which anything is known."""
        columns = {"path": Column.text([record.path for record in self.records])}
        labels = [record.label for record in self.records]
        splits = [record.split for record in self.records]
        if any(labels):
            columns["label"] = Column.categorical(labels, dtype="int16")
        if any(splits):
            columns["split"] = Column.categorical(splits, dtype="int8")
        for name in sorted({name for record in self.records for name in record.groups}):
            columns[name] = Column.categorical([record.groups.get(name) for record in self.records], dtype="int32")
        return columns

    @property
    def content_hash(self) -> str:
        """SHA-256 over the records and the length of each file (not over the pixels, which would be read twice)."""
        digest = hashlib.sha256()
        for record in self.records:
            digest.update(repr((record, _length(self.root / record.path))).encode())
        return digest.hexdigest()


def scan_images(root: Path, *, splits: Path | None = None) -> ImageFolder:
    """List the images of ``root``.

    With a table (``splits``, default ``splits.csv`` in the folder; columns ``path``, and any of ``label``, ``split``,
    ``group…``) exactly the images that it lists. Without one: folders named train, val and test give the split, the
    (next) folder gives the label, a flat folder gives neither.

    Raises:
        ConfigError: the folder does not exist or has no image, or has images beside the folders of its splits.
        ManifestError: the table is malformed, or lists an image that is not there.
    """
    if root.is_file():
        raise ConfigError(f"'{root}' is a file; give the folder of images that it lies in: '{root.parent}'")
    if not root.is_dir():
        raise ConfigError(f"'{root}' is not a folder of images; check the path")
    paths = image_paths(root)
    table = splits or root / SPLITS_NAME
    if splits is not None or table.exists():
        records = _from_table(root, table)
        listed = {record.path for record in records}
        return ImageFolder(root, records, sum(path not in listed for path in paths))
    if not paths:
        raise ConfigError(
            f"'{root}' has no image ({', '.join(sorted(SUFFIXES))}); check the path, or if it holds slides, run: "
            f"histogen tile {shlex.quote(str(root))} --out tiles"
        )
    return ImageFolder(root, tuple(_from_folders(root, paths)))


def image_paths(root: Path) -> list[str]:
    """Return the images below ``root``, relative to it with ``/``, sorted; hidden ones are left out."""
    paths = []
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = Path(folder).relative_to(root)
        paths += [
            (relative / name).as_posix()
            for name in names
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122 - millions
        ]
    return sorted(paths)


def _from_folders(root: Path, paths: Sequence[str]) -> list[ImageRecord]:
    parts = [path.split("/")[:-1] for path in paths]
    split_of = [SPLIT_FOLDERS.get(folders[0].lower()) if folders else None for folders in parts]
    by_split = None not in split_of
    found = sorted({path.split("/")[0] for path, split in zip(paths, split_of, strict=True) if split is not None})
    if not by_split and len({SPLIT_FOLDERS[name.lower()] for name in found}) > 1:
        beside = [path for path, split in zip(paths, split_of, strict=True) if split is None]
        raise ConfigError(
            f"'{root}' has folders {' and '.join(found)}, and {len(beside)} images beside them, the first "
            f"'{beside[0]}', with which these would be classes; move them out, or list what counts in a splits.csv "
            "(path, label, split)"
        )
    records = []
    for path, folders in zip(paths, parts, strict=True):
        split = SPLIT_FOLDERS[folders[0].lower()] if by_split else None
        below = folders[1:] if by_split else folders
        records.append(ImageRecord(path, below[0] if below else None, split))
    return records


def _from_table(root: Path, table: Path) -> tuple[ImageRecord, ...]:
    rows = read_table(table, what="table", needs=["path"], known=["label", "split", "group"])
    check_spelling(table, "split", rows)
    names = list(rows[0].values)
    groups = [name for name in names if name.startswith("group")]
    lines: dict[str, int] = {}
    records = []
    for line, row in rows:
        path = row["path"]
        if not path or not (root / path).is_file():
            raise ManifestError(f"{table}:{line}: image '{path}' is not in '{root}'; mend the row or add the image")
        if path in lines:
            raise ManifestError(f"{table}:{line}: image '{path}' is on line {lines[path]} too; delete one row")
        lines[path] = line
        values = {name: value or None for name, value in row.items()}
        group_values = {name: values[name] for name in groups}
        records.append(ImageRecord(path, values.get("label"), values.get("split"), group_values))
    return tuple(sorted(records, key=lambda record: record.path))


def _length(path: Path) -> int:
    place = split_path(path)
    return (path if place is None else place[0]).stat().st_size
