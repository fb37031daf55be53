"""Encoders: specs, cards, timm's folder format, weights from files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import checkpoint_filter_fn

from histogen.encoders.base import Encoder
from histogen.encoders.checkpoint import load_matching, read_weights, vit_arguments
from histogen.encoders.registry import load_encoder
from histogen.encoders.timm import build_vit, export_encoder
from histogen.errors import ConfigError, EncoderError

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1}
MEAN, STD = (0.7, 0.5, 0.6), (0.2, 0.25, 0.15)


def tiny_vit(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_vit("vit_small_patch16_224", TINY)


def save(state: dict[str, torch.Tensor], file: Path) -> None:
    torch.save({"teacher": state, "args": argparse.Namespace(num_heads=TINY["num_heads"])}, file)


def export(model: torch.nn.Module, folder: Path) -> None:
    export_encoder(
        model,
        folder,
        name="run",
        architecture="vit_small_patch16_224",
        arguments=TINY,
        image_px=32,
        mean=MEAN,
        std=STD,
        source="test",
        supervision="none",
    )


def test_export_is_bit_equal_through_timm_and_through_us(tmp_path: Path) -> None:
    model = tiny_vit().eval()
    export(model, tmp_path / "my run" / "encoder")
    encoder = load_encoder(tmp_path / "my run")
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    theirs = timm.create_model(f"local-dir:{tmp_path / 'my run' / 'encoder'}", pretrained=True).eval()
    data = timm.data.resolve_model_data_config(theirs)
    assert data["mean"] == list(MEAN)
    assert data["std"] == list(STD)
    assert data["input_size"] == [3, 32, 32]
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255.0 for v in (MEAN, STD))
    pixels = (images.float() - mean) / std
    with torch.no_grad():
        assert torch.equal(model(pixels), theirs(pixels))
        assert torch.equal(encoder(images), theirs(pixels))
    assert encoder.card.name == f"my-run-{encoder.card.weights_sha256[:8]}"
    assert encoder.card.supervision == "none"


def test_encoder_resizes_and_takes_floats(tmp_path: Path) -> None:
    export(tiny_vit(), tmp_path / "encoder")
    encoder = load_encoder(tmp_path)
    flat = torch.full((2, 3, 50, 50), 128, dtype=torch.uint8)
    torch.testing.assert_close(encoder(flat), encoder(torch.full((2, 3, 32, 32), 128.0)), atol=1e-5, rtol=1e-5)
    assert encoder(flat).dtype == torch.float32
    assert not encoder.train().training
    assert all(not p.requires_grad for p in encoder.parameters())


def test_different_weights_have_different_names(tmp_path: Path) -> None:
    for seed in (0, 1):
        export(tiny_vit(seed), tmp_path / str(seed) / "run" / "encoder")
    names = {load_encoder(tmp_path / str(seed) / "run").card.name for seed in (0, 1)}
    assert len(names) == 2


def test_any_image_size_that_the_patch_divides() -> None:
    model = tiny_vit()
    assert model(torch.zeros(1, 3, 24, 24)).shape == (1, 64)


def test_dino_checkpoint_loads_the_teacher(tmp_path: Path) -> None:
    student, teacher = tiny_vit(1), tiny_vit(2).eval()
    wrap = {
        "student": {f"module.backbone.{k}": v for k, v in student.state_dict().items()},
        "teacher": {f"backbone.{k}": v for k, v in teacher.state_dict().items()} | {"head.mlp.0.weight": torch.ones(2)},
        "epoch": 3,
        "args": argparse.Namespace(num_heads=1),
    }
    torch.save(wrap, tmp_path / "dino.pth")
    encoder = load_encoder(tmp_path / "dino.pth")
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(encoder.backbone(pixels), teacher(pixels))
    assert encoder.card.image_px == 32
    assert encoder.card.mean == (0.485, 0.456, 0.406)


def test_a_partial_load_is_an_error_that_lists_the_keys(tmp_path: Path) -> None:
    state = tiny_vit().state_dict()
    del state["norm.weight"]
    state["extra"] = torch.zeros(1)
    save(state, tmp_path / "part.pth")
    with pytest.raises(EncoderError, match=r"1 missing \(norm.weight\), 1 unexpected \(extra \(1,\)\)"):
        load_encoder(tmp_path / "part.pth")


def test_load_matching_resamples_the_position_embedding() -> None:
    large = build_vit("vit_small_patch16_224", {**TINY, "img_size": 64})
    small = tiny_vit()
    report = load_matching(small, large.state_dict())
    assert report.resampled == ("pos_embed",)
    assert report.complete
    torch.testing.assert_close(small.pos_embed[:, 0], large.pos_embed[:, 0])
    assert vit_arguments(large.state_dict(), heads=1) == {**TINY, "img_size": 64}


@pytest.mark.parametrize("img_size", [32, 64])
def test_registers_of_dinov2_are_read_as_timm_reads_them(tmp_path: Path, img_size: int) -> None:
    """Oracle: timm's own conversion of DINOv2's checkpoints, into a model of the same or of another image size."""
    torch.manual_seed(0)
    plain = build_vit("vit_small_patch16_224", {**TINY, "img_size": 32, "init_values": 1e-5}).state_dict()
    state = {key: torch.randn_like(value) * 0.1 for key, value in plain.items()}
    state |= {"register_tokens": torch.randn(1, 4, TINY["embed_dim"]), "mask_token": torch.zeros(1, TINY["embed_dim"])}
    save(state, tmp_path / "reg4.pth")
    arguments = {**TINY, "init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True}
    expected, ours = (build_vit("vit_small_patch16_224", {**arguments, "img_size": img_size}) for _ in range(2))
    expected.load_state_dict(checkpoint_filter_fn(dict(state), expected))
    report = load_matching(ours, read_weights(tmp_path / "reg4.pth").state)
    assert report.complete
    assert report.resampled == (("pos_embed",) if img_size == 64 else ())
    pixels = torch.randn(2, 3, img_size, img_size)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(pixels), expected.eval()(pixels))
        if img_size == 32:
            encoder = load_encoder(tmp_path / "reg4.pth")
            torch.testing.assert_close(encoder.backbone(pixels), expected(pixels))
            assert encoder.card.image_px == 32


def test_timm_name_with_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    encoder = load_encoder(f"timm:vit_tiny_patch16_224.augreg_in21k@{tmp_path / 'w.safetensors'}")
    pixels = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        torch.testing.assert_close(encoder.backbone(pixels), model.forward_head(model.forward_features(pixels), True))
    assert encoder.card.dim == 192


def test_random_is_the_same_for_the_same_seed_and_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    a = load_encoder("random:test_vit")
    assert torch.equal(torch.rand(1), expected)
    assert a.card.weights_sha256 == load_encoder("random:test_vit@0").card.weights_sha256
    assert a.card.weights_sha256 != load_encoder("random:test_vit@1").card.weights_sha256


def test_colour_histogram_equals_numpy() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64), dtype=np.uint8)
    found = load_encoder("colour")(torch.from_numpy(images)).numpy()
    for b in range(2):
        expected = [np.histogram(images[b, c], bins=16, range=(0, 256))[0] / 64**2 for c in range(3)]
        np.testing.assert_allclose(found[b], np.concatenate(expected), atol=1e-6)


def test_what_cannot_be_loaded_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "script.sh").write_text(". ./env.sh\nexport A=1\n")
    (tmp_path / "empty").mkdir()
    for name in ("run", "eldm"):
        (tmp_path / name / "checkpoints").mkdir(parents=True)
    (tmp_path / "eldm" / "run.json").write_text('{"command": "train-eldm"}')
    cases = {
        str(tmp_path / "none"): "neither a folder nor a file",
        str(tmp_path / "text.pth"): r"holds no readable weights \(it is no file of weights, or would run code\); copy",
        str(tmp_path / "script.sh"): "holds no readable weights",
        "random:test_vit@x": "the seed of 'random:test_vit@x' cannot be 'x'; give a number: random:test_vit@1",
        str(tmp_path / "empty"): "holds no encoder",
        str(tmp_path / "run"): "its training is not finished",
        str(tmp_path / "eldm"): "is an output of train-eldm, not an encoder; give a run of `histogen pretrain`",
        "timm:no_such_model": "timm has no model 'no_such_model'",
        "timm:vit_tiny_patch16_224": "give a file: timm:vit_tiny_patch16_224@",
        f"timm:vit_tiny_patch16_224@{tmp_path}/x": "do not exist",
    }
    for spec, message in cases.items():
        with pytest.raises(EncoderError, match=message):
            load_encoder(spec)
    with pytest.raises(EncoderError, match="not a vision transformer's"):
        vit_arguments({"conv.weight": torch.zeros(1)}, heads=1)


def test_read_weights_runs_no_code(tmp_path: Path) -> None:
    torch.save({"model": Encoder}, tmp_path / "code.pth")
    with pytest.raises(EncoderError, match="no readable weights"):
        read_weights(tmp_path / "code.pth")


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("histogen.json", {"image_px": "32"}, "the card of an encoder cannot have such image_px"),
        ("histogen.json", {"mean": [0.5, "0.5", 0.5]}, "cannot have such mean"),
        ("histogen.json", {"std": [0.5, 0.0, 0.5]}, "cannot have such std"),
        ("histogen.json", {"dim": [64]}, "cannot have such dim"),
        ("histogen.json", {"weight": 1}, "cannot have such 'weight'"),
        ("config.json", {"architecture": "no_such_model"}, "cannot be loaded by timm"),
        ("config.json", {"model_args": "many"}, "cannot be loaded by timm"),
    ],
)
def test_a_folder_that_somebody_changed_is_one_sentence(
    tmp_path: Path, file: str, change: dict[str, Any], message: str
) -> None:
    export(tiny_vit(), tmp_path / "run" / "encoder")
    path = tmp_path / "run" / "encoder" / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(EncoderError, match=message) as caught:
        load_encoder(tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_weights_that_are_none_are_one_sentence(tmp_path: Path) -> None:
    export(tiny_vit(), tmp_path / "run" / "encoder")
    path = tmp_path / "run" / "encoder" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(EncoderError, match="cannot be loaded by timm"):
        load_encoder(tmp_path / "run")
    for name, tensor in (("patch_embed.proj.weight", torch.ones(())), ("blocks.0.mlp.fc2.weight", torch.ones(3))):
        save({**tiny_vit().state_dict(), name: tensor}, tmp_path / "w.pth")
        with pytest.raises(EncoderError) as caught:
            load_encoder(tmp_path / "w.pth")
        assert "\n" not in str(caught.value)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "run.json").write_text("[]")
    with pytest.raises(ConfigError, match="holds no names and values"):
        load_encoder(tmp_path / "empty")
