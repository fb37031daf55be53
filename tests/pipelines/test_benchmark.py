"""``benchmark``: figures that an independent computation from the stored embeddings gives too."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score
from sklearn.neighbors import KNeighborsClassifier

from histogen.encoders.registry import load_encoder
from histogen.encoders.timm import build_vit, export_encoder
from histogen.errors import ConfigError, ManifestError, OutputExistsError, StoreError
from histogen.evaluation.shifts import restain
from histogen.pipelines import import_images
from histogen.pipelines.benchmark import command as benchmark
from histogen.pipelines.benchmark.command import BenchmarkConfig, named_specs
from histogen.pipelines.embed.command import embed_images
from histogen.pipelines.import_images import ImportImagesConfig
from histogen.seeds import derive_seed, uniforms
from histogen.store.jpeg import encode_jpeg
from histogen.store.layout import Column
from histogen.store.tile_set import TileSet, open_tiles
from histogen.store.tile_store import TileStore
from histogen.table import read_table

CLASSES = ("adipose", "glands", "stroma")
COLOURS = np.array([[230, 225, 235], [150, 70, 160], [225, 150, 190]])


def make_store(path: Path, *, num_tiles: int, seed: int, split: str | None = None, labelled: bool = True) -> None:
    """Tiles whose class is their mean colour, with a slide's own tint; every seventh has no label."""
    rng = np.random.default_rng(seed)
    names = [None if i % 7 == 6 else CLASSES[rng.integers(3)] for i in range(num_tiles)]
    codes = np.array([rng.integers(3) if name is None else CLASSES.index(name) for name in names])
    tint = rng.normal(0, 12, 3)
    noise = rng.normal(0, 30, (num_tiles, 1, 1, 3)) + rng.normal(0, 20, (num_tiles, 16, 16, 3))
    tiles = np.clip(COLOURS[codes][:, None, None] + tint + noise, 0, 255).astype(np.uint8)
    columns: dict[str, Column] = {"label": Column.categorical(names)} if labelled else {}
    if split is not None:
        columns["split"] = Column.categorical([split if i % 3 else "train" for i in range(num_tiles)])
    store = TileStore.create(
        path, kind="slide", store_id=path.stem, tile_px=16, mpp=0.5, num_tiles=num_tiles, provenance={}, columns=columns
    )
    store.commit("tiles", 0, store.write_tiles(0, [encode_jpeg(tile) for tile in tiles]))


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    for number in range(8):
        make_store(tmp_path / "tiles" / f"S{number}.zarr", num_tiles=30 + number, seed=number)
    return tmp_path / "tiles"


@pytest.fixture
def vit(tmp_path: Path) -> str:
    torch.manual_seed(0)
    arguments = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 1}
    export_encoder(
        build_vit("vit_small_patch16_224", arguments), tmp_path / "vit" / "encoder", name="vit",
        architecture="vit_small_patch16_224", arguments=arguments, image_px=16, mean=(0.5,) * 3, std=(0.2,) * 3,
        source="test", supervision="none",
    )  # fmt: skip
    return str(tmp_path / "vit")


def restained(tiles: TileSet, indices: np.ndarray) -> np.ndarray:
    """What the default robustness test does to the tiles, by numbers that ``test_shifts`` checks."""
    factors = 1 + 0.2 * (2 * uniforms(derive_seed(0, "stain"), indices, 3) - 1)
    return restain(np.stack([tiles[int(i)] for i in indices]), factors)


def config(tiles: Path, out: Path, encoders: list[str], **changes: object) -> BenchmarkConfig:
    return BenchmarkConfig(tiles=[tiles], out=out, encoders=encoders, judge={"knn": {"k": 5}, "draws": 200}, **changes)


def test_figures_equal_scikit_learn_on_the_stored_embeddings(slides: Path, vit: str, tmp_path: Path) -> None:
    outcome = benchmark.run(config(slides, tmp_path / "out", ["colour", f"ViT={vit}"]))
    found = json.loads((tmp_path / "out" / "benchmark.json").read_text())
    assert outcome.exit_code == 0
    tiles = open_tiles(slides)
    codes, slide_of = tiles.column("label"), tiles.store_of(np.arange(len(tiles)))
    task = benchmark.load_task(tiles, config(slides, tmp_path / "out", ["colour"]))
    test, train = task.split.test, task.split.train
    assert not set(slide_of[test]) & set(slide_of[train])
    assert sorted([*test, *train]) == np.flatnonzero(codes >= 0).tolist()
    assert (found["num_test"], found["clusters"]) == (len(test), {"unit": "slide", "count": 2})
    for encoder in found["encoders"]:
        x = tiles.embeddings(encoder["card"]["name"]).astype(np.float64)
        peer = KNeighborsClassifier(5, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07))
        predicted = peer.fit(x[train], codes[train]).predict(x[test])
        expected = balanced_accuracy_score(codes[test], predicted)
        assert encoder["knn"]["balanced_accuracy"] == pytest.approx(expected, abs=0.02)
        assert encoder["knn"]["macro_f1"] == pytest.approx(f1_score(codes[test], predicted, average="macro"), abs=0.02)
        changed = embed_images(load_encoder(encoder["spec"]), restained(tiles, test), batch=64).astype(np.float64)
        shifted = balanced_accuracy_score(codes[test], peer.predict(changed))
        assert encoder["knn@stain ±20 %"]["balanced_accuracy"] == pytest.approx(shifted, abs=0.02)
        low, high = encoder["linear"]["ci95"]
        assert low <= encoder["linear"]["balanced_accuracy"] <= high
    rows = read_table(tmp_path / "out" / "predictions.csv", what="predictions", needs=["store", "row", "label"])
    names = [store.store_id for store in tiles.stores]
    where = [tiles.index_of(values["store"], int(values["row"])) for _, values in rows]
    assert where == test.tolist()
    assert set(rows[0].values) == {"store", "row", "label"} | {
        f"{e}.{t}" for e in ("colour", "ViT") for t in ("knn", "linear", "simpleshot")
    }
    assert {values["store"] for _, values in rows} < set(names)
    for encoder, test_name in ((e, t) for e in found["encoders"] for t in ("knn", "linear", "simpleshot")):
        said = [values[f"{encoder['name']}.{test_name}"] for _, values in rows]
        accuracy = balanced_accuracy_score([values["label"] for _, values in rows], said)
        assert encoder[test_name]["balanced_accuracy"] == pytest.approx(accuracy)
    colour, other = found["encoders"]
    assert colour["knn"]["balanced_accuracy"] > 0.6
    by_metric = {d["metric"]: d for d in found["differences"]}
    delta = other["knn"]["balanced_accuracy"] - colour["knn"]["balanced_accuracy"]
    assert by_metric["knn.balanced_accuracy"]["delta"] == pytest.approx(delta)
    assert (by_metric["knn.balanced_accuracy"]["a"], by_metric["knn.balanced_accuracy"]["b"]) == ("ViT", "colour")
    assert set(by_metric) == {
        f"{t}{change}.{m}"
        for t in ("knn", "linear", "simpleshot")
        for change in ("", "@stain ±20 %")
        for m in ("balanced_accuracy", "macro_f1")
    }
    assert colour["knn@stain ±20 %"]["balanced_accuracy"] != colour["knn"]["balanced_accuracy"]
    assert any("2 slides only" in note for note in found["notes"])
    assert any("tiles without a label were left out" in note for note in found["notes"])
    table = (tmp_path / "out" / "benchmark.md").read_text()
    header, row = (line.split("|") for line in table.splitlines() if line.startswith(("| test |", "| k-NN | colour |")))
    assert [cell.strip() for cell in header[3:6]] == ["balanced accuracy %", "stain ±20 %", "macro F1 %"]
    for cell, test in ((3, "knn"), (4, "knn@stain ±20 %")):
        assert row[cell].strip().startswith(f"{100 * colour[test]['balanced_accuracy']:.1f} [")
    assert "ViT − colour" in outcome.summary
    assert "ViT − colour" in (tmp_path / "out" / "benchmark.html").read_text()


def test_the_same_seed_gives_the_same_bytes(slides: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        benchmark.run(config(slides, tmp_path / name, ["colour"], seed=3))
    assert (tmp_path / "a" / "benchmark.json").read_bytes() == (tmp_path / "b" / "benchmark.json").read_bytes()


def test_a_given_split_is_taken(tmp_path: Path) -> None:
    make_store(tmp_path / "set.zarr", num_tiles=120, seed=1, split="test")
    outcome = benchmark.run(config(tmp_path / "set.zarr", tmp_path / "out", ["colour"]))
    tiles = open_tiles(tmp_path / "set.zarr")
    is_test = (tiles.column("split") == tiles.categories("split").index("test")) & (tiles.column("label") >= 0)
    assert outcome.results["num_test"] == is_test.sum()
    assert outcome.results["split"]["how"] == "given by the column 'split'"
    assert outcome.results["clusters"]["unit"] == "tile"


def leaking(path: Path, *, same: int = 0, groups: list[str] | None = None) -> Path:
    """Twenty training and twenty test tiles of two classes; ``same`` test tiles are training tiles."""
    rng = np.random.default_rng(0)
    tiles = [encode_jpeg(rng.integers(0, 256, (16, 16, 3), np.uint8)) for _ in range(40)]
    tiles[20 : 20 + same] = tiles[:same]
    columns = {
        "label": Column.categorical(["a", "b"] * 20),
        "split": Column.categorical(["train"] * 20 + ["test"] * 20),
    }
    if groups is not None:
        columns["group"] = Column.categorical(groups)
    store = TileStore.create(
        path, kind="natural", store_id=path.stem, tile_px=16, mpp=None, num_tiles=40, provenance={}, columns=columns
    )
    store.commit("tiles", 0, store.write_tiles(0, tiles))
    return path


def test_what_is_on_both_sides_of_a_given_split_is_named_and_refused_unless_told(tmp_path: Path) -> None:
    apart, both = [f"p{k // 5}" for k in range(40)], [f"p{k % 10}" for k in range(40)]
    bytes_, groups = leaking(tmp_path / "bytes.zarr", same=3), leaking(tmp_path / "groups.zarr", groups=both)
    for store, sentence in (
        (bytes_, "3 of 20 test tiles are training tiles, byte for byte"),
        (groups, "10 groups (column 'group', the first 'p0') are in train and in test"),
    ):
        with pytest.raises(ConfigError, match=f"^{re.escape(sentence)}: every figure would flatter"):
            benchmark.run(config(store, tmp_path / "out", ["colour"]))
        assert not (tmp_path / "out").exists()
        told = benchmark.run(config(store, tmp_path / f"told-{store.stem}", ["colour"], allow_leaks=True))
        assert f"The split leaks: {sentence}." in told.results["notes"]
    sound = benchmark.run(config(leaking(tmp_path / "s.zarr", groups=apart), tmp_path / "sound", ["colour"]))
    assert not any("leaks" in note for note in sound.results["notes"])
    own = benchmark.run(config(groups, tmp_path / "own", ["colour"], split="slide"))
    assert own.results["clusters"]["unit"] == "group"  # a split of histogen's own keeps groups together


def test_one_slide_is_split_by_tile_and_the_page_says_so(tmp_path: Path) -> None:
    make_store(tmp_path / "set.zarr", num_tiles=90, seed=2)
    outcome = benchmark.run(config(tmp_path / "set.zarr", tmp_path / "out", ["colour"]))
    assert "neighbours from one slide may be on both sides" in outcome.summary
    with pytest.raises(ConfigError, match="one store without groups; use split=tile"):
        benchmark.run(config(tmp_path / "set.zarr", tmp_path / "other", ["colour"], split="slide"))


def test_an_existing_output_is_left_alone_and_resumed_only_as_it_was(slides: Path, tmp_path: Path) -> None:
    benchmark.run(config(slides, tmp_path / "out", ["colour"]))
    before = (tmp_path / "out" / "benchmark.json").read_bytes()
    with pytest.raises(OutputExistsError, match="--resume"):
        benchmark.run(config(slides, tmp_path / "out", ["colour"]))
    with pytest.raises(ConfigError, match="cannot resume"):
        benchmark.run(config(slides, tmp_path / "out", ["again=colour"], resume=True))
    benchmark.run(config(slides, tmp_path / "out", ["colour"], resume=True))
    assert (tmp_path / "out" / "benchmark.json").read_bytes() == before


def test_tiles_without_labels_are_named(tmp_path: Path) -> None:
    make_store(tmp_path / "set.zarr", num_tiles=20, seed=2, labelled=False)
    with pytest.raises(StoreError, match=r"set\.zarr' has no column 'label'"):
        benchmark.run(config(tmp_path / "set.zarr", tmp_path / "out", ["colour"]))
    assert not (tmp_path / "out").exists()


def test_names_of_encoders() -> None:
    assert named_specs(["Gen-DINO=runs/gen=1", "runs/dino", "timm:vit@a=b"]) == {
        "Gen-DINO": "runs/gen=1", "dino": "runs/dino", "timm:vit@a=b": "timm:vit@a=b",
    }  # fmt: skip
    with pytest.raises(ConfigError, match="two encoders are called 'dino'"):
        named_specs(["a/dino", "b/dino"])


def test_one_run_given_twice_is_no_second_run_of_its_recipe(slides: Path, tmp_path: Path) -> None:
    twice = [f"A#{number}=random:test_vit" for number in (1, 2)]
    given = benchmark.BenchmarkConfig(tiles=[slides], encoders=[*twice, "B=colour"], out=tmp_path / "out")
    with pytest.raises(ConfigError, match="'A#1' and 'A#2' have the same weights; give runs of 'A' with other seeds"):
        benchmark.run(given)
    assert not (tmp_path / "out").exists()
    cards = {name: load_encoder("colour").card for name in ("A", "B", "A#1", "C#1")}
    benchmark.check_runs(
        {key: cards[key] for key in ("A", "B", "C#1")}
    )  # the same weights under other names are theirs


@pytest.mark.parametrize(
    ("supervision", "said"),
    [("none", False), ("none (no weights)", False), ("as its authors state", True), ("unknown", True)],
)
def test_notes_say_whose_weights_may_have_seen_labels(supervision: str, said: bool) -> None:
    notes = benchmark.encoder_notes([{"name": "E", "card": {"supervision": supervision}}])
    assert (f"E may have been made with labels ({supervision})." in notes) == said


def test_an_unknown_column_of_groups_is_named(slides: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="column 'patient' of groups"):
        benchmark.run(config(slides, tmp_path / "out", ["colour"], group="patient"))


def test_whole_slides_are_judged_by_their_own_labels(tmp_path: Path) -> None:
    """Slides of class dark are darker, so that colour tells them; one labelled slide is not given, one has no label."""
    rng = np.random.default_rng(0)
    lines = ["slide_id,label", "gone,dark"]
    for number in range(13):
        dark = number % 2 == 1
        tiles = np.clip((120 if dark else 170) + rng.normal(0, 25, (9, 16, 16, 3)), 0, 255).astype(np.uint8)
        store = TileStore.create(
            tmp_path / "tiles" / f"S{number}.zarr", kind="slide", store_id=f"S{number}", tile_px=16, mpp=0.5,
            num_tiles=9, provenance={},
        )  # fmt: skip
        store.commit("tiles", 0, store.write_tiles(0, [encode_jpeg(tile) for tile in tiles]))
        if number:
            lines.append(f"S{number},{'dark' if dark else 'light'}")
    (tmp_path / "slides.csv").write_text("\n".join(lines))
    outcome = benchmark.run(
        config(
            tmp_path / "tiles",
            tmp_path / "out",
            ["colour", "again=colour"],
            slide_labels=tmp_path / "slides.csv",
            mil={"folds": 3, "epochs": 40, "dropout": 0.0},
        )  # fmt: skip
    )
    found = outcome.results
    assert found["classes"] == ["dark", "light"]
    assert found["clusters"] == {"unit": "slide", "count": 12}
    assert found["encoders"][0]["mil"]["balanced_accuracy"] == 1.0
    assert found["encoders"][0]["mil"]["auc"] == 1.0
    assert {d["metric"] for d in found["differences"]} == {"mil.balanced_accuracy", "mil.macro_f1"}
    assert all(d["delta"] == 0 for d in found["differences"])
    assert "1 slides without a label" in outcome.summary
    assert "1 labelled slides are not among the tiles given" in outcome.summary
    rows = read_table(tmp_path / "out" / "predictions.csv", what="predictions", needs=["store", "row", "label"])
    assert len(rows) == 12 * 9
    assert all(values["label"] == values["colour.mil"] for _, values in rows)
    for slide in {values["store"] for _, values in rows}:
        shares = [float(values["colour.attention"]) for _, values in rows if values["store"] == slide]
        assert np.mean(shares) == pytest.approx(1, abs=1e-3)
        assert min(shares) >= 0
    assert "100.0 [100.0, 100.0]" in (tmp_path / "out" / "benchmark.md").read_text()
    # the same labels with blanks around them, and slides that are listed again with the same label
    (tmp_path / "blanks.csv").write_text("\n".join([f"{line} " for line in lines] + lines[3:5]))
    again = benchmark.load_slides(open_tiles(tmp_path / "tiles"), _labelled(tmp_path, "blanks.csv"))[0]
    assert again.classes == ("dark", "light")
    assert len(again.slides) == 12
    for text, message in (
        ("name,label\nS1,dark\n", "has no column 'slide_id' (it has name, label)"),
        ("slide_id,label\nS1,dark\nS2,light\nS1,light\n", "4: slide 'S1' is 'light' here and 'dark' on line 2"),
        ("slide_id,label,label\nS1,dark,light\n", "has column 'label' twice"),
        ("slide_id,label\n,dark\n", "2: 'slide_id' is empty"),
    ):
        (tmp_path / "bad.csv").write_text(text)
        with pytest.raises(ManifestError, match=re.escape(message)):
            benchmark.load_slides(open_tiles(tmp_path / "tiles"), _labelled(tmp_path, "bad.csv"))


def _labelled(folder: Path, name: str) -> BenchmarkConfig:
    return config(folder / "tiles", folder / "out", ["colour"], slide_labels=folder / name)


def test_retrieval_is_measured_when_asked(slides: Path, vit: str, tmp_path: Path) -> None:
    settings = {"knn": {"k": 5}, "draws": 200, "tests": ["knn"], "retrieval": True}
    outcome = benchmark.run(
        BenchmarkConfig(tiles=[slides], out=tmp_path / "out", encoders=["colour", f"ViT={vit}"], judge=settings)
    )
    colour, vit_result = outcome.results["encoders"]
    low, high = colour["retrieval"]["ci95"]
    assert low <= colour["retrieval"]["map"] <= high
    difference = next(d for d in outcome.results["differences"] if d["metric"] == "retrieval.map")
    assert difference["delta"] == pytest.approx(vit_result["retrieval"]["map"] - colour["retrieval"]["map"])
    assert "points" in outcome.summary
    assert "retrieval mAP" in (tmp_path / "out" / "benchmark.md").read_text()


@pytest.mark.real
def test_colour_alone_on_real_lung_tiles(real_data: Path, tmp_path: Path) -> None:
    """The trivial baseline noted beside the data: colour and gradient histograms, balanced accuracy 0.90."""
    import_images.run(
        ImportImagesConfig(folder=real_data / "tiles_lc25000_lung3", out=tmp_path / "lung.zarr", tile_px=224)
    )
    outcome = benchmark.run(
        BenchmarkConfig(
            tiles=[tmp_path / "lung.zarr"], encoders=["colour"], out=tmp_path / "out", group="group_original_photo"
        )
    )
    (colour,) = outcome.results["encoders"]
    assert 0.86 < colour["knn"]["balanced_accuracy"] < 0.94
    assert outcome.results["clusters"] == {"unit": "group", "count": 149}
    tiles = open_tiles(tmp_path / "lung.zarr")
    task = benchmark.load_task(
        tiles, BenchmarkConfig(tiles=[tmp_path], encoders=["colour"], out=tmp_path, group="group_original_photo")
    )
    assert task.groups is not None
    assert not set(task.groups[task.split.train]) & set(task.groups[task.split.test])
