"""The kinds of input that are fuzzed: how small valid ones are made, spoilt, and read as the commands read them."""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import re
import shutil
import sqlite3
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import tifffile
from fuzz_bytes import ODD_WORDS, odd_value, spoil_bytes, spoil_json, spoil_text, spoil_tree, spoil_xml

from histogen.config import load_config
from histogen.errors import HistogenError
from histogen.geometry import BoxL0
from histogen.manifest import SlideRecord
from histogen.pipelines.tile.config import TileConfig
from histogen.slides.base import BaseSlide, GlassCentre, open_slide
from histogen.slides.tiff_writer import write_svs
from histogen.store.jpeg import encode_jpeg
from histogen.store.layout import Column
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore

ROOT = Path(__file__).resolve().parents[1]
TILE = {"tile_px": 64, "mpp": 0.5, "tissue": {"method": "none"}, "max_enlargement": 1000.0}


@dataclass(frozen=True)
class Kind:
    """One kind of input.

    ``build`` writes valid inputs (files or folders) into a folder; ``spoil`` changes a copy of one in place; ``read``
    reads it, may write below a folder, and lets every exception through.
    """

    build: Callable[[Path], list[Path]]
    spoil: Callable[[Path, Random], None]
    read: Callable[[Path, Path], None]
    share: float
    """Share of all mutations that are of this kind."""


class NoSentenceError(Exception):
    """A unit failed with a Python exception in place of a sentence."""


def picture(width: int = 160, height: int = 130, seed: int = 0) -> np.ndarray:
    """Return uint8 [height, width, 3] with blocks of colour."""
    blocks = np.random.default_rng(seed).integers(40, 240, (height // 10 + 1, width // 10 + 1, 3)).astype(np.uint8)
    return np.ascontiguousarray(blocks.repeat(10, 0).repeat(10, 1)[:height, :width])


# slides


def build_tiff(folder: Path) -> list[Path]:
    """Write Aperio's layout, tiles and strips of other compressions, BigTIFF, 16-bit grey and OME-TIFF."""
    pixels, plain = picture(), {"photometric": "rgb", "metadata": None}
    scale = {"resolution": (20000, 20000), "resolutionunit": "CENTIMETER"}
    write_svs(folder / "aperio.svs", pixels, mpp=0.5, tile_px=64, downsamples=(2,))
    write_svs(folder / "copied.svs", pixels[:128, :128], mpp=0.5, tile_px=64, downsamples=())
    tifffile.imwrite(folder / "tiles.tif", pixels, tile=(64, 64), compression="zlib", **scale, **plain)
    tifffile.imwrite(
        folder / "big.btf", pixels, tile=(64, 64), compression="lzw", predictor=True, bigtiff=True, **plain
    )
    tifffile.imwrite(folder / "strips.tif", pixels, rowsperstrip=16, compression="zlib", **plain)
    tifffile.imwrite(folder / "jp2k.tif", pixels, tile=(64, 64), compression="jpeg2000", **scale, **plain)
    wide = pixels[..., 0].astype(np.uint16) * 257
    tifffile.imwrite(folder / "grey16.tif", wide, tile=(64, 64), photometric="minisblack", metadata=None, **scale)
    names = {"axes": "CYX", "Channel": {"Name": ["Red", "Green", "Blue"]}, "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}
    with tifffile.TiffWriter(folder / "planes.ome.tif", ome=True) as writer:
        planes = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
        options = {"tile": (64, 64), "photometric": "minisblack"}
        writer.write(planes, subifds=1, metadata=names, **options)
        writer.write(np.ascontiguousarray(planes[:, ::2, ::2]), subfiletype=1, metadata=None, **options)
    return sorted(folder.iterdir())


def spoil_tiff(path: Path, draw: Random) -> None:
    """Change bytes, most of them in directories; or words of the description."""
    data = path.read_bytes()
    if draw.random() < 0.15 and (at := data.find(b"<?xml")) >= 0:  # OME's, of the same length or the tag would be cut
        end = data.index(b"</OME>", at) + 6
        text = spoil_text(data[at:end].decode(), draw)
        path.write_bytes(data[:at] + text[: end - at].ljust(end - at, b" ") + data[end:])
        return
    path.write_bytes(spoil_bytes(data, draw, _directories(str(path), len(data), zlib.crc32(data))))


@cache
def _directories(path: str, _size: int, _digest: int) -> tuple[int, ...]:
    spots: list[int] = []
    with tifffile.TiffFile(path) as tiff:
        width = 20 if tiff.is_bigtiff else 12
        for page in [*tiff.pages, *(sub for outer in tiff.pages for sub in outer.pages or ())]:
            spots += [page.offset, page.offset + 1]
            spots += [tag.offset + k for tag in page.tags.values() for k in range(width)]
    return tuple(spots)


def build_dicom(folder: Path) -> list[Path]:
    """Write folders of a slide of two levels, and of two slides."""
    spec = importlib.util.spec_from_file_location("dicom_writer", ROOT / "tests" / "slides" / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pixels = picture()
    for name, series in (("one", ("11",)), ("two", ("12", "13"))):
        for number in range(2):
            for key in series:
                module.write_instance(
                    folder / name / f"{key}-{number}.dcm", pixels[:: 2**number, :: 2**number], series=key,
                    number=number, mpp=0.25 * 2**number,
                )  # fmt: skip
    return [folder / "one", folder / "two"]


def spoil_dicom(folder: Path, draw: Random) -> None:
    """Change bytes of one file, most of them before the pixels."""
    path = draw.choice(sorted(folder.iterdir()))
    data = path.read_bytes()
    path.write_bytes(spoil_bytes(data, draw, range(min(len(data), 2600))))


def read_slide(path: Path, out: Path) -> None:
    """Find, plan and cut it as ``histogen tile`` does, and look at it as ``histogen inspect`` does."""
    from histogen.pipelines.tile.cut_shard import ShardUnit, cut_shard
    from histogen.pipelines.tile.plan_slide import PlanUnit, plan
    from histogen.slides.find import find_slides, fingerprint

    source = find_slides([path]).slides[0]
    fingerprint(source.path)
    values = {
        **TILE,
        "slides": [path],
        "out": out,
        "slide_mpp": 0.5,
        "codec": "source" if path.stem == "copied" else "jpeg",
    }
    config = TileConfig.model_validate(values)
    slide = open_slide(source.path, gap_mpp=0.5)
    slide.flags()
    slide.read_row(BoxL0(0, 0, 128, 64), 64, 64, 2)
    slide.close()
    plan(PlanUnit(source, config, "", (), (), ()))
    store = TileStore.open_(out / f"{source.slide_id}.zarr")
    for shard in range(min(store.num_shards, 2)):
        cut_shard(ShardUnit(store.path, source.path, shard, len(store.shard_range(shard))))
    unreadable = [text for note in store.ledger.notes("tiles").values() for text in note.get("unreadable", {}).values()]
    check_sentences(unreadable)


# annotations

RING = [(10.5, 20.0), (110.5, 20.0), (110.5, 70.0), (60.5, 90.25), (10.5, 70.0)]
HOLE = [(20, 30), (40, 30), (40, 50), (20, 50)]


def ring(number: int) -> list[tuple[float, float]]:
    """Return an outline; each number's lies elsewhere."""
    return [(x + 3 * number, y + 2 * number) for x, y in RING]


def build_geojson(folder: Path) -> list[Path]:
    """Write QuPath's, with holes, several parts and derived classes; a plain one; a packed one."""
    import gzip

    ringed, hole = [[*RING, RING[0]], [*HOLE, HOLE[0]]], [[100, 80], [140, 80], [140, 120], [100, 80]]
    second = [[*ring(1), ring(1)[0]]]

    def feature(shape: str, coordinates: Any, **properties: Any) -> dict[str, Any]:
        return {
            "type": "Feature",
            "id": "x",
            "geometry": {"type": shape, "coordinates": coordinates},
            "properties": properties,
        }

    features = [
        feature("Polygon", ringed, objectType="annotation", classification={"name": "Tumor", "color": [1, 2, 3]}),
        feature("MultiPolygon", [second, [hole]], classification={"names": ["Stroma", "Positive"]}, name="ROI"),
        feature("Point", [3, 4], classification={"name": "Positive", "parentClass": {"name": "Tumor"}}),
        feature("LineString", RING, classification=None),
    ]
    whole = {"type": "FeatureCollection", "features": features}
    (folder / "qupath.geojson").write_text(json.dumps(whole, indent=1))
    plain = [feature("Polygon", ringed, label=1), feature("Polygon", [hole], **{"class": "b"})]
    (folder / "plain.json").write_text(json.dumps(plain))
    (folder / "packed.geojson.gz").write_bytes(gzip.compress(json.dumps(whole).encode(), mtime=0))
    return sorted(folder.iterdir())


def spoil_annotations(path: Path, draw: Random) -> None:
    """Change values, words or bytes; of a packed file its content or its bytes."""
    import gzip

    data = path.read_bytes()
    if path.suffix == ".gz" and draw.random() < 0.5:
        path.write_bytes(gzip.compress(spoil_json(gzip.decompress(data), draw), mtime=0))
    elif path.suffix in (".gz", ".db"):
        path.write_bytes(spoil_bytes(data, draw))
    elif path.suffix in (".geojson", ".json"):
        path.write_bytes(spoil_json(data, draw))
    else:
        path.write_bytes(spoil_xml(data, draw))


def build_xml(folder: Path) -> list[Path]:
    """Write ASAP's, ImageScope's, HALO's and Hamamatsu's."""

    def rows(form: str, corners: Sequence[tuple[float, float]] = RING) -> str:
        return "".join(form.format(i=i, x=x, y=y) for i, (x, y) in enumerate(corners))

    corner = '<Coordinate Order="{i}" X="{x}" Y="{y}" />'
    shapes = "".join(
        f'<Annotation Name="A" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58"><Coordinates>{rows(corner, ring(n))}'
        "</Coordinates></Annotation>"
        for n, (kind, group) in enumerate(
            (("Polygon", "Tumor"), ("Spline", "Stroma"), ("Rectangle", "None"), ("Dot", "x"))
        )
    )
    (folder / "asap.xml").write_text(f"<ASAP_Annotations><Annotations>{shapes}</Annotations></ASAP_Annotations>")
    vertex = '<Vertex X="{x}" Y="{y}" Z="0"/>'
    box = RING[:1] + RING[3:4]
    regions = "".join(
        f'<Region Id="{n}" Type="{kind}" NegativeROA="{hole}"><Vertices>{rows(vertex, corners)}</Vertices></Region>'
        for n, (kind, hole, corners) in enumerate(((0, 0, RING), (1, 0, box), (2, 0, box), (0, 1, HOLE), (3, 0, HOLE)))
    )
    layer = f'<Annotation Id="1" Name="Tumor" LineColor="65280"><Regions>{regions}</Regions></Annotation>'
    (folder / "scope.xml").write_text(f'<Annotations MicronsPerPixel="0.25">{layer}</Annotations>')
    halo = regions.replace('Type="0"', 'Type="Polygon"').replace('Type="1"', 'Type="Rectangle"').replace("Vertex", "V")
    (folder / "halo.annotations").write_text(
        f'<Annotations><Annotation Name="Tumor" Visible="True"><Regions>{halo}</Regions></Annotation></Annotations>'
    )
    points = rows("<point><x>{x}</x><y>{y}</y></point>")
    outline = f"<pointlist>{points}</pointlist><closed>1</closed>"
    views = "".join(
        f'<ndpviewstate id="{n}"><title>{title}</title><coordformat>nanometers</coordformat>{shape}</ndpviewstate>'
        for n, (title, shape) in enumerate(
            (
                ("Tumor", f'<annotation type="freehand" displayname="A">{outline}</annotation>'),
                ("Stroma", '<annotation type="circle"><x>9000</x><y>20000</y><radius>12000</radius></annotation>'),
                ("pin", '<annotation type="pin"><x>1</x><y>2</y></annotation>'),
            )
        )
    )  # fmt: skip
    (folder / "views.ndpa").write_text(f"<annotations>{views}</annotations>")
    return sorted(folder.iterdir())


def build_annotation_store(folder: Path) -> list[Path]:
    """Write TIAToolbox's tables, packed and plain."""
    import shapely

    shapes = [shapely.Polygon(ring(n), [HOLE] if n == 0 else []).wkb for n in range(3)]
    for name, packed in (("packed.db", True), ("plain.db", False)):
        connection = sqlite3.connect(folder / name)
        connection.execute("CREATE TABLE metadata (key TEXT, value TEXT)")
        connection.execute(
            "CREATE TABLE annotations (key TEXT, objtype INT, cx INT, cy INT, geometry BLOB, properties TEXT)"
        )
        connection.execute("INSERT INTO metadata VALUES ('compression', ?)", (json.dumps("zlib" if packed else None),))
        for n, properties in enumerate(({"type": "Tumor"}, {"classification": {"name": "b"}}, {"class": 3})):
            data = zlib.compress(shapes[n]) if packed else shapes[n]
            geometry = None if n == 2 else data
            connection.execute(
                "INSERT INTO annotations VALUES (?, ?, 5, 5, ?, ?)", (f"k{n}", 3, geometry, json.dumps(properties))
            )
        connection.commit()
        connection.close()
    return sorted(folder.iterdir())


def spoil_annotation_store(path: Path, draw: Random) -> None:
    """Change the file's bytes, a geometry's, the properties, the tables."""
    if draw.random() < 0.4:
        path.write_bytes(spoil_bytes(path.read_bytes(), draw, range(200)))
        return
    connection = sqlite3.connect(path)
    row, geometry, properties = draw.choice(
        connection.execute("SELECT rowid, geometry, properties FROM annotations").fetchall()
    )
    changed: Any
    kind = draw.random()
    if kind < 0.35 and geometry:
        changed = spoil_bytes(geometry, draw)
        if draw.random() < 0.5 and path.stem == "packed":
            changed = zlib.compress(spoil_bytes(zlib.decompress(geometry), draw))
        connection.execute("UPDATE annotations SET geometry = ? WHERE rowid = ?", (changed, row))
    elif kind < 0.7:
        changed = spoil_json(properties.encode(), draw).decode(errors="surrogateescape")
        changed = (
            changed.encode(errors="surrogateescape")
            if draw.random() < 0.3
            else changed.encode("utf-8", "replace").decode()
        )
        connection.execute("UPDATE annotations SET properties = ? WHERE rowid = ?", (changed, row))
    elif kind < 0.85:
        value = draw.choice((None, 5, 2.5, "zlib", '"zlib"', "[", b"\0", '"lzma"'))
        connection.execute("UPDATE metadata SET value = ?", (value,))
    else:
        connection.execute(
            draw.choice(
                (
                    "DROP TABLE annotations", "DROP TABLE metadata", "DELETE FROM annotations", "DELETE FROM metadata",
                    "UPDATE annotations SET geometry = 7", "UPDATE annotations SET geometry = 'text'",
                    "UPDATE annotations SET properties = 7", "UPDATE annotations SET properties = NULL",
                    "ALTER TABLE annotations DROP COLUMN geometry", "UPDATE annotations SET geometry = x''",
                    "UPDATE annotations SET geometry = zeroblob(100000)",
                )
            )
        )  # fmt: skip
    connection.commit()
    connection.close()


@cache
def _planned() -> tuple[BaseSlide, Any, Any]:
    """A slide on which annotations and places lie, its plan and its grid; made once in a process."""
    import tempfile

    from histogen.pipelines.tile.places import build_grid
    from histogen.pipelines.tile.plan_slide import PlanUnit, plan_tiles

    folder = Path(tempfile.mkdtemp(prefix="fuzz-slide-"))
    write_svs(folder / "S.svs", picture(), mpp=0.5, tile_px=64, downsamples=(2,))
    slide = open_slide(folder / "S.svs")
    slide.glass_centre = GlassCentre(80.0, 65.0, 500.0, 500.0)
    config = TileConfig.model_validate({**TILE, "tile_px": 16, "slides": [folder], "out": folder / "out"})
    grid = build_grid(slide, config, 0.5)
    found = plan_tiles(PlanUnit(SlideRecord(slide.path, "S"), config, "", (), (), ()), slide, grid)
    return slide, found, grid


def read_annotation(path: Path, out: Path) -> None:
    """Read the regions, place them on a slide and label its tiles."""
    from histogen.tiles.annotations.frame import place_areas
    from histogen.tiles.annotations.read import read_annotations, read_areas
    from histogen.tiles.regions import label_tiles

    slide, found, _ = _planned()
    read_areas(path, slide)
    regions, _ = place_areas(read_annotations(path, slide), slide, found.tissue, "auto")
    label_tiles(regions, *found.positions_l0, found.grid.size_l0, min_share=0.3)


# manifests


def build_manifest(folder: Path) -> list[Path]:
    """Write manifests of slides and one of stores, beside what they list."""
    beside = folder / "beside"
    beside.mkdir()
    for number, name in enumerate(("a", "b b")):
        tifffile.imwrite(
            beside / f"{name}.tif", picture(70, 70, number), tile=(64, 64), photometric="rgb", metadata=None
        )
    _store(beside / "s.zarr")
    (beside / "a.geojson").write_text(
        json.dumps({"type": "Polygon", "coordinates": [[[0, 0], [60, 0], [60, 60], [0, 0]]]})
    )
    rows = [
        ["path", "slide_id", "mpp", "label", "split", "group", "annotations", "scanner"],
        [beside / "a.tif", "a", "0.5", "tumour", "train", "p1", "", "x"],
        [beside / "b b.tif", "b", "0.25", "stroma", "test", "p2", "", "y"],
    ]
    sides = [["path", "mpp_x", "mpp_y"], [beside / "a.tif", "0.5", "0.5"], [beside / "b b.tif", "", ""]]
    for name, content in (("slides.csv", rows), ("sides.csv", sides), ("stores.csv", [["path"], [beside / "s.zarr"]])):
        with (folder / name).open("w", newline="") as file:
            csv.writer(file).writerows(content)
    return sorted(folder.glob("*.csv"))


def spoil_manifest(path: Path, draw: Random) -> None:
    """Change cells, columns, words or bytes."""
    kind = draw.random()
    if kind < 0.5:
        rows = list(csv.reader(path.open(newline="")))
        for _ in range(draw.choice((1, 1, 2))):
            row = draw.choice(rows)
            cell = draw.randrange(len(row))
            row[cell] = draw.choice(
                (*ODD_WORDS, draw.choice(draw.choice(rows)), f"../{row[cell]}", f" {row[cell]} ", f"p/{row[cell]}")
            )
        with path.open("w", newline="", errors="replace") as file:
            csv.writer(file, quoting=draw.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))).writerows(rows)
    elif kind < 0.9:
        path.write_bytes(spoil_text(path.read_text(), draw))
    else:
        path.write_bytes(spoil_bytes(path.read_bytes(), draw))


def read_manifest(path: Path, out: Path) -> None:
    """Tile the slides, or open the stores, that it lists."""
    if path.stem == "stores":
        TileSet.open_(path).read_tiles([0])
        return
    from histogen.pipelines.tile.command import run

    check_sentences(run(TileConfig.model_validate({**TILE, "slides": [path], "out": out, "slide_mpp": 0.5})).failures)


# configs

COMMANDS = {
    "pretrain": "pretrain.config:PretrainConfig", "tile": "tile.config:TileConfig", "embed": "embed.config:EmbedConfig",
    "train-autoencoder": "train_autoencoder.config:TrainAutoencoderConfig",
    "train-eldm": "train_eldm.config:TrainEldmConfig", "synthesize": "synthesize.config:SynthesizeConfig",
    "benchmark": "benchmark.config:BenchmarkConfig", "fidelity": "fidelity.config:FidelityConfig",
    "import-images": "import_images:ImportImagesConfig", "run": "run.chain:RunConfig", "export": "export:ExportConfig",
}  # fmt: skip
GIVEN: dict[str, dict[str, Any]] = {
    "pretrain": {"tiles": ["t"]}, "tile": {"slides": ["s"]}, "embed": {"tiles": ["t"], "encoder": "colour"},
    "train-autoencoder": {"tiles": ["t"]}, "train-eldm": {"tiles": ["t"], "encoder": "colour", "autoencoder": "a"},
    "synthesize": {"tiles": ["t"], "eldm": "e", "kind": "generative"},
    "benchmark": {"tiles": ["t"], "encoders": ["colour"]},
    "fidelity": {"tiles": ["t"], "held_out": ["h"], "synthetic": ["d"], "encoders": ["colour"]},
    "import-images": {"folder": "f"}, "run": {"images": "f"}, "export": {"tiles": ["t"], "format": "parquet"},
}  # fmt: skip
SETTINGS = {
    "pretrain": ["model.name=vit_small_patch16_224", "optim.lr=1e-4", "crops.global_scale=[0.4, 1.0]", "seed=3"],
    "tile": ["mpp=0.5", "stain.statistics=true", "jpeg.level=90", "tissue={method: otsu}", "workers=2"],
    "train-eldm": ["optim.steps=10", "model.channels=[32, 64]", "objective={kind: flow}", "where={split: train}"],
    "benchmark": ["judge.knn.k=20", "group=patient", "slide_labels=a.csv"],
    "run": ["pretrain={config: pretrain/demo}", "labelled=folder/", "tile.mpp=0.5", "import_images={tile_px: 64}"],
}


def build_config(folder: Path) -> list[Path]:
    """Copy the shipped configs; a file's name begins with its command."""
    for file in sorted((ROOT / "configs").glob("*/*.yaml")):
        if file.parent.name in COMMANDS:
            (folder / f"{file.parent.name}--{file.name}").write_bytes(file.read_bytes())
    return sorted(folder.iterdir())


def build_set(folder: Path) -> list[Path]:
    """Write what may stand after ``--set``, one to a line."""
    for command, lines in SETTINGS.items():
        (folder / f"{command}--set.txt").write_text("\n".join(lines))
    return sorted(folder.iterdir())


ODD_YAML = (
    "!!timestamp 2020-13-45", "!!int twelve", "!!float fine", "!!bool perhaps", "!!binary x", "!!set {a}", "0x_", "0o8",
    "2020-13-45", "2020-01-02", "12:30:45", "9" * 5000, "&a [*a]", "&a {b: *a}", "&a {<<: *a}", '"a\\0b"', '"\\ud800"',
    "{1: 2}", "{~: 1}", "{[a]: 1}", "{a: 1, a: 2}", "{<<: 1}", "~nosuchuser/x", "1e-5", "1e999", ".nan", "true",
)  # fmt: skip
"""What takes the place of a value: tags, dates, texts that no path can be, keys of other types, what holds itself."""


def spoil_words(path: Path, draw: Random) -> None:
    """Change values, words, lines or bytes of a text."""
    data = path.read_bytes()
    places = list(re.finditer(r"(?m)(?<=[:=])[^\n{\[:=]+$", data.decode()))
    if places and draw.random() < 0.25:
        value, text = draw.choice(places), data.decode()
        text = f"{text[: value.start()]} {draw.choice(ODD_YAML)}{text[value.end() :]}"
        path.write_text(text)
        return
    path.write_bytes(spoil_text(data.decode(), draw) if draw.random() < 0.9 else spoil_bytes(data, draw))


def read_config(path: Path, out: Path) -> None:
    """Build the config of its command, and of the stages of a chain, as the command line does."""
    from histogen.cli.common import build_config as from_command_line

    from histogen.config import dump_config
    from histogen.names import resolve

    command = path.name.partition("--")[0]
    cls = resolve({k: f"histogen.pipelines.{v}" for k, v in COMMANDS.items()}, command, what="command")
    overrides = path.read_bytes().decode(errors="replace").splitlines() if path.suffix == ".txt" else []
    file = None if path.suffix == ".txt" else path
    given = {} if path.name == "run--demo.yaml" else GIVEN[command]
    config = from_command_line(cls, file=file, overrides=overrides, out=out, **given)
    dump_config(config)
    if command == "run":
        from histogen.pipelines.run.chain import chain, config_class_of, stage_config

        for stage in chain(config):
            stage_config(stage, config, config_class_of(stage))
    else:
        load_config(cls, flags=config.model_dump(mode="json"))


# stores


def _store(path: Path, num_tiles: int = 12) -> TileStore:
    tiles = [picture(16, 16, seed) for seed in range(num_tiles)]
    grid = {"stride_px": 16, "edge": "drop", "placed": False}
    slide = {"slide_id": path.stem, "name": f"{path.stem}.svs", "extent": [160, 130], "mpp": [0.5, 0.5]}
    store = TileStore.create(
        path, kind="slide", store_id=path.stem, tile_px=16, mpp=0.5, num_tiles=num_tiles,
        provenance={"command": "tile", "slide": slide, "grid": grid},
        columns={
            "label": Column.categorical(["a", "b", None] * (num_tiles // 3)),
            "path": Column.text([f"p{i}" for i in range(num_tiles)]),
            "x_l0": np.arange(num_tiles) % 4 * 16.0, "y_l0": np.arange(num_tiles) // 4 * 16.0,
            "split": Column.categorical(["train", "test"] * (num_tiles // 2)),
        },
    )  # fmt: skip
    payloads = [encode_jpeg(tile) for tile in tiles]
    store.commit("tiles", 0, store.write_tiles(0, [*payloads[:-1], None]))
    for rows, shape in (("embeddings/e", (num_tiles, 8)), ("latents/l", (num_tiles, 2, 3, 2, 2))):
        store.create_rows(rows, shape, "float16", attributes={"batch": 4, "precision": "float32"})
        store.write_rows(rows, 0, np.random.default_rng(0).normal(size=shape))
        store.commit(rows, 0, {"count": num_tiles})
    return store


def build_store(folder: Path) -> list[Path]:
    """Write a store of a slide with columns, embeddings and latents."""
    return [_store(folder / "S.zarr").path]


def spoil_folder(folder: Path, draw: Random) -> None:
    """Change, cut, delete or misplace one or two files of a folder; of a ``.json`` its values."""
    for _ in range(draw.choice((1, 1, 2))):
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        if not files:
            return
        path, kind = draw.choice(files), draw.random()
        if kind < 0.8:
            data = path.read_bytes()
            path.write_bytes(spoil_json(data, draw) if path.suffix == ".json" else spoil_bytes(data, draw))
        elif kind < 0.88:
            path.unlink()
        elif kind < 0.92:
            path.unlink()
            path.mkdir()
        elif kind < 0.96:
            path.write_bytes(draw.choice(files).read_bytes() if len(files) > 1 and draw.random() < 0.9 else b"")
        else:
            shutil.rmtree(path.parent) if path.parent != folder else path.write_bytes(b"")


def read_store(path: Path, out: Path) -> None:
    """Open, read all of it, check it and describe it; choose tiles by column; hand it out as other formats."""
    from histogen.pipelines.export import ExportConfig
    from histogen.pipelines.export import run as export
    from histogen.pipelines.inspect import describe

    check_sentences(describe(path, check=True).failures)
    tiles = TileSet.open_(path)
    tiles.read_tiles(range(len(tiles)))
    tiles.column("x_l0"), tiles.texts("path"), tiles.categories("label"), tiles.content_hash  # noqa: B018 - are read
    for group in ("embeddings", "latents"):
        for name in tiles.stores[0].list_rows(group):
            tiles.read_rows(f"{group}/{name}")
    TileSet.open_(path, where={"split": "train"}).column("label")
    for form in ("clam", "webdataset", "parquet"):
        values = {"tiles": [path], "format": form, "out": out / form, "encoder": "e"}
        check_sentences(export(ExportConfig.model_validate(values)).failures)


# weights and runs


def build_checkpoint(folder: Path) -> list[Path]:
    """Write DINO's file, a training's checkpoints, a pretrained run, an autoencoder, an E-LDM; all tiny."""
    import torch

    from histogen.diffusion.autoencoder_build import build_autoencoder
    from histogen.diffusion.conditioning import Conditioner
    from histogen.diffusion.denoiser import build_denoiser
    from histogen.diffusion.loss import build_scheduler
    from histogen.diffusion.pipeline import EldmPipeline
    from histogen.diffusion.settings import AutoencoderSettings, DenoiserSettings, ObjectiveSettings
    from histogen.encoders.timm import build_vit, export_encoder
    from histogen.training.checkpoint import save_checkpoint

    torch.manual_seed(0)
    arguments = {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 2}
    model = build_vit("vit_small_patch16_224", arguments)
    state = {f"backbone.{key}": value for key, value in model.state_dict().items()}
    content = {"teacher": state, "student": state, "args": argparse.Namespace(num_heads=2, arch="vit_own"), "epoch": 3}
    torch.save(content, folder / "dino.pth")
    export_encoder(
        model, folder / "pretrained" / "encoder", name="run", architecture="vit_small_patch16_224", arguments=arguments,
        image_px=16, mean=(0.5,) * 3, std=(0.2,) * 3, source="fuzz", supervision="none",
    )  # fmt: skip
    small = {"channels": [4, 8], "layers_per_block": 1, "latent_channels": 2, "norm_groups": 2, "attention": False}
    autoencoder = build_autoencoder(AutoencoderSettings.model_validate(small), tile_px=16)
    autoencoder.save_pretrained(folder / "autoencoder" / "autoencoder")
    for step in (1, 2):
        save_checkpoint(folder / "training" / "checkpoints", step, {"task": state, "window": {"sums": {}}}, keep=2)
    shape = DenoiserSettings.model_validate(
        {"channels": [8, 8], "layers_per_block": 1, "head_width": 8, "norm_groups": 4, "cross_attention_dim": 4}
    )
    unet = build_denoiser(shape, latent_channels=2, latent_px=8, embedding_dim=6)
    scheduler = build_scheduler(ObjectiveSettings())
    pipeline = EldmPipeline(unet, autoencoder, scheduler, Conditioner(6), "e", "none")
    pipeline.save_pretrained(folder / "eldm" / "pipeline")
    for run in (path for path in folder.iterdir() if path.is_dir()):
        record = {"command": run.name, "status": "complete", "results": {"sampler": {"steps": 3}}}
        (run / "run.json").write_text(json.dumps(record))
        (run / "config.yaml").write_text("seed: 0\nmodel: {channels: [4, 8]}\n")
        (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 0.5}) + "\n")
    return sorted(folder.iterdir())


def spoil_checkpoint(path: Path, draw: Random) -> None:
    """Change tensors and keys of a file of weights, or bytes; of a folder one of its files."""
    if path.is_dir():
        weights = [file for file in sorted(path.rglob("*")) if file.suffix in (".safetensors", ".pt")]
        if draw.random() < 0.25:
            spoil_weights(draw.choice(weights), draw)
        else:
            spoil_folder(path, draw)
    else:
        spoil_weights(path, draw)


def spoil_weights(path: Path, draw: Random) -> None:
    """Change tensors and keys, or bytes."""
    import torch

    data = path.read_bytes()
    if path.suffix == ".safetensors":
        length = struct.unpack("<Q", data[:8])[0]
        if draw.random() < 0.6:
            header = spoil_json(data[8 : 8 + length], draw)
            path.write_bytes(struct.pack("<Q", len(header)) + header + data[8 + length :])
        else:
            path.write_bytes(spoil_bytes(data, draw, range(8 + length)))
    elif draw.random() < 0.5:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, weights_only=True)
        torch.save(spoil_tree(content, draw, _odd_tensor), path)
    else:
        path.write_bytes(spoil_bytes(data, draw, range(2000)))
    note = path.with_suffix(".json")
    if path.suffix == ".pt" and draw.random() < 0.7:
        import hashlib

        note.write_text(json.dumps({"step": 2, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}))


def _odd_tensor(draw: Random) -> Any:
    import torch

    shape = draw.choice(((), (0,), (1,), (24,), (24, 24), (1, 5, 24), (2, 3, 8, 8)))
    made = torch.full(shape, draw.choice((0.0, 1.0, float("nan"), float("inf"))))
    return draw.choice(
        (made, made.to(torch.int64), made.half(), made.to(torch.complex64), odd_value(draw), made.bool())
    )


def read_checkpoint(path: Path, out: Path) -> None:
    """Load it as the command that takes such a thing does, and use it once."""
    import torch

    from histogen.pipelines.inspect import describe

    images = torch.from_numpy(np.stack([picture(16, 16, seed) for seed in range(2)]))
    if path.is_dir():
        check_sentences(describe(path).failures)
    if path.name in ("dino.pth", "pretrained"):
        from histogen.encoders.registry import load_encoder
        from histogen.pipelines.embed.command import embed_images

        embed_images(load_encoder(path), images.numpy(), batch=2)
    elif path.name == "autoencoder":
        from histogen.diffusion.autoencoder import (
            check_tile_px,
            decode_latents,
            draw_latents,
            encode_moments,
            latent_channels,
            standardize,
            to_signal,
        )
        from histogen.diffusion.autoencoder_files import load_autoencoder

        model = load_autoencoder(path)
        check_tile_px(model, 16)
        raw = draw_latents(latent_channels(model), encode_moments(model, to_signal(images)), None)
        decode_latents(model, standardize(model, raw))
    elif path.name == "training":
        from histogen.training.checkpoint import load_newest

        load_newest(path / "checkpoints")
    else:
        from histogen.diffusion.pipeline_files import load_pipeline
        from histogen.pipelines.train_eldm.command import recorded_sampler

        sampler, pipeline = recorded_sampler(path), load_pipeline(path)
        pipeline(torch.ones(1, 6), [0], sampler=sampler.model_copy(update={"steps": 2}), micro_batch=1, decode_batch=1)


# HDF5


def build_hdf5(folder: Path) -> list[Path]:
    """Write features and places as TRIDENT, CLAM and CLAM's first version do, of store or slide S."""
    import h5py

    coords = np.stack([np.arange(12) % 4 * 16, np.arange(12) // 4 * 16], axis=1)
    trident = {"patch_size": 16, "patch_size_level0": 16, "level0_magnification": 20, "target_magnification": 20,
               "overlap": 0, "name": "S"}  # fmt: skip
    clam = {"patch_size": 16, "patch_level": 0, "downsample": np.ones(2), "level_dim": (160, 130), "name": "S"}
    for name, said in (("trident.h5", trident), ("clam.h5", clam)):
        with h5py.File(folder / name, "w") as file:
            file.create_dataset("coords", data=coords).attrs.update(said)
            file.create_dataset("features", data=np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32))
    with h5py.File(folder / "old.h5", "w") as file:
        file.create_dataset("coords", data=coords // 2, chunks=(6, 2), compression="gzip")
        images = file.create_dataset("imgs", data=np.zeros((12, 8, 8, 3), np.uint8))
        images.attrs.update({"patch_level": 1, "wsi_name": "S", "downsample": (2.0, 2.0), "level_dim": (80, 65),
                             "downsampled_level_dim": (80, 65)})  # fmt: skip
        file.create_dataset("features", data=np.zeros((12, 5), np.float64))
    return sorted(folder.iterdir())


def spoil_hdf5(path: Path, draw: Random) -> None:
    """Change attributes, arrays or bytes."""
    import h5py

    if draw.random() < 0.4:
        path.write_bytes(spoil_bytes(path.read_bytes(), draw))
        return
    with h5py.File(path, "a") as file:
        for _ in range(draw.choice((1, 1, 2))):
            name = draw.choice(sorted(file)) if len(file) else None
            if name is None:
                return
            array, kind = file[name], draw.random()
            if kind < 0.6 and len(array.attrs):
                key = draw.choice(sorted(array.attrs))
                if draw.random() < 0.25:
                    del array.attrs[key]
                else:
                    array.attrs[key] = _odd_array(draw)
            elif kind < 0.7:
                del file[name]
            else:
                del file[name]
                made = file.create_dataset(name, data=_odd_array(draw)) if kind < 0.97 else file.create_group(name)
                made.attrs["patch_size"] = 16


def _odd_array(draw: Random) -> Any:
    value = draw.choice(
        (0, -1, 1, 16, 2**31, 2**62, 0.5, 1e300, float("nan"), float("inf"), "text", b"bytes", True, "../S", "é")
    )
    shape = draw.choice(((), (0,), (1,), (2,), (12, 2), (11, 2), (12, 5), (1, 12, 2), (12, 3), (2, 2, 2)))
    return value if isinstance(value, str | bytes) else np.full(shape, value, draw.choice((None, np.float32, complex)))


def read_hdf5(path: Path, out: Path) -> None:
    """Take its places for a slide's, and its features for a store's."""
    from histogen.pipelines.import_features import FeatureUnit, import_store
    from histogen.pipelines.tile.places import listed_places

    slide, _, grid = _planned()
    config = TileConfig.model_validate({**TILE, "tile_px": 16, "slides": [path], "out": out, "positions": path})
    refused: HistogenError | None = None
    try:
        listed_places(config, SlideRecord(slide.path, "S"), slide, grid)
    except HistogenError as error:
        refused = error
    store = _store(out / "S.zarr")
    import_store(FeatureUnit(store.path, path, "embeddings/given", 1.0, None, False, 12))
    if refused is not None and "S" not in str(refused):
        raise refused


def check_sentences(failures: Sequence[str]) -> None:
    """Raise NoSentenceError where a failure of a unit is a Python exception in place of a sentence."""
    for failure in failures:
        if is_bare(failure):
            raise NoSentenceError(failure)


def is_bare(sentence: str) -> bool:
    """Whether a refusal is no sentence for a user: empty, of several lines, or naming a Python exception."""
    import re

    names = re.search(r"Traceback|\b[A-Z]\w*(?:Error|Exception)\b", sentence)
    return not sentence.strip() or "\n" in sentence.strip() or names is not None or len(sentence) > 10_000


KINDS: Mapping[str, Kind] = {
    "tiff": Kind(build_tiff, spoil_tiff, read_slide, 0.25),
    "dicom": Kind(build_dicom, spoil_dicom, read_slide, 0.08),
    "geojson": Kind(build_geojson, spoil_annotations, read_annotation, 0.09),
    "xml": Kind(build_xml, spoil_annotations, read_annotation, 0.09),
    "annotation-store": Kind(build_annotation_store, spoil_annotation_store, read_annotation, 0.05),
    "manifest": Kind(build_manifest, spoil_manifest, read_manifest, 0.08),
    "config": Kind(build_config, spoil_words, read_config, 0.08),
    "set": Kind(build_set, spoil_words, read_config, 0.07),
    "store": Kind(build_store, spoil_folder, read_store, 0.08),
    "checkpoint": Kind(build_checkpoint, spoil_checkpoint, read_checkpoint, 0.06),
    "hdf5": Kind(build_hdf5, spoil_hdf5, read_hdf5, 0.07),
}
