"""Manifests of published sets: which folders and tables they come in, what each image is, and how many there are."""

from __future__ import annotations

import csv
import difflib
import importlib.resources
import re
import string
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from histogen.config import Settings, load_config
from histogen.errors import ConfigError, ManifestError
from histogen.store.arrays import SIGN, SUFFIXES, num_images, read_labels
from histogen.store.image_folder import ImageFolder, ImageRecord, image_paths

GROUPS = frozenset({"label", "split", "group"})
"""What the groups of an expression may say of an image."""
SHOWN = 5
"""Classes that a sentence names."""


class Images(Settings):
    """Images by their paths: an expression of the end of a path, whose groups say what each image is.

    ``split``, given here, is that of all of them.
    """

    match: str
    split: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Images:
        try:
            unknown = self.pattern.groupindex.keys() - GROUPS
        except re.error as error:
            raise ValueError(f"'{self.match}' is no regular expression ({error})") from error
        if unknown:
            raise ValueError(f"'{self.match}' has a group '{min(unknown)}'; there are {', '.join(sorted(GROUPS))}")
        return self

    @property
    def pattern(self) -> re.Pattern[str]:
        """The expression of a whole path."""
        return re.compile(rf"(?:.*/)?(?:{self.match})")


class Table(Settings):
    """Images by a table: ``path`` is where one lies, with ``{column}`` for what the table says."""

    file: str
    path: str
    label: str
    split: str | None = None
    """The column of the split; ``fixed_split`` is that of all rows, where there is no such column."""
    fixed_split: str | None = None
    group: str | None = None
    delimiter: str = ","
    columns: list[str] | None = None
    """Their names, where the table has no header."""

    @model_validator(mode="after")
    def _check(self) -> Table:
        _check_inside(self.file)
        self.needed  # noqa: B018 - what is malformed says so
        return self

    @property
    def needed(self) -> frozenset[str]:
        """The columns that are read."""
        fields = {name for _, name, _, _ in string.Formatter().parse(self.path) if name is not None}
        if odd := [name for name in fields if not name or set(name) & set(".[]")]:
            raise ValueError(f"'{self.path}' has '{{{odd[0]}}}', which names no column")
        return frozenset(fields | {name for name in (self.label, self.split, self.group) if name})


class Arrays(Settings):
    """Images in one file (HDF5 with ``x``, CIFAR's binary), their labels in it or in another."""

    images: str
    labels: str | None = None
    split: str | None = None

    @model_validator(mode="after")
    def _check(self) -> Arrays:
        for name in (self.images, self.labels or self.images):
            _check_inside(name)
            if Path(name).suffix not in SUFFIXES:
                raise ValueError(f"'{name}' is neither of {', '.join(SUFFIXES)}")
        return self


def _check_inside(pattern: str) -> None:
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts:
        raise ValueError(f"'{pattern}' leads out of the set's folder")


class DataManifest(Settings):
    """One published set."""

    title: str
    kind: Literal["tiles", "photographs", "slides"]
    source: str
    """Where a user gets it."""
    licence: str
    paper: str = ""
    mpp: float | None = Field(default=None, gt=0)
    tile_px: int | None = Field(default=None, ge=8)
    """The side of its images, where they are squares of one size."""
    protocol: str
    """What its papers do with it."""
    classes: dict[str, str] = {}
    """What each label stands for."""
    images: list[Images] = []
    tables: list[Table] = []
    arrays: list[Arrays] = []
    names: list[str] = []
    """Names of the numbers that arrays have for labels."""
    counts: dict[str, dict[str, int] | int] = {}
    """Images by split (``all`` without one), of each label or together."""
    checksums: dict[str, str] = {}
    """MD5 of what is downloaded, where published."""
    run: str = ""
    """What to run instead, for a set of slides."""

    @model_validator(mode="after")
    def _check(self) -> DataManifest:
        if self.kind == "slides" and not self.run:
            raise ValueError("a set of slides says what to run")
        return self


def data_manifests() -> dict[str, Path]:
    """Return the shipped manifests by name, in order."""
    folder = Path(str(importlib.resources.files("histogen.data_manifests")))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def load_manifest(name: str) -> DataManifest:
    """Return a shipped manifest by its name, or a user's own by its path.

    Raises:
        ConfigError: there is neither, or it is not one.
    """
    shipped = data_manifests()
    if name in shipped:
        return load_config(DataManifest, file=shipped[name])
    if Path(name).is_file():
        return load_config(DataManifest, file=Path(name))
    near = difflib.get_close_matches(name.lower(), shipped, n=2)
    hint = f"did you mean {' or '.join(near)}" if near else f"there are {', '.join(shipped)}, or give a YAML file"
    raise ConfigError(f"there is no manifest '{name}'; {hint}")


def scan_manifest(root: Path, manifest: DataManifest, *, name: str, partial: bool = False) -> ImageFolder:
    """List the images of a published set in ``root``, and refuse what is not all of it unless ``partial``.

    Raises:
        ConfigError: it is a set of slides, the folder does not exist or has other images, or some are missing.
        ManifestError: a table of the set cannot be used.
    """
    if manifest.kind == "slides":
        raise ConfigError(f"{name} is a set of slides; run: {manifest.run}")
    if not root.is_dir():
        raise ConfigError(f"'{root}' is no folder; give the one into which {name} was unpacked ({manifest.source})")
    paths = image_paths(root)
    records = [*_by_path(paths, manifest), *_by_table(root, paths, manifest), *_by_array(root, manifest)]
    if not records:
        raise ConfigError(
            f"'{root}' has none of the images of {name}, which lie as {_layout(manifest)}; check the path"
        )
    wrong = [] if partial else list(_differences(records, manifest))
    if wrong:
        raise ConfigError(
            f"'{root}' is not all of {name}: {'; '.join(wrong)}; get what is missing ({manifest.source}), or take what "
            "is there with --set partial=true"
        )
    listed = {record.path for record in records}
    ordered = tuple(sorted(records, key=lambda record: record.path))
    return ImageFolder(root, ordered, sum(path not in listed for path in paths))


def _by_path(paths: Iterable[str], manifest: DataManifest) -> Iterator[ImageRecord]:
    patterns = [(one, one.pattern) for one in manifest.images]
    for path in paths:
        for one, pattern in patterns:
            if found := pattern.fullmatch(path):
                said = {key: value for key, value in found.groupdict().items() if value}
                group = {"group": said["group"]} if "group" in said else {}
                yield ImageRecord(path, said.get("label"), said.get("split", one.split), group)
                break


def _by_table(root: Path, paths: list[str], manifest: DataManifest) -> Iterator[ImageRecord]:
    known = set(paths)
    for table in manifest.tables:
        for file in sorted(root.rglob(table.file)):
            folder = file.parent.relative_to(root)
            for line, row in _rows(file, table):
                path = (folder / table.path.format(**row)).as_posix()
                if path not in known:
                    raise ManifestError(f"{file}:{line}: image '{path}' is not in '{root}'; get the set again")
                split = row[table.split] if table.split else table.fixed_split
                group = {"group": row[table.group] or None} if table.group else {}
                yield ImageRecord(path, row[table.label] or None, split or None, group)


def _rows(file: Path, table: Table) -> Iterator[tuple[int, Mapping[str, str]]]:
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream, table.columns, delimiter=table.delimiter, restkey="", restval="")
            if lacking := table.needed - set(reader.fieldnames or ()):
                raise ManifestError(f"table '{file}' has no column '{min(lacking)}'; get the set again")
            for row in reader:
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"table '{file}' cannot be read ({error}); get the set again") from error


def _by_array(root: Path, manifest: DataManifest) -> Iterator[ImageRecord]:
    for one in manifest.arrays:
        for file in sorted(root.rglob(one.images)):
            labels = read_labels(file if one.labels is None else file.parent / one.labels)
            if len(labels) != num_images(file):
                raise ConfigError(f"'{file}' holds {num_images(file)} images and {len(labels)} labels; get it again")
            inside = file.relative_to(root).as_posix()
            for number, code in enumerate(labels.tolist()):
                label = manifest.names[code] if 0 <= code < len(manifest.names) else str(code)
                yield ImageRecord(f"{inside}{SIGN}{number}", label, one.split)


def _differences(records: Iterable[ImageRecord], manifest: DataManifest) -> Iterator[str]:
    """Give a phrase for each split that has more or fewer images than it should."""
    found = Counter((record.split or "all", record.label or "") for record in records)
    for split, expected in manifest.counts.items():
        here = {label: count for (one, label), count in found.items() if one == split}
        where = "" if split == "all" else f"split {split}: "
        if isinstance(expected, int):
            if sum(here.values()) != expected:
                yield f"{where}{sum(here.values()):,} of {expected:,} images"
            continue
        wrong = [f"{label} {here.get(label, 0):,} of {count:,}" for label, count in expected.items()
                 if here.get(label, 0) != count]  # fmt: skip
        wrong += [f"{label or 'no label'} {count:,}, which is no class of it" for label, count in here.items()
                  if label not in expected]  # fmt: skip
        if wrong:
            more = f" and {len(wrong) - SHOWN} more classes" if len(wrong) > SHOWN else ""
            yield f"{where}{', '.join(wrong[:SHOWN])}{more}"
    for split in sorted({split for split, _ in found} - manifest.counts.keys()) if manifest.counts else ():
        what = "images without a split" if split == "all" else f"images of a split {split}, which it has not"
        yield f"{sum(count for (one, _), count in found.items() if one == split):,} {what}"


def _layout(manifest: DataManifest) -> str:
    ways = [one.match for one in manifest.images] + [one.file for one in manifest.tables]
    return " or ".join([*ways, *(one.images for one in manifest.arrays)][:3])
