"""What ``histogen tile`` can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from histogen.config import BulkConfig, Settings, StorePath
from histogen.tiles.spec import QualitySettings, StainSettings, TissueSettings

COMMAND = "tile"


class TileJpegConfig(Settings):
    """How tiles are encoded."""

    level: int | Literal["source"] = 90
    """libjpeg's quality; an unaligned re-encode at 90 keeps an H&E tile within about 43 dB of its source (measured).
    ``source``: the quantisation tables, colours and subsampling of the slide; nearly lossless (about 60 dB, measured)
    where tile_px and stride_px are multiples of 16 and mpp is the slide's own: the grid lies on the slide's blocks."""
    subsampling: Annotated[
        Literal["source", "420", "422", "444"], BeforeValidator(lambda v: str(v) if isinstance(v, int) else v)
    ] = "source"  # YAML reads 444 as a number
    """Chroma subsampling. ``source`` is the slide's own where its JPEGs are read directly, else 4:2:0, what most
    scanners write: 4:2:0 of slides that kept their chroma whole costs 6 dB (measured on CMU-1-Small-Region)."""


class TileConfig(BulkConfig):
    """Slides and the tiles to cut from them."""

    out: StorePath = Path("tiles")
    slides: list[Path]
    """Slides, folders of slides (of DICOM files), manifests."""
    tile_px: int = Field(default=256, ge=8)
    """Side of a tile, pixels; 256 leaves room to crop the 224 of a ViT."""
    mpp: float | Literal["native"] | list[float] = 0.5
    """Microns per pixel of the tiles; 0.5 is 20x, the usual of pathology encoders. ``native``: each slide's own.
    Several: one folder of stores for each."""
    stride_px: int | None = Field(default=None, ge=1)
    """Step between tiles, pixels; default: tile_px, no overlap."""
    edge: Literal["drop", "pad"] = "drop"
    """Tiles that reach over the slide's border: left out, or filled with white."""
    max_enlargement: float = Field(default=2.0, ge=1)
    """How many times coarser than the tiles a slide may be; beyond it tiles would show interpolation, not tissue."""
    reader: Literal["auto", "native", "image", "ngff", "openslide", "tiatoolbox"] = "auto"
    slide_mpp: float | None = Field(default=None, gt=0)
    """Microns per pixel of level 0 of slides that do not state theirs. A slide that states it wrongly is corrected by a
    manifest with a column mpp."""
    tissue: TissueSettings = TissueSettings()
    min_tissue_fraction: float = Field(default=0.5, ge=0, le=1)
    max_pen_fraction: float = Field(default=0.0, ge=0, le=1)
    """Largest share of ink in a kept tile."""
    roi: Path | None = None
    """Regions outside of which nothing is kept: a file (for one slide), or a folder with one per slide."""
    positions: Path | None = None
    """HDF5 of CLAM or TRIDENT whose ``coords`` are the tiles to cut, just these: a file (for one slide), or a folder
    with ``<slide_id>.h5`` or ``<slide_id>_patches.h5`` for each. Shares of tissue and ink are stored all the same."""
    quality: QualitySettings = QualitySettings()
    codec: Literal["jpeg", "source"] = "jpeg"
    """``source`` copies the slide's stored tiles byte for byte; tile_px and mpp must be the slide's own."""
    jpeg: TileJpegConfig = TileJpegConfig()
    stain: StainSettings = StainSettings()
    annotations: Path | None = None
    """Regions with classes (docs/formats.md says in which formats): a file (for one slide), or a folder with one per
    slide."""
    frame: Literal["auto", "bounds", "canvas"] = "auto"
    """From which corner annotations and roi count on slides with bounds (MRXS, Leica SCN): that of level 0
    (``canvas``), or that of what was scanned (``bounds``), as QuPath does. ``auto``: the one that regions fit, and
    where they fit both, bounds for files of QuPath and canvas for others."""
    min_label_fraction: float = Field(default=0.5, ge=0, le=1)
    """Share of a tile that a region's name must cover to become its label."""
    geojson: bool = False
    """Write the kept tiles of each slide, with their scores, as GeoJSON too, for QuPath (so from the bounds' corner,
    unless frame=canvas)."""
    threads: int = Field(default=1, ge=1)
    """Shards that a worker (or this process) cuts at the same time; the result does not depend on it. Workers of a
    running scheduler have the threads they were started with."""

    @model_validator(mode="after")
    def _fits(self) -> TileConfig:
        for mpp in self.mpps:
            if isinstance(mpp, float) and mpp <= 0:
                raise ValueError(f"mpp {mpp} is not above zero")
        if len(set(self.mpps)) < len(self.mpps):
            raise ValueError(f"mpp {self.mpp} has a resolution twice")
        if not self.mpps:
            raise ValueError("mpp is an empty list; give one resolution at least")
        if self.positions is not None and (
            self.codec == "source" or self.stride_px is not None or self.roi is not None
        ):
            raise ValueError("positions say where tiles are: they exclude codec=source, stride_px and roi")
        needs_pixels = self.quality != QualitySettings() or self.stain != StainSettings()
        if self.codec == "source" and (needs_pixels or self.edge == "pad"):
            raise ValueError("codec=source copies tiles undecoded: quality filters, stain and edge=pad need codec=jpeg")
        if isinstance(self.jpeg.level, int) and not 1 <= self.jpeg.level <= 100:
            raise ValueError(f"jpeg.level {self.jpeg.level} is not between 1 and 100")
        return self

    @property
    def mpps(self) -> list[float | Literal["native"]]:
        """The resolutions asked for."""
        return list(self.mpp) if isinstance(self.mpp, list) else [self.mpp]
