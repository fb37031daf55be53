"""Hostile input, by kinds: files that would run code, names that are markup or paths, contents that swell in memory.

What is proved elsewhere is not proved again here; ``docs/reliability.md`` says which test proves what.
"""

from __future__ import annotations

import ast
import io
import json
import os
import pickle  # noqa: TID251 - to plant what must be refused
import re
import resource
import signal
import sqlite3
import struct
import traceback
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import numpy as np
import psutil
import pytest
import safetensors.torch
import torch
import yaml
import zarr

from histogen.compute.client import Compute
from histogen.config import load_config
from histogen.encoders.registry import load_encoder
from histogen.encoders.timm import build_vit, export_encoder
from histogen.errors import HistogenError, SlideError, StoreError
from histogen.geometry import Extent
from histogen.pipelines.benchmark.command import BenchmarkConfig
from histogen.pipelines.benchmark.command import run as benchmark
from histogen.pipelines.embed.command import EmbedConfig
from histogen.pipelines.embed.command import run as embed
from histogen.pipelines.fidelity.command import FidelityConfig
from histogen.pipelines.fidelity.command import run as fidelity
from histogen.pipelines.import_images import ImportImagesConfig
from histogen.pipelines.import_images import run as import_images
from histogen.pipelines.pretrain.command import PretrainConfig
from histogen.pipelines.pretrain.command import run as pretrain
from histogen.pipelines.synthesize.command import SynthesizeConfig
from histogen.pipelines.synthesize.command import run as synthesize
from histogen.pipelines.tile.command import TileConfig
from histogen.pipelines.tile.command import run as tile
from histogen.pipelines.train_autoencoder.command import TrainAutoencoderConfig
from histogen.pipelines.train_autoencoder.command import run as train_autoencoder
from histogen.pipelines.train_eldm.command import TrainEldmConfig
from histogen.pipelines.train_eldm.command import run as train_eldm
from histogen.report.fidelity import write_fidelity_page
from histogen.report.run_report import report_html
from histogen.report.stages import RunReport
from histogen.slides.base import open_slide
from histogen.slides.drawn import draw_slide
from histogen.store.export_hdf5 import read_features
from histogen.store.jpeg import encode_jpeg
from histogen.store.layout import chunk_path
from histogen.store.places import Owner, read_places
from histogen.store.tile_store import TileStore
from histogen.tiles.annotations.read import read_areas
from histogen.tiles.spec import StainSettings
from histogen.tiles.stain import build_normaliser
from histogen.training.checkpoint import load_newest
from histogen.view.umap_run import UmapRun

from .pipelines.conftest import TINY_AUTOENCODER, TINY_ELDM
from .report.conftest import benchmark_json, conditioning_json, full_report  # noqa: F401 - fixtures

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [*sorted((ROOT / "histogen").rglob("*.py")), *sorted((ROOT / "cli").glob("*.py"))]
MARKUP = "<img src=x onerror=alert(1)>\"'&</script><script>"
MEGABYTE = 1 << 20

# ---- files that would run code


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def planted(kind: str, mark: Path) -> bytes:
    """Return a file that makes ``mark`` when it is unpickled: a bare pickle, a torch file, an array of objects."""
    buffer = io.BytesIO()
    if kind == "pickle":
        return pickle.dumps({"state_dict": {"weight": Planted(mark)}})
    if kind == "torch":
        torch.save({"state_dict": {"weight": torch.ones(2)}, "more": Planted(mark)}, buffer)
    elif kind == "legacy torch":
        torch.save({"weight": Planted(mark)}, buffer, _use_new_zipfile_serialization=False)
    else:
        np.save(buffer, np.array([Planted(mark)], object), allow_pickle=True)
    return buffer.getvalue()


KINDS = ("pickle", "torch", "legacy torch", "numpy")


def called(node: ast.Call) -> str:
    """The dotted name of what is called."""
    return ast.unparse(node.func)


def given(node: ast.Call, name: str) -> object:
    """The constant that is given for a keyword; None without it."""
    return next((k.value.value for k in node.keywords if k.arg == name and isinstance(k.value, ast.Constant)), None)


NEVER = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "marshal.loads", "shelve.open", "joblib.load",
    "dill.load", "dill.loads", "pd.read_pickle", "pandas.read_pickle", "torch.hub.load", "runpy.run_path",
    "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "yaml.dump_all",
}  # fmt: skip


def faults(call: ast.Call) -> Iterator[str]:
    """What a call in the source would let a file, or a name in it, do."""
    name = called(call)
    if name in NEVER or (name.startswith("pickle.") or name.endswith((".read_pickle", "Unpickler"))):
        yield f"{name} runs code"
    if name == "torch.load" and given(call, "weights_only") is not True:
        yield "torch.load without weights_only=True"
    if name in ("np.load", "numpy.load") and given(call, "allow_pickle") is not False:
        yield "np.load without allow_pickle=False"
    loaders = [*call.args[1:], *(k.value for k in call.keywords)]
    if name == "yaml.load" and not any("Loader" in ast.unparse(loader) for loader in loaders):
        yield "yaml.load without a loader"
    if given(call, "shell") is True or given(call, "trust_remote_code") is True:
        yield f"{name} with shell or trust_remote_code"
    if given(call, "allow_pickle") is True or given(call, "weights_only") is False:
        yield f"{name} unpickles"


def test_no_call_in_the_source_runs_what_a_file_says() -> None:
    found = []
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            where = f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 0)}"
            if isinstance(node, ast.Call):
                found += [f"{where}: {fault}" for fault in faults(node)]
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "pickle":
                found += [] if node.attr == "UnpicklingError" else [f"{where}: {ast.unparse(node)}"]
            if isinstance(node, ast.ClassDef) and any("Loader" in ast.unparse(base) for base in node.bases):
                found += [
                    f"{where}: a YAML loader of {ast.unparse(base)}"
                    for base in node.bases
                    if ast.unparse(base).startswith("yaml.") and ast.unparse(base) != "yaml.SafeLoader"
                ]
    assert len(SOURCES) > 150
    assert found == []


def test_the_search_finds_what_it_looks_for() -> None:
    wrong = "eval(x); torch.load(f); np.load(f); pickle.load(f); yaml.load(f); run(x, shell=True)"
    calls = [node for node in ast.walk(ast.parse(wrong)) if isinstance(node, ast.Call)]
    assert all(list(faults(call)) for call in calls)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiles.zarr/ encoder/ autoencoder/ eldm/: the smallest trainings that leave all kinds of files."""
    folder = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    tiles = [encode_jpeg(rng.integers(0, 256, (16, 16, 3), np.uint8)) for _ in range(24)]
    store = TileStore.create(
        folder / "tiles.zarr", kind="slide", store_id="tiles", tile_px=16, mpp=0.5, num_tiles=24, provenance={},
        columns={"label": np.arange(24) % 2},
    )  # fmt: skip
    store.commit("tiles", 0, store.write_tiles(0, tiles))
    model = build_vit(
        "vit_tiny_patch16_224", {"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3}
    )
    export_encoder(
        model, folder / "encoder", name="own", architecture="vit_tiny_patch16_224",
        arguments={"img_size": 16, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3}, image_px=16,
        mean=(0.5,) * 3, std=(0.5,) * 3, source="test", supervision="none",
    )  # fmt: skip
    short = {"steps": 2, "batch": 8, "lr": 0.002, "warmup": 1}
    common = {"tiles": [folder / "tiles.zarr"], "device": "cpu", "optim": short}
    train_autoencoder(
        TrainAutoencoderConfig.model_validate(TINY_AUTOENCODER | common | {"out": folder / "autoencoder"})
    )
    eldm = TINY_ELDM | common | {"autoencoder": str(folder / "autoencoder"), "out": folder / "eldm"}
    train_eldm(TrainEldmConfig.model_validate(eldm))
    return folder


def refused(mark: Path, work: Callable[[], object]) -> str:
    """Run ``work``, which must end in one sentence (raised, or of a unit that failed), with nothing unpickled."""
    try:
        outcome = work()
        said = "; ".join(getattr(outcome, "failures", ()))
    except HistogenError as error:
        said = str(error)
    assert not mark.exists(), "the file was executed"
    assert said
    assert "\n" not in said
    return said


def spoilt(folder: Path, target: Path, content: bytes) -> Path:
    """Copy ``folder`` to ``target`` with all of its weights replaced."""
    for source in folder.rglob("*"):
        if source.is_file():
            copy = target / source.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            is_weights = source.suffix in (".safetensors", ".bin", ".pt")
            copy.write_bytes(content if is_weights else source.read_bytes())
    return target


@pytest.mark.parametrize("kind", KINDS)
def test_no_command_unpickles_the_weights_that_it_reads(world: Path, tmp_path: Path, kind: str) -> None:
    mark, tiles = tmp_path / "mark", [world / "tiles.zarr"]
    content = planted(kind, mark)
    files = [tmp_path / f"weights{suffix}" for suffix in (".pt", ".pth", ".ckpt", ".bin", ".safetensors")]
    for file in files:
        file.write_bytes(content)
    encoder = spoilt(world / "encoder", tmp_path / "encoder", content)
    autoencoder = spoilt(world / "autoencoder", tmp_path / "autoencoder", content)
    eldm = spoilt(world / "eldm", tmp_path / "eldm", content)
    common = {"tiles": tiles, "device": "cpu"}
    number = iter(range(1000))

    def out() -> Path:
        return tmp_path / f"out{next(number)}"

    for spec in (*files, f"timm:vit_tiny_patch16_224.augreg_in21k@{files[0]}", f"dino@{files[0]}", encoder):
        refused(mark, lambda spec=spec: load_encoder(str(spec)))
    for spec in (files[0], encoder):
        refused(mark, lambda spec=spec: embed(EmbedConfig(encoder=str(spec), **common)))
        judged = {"encoders": [str(spec)], "split": "tile"}
        refused(mark, lambda judged=judged: benchmark(BenchmarkConfig.model_validate(common | judged | {"out": out()})))
        seen = {"encoders": [str(spec)], "held_out": tiles, "synthetic": [str(tiles[0])]}
        refused(mark, lambda seen=seen: fidelity(FidelityConfig.model_validate(common | seen | {"out": out()})))
        told = TINY_ELDM | common | {"encoder": str(spec), "autoencoder": str(world / "autoencoder"), "out": out()}
        refused(mark, lambda told=told: train_eldm(TrainEldmConfig.model_validate(told)))
        begun = common | {"init_from": str(spec), "out": out(), "crops": {"global_px": 16, "local_px": 16}}
        refused(mark, lambda begun=begun: pretrain(PretrainConfig.model_validate(begun)))
    for coder in (autoencoder, files[0], files[-1]):
        told = TINY_ELDM | common | {"autoencoder": str(coder), "out": out()}
        refused(mark, lambda told=told: train_eldm(TrainEldmConfig.model_validate(told)))
    refused(mark, lambda: synthesize(SynthesizeConfig.model_validate(common | {"eldm": eldm, "out": out()})))
    map_file = tmp_path / "map.npy"
    map_file.write_bytes(content)
    refused(mark, UmapRun(map_file, seed=0).places)
    pickle.loads(planted("pickle", mark))  # noqa: S301 - it would have
    assert mark.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_no_resumed_training_unpickles_its_checkpoints(tmp_path: Path, kind: str) -> None:
    """Every training goes on by way of :func:`load_newest`; its note may be as hostile as the file."""
    mark, folder = tmp_path / "mark", tmp_path / "checkpoints"
    content = planted(kind, mark)
    folder.mkdir()
    (folder / "step-00000001.pt").write_bytes(content)
    note = {"step": 1, "bytes": len(content), "sha256": sha256(content).hexdigest()}
    (folder / "step-00000001.json").write_text(json.dumps(note))
    assert "none of the 1 checkpoints" in refused(mark, lambda: load_newest(folder))


@pytest.mark.parametrize("where", ["filters", "compressor", "codecs"])
def test_a_slide_of_zarr_with_a_codec_of_pickles_is_refused(tmp_path: Path, where: str) -> None:
    mark = tmp_path / "mark"
    image = ngff(tmp_path / "a.zarr", (64, 64), version=3 if where == "codecs" else 2)
    about = image / "0" / ("zarr.json" if where == "codecs" else ".zarray")
    said, codec = json.loads(about.read_text()), {"id": "pickle", "protocol": 5}
    if where == "codecs":
        said["codecs"] = [{"name": "bytes"}, {"name": "numcodecs.pickle", "configuration": {"protocol": 5}}]
    else:
        said |= {"filters": None, "compressor": None} | {where: [codec] if where == "filters" else codec}
    about.write_text(json.dumps(said))
    for file in (path for path in (image / "0").rglob("*") if path.is_file() and path != about):
        file.write_bytes(pickle.dumps(Planted(mark)))
    refused(mark, lambda: open_slide(image).read_level(0, 0, 0, Extent(64, 64)))


@pytest.mark.parametrize(
    "text", ["out: !!python/object/apply:os.system ['touch {mark}']", "out: !!python/name:os.system"]
)
def test_a_config_is_data(tmp_path: Path, text: str) -> None:
    mark, file = tmp_path / "mark", tmp_path / "c.yaml"
    file.write_text(text.replace("{mark}", str(mark)))
    refused(mark, lambda: load_config(TileConfig, file=file))
    with pytest.raises(yaml.YAMLError):
        yaml.safe_load(file.read_text())


# ---- names that are markup


class Elements(HTMLParser):
    """What a browser would make of a page: elements, handlers, addresses, scripts, and all text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.found: list[str] = []
        self.text: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            if name.startswith("on") or not re.fullmatch(r"[A-Za-z][\w:-]*", name):
                self.found.append(f"{tag} {name}={value}")
            if name in ("src", "href") and not str(value).startswith(("data:image/", "#")):
                self.found.append(f"{tag} {name}={value}")
        self.text += [value or "" for _, value in attrs]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def assert_inert(html: str, *, scripts: int = 0, shows: str = MARKUP) -> None:
    """Assert that ``html`` has no element, attribute or script from a name, and that the name is there as text."""
    page = Elements()
    page.feed(html)
    page.close()
    assert page.found == []
    assert page.scripts == scripts
    assert any(shows in text for text in page.text)


def leaves(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places of all texts in a tree of dataclasses, mappings and lists; a key is ``(…, KEY, key)``."""
    if isinstance(value, str):
        yield at
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from leaves(getattr(value, field.name), (*at, field.name))
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield (*at, KEY, key)
            yield from leaves(inner, (*at, key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from leaves(inner, (*at, number))


KEY = object()


def changed(value: Any, at: tuple[Any, ...]) -> Any:
    """Return a tree in which the text at ``at`` is markup."""
    if not at:
        return value + MARKUP
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{at[0]: changed(getattr(value, at[0]), at[1:])})
    if at[0] is KEY:
        return {key + MARKUP if key == at[1] else key: inner for key, inner in value.items()}
    if isinstance(value, dict):
        return {**value, at[0]: changed(value[at[0]], at[1:])}
    return [changed(inner, at[1:]) if number == at[0] else inner for number, inner in enumerate(value)]


def test_every_text_of_a_report_is_shown_and_none_is_markup(
    full_report: RunReport,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each text that goes into a page, one at a time: titles, names, classes, captions, configs, keys of figures."""
    monkeypatch.setattr("histogen.report.page.data_address", lambda *_, **__: "data:image/png;base64,")
    report = replace(
        full_report, sources=full_report.sources[:2], slides=full_report.slides[:1],
        training=[replace(t, curves=t.curves[:1]) for t in full_report.training],
    )  # fmt: skip
    shown = 0
    for at in leaves(report):
        if at == ("rooms",):
            continue  # an address of ours
        try:
            html = report_html(changed(report, at))
        except (LookupError, HistogenError, OSError, ValueError, TypeError):
            continue  # a word that only means something as it is
        if MARKUP in "".join(str(part) for part in parsed(html)):
            assert_inert(html)
            shown += 1
        else:
            assert "<img src=x" not in html, at
    assert shown > 40


def parsed(html: str) -> list[str]:
    """The texts of a page."""
    page = Elements()
    page.feed(html)
    return page.text


def test_every_text_of_a_page_of_fidelity_is_text(tmp_path: Path) -> None:
    figures = dict.fromkeys(("frechet", "kernel", "kernel_std", "precision", "recall", "density", "coverage"), 0.5)
    told = {
        "num_train": 9, "num_held_out": 3, "copies": [],
        "encoders": [{"name": "E", "num_compared": 5, "num_reference": 3, "sets": [
            {"name": "generative", "kind": "baseline", **figures}]}],
    }  # fmt: skip
    for at in (("encoders", 0, "name"), ("encoders", 0, "sets", 0, "name"), ("encoders", 0, "sets", 0, "kind")):
        path = write_fidelity_page(tmp_path / "f.html", changed(told, at), {}, config=MARKUP)
        assert_inert(path.read_text())


def test_a_tiling_page_shows_names_of_files_classes_and_sentences(tmp_path: Path) -> None:
    slides, name = tmp_path / "slides", MARKUP.replace("/", "")
    good = slides / f"{name}.svs"
    draw_slide(good, seed=0, extent=Extent(600, 520), mpp=0.5, region_um=100, pen=False, blur=False)
    (slides / f"{name}2.svs").write_bytes(b"no slide")
    (slides / f"{name}.png").write_bytes(b"no slide")
    areas = json.loads(good.with_suffix(".geojson").read_text())
    for area in areas["features"]:
        area["properties"]["classification"]["name"] += MARKUP
    good.with_suffix(".geojson").write_text(json.dumps(areas))
    outcome = tile(TileConfig(slides=[slides], annotations=slides, out=tmp_path / "out", tile_px=64, geojson=True))
    assert outcome.failures
    html = (tmp_path / "out" / "report.html").read_text()
    assert_inert(html, scripts=1, shows=name)
    (store,) = (tmp_path / "out").glob("*.zarr")
    assert re.fullmatch(r"[\w.+@-]+", store.name)
    assert any(MARKUP in label for label in TileStore.open_(store).rows_attributes("columns/label")["categories"])


# ---- servers


def test_the_sockets_of_local_workers_listen_on_loopback_alone() -> None:
    with Compute(workers=2).open_():
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        listening = [
            c.laddr.ip for p in processes for c in p.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN
        ]
    assert len(listening) >= 3
    assert set(listening) == {"127.0.0.1"}


# ---- names that are paths

CLIMBING = ("../up", "..", "a/../../up", "/tmp/up", "..\\up", "C:\\up", "~up", "up\0", ".", "")


def files_of(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("name", CLIMBING)
def test_no_name_of_a_store_an_array_or_a_stage_is_a_path(tmp_path: Path, name: str) -> None:
    store = TileStore.create(
        tmp_path / "in" / "s.zarr", kind="slide", store_id="s", tile_px=16, mpp=0.5, num_tiles=1, provenance={}
    )
    before = files_of(tmp_path)
    tries: list[Callable[[], object]] = [
        lambda: store.write_column(name, np.zeros(1)),
        lambda: store.create_rows(f"embeddings/{name}", (1, 2), np.float32),
        lambda: store.create_rows(f"{name}/x", (1, 2), np.float32),
        lambda: store.commit(f"embeddings/{name}", 0, {}),
        lambda: store.commit(name, 0, {}),
        lambda: store.read_rows(f"columns/{name}"),
        lambda: store.delete_rows(f"embeddings/{name}"),
        lambda: TileStore.create(
            tmp_path / "in" / "t.zarr", kind="slide", store_id=name, tile_px=16, mpp=0.5, num_tiles=1, provenance={}
        ),
    ]  # fmt: skip
    for number, attempt in enumerate(tries):
        with pytest.raises(HistogenError):
            attempt()
        assert files_of(tmp_path) == before, number


@pytest.mark.parametrize("path", ["../b.zarr/0", "{outside}/b.zarr/0", "0/../../b.zarr/0", ".."])
def test_a_slide_of_zarr_has_its_arrays_within_itself(tmp_path: Path, path: str) -> None:
    image = ngff(tmp_path / "a.zarr", (64, 64))
    ngff(tmp_path / "b.zarr", (64, 64))
    said = json.loads((image / ".zattrs").read_text())
    said["multiscales"][0]["datasets"][0]["path"] = path.replace("{outside}", str(tmp_path))
    (image / ".zattrs").write_text(json.dumps(said))
    with pytest.raises(SlideError, match="outside"):
        open_slide(image)


# ---- contents that swell


def bounded(work: Callable[[], object], *, megabytes: int = 700) -> str:
    """Run ``work`` in a child of little memory; it must end in one sentence. Return that."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        signal.alarm(30)
        Path("/proc/self/clear_refs").write_text("5")
        before = memory("VmRSS")
        held = memory("VmSize") + 4096 * MEGABYTE
        resource.setrlimit(resource.RLIMIT_AS, (held, held))
        try:
            outcome = work()
            said = "; ".join(getattr(outcome, "failures", ())) or f"NOT REFUSED: {outcome!r:.200}"
        except HistogenError as error:
            said = str(error)
        except BaseException:  # noqa: BLE001 - whatever it is, the parent shows it
            said = "NO SENTENCE: " + traceback.format_exc()[-1500:]
        grown = (memory("VmHWM") - before) / MEGABYTE
        if grown > megabytes:
            said = f"TOO LARGE, {grown:.0f} MiB: {said}"
        os.write(writing, said.encode()[:4000])
        os._exit(0)
    os.close(writing)
    said = b"".join(iter(lambda: os.read(reading, 4096), b"")).decode()
    os.close(reading)
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the process ended by {status}: {said}"
    assert not said.startswith(("NO SENTENCE", "TOO LARGE", "NOT REFUSED")), said
    assert "\n" not in said
    return said


def memory(what: str) -> int:
    return int(re.search(rf"{what}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]


def png(width: int, height: int) -> bytes:
    """A PNG of a grey so even that it is small however large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj()
    rows = b"".join(packer.compress(bytes(1 + width)) for _ in range(min(height, 200))) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    """A JPEG that says that it is of this extent."""
    data = bytearray(imagecodecs.jpeg8_encode(np.full((16, 16, 3), 128, np.uint8)))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def tiff(width: int, height: int, *, tile_px: int | None = None) -> bytes:
    """A TIFF of this extent whose strips or tiles are all the same few bytes of zlib."""
    packed = zlib.compress(bytes(MEGABYTE))
    count = 1 if tile_px is None else -(-width // tile_px) * -(-height // tile_px)
    tags = {256: (4, [width]), 257: (4, [height]), 258: (3, [8]), 259: (3, [8]), 262: (3, [1]), 277: (3, [1])}
    places = [8] * count, [len(packed)] * count
    if tile_px is None:
        tags |= {273: (4, places[0]), 278: (4, [height]), 279: (4, places[1])}
    else:
        tags |= {322: (4, [tile_px]), 323: (4, [tile_px]), 324: (4, places[0]), 325: (4, places[1])}
    body, entries = packed + b"\0" * (len(packed) % 2), b""
    for tag, (kind, values) in sorted(tags.items()):
        data = np.array(values, "<u2" if kind == 3 else "<u4").tobytes()
        if len(data) > 4:
            data, body = struct.pack("<I", 8 + len(body)), body + data
        entries += struct.pack("<HHI", tag, kind, len(values)) + data.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"


def bmp(width: int, height: int) -> bytes:
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + head


def gif(width: int, height: int) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + b"," + struct.pack(
        "<HHHHB", 0, 0, width, height, 0
    ) + b"\x02\x02\x4c\x01\x00;"  # fmt: skip


HUGE = 60_000
PICTURES = {
    "a.png": lambda: png(HUGE, HUGE), "a.jpg": lambda: jpeg(HUGE, HUGE), "a.tif": lambda: tiff(HUGE, HUGE),
    "b.tif": lambda: tiff(HUGE, HUGE, tile_px=HUGE), "c.tif": lambda: tiff(HUGE, HUGE, tile_px=4096),
    "a.bmp": lambda: bmp(HUGE, HUGE), "a.gif": lambda: gif(HUGE, HUGE),
}  # fmt: skip


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_that_says_it_is_huge_is_no_image_and_no_slide(tmp_path: Path, name: str) -> None:
    file = tmp_path / "images" / name
    file.parent.mkdir()
    file.write_bytes(PICTURES[name]())
    config = ImportImagesConfig(folder=file.parent, out=tmp_path / "store.zarr", tile_px=64)
    assert name in bounded(lambda: import_images(config))
    for reader in ("auto", "image"):
        bounded(lambda reader=reader: open_slide(file, reader=reader).thumbnail(64))
    if name in ("a.png", "a.jpg"):
        stain = StainSettings(method="macenko", target=file)
        assert "stain.target" in bounded(lambda: build_normaliser(stain))


def shard_of(store: TileStore, payload: bytes) -> TileStore:
    store.commit("tiles", 0, store.write_tiles(0, [payload]))
    return store


def read_by_zarr(path: Path) -> object:
    array = zarr.open_array(path / "tiles", mode="r")
    try:
        return array[0]
    except ValueError as error:  # imagecodecs.Jpeg8Error: plain zarr knows no sentence of ours
        raise StoreError(str(error).splitlines()[0]) from error


def test_a_tile_that_says_it_is_huge_is_refused(tmp_path: Path) -> None:
    store = TileStore.create(
        tmp_path / "s.zarr", kind="slide", store_id="s", tile_px=64, mpp=0.5, num_tiles=1, provenance={}
    )
    for payload in (jpeg(HUGE, HUGE), jpeg(16, HUGE), jpeg(HUGE, 64)):
        shard_of(store, payload)
        assert "tile 0 of store" in bounded(lambda: store.read_tile(0), megabytes=100)
        assert bounded(lambda: read_by_zarr(store.path), megabytes=100)


@pytest.mark.parametrize("codec", ["jpeg", "jpeg2000"])
def test_a_stored_tile_of_a_slide_that_says_it_is_huge_is_refused(tmp_path: Path, codec: str) -> None:
    import tifffile

    path = tmp_path / "a.svs"
    tifffile.imwrite(path, np.full((64, 64, 3), 90, np.uint8), tile=(64, 64), photometric="rgb", compression=codec)
    if codec == "jpeg":
        payload = jpeg(HUGE, HUGE)
    else:
        data = bytearray(imagecodecs.jpeg2k_encode(np.zeros((64, 64, 3), np.uint8), codecformat="j2k"))
        at = data.index(b"\xff\x51")
        data[at + 6 : at + 14] = data[at + 22 : at + 30] = struct.pack(">II", HUGE, HUGE)
        payload = bytes(data)
    with tifffile.TiffFile(path, mode="r+b") as file:
        end = file.filehandle.seek(0, 2)
        file.filehandle.write(payload)
        file.pages.first.tags["TileOffsets"].overwrite(end)
        file.pages.first.tags["TileByteCounts"].overwrite(len(payload))
    bounded(lambda: open_slide(path, reader="native").read_level(0, 0, 0, Extent(64, 64)), megabytes=200)


@pytest.mark.parametrize("kind", ["packed", "absent"])
@pytest.mark.parametrize("name", ["features", "coords", "x"])
def test_an_hdf5_that_says_it_is_huge_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    file, rows = tmp_path / "s.h5", 3_000_000_000
    shapes = {"features": (10, 4), "coords": (10, 2)} | {name: (rows, 2)}
    with h5py.File(file, "w") as h5:
        for key, shape in shapes.items():
            if key == "x":
                shape = (4, HUGE, HUGE, 3)
            packed = {
                "chunks": (min(shape[0], 10**6), *shape[1:]) if key != "x" else (1, 4000, 4000, 3),
                "compression": "gzip",
            }
            array = h5.create_dataset(
                key,
                shape,
                "u1" if key == "x" else "f4",
                **(packed if kind == "packed" else {"chunks": packed["chunks"]}),
            )
            if kind == "packed" and key != "x":
                array[:10] = 1
        h5["coords"].attrs["patch_size_level0"] = 64
        if name == "x":
            h5["y"] = np.zeros((4, 1, 1, 1))
    owner = Owner("s", frozenset({"s"}))
    if name == "x":
        config = ImportImagesConfig(folder=tmp_path, out=tmp_path / "out" / "store.zarr", tile_px=64)
        bounded(lambda: import_images(config))
    else:
        assert "s.h5" in bounded(lambda: read_features(file, owner))
    if name == "coords":
        assert "s.h5" in bounded(lambda: read_places(file, owner))


def ngff(folder: Path, chunk: tuple[int, int], *, version: int = 2, side: int = 64, codec: str = "") -> Path:
    """An image of OME-Zarr, its array of one chunk."""
    root = zarr.open_group(folder, mode="w", zarr_format=version)  # type: ignore[arg-type]
    array = root.create_array("0", shape=(3, side, side), dtype="u1", chunks=(3, *chunk), fill_value=0)
    if side <= 64:
        array[...] = 100
    axes = [{"name": name, "type": "channel" if name == "c" else "space"} for name in "cyx"]
    scale = [{"type": "scale", "scale": [1.0, 1.0, 1.0]}]
    said = {
        "multiscales": [
            {"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": scale}]}
        ]
    }
    root.attrs.update(said if version == 2 else {"ome": {"version": "0.5", **said}})
    return folder


def test_a_slide_of_zarr_with_a_huge_chunk_is_refused(tmp_path: Path) -> None:
    image = ngff(tmp_path / "a.zarr", (HUGE, HUGE), side=HUGE)
    bounded(lambda: open_slide(image).read_level(0, 0, 0, Extent(64, 64)))


def test_weights_that_say_they_are_huge_are_refused(tmp_path: Path) -> None:
    huge = {"patch_embed.proj.weight": torch.zeros(1).expand(10**6, 3, 16, 16), "pos_embed": torch.zeros(1, 197, 64)}
    with warnings.catch_warnings(action="ignore"):
        sparse = torch.sparse_coo_tensor(torch.zeros((2, 1), dtype=torch.long), torch.ones(1), (10**6, 10**6))
        torch.save({"head.weight": sparse}, tmp_path / "sparse.pt")
    torch.save(huge, tmp_path / "expanded.pt")
    torch.save({"a": torch.empty(10**6, 10**6, device="meta")}, tmp_path / "meta.pt")
    (tmp_path / "array.pt").write_bytes(
        b"\x80\x02cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\n(\x8a\x05" + struct.pack("<q", 10**11)[:5]
        + b"tc_codecs\nencode\n(X\x01\x00\x00\x00bX\x06\x00\x00\x00latin1tR\x87R."
    )  # fmt: skip
    safetensors.torch.save_file({"a": torch.zeros(4)}, tmp_path / "said.safetensors")
    data = (tmp_path / "said.safetensors").read_bytes()
    (tmp_path / "said.safetensors").write_bytes(data.replace(b"[4]", b"[9]"))
    for file in sorted(tmp_path.iterdir()):
        assert file.name in bounded(lambda file=file: load_encoder(str(file)))


def test_a_file_of_weights_that_is_packed_is_not_unpacked_beyond_its_size(tmp_path: Path) -> None:
    import zipfile

    torch.save({"blocks.0.norm1.weight": torch.zeros(40 * MEGABYTE)}, tmp_path / "plain.pt")
    with (
        zipfile.ZipFile(tmp_path / "plain.pt") as plain,
        zipfile.ZipFile(tmp_path / "w.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for one in plain.infolist():
            packed.writestr(one.filename, plain.read(one))
    assert "w.pt" in bounded(lambda: load_encoder(str(tmp_path / "w.pt")), megabytes=100)


def test_annotations_that_swell_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.db"
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE metadata (key, value)")
        connection.execute("INSERT INTO metadata VALUES ('compression', '\"zlib\"')")
        connection.execute("CREATE TABLE annotations (geometry, properties)")
        geometry = zlib.compress(bytes(400 * MEGABYTE), 1)
        connection.execute("INSERT INTO annotations VALUES (?, '{}')", (geometry,))
    connection.close()
    assert "a.db" in bounded(lambda: read_areas(file))
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 20}">' for n in range(1, 9))
    (tmp_path / "a.xml").write_text(
        f'<!DOCTYPE a [<!ENTITY e0 "swells">{entities}]><ASAP_Annotations><Annotation Name="&e8;"/></ASAP_Annotations>'
    )
    bounded(lambda: read_areas(tmp_path / "a.xml"))


def test_a_map_and_a_column_that_say_they_are_huge_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "map.npy", np.zeros((4, 2), np.float32))
    data = (tmp_path / "map.npy").read_bytes()
    head = data[10:128].rstrip().decode().replace("(4, 2)", f"({10**11}, 2)")
    (tmp_path / "map.npy").write_bytes(data[:10] + head.ljust(117).encode() + b"\n" + data[128:])
    assert "map.npy" in bounded(UmapRun(tmp_path / "map.npy", seed=0).places)
    store = TileStore.create(
        tmp_path / "s.zarr", kind="slide", store_id="s", tile_px=64, mpp=0.5, num_tiles=1, provenance={},
        columns={"focus": np.zeros((1, 2), np.float32)},
    )  # fmt: skip
    about = store.path / "columns" / "focus" / "zarr.json"
    kept = about.read_text()
    said = json.loads(kept)
    said["shape"][1] = said["chunk_grid"]["configuration"]["chunk_shape"][1] = 10**12
    about.write_text(json.dumps(said))
    bounded(lambda: store.read_rows("columns/focus"))
    packed = json.loads(kept)
    packed["codecs"].insert(1, {"name": "zstd", "configuration": {"level": 0, "checksum": False}})
    about.write_text(json.dumps(packed))
    chunk_path(about.parent, 0, 2).write_bytes(imagecodecs.zstd_encode(bytes(300 * MEGABYTE)))
    assert "codecs" in bounded(lambda: store.read_rows("columns/focus"))
    with pytest.raises(StoreError):
        store.read_rows("columns/focus")
