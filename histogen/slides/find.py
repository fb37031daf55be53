"""Which slides a user means: files, folders of slides, folders of DICOM files, manifests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from histogen.errors import ConfigError
from histogen.manifest import SlideRecord, read_slide_manifest
from histogen.slides.base import slide_id_of

SUFFIXES = frozenset(
    ".svs .tif .tiff .ndpi .mrxs .scn .vms .vmu .svslide .bif .czi .dcm .qptiff .jp2".split()  # noqa: SIM905
)
"""Files in a folder that are taken for slides; a file that is named by the user is always tried."""
SAMPLE_BYTES = 65536
NUM_SAMPLES = 16


def find_slides(paths: Iterable[Path]) -> list[SlideRecord]:
    """Return the slides in ``paths``, in the order of their names within each.

    Raises:
        ConfigError: a path does not exist, nothing is found, or two slides have one id.
        ManifestError: a manifest cannot be used.
    """
    sources: dict[str, SlideRecord] = {}
    for source in _sources(list(paths)):
        other = sources.setdefault(source.slide_id, source)
        if other.path.resolve() != source.path.resolve():
            raise ConfigError(
                f"slide id '{source.slide_id}' stands for both '{other.path}' and '{source.path}'; "
                "name them apart in a manifest (columns path, slide_id)"
            )
    return list(sources.values())


def _sources(paths: list[Path]) -> Iterator[SlideRecord]:
    if not paths:
        raise ConfigError("no slides are given; name slides, folders of slides or manifests")
    for path in paths:
        if not path.exists():
            raise ConfigError(f"slides '{path}' do not exist; check the path")
        if path.suffix == ".csv":
            yield from read_slide_manifest(path)
            continue
        found = list(_in_folder(path)) if path.is_dir() else [path]
        if not found:
            raise ConfigError(f"folder '{path}' holds no slides ({' '.join(sorted(SUFFIXES))}); check the path")
        yield from (SlideRecord(slide, slide_id_of(slide)) for slide in found)


def _in_folder(folder: Path) -> Iterator[Path]:
    """Slides under ``folder``; one that holds DICOM files and nothing else that is a slide is itself one slide."""
    entries = sorted(folder.iterdir())
    files = [p for p in entries if p.is_file() and p.suffix.lower() in SUFFIXES and not p.name.startswith(".")]
    folders = [p for p in entries if p.is_dir() and not p.name.startswith(".") and p.suffix != ".zarr"]
    dicom = [p for p in files if p.suffix.lower() == ".dcm"]
    if dicom and len(dicom) == len(files) and not folders:
        yield folder
        return
    yield from (p for p in files if p.suffix.lower() != ".dcm")
    yield from _dicom_series(dicom)
    for inner in folders:
        # The data folder of a .mrxs, .vms or .vmu file belongs to that file.
        if not any((folder / f"{inner.name}{suffix}").exists() for suffix in (".mrxs", ".vms", ".vmu")):
            yield from _in_folder(inner)


def _dicom_series(files: list[Path]) -> list[Path]:
    """One file of each DICOM series; OpenSlide finds the others. A file that is not DICOM stands for itself."""
    if not files:
        return []
    import pydicom

    first: dict[str, Path] = {}
    for path in files:
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SeriesInstanceUID"])
            series = str(header.SeriesInstanceUID)
        except (pydicom.errors.InvalidDicomError, AttributeError, OSError):
            series = str(path)
        first.setdefault(series, path)
    return list(first.values())


def fingerprint(path: Path) -> str:
    """Return a hash of a slide's size and of samples of its bytes (1 MiB spread over it), in a millisecond.

    It tells a replaced, cut or re-exported slide from the one that was tiled before; it does not prove equality.
    """
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.name if path.is_dir() else ''}:{size};".encode())
        step = max(SAMPLE_BYTES, (size - SAMPLE_BYTES) // (NUM_SAMPLES - 1))
        with file.open("rb") as stream:
            for offset in sorted({*range(0, size, step), max(0, size - SAMPLE_BYTES)}):
                stream.seek(offset)
                digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()[:16]
