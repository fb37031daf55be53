"""``pretrain``: what is learnt, exact resume, Gen-DINO's wiring, bad input."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from histogen.config import load_config
from histogen.encoders.registry import load_encoder
from histogen.errors import ConfigError, EncoderError, OutputExistsError, StoreError, TrainingStoppedError
from histogen.pipelines import import_images, inspect
from histogen.pipelines.pretrain import command as pretrain
from histogen.pipelines.pretrain.command import PretrainConfig
from histogen.store.jpeg import encode_jpeg
from histogen.store.layout import Column
from histogen.store.tile_set import TileSet
from histogen.store.tile_store import TileStore
from histogen.training.journal import read_journal

TINY: dict[str, Any] = {
    "model": {
        "name": "vit_tiny_patch16_224",
        "arguments": {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2},
        "prototypes": 64, "head_hidden": 64, "head_bottleneck": 32,
    },
    "crops": {"global_px": 16, "local_px": 8, "num_local": 2},
    "optim": {"num_steps": 12, "batch": 8, "warmup_epochs": 0.5, "lr": 2e-3},
    "log_every": 3, "checkpoint_every": 2,
}  # fmt: skip
CONVNET: dict[str, Any] = {
    "name": "resnet10t", "drop_path": 0.1, "arguments": {"channels": [8, 8, 16, 16], "stem_width": 8},
    "prototypes": 64, "head_hidden": 64, "head_bottleneck": 32,
}  # fmt: skip
FLOAT32 = {"precision": "float32"}  # oneDNN's bfloat16 strided convolutions of 1 px have no finite gradient
NUM_TILES = 32


def textured_tiles(number: int, px: int = 16, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Tiles of three kinds of stripes in random colours and phases; colour says nothing of the kind."""
    rng = np.random.default_rng(seed)
    kinds = np.arange(number) % 3
    y, x = np.mgrid[:px, :px]
    tiles = np.empty((number, px, px, 3), np.uint8)
    for i, kind in enumerate(kinds):
        wave = np.sin([x, y, x + y][kind] * 1.6 + rng.uniform(0, 6.3))[..., None]
        tiles[i] = np.clip(rng.uniform(90, 170, 3) + 60 * wave + rng.normal(0, 10, (px, px, 3)), 0, 255)
    return tiles, kinds


def write_store(path: Path, tiles: np.ndarray, kind: str = "slide", **columns: Any) -> Path:
    store = TileStore.create(
        path, kind=kind, store_id=path.stem, tile_px=tiles.shape[1], mpp=0.5, num_tiles=len(tiles), provenance={},
        columns=columns,
    )  # fmt: skip
    for shard in range(store.num_shards):
        payloads = [encode_jpeg(tiles[i]) for i in store.shard_range(shard)]
        store.commit("tiles", shard, store.write_tiles(shard, payloads))
    return path


def synthetic_columns(number: int, per_source: int, store: str = "s", pairing: str = "matching") -> dict[str, Any]:
    source = np.repeat(np.arange(number), per_source)
    shift = 1 if pairing == "matching" else 3
    partner = source ^ 1 if pairing == "matching" else (source + shift) % number
    return {
        "source_store": Column(np.zeros(len(source), np.int32), [store]),
        "source_index": source,
        "partner_store": Column(np.zeros(len(source), np.int32), [store]),
        "partner_index": partner,
        "alpha": np.linspace(0.3, 0.7, len(source)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    tiles, _ = textured_tiles(NUM_TILES)
    write_store(folder / "real" / "s.zarr", tiles)
    made, _ = textured_tiles(2 * NUM_TILES, seed=1)
    write_store(folder / "gen" / "g.zarr", made, "generative", **synthetic_columns(NUM_TILES, 2))
    write_store(folder / "int" / "i.zarr", made[:NUM_TILES], "interpolated", **synthetic_columns(NUM_TILES, 1))
    other = synthetic_columns(NUM_TILES, 1, pairing="arbitrary")
    write_store(folder / "int-any" / "i.zarr", made[:NUM_TILES], "interpolated", **other)
    return folder


def config(stores: Path, out: Path, **changes: Any) -> PretrainConfig:
    values = {"tiles": [stores / "real"], "out": out, **TINY}
    for key, value in changes.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return PretrainConfig(**values)


def digest(out: Path) -> str:
    return json.loads((out / "run.json").read_text())["results"]["weights_sha256"]


GEN_DINO = {"generative": "gen", "interpolated": "int"}


def gen(stores: Path, **more: Any) -> dict[str, Any]:
    return {key: stores / value for key, value in GEN_DINO.items()} | more


def test_the_run_folder_is_whole_and_loads_with_timm(stores: Path, tmp_path: Path) -> None:
    outcome = pretrain.run(config(stores, tmp_path / "run"))
    out = tmp_path / "run"
    assert {p.name for p in out.iterdir()} == {
        "config.yaml", "run.json", "metrics.jsonl", "checkpoints", "curves.svg", "encoder", "README.md",
    }  # fmt: skip
    rows = read_journal(out / "metrics.jsonl")
    assert [row["step"] for row in rows] == [3, 6, 9, 12]
    assert all(0 < row["loss"] < 10 and row["loss"] == row["loss_dino"] for row in rows)
    encoder = load_encoder(out)
    theirs = timm.create_model(f"local-dir:{out / 'encoder'}", pretrained=True).eval()
    images = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8)
    with torch.no_grad():
        assert torch.equal(encoder(images), theirs((images - encoder.mean) / encoder.std))
    assert outcome.summary.startswith("DINO on 32 tiles")
    seen = inspect.describe(out, check=True).summary  # there are no tiles to check in a run
    assert re.search(r"status\s+complete", seen)
    assert encoder.card.name in seen
    assert encoder.card.name in (out / "README.md").read_text()


def test_a_convnet_is_exported_with_the_statistics_that_its_teacher_gathered(stores: Path, tmp_path: Path) -> None:
    """Oracle: timm's own loading of the folder."""
    out = tmp_path / "run"
    pretrain.run(config(stores, out, model=CONVNET, optim={"num_steps": 2, **FLOAT32}))
    loaded = timm.create_model(f"local-dir:{out / 'encoder'}", pretrained=True).eval()
    assert int(loaded.bn1.num_batches_tracked) == 2
    encoder = load_encoder(str(out))
    images = torch.from_numpy(TileSet.open_([stores / "real"]).read_tiles(np.arange(4))).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = loaded((images.float() - encoder.mean) / encoder.std)
    torch.testing.assert_close(encoder(images), expected, rtol=0, atol=0)
    assert float(expected.std(0).max()) > 0.05  # ReLU: some features are 0 for all


def test_batch_statistics_of_several_passes_are_remarked_on(
    stores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    optim = {"num_steps": 1, "batch": 8, "accumulate": 2, **FLOAT32}
    pretrain.run(config(stores, tmp_path / "run", model=CONVNET, optim=optim))
    assert "'resnet10t' normalises over each of the 2 passes of a step" in capsys.readouterr().err


def test_an_existing_run_is_left_alone_and_a_finished_one_is_not_run_again(stores: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    pretrain.run(config(stores, out))
    before = (out / "metrics.jsonl").stat().st_mtime_ns
    with pytest.raises(OutputExistsError):
        pretrain.run(config(stores, out))
    pretrain.run(config(stores, out, resume=True))
    assert (out / "metrics.jsonl").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"cannot resume .*optim.batch: 8 -> 16"):
        pretrain.run(config(stores, out, resume=True, optim={"batch": 16}))


@pytest.mark.parametrize("method", ["dino", "gen-dino", "beyond", "convnet"])
def test_killed_and_resumed_equals_uninterrupted(stores: Path, tmp_path: Path, method: str) -> None:
    more = gen(stores) if method == "gen-dino" else {}
    if method == "beyond":
        more = {"loss": {"koleo": 0.1, "uniformity": 0.05}, "masks": {"weight": 1.0}}
    if method == "convnet":
        more = {"model": CONVNET, "optim": FLOAT32}
    whole = config(stores, tmp_path / "whole" / "run", workers=0, **more)
    pretrain.run(whole)
    killed = config(stores, tmp_path / "killed" / "run", **more)
    script = """
import sys, time
from histogen.pipelines.pretrain import command as pretrain
from histogen.ssl.task import DinoTask
inner = DinoTask.step
DinoTask.step = lambda self, step: (time.sleep(0.05), inner(self, step))[1]
config = pretrain.PretrainConfig.model_validate_json(sys.argv[1])
pretrain.run(config.model_copy(update={"resume": True}))
"""
    for wanted in ("step-00000002", "step-00000006"):
        child = subprocess.Popen([sys.executable, "-c", script, killed.model_dump_json()], stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not (killed.out / "checkpoints" / f"{wanted}.json").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        os.kill(child.pid, signal.SIGKILL)
        assert child.wait() == -signal.SIGKILL
    pretrain.run(killed.model_copy(update={"resume": True}))
    assert digest(killed.out) == digest(whole.out)
    checkpoints = [f"checkpoints/{path.name}" for path in (whole.out / "checkpoints").iterdir()]
    assert sorted(checkpoints) == sorted(f"checkpoints/{path.name}" for path in (killed.out / "checkpoints").iterdir())
    for name in ("metrics.jsonl", "encoder/model.safetensors", "curves.svg", *checkpoints):
        assert (killed.out / name).read_bytes() == (whole.out / name).read_bytes(), name


def test_a_truncated_checkpoint_is_passed_over_for_the_one_before_it(stores: Path, tmp_path: Path) -> None:
    whole = config(stores, tmp_path / "whole" / "run", keep=3)
    pretrain.run(whole)
    assert [p.stem for p in sorted((whole.out / "checkpoints").glob("*.pt"))] == [
        f"step-{step:08d}" for step in (8, 10, 12)
    ]
    out = tmp_path / "again" / "run"
    shutil.copytree(whole.out, out)
    unfinish(out)
    for step in (10, 12):
        file = out / "checkpoints" / f"step-{step:08d}.pt"
        file.write_bytes(file.read_bytes()[: step * 1000])
    pretrain.run(whole.model_copy(update={"out": out, "resume": True}))
    assert digest(out) == digest(whole.out)
    for name in ("metrics.jsonl", "encoder/model.safetensors", "curves.svg"):
        assert (out / name).read_bytes() == (whole.out / name).read_bytes(), name


def test_same_seed_same_weights_other_seed_others(stores: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        pretrain.run(config(stores, tmp_path / name, seed=seed, workers=0 if name == "a" else 2))
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


@pytest.mark.parametrize("mode", ["alg1", "figure", "figure+local"])
@pytest.mark.parametrize("pairing", ["matching", "arbitrary"])
def test_gen_dino_trains_in_every_mode(stores: Path, tmp_path: Path, mode: str, pairing: str) -> None:
    more = gen(stores, dis={"mode": mode, "pairing": pairing}, optim={"num_steps": 3})
    if pairing == "arbitrary":
        more["interpolated"] = stores / "int-any"
    pretrain.run(config(stores, tmp_path / "run", **more))
    row = read_journal(tmp_path / "run" / "metrics.jsonl")[-1]
    assert row["loss"] == pytest.approx(row["loss_dino"] + row["loss_dis"], rel=1e-5)
    assert 0 < row["entropy_dis"] <= np.log(64) + 1e-6


def test_options_beyond_the_paper_are_in_the_loss(stores: Path, tmp_path: Path) -> None:
    loss, masks = {"koleo": 0.1, "uniformity": 0.05, "centre": "sinkhorn"}, {"weight": 0.5}
    pretrain.run(config(stores, tmp_path / "run", loss=loss, masks=masks, **gen(stores)))
    for row in read_journal(tmp_path / "run" / "metrics.jsonl"):
        terms = row["loss_dino"] + row["loss_dis"] + 0.5 * row["loss_patches"]
        terms += 0.1 * row["loss_koleo"] + 0.05 * row["loss_uniformity"]
        assert row["loss"] == pytest.approx(terms, rel=1e-5)
    assert load_encoder(tmp_path / "run").card.dim == 48  # no mask token in what comes out


def test_pairs_only_and_disentanglement_only(stores: Path, tmp_path: Path) -> None:
    pretrain.run(config(stores, tmp_path / "pairs", generative=stores / "gen"))
    pretrain.run(config(stores, tmp_path / "dis", interpolated=stores / "int"))
    assert "loss_dis" not in read_journal(tmp_path / "pairs" / "metrics.jsonl")[0]
    assert "loss_dis" in read_journal(tmp_path / "dis" / "metrics.jsonl")[0]
    assert json.loads((tmp_path / "dis" / "run.json").read_text())["results"]["method"] == "Gen-DINO (disentanglement)"


def test_init_from_continues_and_reports(stores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pretrain.run(config(stores, tmp_path / "first"))
    pretrain.run(config(stores, tmp_path / "second", init_from=str(tmp_path / "first"), optim={"num_steps": 1}))
    results = json.loads((tmp_path / "second" / "run.json").read_text())["results"]
    assert results["init_from"].endswith("loaded")
    assert load_encoder(tmp_path / "second").card.supervision == "none"  # as that of the first
    deeper = {"arguments": {"patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 2}}
    model = {**TINY["model"], **deeper}
    with pytest.raises(EncoderError, match=r"12 missing \(blocks.2.norm1.weight.*or take what fits with init_partial"):
        pretrain.run(config(stores, tmp_path / "third", init_from=str(tmp_path / "first"), model=model))
    assert not (tmp_path / "third").exists()
    part = config(
        stores, tmp_path / "fourth", init_from=str(tmp_path / "first"), model=model, init_partial=True,
        optim={"num_steps": 1},
    )  # fmt: skip
    pretrain.run(part)
    assert "12 missing (blocks.2.norm1.weight" in capsys.readouterr().err
    listed = json.loads((tmp_path / "fourth" / "init_from.json").read_text())
    own = set(load_encoder(tmp_path / "fourth").backbone.state_dict())
    assert set(listed["loaded"]) == set(load_encoder(tmp_path / "first").backbone.state_dict())
    assert set(listed["missing"]) == {key for key in own if key.startswith("blocks.2.")}
    assert listed["unexpected"] == []


def test_init_from_weights_of_which_nothing_fits_is_refused_even_in_part(stores: Path, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="the weights in 'colour' do not fit: 0 loaded, 30 missing"):
        pretrain.run(config(stores, tmp_path / "run", init_from="colour", init_partial=True))
    assert not (tmp_path / "run").exists()


def test_a_run_that_has_checkpoints_needs_what_it_started_from_no_more(stores: Path, tmp_path: Path) -> None:
    pretrain.run(config(stores, tmp_path / "first"))
    whole = config(stores, tmp_path / "whole", init_from=str(tmp_path / "first"))
    pretrain.run(whole)
    expected = digest(whole.out)
    (whole.out / "checkpoints" / "step-00000012.json").unlink()
    unfinish(whole.out)
    shutil.rmtree(tmp_path / "first")
    pretrain.run(whole.model_copy(update={"resume": True}))
    assert digest(whole.out) == expected
    assert load_encoder(whole.out).card.supervision == "none"


def unfinish(out: Path) -> None:
    """Take back what a run does after its last step, as a kill at that moment leaves it."""
    shutil.rmtree(out / "encoder")
    record = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**record, "status": "started"}))


def test_killed_after_the_last_checkpoint_and_resumed_says_the_same(stores: Path, tmp_path: Path) -> None:
    whole = config(stores, tmp_path / "run")
    pretrain.run(whole)
    measured = {"seconds", "timed_steps", "tiles_per_second"}
    results = [json.loads((whole.out / "run.json").read_text())["results"]]
    assert results[0]["timed_steps"] == 12
    card = (whole.out / "README.md").read_bytes()
    unfinish(whole.out)
    pretrain.run(whole.model_copy(update={"resume": True}))
    results.append(json.loads((whole.out / "run.json").read_text())["results"])
    first, second = ({k: v for k, v in one.items() if k not in measured} for one in results)
    assert first == second
    assert "loss" in second
    assert results[1]["tiles_per_second"] == 0  # none was trained on meanwhile
    assert (whole.out / "README.md").read_bytes() == card


COLLAPSING: dict[str, Any] = {
    "loss": {"centre": False, "teacher_momentum": 0.9}, "collapse": {"every": 2},
    "optim": {"num_steps": 60, "lr": 0.1, "warmup_epochs": 0.0, "freeze_last_layer_epochs": 0.0},
}  # fmt: skip


def test_a_run_that_collapses_says_so_where_it_is_seen(
    stores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = pretrain.run(config(stores, tmp_path / "run", **COLLAPSING))
    step = json.loads((tmp_path / "run" / "run.json").read_text())["results"]["collapse_step"]
    assert 6 <= step <= 60
    assert f"collapse at step {step}: " in capsys.readouterr().err
    assert outcome.summary.endswith(f"COLLAPSED at step {step}")
    with pytest.raises(TrainingStoppedError, match=f"collapse at step {step}: "):
        pretrain.run(config(stores, tmp_path / "stopped", **{**COLLAPSING, "collapse": {"every": 2, "stop": True}}))


def test_an_encoder_that_the_last_step_broke_is_not_exported(stores: Path, tmp_path: Path) -> None:
    broken = {"num_steps": 1, "lr": 1e38, "warmup_epochs": 0, "min_lr": 1e38, "precision": "float32"}
    with pytest.raises(TrainingStoppedError, match="gives no finite embedding after the last step"):
        pretrain.run(config(stores, tmp_path / "run", optim=broken))
    assert not (tmp_path / "run" / "encoder").exists()


def test_schedules_that_last_the_whole_run_are_remarked_on(
    stores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain.run(config(stores, tmp_path / "a", optim={"num_steps": 2, "freeze_last_layer_epochs": 1.0}))
    said = capsys.readouterr().err
    assert "optim.freeze_last_layer_epochs lasts all 2 steps (an epoch is 4 steps of 8): the head's last layer" in said
    pretrain.run(config(stores, tmp_path / "b", optim={"num_steps": 5, "warmup_epochs": 0.25}))
    assert "lasts all" not in capsys.readouterr().err


def dino_checkpoint(vit: torch.nn.Module) -> dict[str, Any]:
    """As DINO's code saves: student and teacher with their heads, prefixes and all."""
    head = {"head.last_layer.weight_v": torch.zeros(3, 2)}
    return {
        "student": {f"module.backbone.{k}": torch.zeros_like(v) for k, v in vit.state_dict().items()},
        "teacher": {f"backbone.{k}": v for k, v in vit.state_dict().items()} | head,
        "epoch": 7,
    }


def dinov2_checkpoint(vit: torch.nn.Module) -> dict[str, Any]:
    """As DINOv2's hub serves: bare keys, a mask token, a position embedding of another grid (518 px)."""
    state = dict(vit.state_dict())
    return state | {"mask_token": torch.zeros(1, 48)}


@pytest.mark.parametrize("layout", ["dino", "dinov2", "timm"])
def test_init_from_foreign_weights_starts_with_their_embeddings(stores: Path, tmp_path: Path, layout: str) -> None:
    arguments = dict(TINY["model"]["arguments"])
    if layout == "dinov2":
        arguments |= {"init_values": 1e-5}
    theirs = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, img_size=32 if layout == "dinov2" else 16, **arguments
    ).eval()
    torch.manual_seed(0)
    for p in theirs.parameters():
        torch.nn.init.normal_(p, std=0.05)
    file, spec = tmp_path / "weights.pth", str(tmp_path / "weights.pth")
    torch.save(
        {"dino": dino_checkpoint, "dinov2": dinov2_checkpoint}.get(layout, lambda v: v.state_dict())(theirs), file
    )
    settings = config(
        stores, tmp_path / "run", init_from=spec, model={"arguments": arguments}, optim={"num_steps": 1, "lr": 1e-12},
        loss={"teacher_momentum": 1.0},
    )  # fmt: skip
    pretrain.run(settings)
    results = json.loads((tmp_path / "run" / "run.json").read_text())["results"]
    assert f"{len(theirs.state_dict())} loaded" in results["init_from"]
    assert ("1 resampled (pos_embed)" in results["init_from"]) == (layout == "dinov2")
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = timm.create_model(
            "vit_tiny_patch16_224", num_classes=0, img_size=32 if layout == "dinov2" else 16, dynamic_img_size=True,
            **arguments,
        ).eval()  # fmt: skip
        expected.load_state_dict(theirs.state_dict())
        torch.testing.assert_close(
            load_encoder(tmp_path / "run").backbone(images), expected(images), atol=1e-4, rtol=1e-3
        )


def test_labels_are_looked_at_in_the_journal_and_change_nothing(stores: Path, tmp_path: Path) -> None:
    tiles, kinds = textured_tiles(NUM_TILES)
    labelled = write_store(tmp_path / "s.zarr", tiles, kind_of=Column(kinds.astype(np.int32), ["a", "b", "c"]))
    watch = {"every": 3}
    pretrain.run(config(stores, tmp_path / "without", collapse=watch))
    pretrain.run(config(stores, tmp_path / "with", tiles=[labelled], monitor_label="kind_of", collapse=watch))
    assert digest(tmp_path / "with") == digest(tmp_path / "without")
    rows = read_journal(tmp_path / "with" / "metrics.jsonl")
    assert all(0 <= row["knn"] <= 1 for row in rows)
    assert "knn" not in read_journal(tmp_path / "without" / "metrics.jsonl")[0]


def test_the_encoder_carries_the_tiles_own_mean_and_deviation(stores: Path, tmp_path: Path) -> None:
    pretrain.run(config(stores, tmp_path / "run", augment={"normalise": "tiles"}, optim={"num_steps": 1}))
    card = json.loads((tmp_path / "run" / "encoder" / "config.json").read_text())["pretrained_cfg"]
    pixels = TileSet.open_(stores / "real").read_tiles(np.arange(NUM_TILES)) / 255.0
    np.testing.assert_allclose(card["mean"], pixels.mean((0, 1, 2)), atol=1e-4)
    np.testing.assert_allclose(card["std"], pixels.std((0, 1, 2)), atol=1e-4)


@pytest.mark.parametrize("layout", ["flat", "classes"])
def test_natural_images_train_through_the_same_store(tmp_path: Path, layout: str) -> None:
    rng = np.random.default_rng(0)
    for number in range(12):
        file = tmp_path / "images" / ("" if layout == "flat" else f"class{number % 2}") / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20 + number, 40 - number, 3), dtype=np.uint8)).save(file)
    store = tmp_path / "natural.zarr"
    import_images.run(import_images.ImportImagesConfig(folder=tmp_path / "images", out=store, tile_px=16))
    outcome = pretrain.run(
        PretrainConfig(tiles=[store], out=tmp_path / "run", **{**TINY, "optim": {"num_steps": 2, "batch": 4}})
    )
    assert outcome.summary.startswith("DINO on 12 tiles")
    assert load_encoder(tmp_path / "run").card.mean == (0.485, 0.456, 0.406)  # ImageNet's recipe


def test_something_is_learnt(tmp_path: Path) -> None:
    """Stripes in noise, all of about one colour, are told apart by k-NN after training and hardly before."""
    from sklearn.neighbors import KNeighborsClassifier

    rng, kinds = np.random.default_rng(0), np.arange(300) % 3
    y, x = np.mgrid[:32, :32]
    waves = np.stack([np.sin([x, y, x + y][kind] + rng.uniform(0, 6.3)) for kind in kinds])[..., None]
    glass = rng.uniform(118, 137, (300, 1, 1, 3))
    tiles = np.clip(glass + 35 * waves + rng.normal(0, 15, (300, 32, 32, 3)), 0, 255).astype(np.uint8)
    write_store(tmp_path / "s.zarr", tiles)
    model = {**TINY["model"], "arguments": {"patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2}}
    settings = config(
        tmp_path, tmp_path / "run", tiles=[tmp_path / "s.zarr"], model=model,
        crops={"global_px": 32, "local_px": 16},
        optim={
            "num_steps": 120, "batch": 48, "lr": 3e-3, "warmup_epochs": 1, "weight_decay_end": 0.04,
            "freeze_last_layer_epochs": 0.0, "precision": "float32",
        },
        augment={"blur": (0.0, 0.0, 0.0), "flip": 0.0, "normalise": "tiles"},
        loss={"teacher_momentum": 0.9, "teacher_temp": 0.03, "teacher_temp_start": 0.03}, checkpoint_every=120,
    )  # fmt: skip
    pretrain.run(settings)

    def accuracy(backbone: Any) -> float:
        images = (torch.from_numpy(tiles).permute(0, 3, 1, 2) - encoder.mean) / encoder.std
        with torch.no_grad():
            features = torch.nn.functional.normalize(backbone(images), dim=1).numpy()
        knn = KNeighborsClassifier(5).fit(features[:200], kinds[:200])
        return float((knn.predict(features[200:]) == kinds[200:]).mean())

    encoder = load_encoder(tmp_path / "run")
    untrained = pretrain.build_networks(settings, seed=0)[1].backbone.eval()
    before, after = accuracy(untrained), accuracy(encoder.backbone)
    assert before < 0.6, "the tiles are too easy to show learning"
    assert after > before + 0.15, (before, after)


def bad_inputs(stores: Path, folder: Path) -> list[tuple[dict[str, Any], type[Exception], str]]:
    tiles, _ = textured_tiles(NUM_TILES)
    elsewhere = write_store(folder / "e.zarr", tiles, "generative", **synthetic_columns(NUM_TILES, 1, store="other"))
    partly = write_store(folder / "p.zarr", tiles[:20], "generative", **synthetic_columns(20, 1))
    empty = write_store(folder / "empty.zarr", tiles[:0])
    no_source = write_store(folder / "n.zarr", tiles, "generative")
    return [
        ({"generative": elsewhere}, StoreError, "none of the 32 generative tiles was made from these 32 tiles"),
        ({"generative": partly}, StoreError, "12 of 32 tiles have no generative tile, the first is s:20"),
        ({"generative": no_source}, StoreError, "has no column 'source_store'"),
        ({"tiles": [empty]}, (ConfigError, StoreError), "hold no tiles|no tiles"),
        ({"monitor_label": "grade"}, ConfigError, "not all tiles have a column 'grade'"),
        ({"generative": stores / "gen", "monitor_label": "alpha", "tiles": [stores / "gen"]}, StoreError, "none of"),
        (
            {"monitor_label": "alpha", "tiles": [stores / "gen"]},
            ConfigError,
            "column 'alpha' holds no labels but float32",
        ),
        ({"tiles": [stores / "real", stores / "gen"]}, ConfigError, "of kinds generative, slide together; give the"),
        ({"generative": stores / "int"}, StoreError, "are of kind interpolated"),
        ({"interpolated": stores / "int-any"}, ConfigError, "only 0 of 32 tiles are their partner's partner"),
        ({"crops": {"global_px": 24}}, ConfigError, "tiles of 16 px are smaller than the global crops of 24 px"),
        ({"crops": {"local_px": 24}}, ConfigError, "tiles of 16 px are smaller than the local crops of 24 px"),
        ({"optim": {"batch": 64}}, ConfigError, "a batch of 64 cannot be drawn from 32 tiles"),
        (gen(stores, optim={"batch": 64}), ConfigError, "a batch of 64 cannot be drawn from 32 tiles in pairs"),
        (
            gen(stores, optim={"batch": 7}),
            ConfigError,
            "batch 7 does not split evenly over whole pairs; use a multiple of 2",
        ),
        ({"model": {"name": "vit_smal_patch16_224"}}, EncoderError, "for example vit_small_patch16_224 or"),
        (
            {"model": {"name": "resnet18"}},
            EncoderError,
            "'resnet18' with .*'patch_size'.*mend model.arguments",
        ),
        (
            {"model": {"arguments": {"embed_dim": 7, "num_heads": 2, "patch_size": 8}}},
            EncoderError,
            "mend model.arguments",
        ),
        ({"init_from": "nowhere"}, EncoderError, "encoder 'nowhere' is neither a folder nor a file"),
        ({"optim": {"batch": 9, "accumulate": 2}}, ConfigError, "does not split evenly"),
        ({"optim": {"precision": "float16"}}, ConfigError, "needs a GPU"),
    ]


def test_bad_input_is_one_sentence_before_anything_is_written(stores: Path, tmp_path: Path) -> None:
    for number, (changes, error, message) in enumerate(bad_inputs(stores, tmp_path)):
        with pytest.raises(error, match=message):
            pretrain.run(config(stores, tmp_path / str(number), **changes))
        assert not (tmp_path / str(number)).exists()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("crops.global_scale", [1.0, 0.4], "crops.global_scale: [1.0, 0.4] falls; give the lower bound first"),
        ("crops.global_scale", [0.4, 3], "'crops.global_scale.1' cannot be 3: give 1 or less"),
        ("crops.local_scale", [0, 0.4], "'crops.local_scale.0' cannot be 0: give more than 0"),
        ("augment.blur", [2, 0, 0], "'augment.blur.0' cannot be 2: give 1 or less"),
        (
            "augment.solarize",
            [0, -1, 0],
            "'augment.solarize.1' cannot be -1: give 0 or more",
        ),
        ("augment.blur_sigma", [2.0, 0.1], "augment.blur_sigma: [2.0, 0.1] falls"),
        ("augment.blur_sigma", [-1, 2], "'augment.blur_sigma.0' cannot be -1"),
        ("augment.normalise", [[0.5, 0.5, 0.5], [0, 0, 0]], "cannot be 0: give more than 0"),
        (
            "augment.normalise",
            [[123.7, 116.3, 103.5], [1, 1, 1]],
            "cannot be 123.7: give 1 or less",
        ),
        ("masks.ratio", [0.5, 2], "'masks.ratio.1' cannot be 2"),
        ("model.arguments.patch_size", "abc", "model.arguments.patch_size cannot be 'abc'; give the side of a patch"),
        ("optim.lr", ".nan", "'optim.lr' cannot be nan: give a finite number"),
    ],
)
def test_settings_that_would_do_something_else_than_they_say_are_refused(key: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(PretrainConfig, overrides=[f"{key}={value}"], flags={"tiles": [Path("t")], "out": Path("o")})
    assert message in str(error.value)


def test_missing_synthetic_tiles_can_be_allowed(stores: Path, tmp_path: Path) -> None:
    tiles, _ = textured_tiles(20, seed=3)
    partly = write_store(tmp_path / "p.zarr", tiles, "generative", **synthetic_columns(20, 1))
    pretrain.run(config(stores, tmp_path / "run", generative=partly, gen={"allow_missing": True}))
