"""What the rooms answer, against the stores themselves and against independent computations."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from shapely.geometry import shape
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from histogen.errors import ConfigError, HistogenError, SlideError, StoreError
from histogen.geometry import BoxL0, Extent
from histogen.manifest import SlideRecord
from histogen.pipelines.synthesize.command import SynthesizeConfig
from histogen.pipelines.synthesize.command import run as run_synthesize
from histogen.pipelines.view.command import open_rooms
from histogen.pipelines.view.config import ViewConfig
from histogen.slides.base import open_slide
from histogen.store.jpeg import decode_jpeg
from histogen.store.tile_set import TileSet
from histogen.table import read_table
from histogen.tiles.plan import read_overview
from histogen.tiles.spec import TissueSettings
from histogen.tiles.tissue import find_tissue
from histogen.view.answers import Answers
from histogen.view.components import find_components
from histogen.view.neighbours import nearest
from histogen.view.pyramid import Pyramid, Pyramids
from histogen.view.tiles import Tiles

from .conftest import unpack


def test_everything_in_a_folder_is_found(answers: Answers, world: Path) -> None:
    index = answers.data("index")
    assert [slide["id"] for slide in index["slides"]] == ["drawn-00", "drawn-01"]
    assert all(slide["has_file"] for slide in index["slides"])
    kinds = [store["kind"] for store in index["stores"]]
    assert kinds == ["slide"] * 2 + ["generative"] * 2 + ["interpolated"] * 2
    assert sum(store["tiles"] for store in index["stores"]) == 3 * len(TileSet.open_(world / "tiles"))
    assert {run["name"]: run["done"] for run in answers.data("runs")["runs"]} == {"autoencoder": 8, "eldm": 4}
    assert (index["synthetic"], index["runs"], index["problems"]) == (True, True, [])
    slides = [record.slide_id for record in open_rooms(ViewConfig(paths=[world / "tiles"])).sources.slides]
    assert slides == ["drawn-00", "drawn-01"]  # those that the config of the tiles names


def test_nothing_to_look_at_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing to look at"):
        open_rooms(ViewConfig(paths=[tmp_path]))
    with pytest.raises(ConfigError, match="does not exist"):
        open_rooms(ViewConfig(paths=[tmp_path / "no"]))


def test_squares_make_up_the_slide_at_every_zoom(world: Path) -> None:
    slide = open_slide(world / "slides" / "drawn-00.svs")
    pyramid = Pyramid(slide)
    assert pyramid.num_zooms == 3  # 1000 x 640: 250 x 160 fits a square of 256
    for zoom in range(3):
        out = Extent(-(-1000 >> zoom), -(-640 >> zoom))
        made = np.full((out.height, out.width, 3), 0, np.uint8)
        for row in range(-(-out.height // 256)):
            for column in range(-(-out.width // 256)):
                square = decode_jpeg(pyramid.square(zoom, column, row))
                made[row * 256 : row * 256 + 256, column * 256 : column * 256 + 256] = square
        expected = slide.read_region(BoxL0(0, 0, out.width << zoom, out.height << zoom), out)
        assert np.abs(made.astype(int) - expected).mean() < 3  # JPEG's
    for zoom, column, row in ((3, 0, 0), (0, 4, 0), (0, 0, 3)):
        with pytest.raises(SlideError, match="no square"):
            pyramid.square(zoom, column, row)


def test_coarse_squares_of_a_slide_of_one_level_are_the_means_of_fine_ones(tmp_path: Path) -> None:
    import cv2

    rng = np.random.default_rng(0)
    small = np.repeat(rng.integers(0, 255, (30, 70, 1), np.uint8), 3, axis=2)  # grey: JPEG halves colours
    cv2.imwrite(str(tmp_path / "flat.png"), np.repeat(np.repeat(small, 96, axis=0), 96, axis=1))
    pyramid = Pyramid(open_slide(tmp_path / "flat.png"))
    assert len(pyramid.slide.levels) == 1
    square = decode_jpeg(pyramid.square(pyramid.num_zooms - 1, 0, 0))
    assert square.shape == (2880 // 32, 6720 // 32, 3)
    blocks = square.reshape(30, 3, 70, 3, 3).mean(axis=(1, 3))
    assert np.abs(blocks - small[..., ::-1]).mean() < 8


def test_few_slides_stay_open_and_squares_are_kept_in_bounded_memory(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histogen.view.pyramid.OPEN_SLIDES", 1)
    monkeypatch.setattr("histogen.view.pyramid.CACHE_BYTES", 60_000)
    records = {name: SlideRecord(world / "slides" / f"{name}.svs", name) for name in ("drawn-00", "drawn-01")}
    pyramids = Pyramids(records)
    first = [pyramids.square(name, 0, column, 1) for column in range(4) for name in records]
    assert len(pyramids._pyramids) == 1
    assert sum(map(len, pyramids.squares._values.values())) == pyramids.squares.bytes <= 60_000
    assert first == [pyramids.square(name, 0, column, 1) for column in range(4) for name in records]


def test_tiles_columns_and_places_are_those_of_the_stores(answers: Answers, world: Path) -> None:
    tiles = TileSet.open_(world / "tiles")
    places = answers.data("places/1")
    start = answers.data("index")["stores"][1]["start"]
    store = tiles.stores[1]
    np.testing.assert_array_equal(unpack(places["x"]), store.read_rows("columns/x_l0"))
    assert places["size"] == [64.0, 64.0]  # 32 px of 1 micron on a slide of 0.5
    assert unpack(places["present"]).all()
    said = answers.data(f"tile/{start + 3}")
    names = store.rows_attributes("columns/label")["categories"]
    code = int(store.read_rows("columns/label", [3])[0])
    assert said["values"]["label"] == (names[code] if code >= 0 else None)
    assert answers.image(f"tile/{start + 3}.jpg") == store.read_payload(3)
    column = answers.data("column/1/label")
    shown = [column["names"][code] if code >= 0 else None for code in unpack(column["values"])]
    assert shown == [names[code] if code >= 0 else None for code in store.read_rows("columns/label")]
    assert np.isnan(unpack(answers.data("column/2/focus")["values"])).all()  # synthetic tiles have none


def test_neighbours_are_those_of_scikit_learn(answers: Answers, world: Path) -> None:
    vectors = TileSet.open_([world / "tiles", world / "generative"]).embeddings("colour-histogram")
    judge = NearestNeighbors(n_neighbors=6, metric="cosine").fit(vectors)
    for number in (0, 31, len(vectors) - 2):
        distances, rows = judge.kneighbors(vectors[number : number + 1])
        found = nearest(answers.tiles, number, "colour-histogram", k=5)
        others = [(row, 1 - away) for row, away in zip(rows[0], distances[0], strict=True) if row != number][:5]
        np.testing.assert_allclose([cosine for _, cosine in found], [cosine for _, cosine in others], atol=1e-5)
        assert len({one for one, _ in found} & {row for row, _ in others}) >= 4  # equally near ones may differ
    said = answers.data("neighbours/31")
    assert [side["encoder"] for side in said["encoders"]] == answers.data("index")["encoders"]
    assert [side["stores"] for side in said["encoders"]] == [4, 2]
    real = nearest(answers.tiles, 31, "colour-histogram", k=50, kinds=("slide",))
    assert max(one for one, _ in real) < len(TileSet.open_(world / "tiles"))
    with pytest.raises(StoreError, match="has no embeddings"):
        nearest(answers.tiles, len(answers.tiles) - 1, "colour-histogram", k=3)


def test_a_map_by_pca_is_that_of_scikit_learn(answers: Answers, world: Path) -> None:
    vectors = TileSet.open_([world / "tiles", world / "generative"]).embeddings("colour-histogram")
    judge = PCA(2, svd_solver="full").fit(vectors)
    found = answers.data("map/colour-histogram/pca")
    np.testing.assert_allclose(found["explained"], judge.explained_variance_ratio_, rtol=1e-3)
    expected = judge.transform(vectors)
    for axis, values in enumerate((unpack(found["x"]), unpack(found["y"]))):
        away = min(np.abs(values - expected[:, axis]).max(), np.abs(values + expected[:, axis]).max())
        assert away < 1e-3 * np.abs(expected[:, axis]).max()  # but for the direction's sign
    assert unpack(found["numbers"]).tolist() == list(range(len(vectors)))
    column = answers.data("map/colour-histogram/column/pca/component1.colour-histogram")
    np.testing.assert_allclose(unpack(column["values"]), unpack(found["x"]), atol=1e-6)
    clusters = unpack(answers.data("map/colour-histogram/column/pca/cluster.colour-histogram")["values"])
    components = find_components(answers.tiles, "colour-histogram", seed=0)
    away = np.linalg.norm(components.project(vectors)[:, None] - components.centres[None], axis=2)
    np.testing.assert_array_equal(clusters, away.argmin(axis=1))


def test_a_map_of_more_tiles_than_it_shows_draws_them_by_the_seed(
    answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("histogen.view.components.MOST_POINTS", 10)
    chosen = [find_components(answers.tiles, "colour-histogram", seed=seed).numbers.tolist() for seed in (1, 1, 2)]
    assert chosen[0] == chosen[1] != chosen[2]
    assert (len(chosen[0]), chosen[0]) == (10, sorted(set(chosen[0])))


def test_what_was_made_of_a_tile_is_what_the_columns_say(answers: Answers, world: Path) -> None:
    tiles = TileSet.open_(world / "tiles")
    family = answers.data("synthetic/40")
    assert [one["kind"] for one in family["made"]] == ["generative", "interpolated"]
    mixed = family["made"][1]
    store, row = mixed["id"].rsplit(":", 1)
    made = TileSet.open_(world / "interpolated")
    at = made.index_of(store, int(row))
    source = made.categories("source_store")[made.column("source_store")[at]]
    assert tiles.index_of(source, int(made.column("source_index")[at])) == 40
    partner = made.categories("partner_store")[made.column("partner_store")[at]]
    assert tiles.index_of(partner, int(made.column("partner_index")[at])) == mixed["partner"]
    assert (mixed["seed"], mixed["alpha"]) == (
        str(made.column("seed")[at]),
        pytest.approx(float(made.column("alpha")[at])),
    )
    assert answers.data(f"synthetic/{mixed['number']}")["source"] == 40
    assert answers.data("sources")["of"] == len(tiles)


def test_the_command_that_is_shown_makes_the_tile_again(answers: Answers, world: Path, tmp_path: Path) -> None:
    made = answers.data("synthetic/3")["made"][0]
    words = shlex.split(made["command"])
    assert words[:3] == ["histogen", "synthesize", str(world / "tiles")]
    given = dict(zip(words[3::2], words[4::2], strict=True))
    again = {"tiles": [words[2]], "eldm": given["--eldm"], "recreate": given["--recreate"], "out": tmp_path / "a.jpg"}
    assert run_synthesize(SynthesizeConfig.model_validate({**again, "device": "cpu"})).results["same"]


def test_the_copy_check_finds_a_copy(answers: Answers) -> None:
    tiles = answers.tiles
    number = answers.data("synthetic/12")["made"][1]["number"]
    said = answers.data(f"copy/{number}")
    assert len(said["cosines"]) == 2
    assert said["candidates"] == 64
    turned = np.ascontiguousarray(np.rot90(tiles.pixels(12)))
    with pytest.MonkeyPatch.context() as patch:
        original = Tiles.pixels
        patch.setattr(Tiles, "pixels", lambda self, one: turned if one == number else original(self, one))
        found = answers.data(f"copy/{number}")
    assert found["nearest"] == 12
    assert found["ratio"] < 0.01
    with pytest.raises(StoreError, match="no source"):
        answers.data("copy/12")


def test_a_selection_becomes_a_column_that_where_takes(world: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(world / "tiles", tmp_path / "tiles")
    answers = open_rooms(ViewConfig(paths=[tmp_path / "tiles"]))
    first = answers.tiles.stores[0].num_tiles
    said = answers.act("select", {"name": "odd-ones", "numbers": [1, 5, first + 2]})
    assert said["where"] == "--set where.odd-ones=chosen"
    chosen = TileSet.open_(tmp_path / "tiles", where={"odd-ones": "chosen"})
    assert chosen.ids() == ["drawn-00:1", "drawn-00:5", "drawn-01:2"]
    assert "odd-ones" in [column["name"] for column in answers.data("index")["columns"]]
    for name, numbers in (("odd-ones", [1]), ("../x", [1]), ("label", [1]), ("kind", [1]), ("", [1]), (3, [1])):
        with pytest.raises(HistogenError):
            answers.act("select", {"name": name, "numbers": numbers})
    for numbers in ([10**9], [-1], ["1"], [True], None, {}):
        with pytest.raises(ConfigError, match="list of tiles"):
            answers.act("select", {"name": "other", "numbers": numbers})
    assert not (tmp_path / "tiles" / "drawn-00.zarr" / "columns" / "other").exists()


def test_a_training_is_followed_while_it_grows(tmp_path: Path) -> None:
    run = tmp_path / "dino"
    run.mkdir()
    journal = run / "metrics.jsonl"
    journal.write_text('{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 2.0, "rank_me": 3.5}\n{"step": 3, "lo')
    (run / "config.yaml").write_text("optim: {num_steps: 9}\n")
    answers = open_rooms(ViewConfig(paths=[tmp_path]))
    said = answers.data("run/0")
    assert (said["steps"], said["done"], said["planned"]) == ([1, 2], 2, 9)
    assert {curve["name"]: curve["values"] for curve in said["curves"]} == {"loss": [2.5, 2.0], "rank_me": [None, 3.5]}
    journal.write_text('{"step": 4, "loss": 1.0}\n')
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / "metrics.jsonl").write_text("not a row\n")
    assert answers.data("run/0")["done"] == 4
    assert [one["name"] for one in answers.data("runs")["runs"]] == ["dino", "later"]
    assert "is no row" in answers.data("run/1")["error"]


def rings_area(rings: list[list[int]], extent: Extent) -> np.ndarray:
    """Which pixels of level 0 the rings enclose an odd number of times, bool [h, w]; those on them too."""
    inside = np.zeros((extent.height, extent.width), np.uint8)
    corners = [np.array(ring, np.int32).reshape(-1, 2) for ring in rings]
    cv2.fillPoly(inside, corners, 1)  # several at once: even-odd
    return inside.astype(bool)


def test_outlines_are_those_of_the_tissue_and_of_the_annotations(answers: Answers, world: Path) -> None:
    found = answers.data("outlines/drawn-00")
    slide = open_slide(world / "slides" / "drawn-00.svs")
    overview, mpp = read_overview(slide, TissueSettings().mpp, slide.mpp.mean)
    mask = find_tissue(overview, mpp, slide.extent, TissueSettings()).mask
    side = (slide.extent.width, slide.extent.height)
    expected = cv2.resize(mask.astype(np.uint8), side, interpolation=cv2.INTER_NEAREST).astype(bool)
    drawn = rings_area(found["tissue"], slide.extent)
    assert 0.05 < expected.mean() < 0.95
    assert (drawn & expected).sum() / (drawn | expected).sum() > 0.95
    features = json.loads((world / "slides" / "drawn-00.geojson").read_text())["features"]
    areas: dict[str, float] = {}
    for feature in features:
        name = feature["properties"]["classification"]["name"]
        areas[name] = areas.get(name, 0) + shape(feature["geometry"]).area
    assert {one["name"] for one in found["annotations"]} == set(areas)
    for one in found["annotations"]:
        area = rings_area(one["rings"], slide.extent).sum()
        assert area == pytest.approx(areas[one["name"]], rel=0.05)
    beside = open_rooms(ViewConfig(paths=[world / "slides"])).data("outlines/drawn-00")  # no tiles say where they are
    assert beside == found
    with pytest.raises(SlideError, match="is not here"):
        answers.data("outlines/nowhere")


def test_what_cannot_be_outlined_is_a_note(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "slides", tmp_path / "slides")
    (tmp_path / "slides" / "drawn-00.geojson").write_text("{")
    shutil.copytree(world / "tiles", tmp_path / "tiles")
    config = tmp_path / "tiles" / "config.yaml"
    config.write_text(config.read_text().replace(str(world / "slides"), str(tmp_path / "slides")))
    found = open_rooms(ViewConfig(paths=[tmp_path / "tiles"])).data("outlines/drawn-00")
    assert found["tissue"]
    assert found["annotations"] == []
    (note,) = found["notes"]
    assert "drawn-00.geojson" in note


def test_predictions_of_a_benchmark_colour_the_tiles_that_were_tested(answers: Answers, world: Path) -> None:
    name = "benchmark.colour.knn"
    assert answers.column_types()[name] == "category"
    rows = read_table(world / "benchmark" / "predictions.csv", what="predictions", needs=["store", "row"])
    said = {(values["store"], int(values["row"])): values["colour.knn"] for _, values in rows}
    total = 0
    for position, store in enumerate(answers.tiles.stores):
        column = answers.data(f"column/{position}/{name}")
        codes = unpack(column["values"])
        total += (codes >= 0).sum()
        for row, code in enumerate(codes.tolist()):
            assert said.get((store.store_id, row)) == (column["names"][code] if code >= 0 else None)
    assert total == len(rows) > 10


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("store,row,E.attention\ndrawn-00,1,much\n", "holds what is no number"),
        ("store,E.knn\ndrawn-00,a\n", "has no column 'row'"),
        ("store,row,E.knn\nelsewhere,1,a\ndrawn-00,first,a\ndrawn-00,99999999,a\n", None),
    ],
)
def test_predictions_that_cannot_be_used_are_said(world: Path, tmp_path: Path, text: str, sentence: str | None) -> None:
    (tmp_path / "judged").mkdir()
    (tmp_path / "judged" / "predictions.csv").write_text(text)
    answers = open_rooms(ViewConfig(paths=[world / "tiles", tmp_path]))
    assert not [name for name in answers.column_types() if name.startswith("judged.")]
    said = [problem for problem in answers.data("index")["problems"] if "predictions.csv" in problem]
    assert [sentence in problem for problem in said] == [True] if sentence else said == []


def test_attention_is_a_number(world: Path, tmp_path: Path) -> None:
    (tmp_path / "run 1").mkdir()
    (tmp_path / "run 1" / "predictions.csv").write_text("store,row,E#2.attention\ndrawn-00,3,0.5\ndrawn-00,1,2\n")
    answers = open_rooms(ViewConfig(paths=[world / "tiles", tmp_path]))
    assert answers.column_types()["run-1.E-2.attention"] == "number"
    values = answers.values(0, "run-1.E-2.attention")
    assert (values[3], values[1], np.isfinite(values).sum()) == (0.5, 2, 2)
