"""``fidelity``: copies are found and shown, sources recognised, figures those of the stored embeddings."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from xml.etree import ElementTree

import imagecodecs
import numpy as np
import pytest

from histogen.errors import ConfigError, StoreError
from histogen.evaluation.fidelity import frechet_distance, manifold_metrics
from histogen.pipelines.fidelity import command as fidelity
from histogen.pipelines.fidelity.command import FidelityConfig
from histogen.store.jpeg import encode_jpeg
from histogen.store.layout import Column
from histogen.store.tile_set import open_tiles
from histogen.store.tile_store import TileStore

PX = 32


def tissue(num: int, seed: int) -> np.ndarray:
    """Tiles [num, 32, 32, 3], each with its own ground colour and blobs."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:PX, :PX]
    tiles = np.empty((num, PX, PX, 3), np.uint8)
    for tile in tiles:
        depth = np.zeros((PX, PX))
        for _ in range(10):
            cy, cx, r = *rng.uniform(0, PX, 2), rng.uniform(2, 5)
            depth += np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / (2 * r * r))
        ground = np.array([200, 150, 180]) + rng.normal(0, 25, 3)
        tile[:] = np.clip(ground - np.clip(depth, 0, 1.3)[..., None] * np.array([90, 85, 40]), 0, 255)
    return tiles


def write(path: Path, tiles: np.ndarray, kind: str, columns: dict[str, Column | np.ndarray] | None = None) -> None:
    store = TileStore.create(
        path, kind=kind, store_id=path.stem, tile_px=PX, mpp=0.5, num_tiles=len(tiles), provenance={},
        columns=columns or {},
    )  # fmt: skip
    store.commit("tiles", 0, store.write_tiles(0, [encode_jpeg(tile) for tile in tiles]))


def restained(tiles: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Other layouts in the colours of ``like``: what a generator should make of ``like``."""
    shift = like.mean(axis=(1, 2), keepdims=True) - tiles.mean(axis=(1, 2), keepdims=True)
    return np.clip(tiles + shift, 0, 255).astype(np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """120 training and 60 held-out tiles in one store; generative tiles of which every tenth is a flipped copy."""
    real = tissue(180, 1)
    names = ["train" if i < 120 else "test" for i in range(180)]
    write(tmp_path / "real.zarr", real, "slide", {"split": Column.categorical(names)})
    sources = np.arange(120)
    made = restained(tissue(120, 2), real[sources])
    made[::10] = real[sources[::10], :, ::-1]
    none = np.full(120, -1)
    columns = {
        "source_store": Column(np.zeros(120, np.int32), ("real",)),
        "source_index": sources.astype(np.int64),
        "partner_store": Column(none.astype(np.int32), ("real",)),
        "partner_index": none.astype(np.int64),
        "alpha": np.ones(120, np.float32),
        "seed": np.arange(120),
    }
    write(tmp_path / "generative" / "real-g.zarr", made, "generative", columns)
    partners = (sources + 7) % 120
    alpha = np.full(120, 0.5, np.float32)
    middle = (restained(tissue(120, 3), real[sources]) // 2 + restained(tissue(120, 3), real[partners]) // 2).astype(
        np.uint8
    )
    columns = {
        **columns,
        "partner_store": Column(np.zeros(120, np.int32), ("real",)),
        "partner_index": partners.astype(np.int64),
        "alpha": alpha,
    }
    write(tmp_path / "interpolated" / "real-i.zarr", middle, "interpolated", columns)
    return tmp_path


def test_tiles_are_not_judged_by_their_own_sources(folder: Path) -> None:
    """Held out from training, as ``train_where`` says, but synthesised from; and the same tiles by another name."""
    made = r"generative' was made from 120 of the held-out tiles \(one of its sources is real:0\)"
    with pytest.raises(ConfigError, match=made):
        fidelity.run(config(folder, train_where={"split": "test"}, held_out_where={"split": "train"}))
    split = {"split": Column.categorical(["train"] * 120 + ["test"] * 60)}
    write(folder / "copy.zarr", tissue(180, 1), "slide", split)
    copied = config(
        folder, train_where={"split": "test"}, held_out=[folder / "copy.zarr"], held_out_where={"split": "train"}
    )
    with pytest.raises(ConfigError, match=made):
        fidelity.run(copied)
    assert not (folder / "out").exists()


def config(folder: Path, **changes: object) -> FidelityConfig:
    values = {
        "tiles": [folder / "real.zarr"], "train_where": {"split": "train"}, "held_out": [folder / "real.zarr"],
        "held_out_where": {"split": "test"}, "encoders": ["colour"], "out": folder / "out",
        "synthetic": [f"generative={folder / 'generative'}", f"interpolated={folder / 'interpolated'}"],
        "compare": {"kernel_subsets": 5, "kernel_subset_size": 40},
    }  # fmt: skip
    return FidelityConfig(**{**values, **changes})


def test_figures_copies_and_page(folder: Path) -> None:
    outcome = fidelity.run(config(folder))
    found = json.loads((folder / "out" / "fidelity.json").read_text())
    real = open_tiles(folder / "real.zarr")
    embeddings = real.embeddings("colour-histogram")
    made = open_tiles(folder / "generative").embeddings("colour-histogram")
    by_name = {one["name"]: one for one in found["encoders"][0]["sets"]}
    assert list(by_name) == ["generative", "interpolated", "training tiles", "nearest real tile"]
    assert by_name["generative"]["frechet"] == pytest.approx(frechet_distance(embeddings[120:], made), rel=1e-6)
    assert by_name["training tiles"]["frechet"] == pytest.approx(
        frechet_distance(embeddings[120:], embeddings[:120]), rel=1e-6
    )
    assert by_name["generative"]["coverage"] == pytest.approx(manifold_metrics(embeddings[120:], made).coverage)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    cosine = (unit[:120] * (made / np.linalg.norm(made, axis=1, keepdims=True))).sum(1)
    assert by_name["generative"]["consistency"]["mean"] == pytest.approx(float(cosine.mean()), abs=1e-5)
    assert by_name["generative"]["ranks"]["top5"] > 0.5  # the colours of the source are kept
    assert by_name["interpolated"]["ranks"]["top1"] < by_name["generative"]["ranks"]["top1"]

    generative, interpolated = found["copies"]
    assert generative["judged"] + generative["plain"] == 120
    listed = {int(pair["synthetic"].split(":")[1]) for pair in generative["pairs"]}
    assert listed == set(range(0, 120, 10))  # the twelve planted copies lead the list
    assert all(p["training"] == f"real:{p['synthetic'].split(':')[1]}" for p in generative["pairs"])
    assert generative["flagged_share"] >= 0.1
    assert interpolated["flagged_share"] < 0.06
    assert "generative: " in outcome.summary
    assert "more copies than chance" in outcome.summary.splitlines()[-2]
    assert "no sign of copying" in outcome.summary.splitlines()[-1]
    page = (folder / "out" / "fidelity.html").read_text()
    assert page.count("<img") == 2 * 2 * 12 + 16 * 2 + 16 * 3  # pairs, sources with a sample, sample between two
    root = ElementTree.fromstring(page.removeprefix("<!DOCTYPE html>\n"))
    shown = next(s for s in root.iter("section") if s.get("id") == "samples-interpolated")
    captions = [c.text for c in shown.iter("figcaption")]
    assert captions[:3] == ["source", "α = 0.5", "partner"]
    first, second = (int(name.split(":")[1]) for name in captions[3].split(" and "))
    assert second == (first + 7) % 120
    picture = imagecodecs.jpeg8_decode(base64.b64decode(next(shown.iter("img")).get("src", "").split(",")[1]))
    assert np.abs(picture.astype(int) - real[first].astype(int)).mean() < 4
    assert "https:" not in page
    assert "Nearest to training: generative" in page
    assert "| generative |" in (folder / "out" / "fidelity.md").read_text()


def test_held_out_tiles_that_are_training_tiles_under_another_name_are_found(folder: Path) -> None:
    """They would set a threshold of nearly zero, below which no planted copy is found."""
    real = open_tiles(folder / "real.zarr")
    leaking = np.concatenate([tissue(50, 20), real.read_tiles(np.arange(10))])
    write(folder / "held.zarr", leaking, "slide")
    outcome = fidelity.run(config(folder, held_out=[folder / "held.zarr"], held_out_where={}))
    generative = outcome.results["copies"][0]
    assert (generative["duplicates"], generative["held_out"]) == (10, 50)
    assert generative["flagged"] >= 12
    assert "10 held-out tiles are training tiles over again" in outcome.summary


def test_held_out_tiles_must_be_held_out(folder: Path) -> None:
    with pytest.raises(ConfigError, match="60 held-out tiles are training tiles too"):
        fidelity.run(config(folder, train_where={}))
    assert not (folder / "out").exists()


def test_tiles_that_are_not_synthetic_or_come_from_elsewhere_are_refused(folder: Path) -> None:
    with pytest.raises(StoreError, match="holds no synthetic tiles"):
        fidelity.run(config(folder, synthetic=[f"g={folder / 'real.zarr'}"]))
    write(folder / "other.zarr", tissue(30, 9), "slide")
    write(folder / "held.zarr", tissue(30, 10), "slide")
    with pytest.raises(StoreError, match="tile real:0, the source of a synthetic tile, is not among the tiles given"):
        fidelity.run(
            config(
                folder,
                tiles=[folder / "other.zarr"],
                train_where={},
                held_out=[folder / "held.zarr"],
                held_out_where={},
            )  # fmt: skip
        )


def test_too_few_tiles_or_tiles_of_another_size_are_refused_before_anything_is_written(folder: Path) -> None:
    with pytest.raises(ConfigError, match="k = 60 neighbours need more than 60 tiles"):
        fidelity.run(config(folder, compare={"k": 60}))
    small = TileStore.create(
        folder / "small.zarr", kind="slide", store_id="small", tile_px=16, mpp=0.5, num_tiles=20, provenance={}
    )
    small.commit("tiles", 0, small.write_tiles(0, [encode_jpeg(tile[:16, :16]) for tile in tissue(20, 11)]))
    with pytest.raises(StoreError, match="tiles of 32 px, held-out ones of 16 px and '.*generative' of 32 px"):
        fidelity.run(config(folder, held_out=[folder / "small.zarr"], held_out_where={}))
    assert not (folder / "out").exists()


def test_a_generator_that_makes_plain_colour_gets_its_figures(folder: Path) -> None:
    store = open_tiles(folder / "generative").stores[0]
    columns = {name: store.read_rows(f"columns/{name}") for name in ("source_index", "partner_index", "alpha", "seed")}
    for role, code in (("source", 0), ("partner", -1)):
        columns[f"{role}_store"] = Column(np.full(120, code, np.int32), ("real",))
    write(folder / "plain" / "real-p.zarr", np.full((120, PX, PX, 3), 180, np.uint8), "generative", columns)
    outcome = fidelity.run(config(folder, synthetic=[f"plain={folder / 'plain'}", str(folder / "generative")]))
    plain, generative = outcome.results["copies"]
    assert (plain["judged"], plain["plain"], plain["pairs"]) == (0, 120, [])
    assert generative["flagged"] >= 12
    assert "plain: all of 120 tiles are plain (no contrast): copies were not looked for" in outcome.summary
    figures = {one["name"]: one for one in outcome.results["encoders"][0]["sets"]}
    assert figures["plain"]["coverage"] == 0
    assert figures["plain"]["frechet"] > 10 * figures["training tiles"]["frechet"]
    assert "copies were not looked for" in (folder / "out" / "fidelity.html").read_text()
