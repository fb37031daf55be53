"""Slides that the tests of readers draw: DICOM pyramids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

ROOT = "1.2.826.0.1.3680043.8.498.7"
FRAME = 64
MICROSCOPY = "1.2.840.10008.5.1.4.1.1.77.1.6"


def _dataset(path: Path, sop_class: str, uid: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, uid
    meta.TransferSyntaxUID, meta.ImplementationClassUID = ExplicitVRLittleEndian, ROOT
    made = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    made.SOPClassUID, made.SOPInstanceUID = sop_class, uid
    return made


def _one(**values: Any) -> list[Dataset]:
    made = Dataset()
    for key, value in values.items():
        setattr(made, key, value)
    return [made]


def write_instance(
    path: Path, pixels: np.ndarray, *, series: str, number: int, mpp: float, kind: str = "VOLUME", **tags: Any
) -> None:
    """One file of a series, uncompressed; ``pixels`` is filled up to whole frames. ``tags`` go over those made here."""
    height, width = pixels.shape[:2]
    rows, columns = -(-height // FRAME), -(-width // FRAME)
    whole = np.full((rows * FRAME, columns * FRAME, 3), 255, np.uint8)
    whole[:height, :width] = pixels
    frames = whole.reshape(rows, FRAME, columns, FRAME, 3).swapaxes(1, 2)
    d = _dataset(path, MICROSCOPY, f"{ROOT}.{series}.{kind == 'VOLUME':d}.{number}")
    d.ImageType = ["DERIVED" if number else "ORIGINAL", "PRIMARY", kind, "RESAMPLED" if number else "NONE"]
    d.Modality, d.StudyInstanceUID, d.SeriesInstanceUID = "SM", f"{ROOT}.1", f"{ROOT}.{series}"
    d.FrameOfReferenceUID, d.ContainerIdentifier = f"{ROOT}.{series}.99", f"S{series}"
    d.DimensionOrganizationType, d.NumberOfFrames = "TILED_FULL", rows * columns
    d.SamplesPerPixel, d.PlanarConfiguration, d.PixelRepresentation, d.PhotometricInterpretation = 3, 0, 0, "RGB"
    d.BitsAllocated = d.BitsStored = 8
    d.HighBit, d.Rows, d.Columns = 7, FRAME, FRAME
    d.TotalPixelMatrixColumns, d.TotalPixelMatrixRows = width, height
    d.TotalPixelMatrixFocalPlanes = d.NumberOfOpticalPaths = 1
    d.ImagedVolumeWidth, d.ImagedVolumeHeight, d.ImagedVolumeDepth = width * mpp / 1e3, height * mpp / 1e3, 0.001
    d.TotalPixelMatrixOriginSequence = _one(XOffsetInSlideCoordinateSystem="0", YOffsetInSlideCoordinateSystem="0")
    shared = Dataset()
    shared.PixelMeasuresSequence = _one(PixelSpacing=[mpp / 1e3, mpp / 1e3], SliceThickness="0.001")
    shared.WholeSlideMicroscopyImageFrameTypeSequence = _one(FrameType=d.ImageType)
    d.SharedFunctionalGroupsSequence = [shared]
    code = _one(CodeValue="111744", CodingSchemeDesignator="DCM", CodeMeaning="Brightfield illumination")
    d.OpticalPathSequence = _one(OpticalPathIdentifier="0", IlluminationTypeCodeSequence=code)
    d.PixelData = frames.tobytes()
    d["PixelData"].VR = "OB"
    for tag, value in tags.items():
        setattr(d, tag, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    d.save_as(path, enforce_file_format=True)


@pytest.fixture(scope="session")
def write_dicom() -> Callable[..., None]:
    """Write the levels of a pyramid, one file a name: ``pixels``, then every second pixel of it, and so on."""

    def write(folder: Path, names: Sequence[str], pixels: np.ndarray, *, series: str, **tags: Any) -> None:
        for number, name in enumerate(names):
            step = 2**number
            write_instance(folder / name, pixels[::step, ::step], series=series, number=number, mpp=0.25 * step, **tags)

    return write


@pytest.fixture(scope="session")
def write_label() -> Callable[..., None]:
    """Write the label of a series."""

    def write(path: Path, series: str) -> None:
        write_instance(
            path, np.full((50, 70, 3), 90, np.uint8), series=series, number=0, mpp=10, kind="LABEL",
            FrameOfReferenceUID=f"{ROOT}.{series}.98",
        )  # fmt: skip

    return write


@pytest.fixture(scope="session")
def write_other_dicom() -> Callable[[Path], None]:
    """Write a DICOM file that is no whole-slide image (a CT's)."""

    def write(path: Path) -> None:
        made = _dataset(path, "1.2.840.10008.5.1.4.1.1.2", f"{ROOT}.5.5")
        made.SeriesInstanceUID, made.Modality = f"{ROOT}.5", "CT"
        made.save_as(path, enforce_file_format=True)

    return write
