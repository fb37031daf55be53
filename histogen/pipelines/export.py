"""``histogen export``: tile stores in the formats of other tools; a shard map over stores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import field_validator

from histogen.compute.client import Compute
from histogen.compute.run import run_units
from histogen.config import BulkConfig, StorePath
from histogen.errors import StoreError
from histogen.files import remove_temporaries
from histogen.lease import for_its_output
from histogen.names import resolve
from histogen.pipelines.outputs import Outcome, claim_output, finish_output
from histogen.store.export_rows import tiles_of
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore

COMMAND = "export"
LAST = {
    "trident": "*/patches/{}_patches.h5",
    "clam": "h5_files/{}.h5",
    "webdataset": "{}.tar",
    "parquet": "{}.parquet",
    "anndata": "{}.h5ad",
    "geojson": "{}.geojson",
}
"""The file of a store that is written last: where it is, the store is done."""
WRITERS = {
    "trident": "histogen.store.export_hdf5:write_trident",
    "clam": "histogen.store.export_hdf5:write_clam",
    "webdataset": "histogen.store.export_webdataset:write_webdataset",
    "parquet": "histogen.store.export_tables:write_parquet",
    "anndata": "histogen.store.export_anndata:write_anndata",
    "geojson": "histogen.store.export_geojson:write_geojson",
}


class ExportConfig(BulkConfig):
    """Which stores, as what."""

    tiles: list[StorePath]
    """Tile stores, folders of them, or manifests."""
    format: str
    """trident or clam (their folders of HDF5), webdataset (tar), parquet, anndata (h5ad), geojson
    (for QuPath)."""
    encoder: str | None = None
    """The embeddings to take along: a name, or the run that made them; not needed when there is one kind, or none."""
    images: bool = False
    """Put the images into the file too (trident, clam: raw pixels; parquet: JPEG); a WebDataset always has them."""

    @field_validator("format")
    @classmethod
    def _known(cls, name: str) -> str:
        resolve(dict.fromkeys(WRITERS, "histogen:__version__"), name, what="export format")
        return name


@dataclass(frozen=True)
class ExportUnit:
    """One store and the folder that takes its files."""

    store: Path
    out: Path
    format: str
    encoder: str | None
    images: bool
    num_items: int

    @property
    def key(self) -> str:
        """Name in messages."""
        return self.store.stem


@for_its_output
def run(config: ExportConfig) -> Outcome:
    """Write the files that are not there yet.

    Raises:
        StoreError: a store cannot be opened or is not complete, or another store has its id, or a store has no
            embeddings by the encoder.
    """
    tiles = TileSet.open_(list(config.tiles))
    encoder = embedding_name(config.encoder)
    _check_embedded(tiles, encoder)
    out = claim_output(config, command=COMMAND, inputs={"tiles": tiles.content_hash})
    remove_temporaries(out)
    last = LAST[config.format]
    units = [
        ExportUnit(store.path, out, config.format, encoder, config.images, store.num_tiles)
        for store in tiles.stores
        if not any(out.glob(last.format(store.store_id)))
    ]
    report = run_units(
        export_store, units,
        compute=Compute.from_config(config), description="export",
        items_done=sum(store.num_tiles for store in tiles.stores) - sum(unit.num_items for unit in units),
    )  # fmt: skip
    if not report.failures:
        finish_output(out, tiles=len(tiles), stores=len(tiles.stores))
    count = len(tiles.stores)
    summary = f"{out}: {count - len(report.failures)} of {count} stores as {config.format}"
    return Outcome(out, f"{summary}, in {report.seconds:.1f} s", tuple(map(str, report.failures)))


def _check_embedded(tiles: TileSet, encoder: str | None) -> None:
    """Refuse an encoder by which not every store has embeddings, before anything is made."""
    rows = f"embeddings/{encoder}"
    lacking = [store for store in tiles.stores if encoder is not None and not store.is_complete(rows)]
    if lacking:
        raise StoreError(
            f"store '{lacking[0].path}' has no complete embeddings by '{encoder}' (all stores have: "
            f"{', '.join(tiles.embedding_names) or 'none'}); make them: histogen embed TILES --encoder E"
        )


def embedding_name(encoder: str | None) -> str | None:
    """Return the name of the embeddings that ``encoder`` stands for: a run folder's encoder made those of its name.

    Raises:
        EncoderError: the folder holds no encoder.
    """
    if encoder is None or not Path(encoder).is_dir():
        return encoder
    from histogen.encoders.registry import load_encoder  # needs torch, which an export by name does not

    return load_encoder(encoder).card.name


def export_store(unit: ExportUnit) -> dict[str, Any]:
    """Write the files of one store."""
    write = resolve(WRITERS, unit.format, what="export format")
    tiles = tiles_of(TileStore.open_(unit.store))
    return {"tiles": write(tiles, unit.out, encoder=unit.encoder, images=unit.images)}
