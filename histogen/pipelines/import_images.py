"""``histogen import-images``: a folder of images becomes a tile store, a shard map like every bulk stage."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

import histogen
from histogen.compute.client import Compute
from histogen.compute.run import run_units
from histogen.config import UNRECORDED, BulkConfig, Settings
from histogen.errors import ConfigError, StoreError
from histogen.files import remove_temporaries
from histogen.lease import for_its_output
from histogen.names import plain_name
from histogen.pipelines.outputs import Outcome, claim_output, finish_output, shards_to_make
from histogen.store.data_manifest import load_manifest, scan_manifest
from histogen.store.find import STORE_SUFFIX
from histogen.store.image_folder import ImageFolder, scan_images
from histogen.store.images import image_extent, tile_payload
from histogen.store.jpeg import JpegSettings
from histogen.store.layout import TILES, unpack_text
from histogen.store.tile_store import TileStore

COMMAND = "import-images"
FALLBACK_TILE_PX = 256
SHOWN = 20
"""Classes that the summary counts by name."""
LOOKED_AT = 5000
"""Images whose size is looked at to choose the tiles'; the size of every one is checked as it is imported."""


class ImportJpegConfig(Settings):
    """How images that cannot be taken byte for byte are encoded."""

    level: int = Field(default=90, ge=1, le=100)
    """libjpeg's quality; 90 keeps an H&E tile within about 40 dB of its source (measured, 224 px)."""
    subsampling: str = "444"
    """Chroma is kept whole: 4:2:0 from sources that have it whole costs 10 dB (measured on H&E)."""


class ImportImagesConfig(BulkConfig):
    """A folder of images and the store to make of it."""

    folder: Path
    """Class folders, a flat folder, train/val/test folders, or a folder with ``splits.csv``."""
    splits: Path | None = None
    """A table with columns path, label, split, group…; default ``splits.csv`` in the folder, when there is one."""
    manifest: str | None = None
    """A published set that the folder holds, by name or as a YAML file: what each image is, and that all are there."""
    partial: bool = False
    """Take a published set of which not all is there."""
    tile_px: int | None = Field(default=None, ge=8)
    """Side of the tiles in pixels; default: that of most images when they are squares of one size, else 256."""
    mpp: float | None = Field(default=None, gt=0)
    """Microns per pixel, for images that have a physical size."""
    jpeg: ImportJpegConfig = ImportJpegConfig()


@dataclass(frozen=True)
class ImportUnit:
    """One shard of the store; the worker finds the paths of its images in the store's own column."""

    store: Path
    folder: Path
    shard: int
    num_items: int

    @property
    def key(self) -> str:
        """Name in messages."""
        return f"{self.store.stem}/{self.shard}"


@for_its_output
def run(config: ImportImagesConfig) -> Outcome:
    """Import the images that are not there yet; an unreadable one is an absent tile and a sentence.

    Raises:
        ConfigError, ManifestError, OutputExistsError: the folder, the table or the output cannot be used.
    """
    images, config = find_images(config)
    claim_output(config, command=COMMAND, inputs={"images": images.content_hash}, makes_stores=True)
    remove_temporaries(config.out)
    store = _open_or_create(store_path(config), config, images)
    missing = shards_to_make(store, resume=config.resume)
    units = [ImportUnit(store.path, config.folder, shard, len(store.shard_range(shard))) for shard in missing]
    report = run_units(
        import_shard, units,
        compute=Compute.from_config(config), description="import-images", item_name="images",
        items_done=store.num_tiles - sum(unit.num_items for unit in units),
    )  # fmt: skip
    notes = list(store.ledger.notes(TILES).values())
    unreadable = tuple(sentence for note in notes for sentence in note["failures"])
    if store.is_complete():
        finish_output(config.out, images=sum(note["count"] for note in notes), unreadable=len(unreadable))
    failures = tuple(str(failure) for failure in report.failures) + unreadable
    return Outcome(config.out, _summary(store, images, notes, report.seconds), failures)


def find_images(config: ImportImagesConfig) -> tuple[ImageFolder, ImportImagesConfig]:
    """Return the images, and the config with what the set's manifest says of tiles where nothing else is asked for.

    Raises:
        ConfigError, ManifestError: as :func:`scan_images` and :func:`scan_manifest`.
    """
    if config.manifest is None:
        return scan_images(config.folder, splits=config.splits), config
    if config.splits is not None:
        raise ConfigError("a manifest says which images are of which split; leave out --manifest or splits")
    manifest = load_manifest(config.manifest)
    images = scan_manifest(config.folder, manifest, name=config.manifest, partial=config.partial)
    said = {"tile_px": config.tile_px or manifest.tile_px, "mpp": config.mpp or manifest.mpp}
    return images, config.model_copy(update=said)


def import_shard(unit: ImportUnit) -> dict[str, Any]:
    """Write one shard; a pure function of the images and the store's metadata."""
    store = TileStore.open_(unit.store)
    paths = unpack_text(store.read_rows("columns/path", list(store.shard_range(unit.shard))))
    payloads: list[bytes | None] = []
    failures: list[str] = []
    others: list[str] = []
    num_copied = 0
    for path in paths:
        try:
            payload, copied = tile_payload(unit.folder / path, store.tile_px, store.jpeg)
            if not copied and image_extent(unit.folder / path) != (store.tile_px, store.tile_px):
                others.append(path)
        except StoreError as error:
            payload, copied = None, False
            failures.append(str(error))
        payloads.append(payload)
        num_copied += copied
    resampled = {"count": len(others), "first": others[:1]}
    note = {
        **store.write_tiles(unit.shard, payloads), "copied": num_copied, "resampled": resampled, "failures": failures
    }  # fmt: skip
    store.commit(TILES, unit.shard, note)
    return note


def store_path(config: ImportImagesConfig) -> Path:
    """Return where the store is: ``out`` itself when it is named ``*.zarr``, else ``out/<folder>.zarr``."""
    if config.out.suffix == STORE_SUFFIX:
        return config.out
    return config.out / f"{config.folder.resolve().name}{STORE_SUFFIX}"


def _open_or_create(path: Path, config: ImportImagesConfig, images: ImageFolder) -> TileStore:
    if (path / "zarr.json").exists():
        return TileStore.open_(path)
    return TileStore.create(
        path,
        kind="natural",
        store_id=plain_name(path.stem),
        tile_px=config.tile_px or _common_px(images),
        mpp=config.mpp,
        num_tiles=len(images.records),
        provenance={
            "command": COMMAND,
            "histogen": histogen.__version__,
            "config": config.model_dump(mode="json", exclude=set(UNRECORDED)),
            "images": images.content_hash,
        },
        jpeg=JpegSettings(level=config.jpeg.level, subsampling=config.jpeg.subsampling),
        columns=images.columns,
    )


def _common_px(images: ImageFolder) -> int:
    """Return the side that more than half of the images have, as squares; of many images, of some spread evenly."""
    extents: Counter[tuple[int, int]] = Counter()
    for record in images.records[:: -(-len(images.records) // LOOKED_AT)]:
        try:
            extents[image_extent(images.root / record.path)] += 1
        except StoreError:
            continue  # the worker says the sentence
    if not extents:
        raise ConfigError(f"no file in '{images.root}' can be opened as an image; check the folder")
    (width, height), count = extents.most_common(1)[0]
    return width if width == height and 2 * count > extents.total() else FALLBACK_TILE_PX


def _summary(store: TileStore, images: ImageFolder, notes: list[dict[str, Any]], seconds: float) -> str:
    count, copied = (sum(note[key] for note in notes) for key in ("count", "copied"))
    text = f"{store.path}: {count:,} images of {store.tile_px} px, {copied:,} of them byte for byte, in {seconds:.1f} s"
    resampled = sum(note["resampled"]["count"] for note in notes)
    if resampled:
        first = next(path for note in notes for path in note["resampled"]["first"])
        text += f"; {resampled:,} are not {store.tile_px} x {store.tile_px} px (the first: {first}): resampled"
    if images.num_unlisted:
        text += f"; {images.num_unlisted} not in the table were left out"
    return "\n".join([text, *_counts(images)])


def _counts(images: ImageFolder) -> list[str]:
    """Return a line of the classes with the images of each, by split where there are splits."""
    labels = Counter(record.label for record in images.records)
    splits = Counter(record.split for record in images.records)
    lines = []
    for what, counts in (("classes", labels), ("splits", splits)):
        if set(counts) == {None}:
            lines.append(f"{what}: none")
            continue
        named = sorted((name, count) for name, count in counts.items() if name is not None)
        shown = ", ".join(f"{name} {count:,}" for name, count in named[:SHOWN])
        more = f" and {len(named) - SHOWN} more" if len(named) > SHOWN else ""
        without = f", none {counts[None]:,}" if None in counts else ""
        lines.append(f"{len(named)} {what}: {shown}{more}{without}")
    return lines
