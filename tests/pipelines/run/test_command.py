"""The chain: every stage once on drawn slides, skipped when done, refused when its settings changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from histogen.errors import ConfigError
from histogen.pipelines.benchmark.command import load_task
from histogen.pipelines.benchmark.config import BenchmarkConfig
from histogen.pipelines.outputs import read_config
from histogen.pipelines.pretrain.config import PretrainConfig
from histogen.pipelines.run.chain import RunConfig, merged
from histogen.pipelines.run.command import run
from histogen.seeds import derive_seed
from histogen.ssl.networks import build_networks
from histogen.store.tile_set import open_tiles

TINY: dict[str, Any] = yaml.safe_load((Path(__file__).parents[3] / ".ci" / "tiny.yaml").read_text())


REFERENCE = {"speed": 50.0, "seconds": {"slides": 100.0, "report": 20.0}}


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("chain") / "run"
    assert run(RunConfig(out=out, **TINY)).failures == ()
    return out


def test_every_stage_leaves_its_output_and_the_page_shows_the_measured_figures(done: Path) -> None:
    stages = [row["name"] for row in json.loads((done / "stages.json").read_text())]
    assert stages == [
        "slides", "tiles", "dino", "untrained", "embed", "autoencoder", "eldm", "generative", "interpolated",
        "gen-dino", "benchmark",
    ]  # fmt: skip
    page = (done / "report.html").read_text()
    benchmark = json.loads((done / "benchmark" / "benchmark.json").read_text())
    for encoder in benchmark["encoders"]:
        assert f"{100 * encoder['knn']['balanced_accuracy']:.1f}" in page
    assert page.count("data:image/") > 50
    assert 'src="http' not in page
    assert '<a href="view/index.html">Look around' in page
    index = (done / "view" / "data" / "index.js").read_text()
    rooms = json.loads(index.removeprefix('H.give("index", ').removesuffix(");\n"))
    shown = list((done / "view" / "image" / "tile").glob("*.jpg"))
    assert {store["kind"] for store in rooms["stores"]} == {"slide", "generative", "interpolated"}
    assert rooms["sample"]["of"] > len(shown) > 60
    assert (rooms["problems"], rooms["runs"], rooms["synthetic"]) == ([], True, True)


def test_synthetic_stores_name_their_sources_and_partners(done: Path) -> None:
    tiles = open_tiles(done / "tiles")
    made = open_tiles(done / "interpolated")
    assert len(made) == len(tiles)
    stores, partners = made.categories("source_store"), made.categories("partner_store")
    pairs = {
        (f"{stores[a]}:{i}", f"{partners[b]}:{j}")
        for a, i, b, j in zip(
            *(made.column(n) for n in ("source_store", "source_index", "partner_store", "partner_index")), strict=True
        )
    }
    assert {source for source, _ in pairs} == set(tiles.ids())
    assert all(source != partner for source, partner in pairs)
    alpha = made.column("alpha")
    assert alpha.min() >= 0.3
    assert alpha.max() <= 0.7
    assert np.ptp(alpha) > 0.2


def test_a_second_run_skips_what_is_done_and_keeps_every_byte(done: Path) -> None:
    before = {path: path.read_bytes() for path in done.rglob("*.safetensors")}
    assert before
    outcome = run(RunConfig(out=done, **TINY))
    assert outcome.page == done / "report.html"
    assert {path: path.read_bytes() for path in done.rglob("*.safetensors")} == before


def test_it_says_how_long_it_will_take_and_what_is_left(done: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(RunConfig(out=done, reference=REFERENCE, **TINY))
    said = capsys.readouterr().err
    assert "On this machine this will take " in said
    assert said.count(" left)") == 11


def test_the_untrained_network_has_the_weights_that_dino_began_with(done: Path) -> None:
    """Oracle: the networks as they are built from the run's seed."""
    settings = PretrainConfig.model_validate(read_config(done / "dino"))
    begun = build_networks(settings, seed=derive_seed(settings.seed, "weights"))[1].backbone.state_dict()
    untrained = load_file(done / "untrained" / "encoder" / "model.safetensors")
    assert {key: value.tolist() for key, value in untrained.items()} == {k: v.tolist() for k, v in begun.items()}
    trained = load_file(done / "dino" / "encoder" / "model.safetensors")
    assert any(trained[key].tolist() != value.tolist() for key, value in begun.items())


def test_the_figures_beside_the_page_are_those_of_plain_loops(done: Path) -> None:
    figures = json.loads((done / "report.json").read_text())
    benchmark = json.loads((done / "benchmark" / "benchmark.json").read_text())
    assert figures["benchmark"]["encoders"] == benchmark["encoders"]
    assert list(figures["same_class_among_nearest"]) == ["k", "colour", "untrained", "DINO", "Gen-DINO"]
    tiles = open_tiles(done / "tiles")
    task = load_task(tiles, BenchmarkConfig(tiles=[done / "tiles"], encoders=["colour"], out=done, test_share=0.34))
    embeddings = tiles.embeddings(benchmark["encoders"][2]["card"]["name"]).astype(np.float64)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    shares: dict[int, list[float]] = {}
    for query in task.split.test:
        nearest = sorted(task.split.train, key=lambda i, q=query: -float(embeddings[q] @ embeddings[i]))[:5]
        alike = np.mean([task.labels[i] == task.labels[query] for i in nearest])
        shares.setdefault(int(task.labels[query]), []).append(float(alike))
    expected = np.mean([np.mean(values) for values in shares.values()])
    assert figures["same_class_among_nearest"]["DINO"] == pytest.approx(expected, abs=0.02)
    recognised = figures["generative_tiles_recognised"]
    assert recognised["num_tiles"] == len(task.split.test)
    assert recognised["chance"] == pytest.approx(1 / len(set(task.test_labels)))
    linear = next(e for e in benchmark["encoders"] if e["name"] == "DINO")["linear"]["balanced_accuracy"]
    assert recognised["real"]["balanced_accuracy"] == pytest.approx(linear)


def test_blocks_of_settings_are_laid_over_each_other() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"c": 4}, "e": 5}) == {"a": {"b": 1, "c": 4}, "d": 3, "e": 5}


def test_other_settings_are_refused_and_named(done: Path) -> None:
    with pytest.raises(ConfigError, match=r"draw\.num_slides: 3 -> 4"):
        run(RunConfig(out=done, **{**TINY, "draw": {**TINY["draw"], "num_slides": 4}}))


def test_one_source_of_images_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="give one of slides, images and draw"):
        RunConfig(out=tmp_path)
    with pytest.raises(ValueError, match="give one of slides, images and draw"):
        RunConfig(out=tmp_path, images=tmp_path, draw={})
