"""Which slides a user means: files, folders of slides, folders of DICOM files, manifests."""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from histogen.errors import ConfigError
from histogen.manifest import SlideRecord, read_slide_manifest
from histogen.slides.base import IMAGE_SUFFIXES, WITH_FOLDER, slide_id_of
from histogen.slides.dicom import (
    DicomFile,
    DicomSlide,
    dicom_file,
    dicom_slide,
    dicom_slides,
    is_dicom,
    read_dicom,
    without_lower,
)
from histogen.slides.ngff_metadata import METADATA, is_ngff
from histogen.slides.tiff_metadata import is_tiff_head

SLIDES = ".svs .tif .tiff .btf .tf2 .tf8 .ptif .ptiff .qptiff .ndpi .mrxs .scn .vms .vmu .svslide .bif .czi .jp2"
SUFFIXES = frozenset(f"{SLIDES} .dcm .dicom .dic".split())
"""Files in a folder that are taken for slides; a file that is named by the user is always tried."""
NOT_READ = frozenset(".vsi .ets .isyntax .i2syntax .sdpc .kfb .tmap .lif .zvi .nd2 .lsm .stk .mds .afi".split())  # noqa: SIM905
"""Microscopes' formats that no reader here knows."""
NO_MANIFESTS = frozenset(".xlsx .xls .ods .tsv .txt .json .yaml .yml .parquet".split())  # noqa: SIM905
"""What people keep lists in; no slide has such a name."""
IMAGES = IMAGE_SUFFIXES - {".jp2"}
REGIONS = frozenset((".geojson", ".ndpa", ".annotations", ".xml"))
LOOKS_LIKE_IMAGES = "look like images, which `histogen import-images` makes tiles of"
ENDINGS_OF_COPIES = frozenset(".bak .old .orig .tmp .part .partial .crdownload .download .gz .zip".split())  # noqa: SIM905
HEAD_BYTES = 132
SAMPLE_BYTES = 65536
NUM_SAMPLES = 16


@dataclass(frozen=True)
class Left:
    """A file or folder that lay among slides and was not taken for one."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Found:
    """The slides that are meant, and what lay beside them."""

    slides: list[SlideRecord]
    left: tuple[Left, ...] = ()

    @property
    def sentence(self) -> str:
        """What was not taken, grouped by the reason; empty when there is nothing to say."""
        reasons: dict[str, list[Path]] = {}
        for one in self.left:
            reasons.setdefault(one.reason, []).append(one.path)
        return "; ".join(f"{_names(paths)}: {reason}" for reason, paths in reasons.items())


def find_slides(paths: Iterable[Path]) -> Found:
    """Return the slides in ``paths``, in the order of their names within each.

    Raises:
        ConfigError: a path does not exist, nothing is found, or two slides have one id.
        ManifestError: a manifest cannot be used.
    """
    sources: dict[str, SlideRecord] = {}
    left: list[Left] = []
    for source in _stated_once(list(_sources(list(paths), left))):
        other = sources.setdefault(source.slide_id, source)
        if other.path.resolve() != source.path.resolve():
            raise ConfigError(
                f"slide id '{source.slide_id}' stands for both '{other.path}' and '{source.path}'; "
                "name them apart in a manifest (columns path, slide_id)"
            )
        if other != source:
            raise ConfigError(
                f"slide '{source.slide_id}' is in two manifests that say different things of it; give one"
            )
    return Found(list(sources.values()), tuple(left))


def _stated_once(sources: list[SlideRecord]) -> list[SlideRecord]:
    """Leave out the slides of folders of which a manifest, given beside them, says more than where they are."""
    stated = {source.path.resolve() for source in sources if source != SlideRecord(source.path, _id_of(source.path))}
    return [
        source
        for source in sources
        if source.path.resolve() not in stated or source != SlideRecord(source.path, _id_of(source.path))
    ]


def _sources(paths: list[Path], left: list[Left]) -> Iterator[SlideRecord]:
    if not paths:
        raise ConfigError("no slides are given; name slides, folders of slides or manifests")
    repeated = _repeated(paths)
    for path in (path for path in paths if path not in repeated):
        if not path.exists():
            raise ConfigError(f"slides '{path}' do not exist; check the path")
        if path.suffix.lower() == ".csv":
            yield from read_slide_manifest(path, id_of=_id_of)
        elif path.suffix.lower() in REGIONS and path.is_file():
            raise ConfigError(
                f"'{path}' is no slide but regions, by its name; give the slide, and --annotations {path}"
            )
        elif path.suffix == ".zarr" and (path / "tiles" / "zarr.json").exists():
            raise ConfigError(
                f"'{path}' is a tile store, made already; give a slide here, or the store to other commands"
            )
        elif path.suffix.lower() in NO_MANIFESTS and path.is_file():
            raise ConfigError(
                f"'{path}' is no slide; a list of slides is a CSV file with a column path (docs/formats.md): save it so"
            )
        elif path.is_dir() and path.suffix != ".zarr" and not is_ngff(path):
            beside: list[Left] = []
            found = list(_in_folder(path, beside, set()))
            if not found:
                raise ConfigError(_empty(path, beside))
            left += beside
            yield from found
        else:
            yield SlideRecord(path, _id_of(path))


def _repeated(paths: list[Path]) -> set[Path]:
    """The named files that are further levels, or labels, of a DICOM slide of which a file is named before.

    A shell names all files of a folder where a user writes ``folder/*.dcm``.
    """
    files = [file for path in paths if path.suffix.lower() != ".csv" and (file := dicom_file(path)) is not None]
    first: dict[tuple[str, ...], Path] = {}
    for file in sorted((file for file in files if file.is_level), key=lambda file: -file.num_pixels):
        first.setdefault((str(file.path.parent), *file.key), file.path)
    series = {(str(file.path.parent), file.series) for file in files if file.is_level}
    kept = set(first.values())
    return {
        file.path
        for file in files
        if file.path not in kept and (file.is_level or (str(file.path.parent), file.series) in series)
    }


def _in_folder(folder: Path, left: list[Left], seen: set[Path]) -> Iterator[SlideRecord]:
    """Slides under ``folder``; one that holds the files of one DICOM slide and nothing else is itself that slide."""
    real = folder.resolve()
    if real in seen:  # a link that leads back
        return
    seen.add(real)
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise ConfigError(f"folder '{folder}' cannot be listed ({error.strerror}); check its permissions") from error
    folders = [path for path in entries if path.is_dir()]
    files, dicom = [], []
    for path in (path for path in entries if path.is_file()):
        kind = _kind(path, any(other.suffix.lower() in WITH_FOLDER for other in entries))
        if isinstance(kind, DicomFile):
            dicom.append(kind)
        elif kind is None:
            files.append(path)
        elif kind:
            left.append(Left(path, kind))
    slides, lower = _pyramids(dicom)
    left += lower
    if len(slides) == 1 and not files and not folders:
        yield SlideRecord(folder, slide_id_of(folder))
        return
    yield from (SlideRecord(path, _id_of(path)) for path in sorted([*files, *(slide.path for slide in slides)]))
    for inner in folders:
        if is_ngff(inner):
            yield SlideRecord(inner, _id_of(inner))
        elif inner.suffix == ".zarr":
            left.append(Left(inner, "a Zarr folder, but no image of OME-Zarr"))
        elif not any((folder / f"{inner.name}{suffix}").exists() for suffix in WITH_FOLDER):
            yield from _in_folder(inner, left, seen)


def _kind(path: Path, has_companions: bool) -> DicomFile | str | None:
    """What a file in a folder is: of a DICOM slide, a slide (None), or neither: the reason (empty: nothing to say)."""
    suffix = path.suffix.lower()
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
    except OSError as error:
        return None if suffix in SUFFIXES else f"cannot be read ({error.strerror})"
    if is_dicom(head):
        return read_dicom(path) or "DICOM, but no whole-slide image"
    if suffix in SUFFIXES:
        return None
    if suffix in ENDINGS_OF_COPIES or suffix in NOT_READ:
        return "a format that is not read" if suffix in NOT_READ else "unfinished, packed or put aside by its name"
    if is_tiff_head(head):
        return None
    if has_companions:  # the files of a .mrxs or .vms beside it have names of any kind
        return ""
    if suffix in REGIONS:
        return "regions, by their names, which `--annotations FOLDER` reads"
    return LOOKS_LIKE_IMAGES if suffix in IMAGES else "no slide's name or content"


def _pyramids(files: list[DicomFile]) -> tuple[list[DicomSlide], list[Left]]:
    """The slides of DICOM files; levels of one pyramid that lie in other series than its finest are not slides."""
    slides = dicom_slides(files)
    kept, left = without_lower(slides), list[Left]()
    for slide in slides:
        if slide not in kept:
            left += [Left(path, "coarser levels in a series of their own") for path in slide.files]
    taken = {file.series for slide in slides for file in slide.levels}
    left += [Left(file.path, "DICOM label or overview without its slide") for file in files if file.series not in taken]
    return kept, left


def _id_of(path: Path) -> str:
    """The id of a slide; what follows the last dot of a name is a part of it unless it is a slide's suffix."""
    known = path.suffix.lower() in SUFFIXES or path.suffix.lower() in IMAGES or path.is_dir()
    return slide_id_of(path if known else path.with_name(f"{path.name}.tif"))


def _empty(folder: Path, left: list[Left]) -> str:
    stores = [one.path for one in left if one.path.suffix == ".zarr"]
    if stores:
        return (
            f"folder '{folder}' holds no slides, but {_names(stores)}: tile stores are made already, and are given to "
            "the other commands"
        )
    images = [one.path for one in left if one.reason == LOOKS_LIKE_IMAGES]
    if images:
        here, store = shlex.quote(str(folder)), shlex.quote(f"{folder.resolve().name}.zarr")
        return (
            f"folder '{folder}' holds no slides, but {_names(images)} that look like images; to make tiles of them, "
            f"run: histogen import-images {here} --out {store}"
        )
    other = Found([], tuple(left)).sentence
    return f"folder '{folder}' holds no slides ({other or ' '.join(sorted(SUFFIXES))}); check the path"


def _names(paths: list[Path]) -> str:
    """A few names, or how many of which suffixes."""
    if len(paths) <= 2:
        return ", ".join(path.name for path in paths)
    counts = Counter(path.suffix or "without suffix" for path in paths)
    listed = ", ".join(f"{suffix}" for suffix, _ in counts.most_common(4))
    return f"{len(paths)} files ({listed}{', …' if len(counts) > 4 else ''})"


def fingerprint(path: Path) -> str:
    """Return a hash of a slide's size and of samples of its bytes (1 MiB spread over it), in a millisecond.

    It tells a replaced, cut or re-exported slide from the one that was tiled before; it does not prove equality.

    Raises:
        OSError, SlideError: it cannot be read, or a folder is not one slide.
    """
    files = _files_of(path)
    digest = hashlib.sha256()
    sampled = _sampled(files) if is_ngff(path) else set(files)
    for file in files:
        size = file.stat().st_size
        digest.update(f"{'' if files == [path] else file.name}:{size};".encode())
        if file not in sampled:
            continue
        step = max(SAMPLE_BYTES, (size - SAMPLE_BYTES) // (NUM_SAMPLES - 1))
        with file.open("rb") as stream:
            for offset in sorted({*range(0, size, step), max(0, size - SAMPLE_BYTES)}):
                stream.seek(offset)
                digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]


def _sampled(files: list[Path]) -> set[Path]:
    """Of an image in many files: what it says of itself, and some of its chunks."""
    about = [file for file in files if file.name in METADATA]
    return {*about, *files[:: max(1, len(files) // NUM_SAMPLES)]}


def _files_of(path: Path) -> list[Path]:
    if is_ngff(path):
        return sorted(file for file in path.rglob("*") if file.is_file())
    dicom = dicom_slide(path)
    return [path] if dicom is None else sorted(dicom.files)
