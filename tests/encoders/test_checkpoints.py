"""Checkpoints as training loops leave them: which weights are taken, and what is refused with which words."""

from __future__ import annotations

import argparse
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
import torch

from histogen.encoders.checkpoint import read_weights
from histogen.encoders.registry import absolute_spec, load_encoder
from histogen.encoders.timm import build_vit
from histogen.errors import EncoderError
from histogen.ssl.initial import start_from

ARGUMENTS: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 3}
State = dict[str, torch.Tensor]


def vit(seed: int, **changes: Any) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_vit("vit_small_patch16_224", {**ARGUMENTS, **changes}).eval()


def named(prefix: str, model: torch.nn.Module) -> State:
    return {prefix + key: value for key, value in model.state_dict().items()}


def features(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(9)))


def chunked(state: State, size: int) -> State:
    """DINOv2's names when its blocks are in chunks: ``blocks.CHUNK.BLOCK``, with the block's number over all."""
    return {re.sub(r"blocks\.(\d+)\.", lambda m: f"blocks.{int(m[1]) // size}.{m[1]}.", k): v for k, v in state.items()}


def test_dinos_full_checkpoint_with_its_optimizer_and_arguments(tmp_path: Path) -> None:
    student, teacher = vit(1), vit(2)
    optimizer = torch.optim.AdamW(student.parameters())
    student(torch.randn(1, 3, 32, 32)).sum().backward()
    optimizer.step()
    for group in optimizer.param_groups:  # DINO's schedules are numpy arrays
        group.update(lr=np.float64(1e-3), weight_decay=np.float32(0.04), count=np.int64(7))
    content = {
        "student": {**named("module.backbone.", student), "module.head.last_layer.weight_g": torch.ones(4, 1)},
        "teacher": {**named("backbone.", teacher), "head.last_layer.weight_v": torch.ones(4, 2)},
        "optimizer": optimizer.state_dict(), "epoch": 3, "dino_loss": {"center": torch.zeros(1, 4)},
        "fp16_scaler": {"scale": 65536.0}, "args": argparse.Namespace(arch="vit_own", num_heads=3, out=Path("x/y")),
        "momenta": np.linspace(0, 1, 3),
    }  # fmt: skip
    torch.save(content, tmp_path / "checkpoint.pth")
    encoder = load_encoder(tmp_path / "checkpoint.pth")
    assert torch.equal(features(encoder.backbone), features(teacher))
    other = load_encoder(f"{tmp_path / 'checkpoint.pth'}#student")
    assert torch.equal(features(other.backbone), features(student))
    assert encoder.card.name != other.card.name


@pytest.mark.parametrize("layout", ["one dictionary", "teacher alone", "chunks of 2", "compiled"])
def test_dinov2s_training_checkpoints(tmp_path: Path, layout: str) -> None:
    student, teacher = vit(1, init_values=1e-5), vit(2, init_values=1e-5)
    states = [named("backbone.", model) for model in (student, teacher)]
    if layout == "chunks of 2":
        states = [chunked(state, 2) for state in states]
    if layout == "compiled":
        states = [{key.replace("backbone.", "backbone._orig_mod."): v for key, v in state.items()} for state in states]
    heads = {"dino_head.mlp.0.weight": torch.ones(2, 2), "backbone.mask_token": torch.zeros(1, 48)}
    content: dict[str, Any] = {"teacher": {**states[1], **heads}, "args": {"num_heads": 3}}
    if layout != "teacher alone":
        both = {f"{role}.{k}": v for role, s in zip(("student", "teacher"), states, strict=True) for k, v in s.items()}
        more = {"dino_loss.center": torch.zeros(1, 4), "teacher.dino_head.last_layer.weight": torch.ones(2, 2)}
        content = {"model": {**both, **more}, "args": {"num_heads": 3}, "iteration": 5}
    torch.save(content, tmp_path / "model.pth")
    assert torch.equal(features(load_encoder(tmp_path / "model.pth").backbone), features(teacher))
    if layout != "teacher alone":
        chosen = load_encoder(f"{tmp_path / 'model.pth'}#student")
        assert torch.equal(features(chosen.backbone), features(student))


@pytest.mark.parametrize("averaged", ["model_ema", "state_dict_ema", "ema"])
def test_the_averaged_weights_are_taken_and_the_key_chooses(tmp_path: Path, averaged: str) -> None:
    plain, mean = vit(1), vit(2)
    plain_key = "state_dict" if averaged == "state_dict_ema" else "model"
    content = {plain_key: plain.state_dict(), averaged: mean.state_dict(), "config": {"heads": 3}}
    torch.save(content, tmp_path / "run#1.pth")  # a # of the file's own name is no key
    path = tmp_path / "run#1.pth"
    assert torch.equal(features(load_encoder(path).backbone), features(mean))
    assert torch.equal(features(load_encoder(f"{path}#{plain_key}").backbone), features(plain))
    with pytest.raises(EncoderError, match=rf"has nothing under the key 'optimizer'; it has .*{averaged}"):
        load_encoder(f"{path}#optimizer")


def test_a_gated_mlp_of_dinov2_gives_its_features(tmp_path: Path) -> None:
    """Oracle: the gated MLP written plainly, x -> w3(silu(a) * b) with (a, b) the halves of w12(x)."""
    from timm.layers import SwiGLUPacked

    model = vit(0, mlp_layer=SwiGLUPacked, act_layer=torch.nn.SiLU, mlp_ratio=128 / 48)
    theirs = {
        k.replace("mlp.fc1.", "mlp.w12.").replace("mlp.fc2.", "mlp.w3."): v for k, v in model.state_dict().items()
    }
    torch.save({"teacher": theirs, "args": {"num_heads": 3}}, tmp_path / "g.pth")
    loaded = load_encoder(tmp_path / "g.pth").backbone
    assert torch.equal(features(loaded), features(model))
    x = torch.randn(2, 5, 48)
    first = torch.nn.functional.linear(x, theirs["blocks.0.mlp.w12.weight"], theirs["blocks.0.mlp.w12.bias"])
    a, b = first.chunk(2, dim=-1)
    plain = torch.nn.functional.linear(
        torch.nn.functional.silu(a) * b, theirs["blocks.0.mlp.w3.weight"], theirs["blocks.0.mlp.w3.bias"]
    )
    with torch.no_grad():
        torch.testing.assert_close(loaded.blocks[0].mlp(x), plain)


def test_heads_are_read_or_asked_for_and_never_guessed(tmp_path: Path) -> None:
    published = build_vit("vit_small_patch16_224", {"depth": 1}).eval()
    torch.save(published.state_dict(), tmp_path / "bare.pth")
    torch.save({"teacher": published.state_dict(), "args": argparse.Namespace(arch="vit_small")}, tmp_path / "said.pth")
    torch.save({"teacher": published.state_dict(), "args": argparse.Namespace(arch="vit_base")}, tmp_path / "odd.pth")
    torch.save({"teacher": published.state_dict(), "args": {"num_heads": 5}}, tmp_path / "five.pth")
    assert load_encoder(tmp_path / "said.pth").backbone.blocks[0].attn.num_heads == 6
    for name in ("bare", "odd"):
        with pytest.raises(
            EncoderError, match=r"how many attention heads .*: timm:vit_small_patch16_224@.*#mean:0.485"
        ):
            load_encoder(tmp_path / f"{name}.pth")
    with pytest.raises(EncoderError, match="width 384 cannot have 5 attention heads"):
        load_encoder(tmp_path / "five.pth")
    normed = vit(3, qk_norm=True)
    torch.save(normed.state_dict(), tmp_path / "normed.pth")
    assert read_weights(tmp_path / "normed.pth").heads == 3


def test_a_tensor_of_the_wrong_shape_or_of_no_place_is_named(tmp_path: Path) -> None:
    def refused(changes: State) -> str:
        torch.save({"teacher": {**vit(0).state_dict(), **changes}, "args": {"num_heads": 3}}, tmp_path / "w.pth")
        with pytest.raises(EncoderError) as caught:
            load_encoder(tmp_path / "w.pth")
        return str(caught.value)

    assert "blocks.1.norm1.weight (47,), not (48,)" in refused({"blocks.1.norm1.weight": torch.ones(47)})
    assert "adapter.weight (2, 2)" in refused({"adapter.weight": torch.ones(2, 2)})
    both = {**named("backbone.", vit(0)), **named("encoder.", vit(1))}
    torch.save({"teacher": both, "args": {"num_heads": 3}}, tmp_path / "both.pth")
    with pytest.raises(EncoderError, match=r"'backbone.cls_token' and 'encoder.cls_token', both 'cls_token'"):
        load_encoder(tmp_path / "both.pth")


def test_what_would_run_code_is_named(tmp_path: Path) -> None:
    torch.save({"teacher": vit(0).state_dict(), "call": shutil.rmtree}, tmp_path / "bad.pth")
    with pytest.raises(EncoderError, match=r"it would run code: shutil\.rmtree"):
        load_encoder(tmp_path / "bad.pth")


def test_a_spec_holds_in_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.pth").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    full = (tmp_path / "w.pth").resolve()
    assert absolute_spec("w.pth#student") == f"{full}#student"
    assert absolute_spec("timm:vit_tiny_patch16_224@w.pth#model") == f"timm:vit_tiny_patch16_224@{full}#model"
    normed = "#mean:0.5,0.25,0.125#std:1,1,1"
    assert absolute_spec(f"w.pth#student{normed}") == f"{full}#student{normed}"
    assert absolute_spec("timm:vit_tiny_patch16_224") == "timm:vit_tiny_patch16_224"


def images() -> torch.Tensor:
    return torch.randint(0, 256, (2, 3, 32, 32), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)


@pytest.mark.parametrize("how", ["{file}", "{file}#teacher", "timm:vit_own.tag@{file}"])
def test_a_file_is_given_its_own_mean_and_std(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """Oracle: the network on pixels normalised by hand. Embeddings by another normalisation have another name."""
    model, built = vit(1), vit(0)
    built.pretrained_cfg = {**built.pretrained_cfg, "input_size": (3, 32, 32), "crop_pct": 1.0}
    monkeypatch.setattr("histogen.encoders.timm.build_vit", lambda *_: built)
    torch.save({"teacher": model.state_dict(), "args": {"num_heads": 3}}, tmp_path / "w#1.pth")
    spec = how.format(file=tmp_path / "w#1.pth")
    mean, std = torch.tensor([0.7, 0.5, 0.625]), torch.tensor([0.2, 0.25, 0.15])
    plain, own = load_encoder(spec), load_encoder(f"{spec}#mean:0.7,.5,6.25e-1#std:0.2,0.25,0.15")
    with torch.no_grad():
        expected = model((images() / 255 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1))
    torch.testing.assert_close(own(images()), expected, rtol=1e-4, atol=1e-5)
    assert (own.card.mean, own.card.std) == ((0.7, 0.5, 0.625), (0.2, 0.25, 0.15))
    assert float((plain(images()) - expected).abs().max()) > 0.01
    assert own.card.name != plain.card.name
    assert own.card.name[:-8] == plain.card.name[:-8]
    assert own.card.weights_sha256 == plain.card.weights_sha256
    usual = ["#".join(["", f"{name}:{','.join(map(str, numbers))}"]) for name, numbers in
             (("std", plain.card.std), ("mean", plain.card.mean))]  # fmt: skip
    assert load_encoder(spec + "".join(usual)).card == replace(plain.card, source=ANY)


@pytest.mark.parametrize(
    ("suffix", "message"),
    [
        ("#mean:0.5,0.5,0.5", "gives one of mean and std; give both"),
        ("#teacher#std:1,1,1", "gives one of mean and std; give both"),
        ("#mean:0.5,0.5#std:1,1,1", "mean in '.*' cannot be '0.5,0.5'; give three numbers"),
        ("#mean:a,b,c#std:1,1,1", "mean in '.*' cannot be 'a,b,c'; give three numbers"),
        ("#mean:123.7,116.3,103.5#std:1,1,1", "cannot be 123.7: pixels are in 0 to 1"),
        ("#mean:nan,0,0#std:1,1,1", "cannot be nan"),
        ("#mean:0,0,0#std:0,1,1", "std in '.*' cannot be 0: pixels are in 0 to 1; give numbers above 0"),
        ("#mean:0,0,0#std:1,1,1#mean:0,0,0", "gives mean twice"),
        ("#teacher#student", "gives key twice"),
    ],
)
def test_a_mean_and_std_that_cannot_be(tmp_path: Path, suffix: str, message: str) -> None:
    torch.save({"teacher": vit(0).state_dict(), "args": {"num_heads": 3}}, tmp_path / "w.pth")
    with pytest.raises(EncoderError, match=message):
        load_encoder(f"{tmp_path / 'w.pth'}{suffix}")


def test_a_training_that_starts_from_weights_normalises_by_itself(tmp_path: Path) -> None:
    with pytest.raises(
        EncoderError, match=r"a training normalises by itself; give the weights alone: .*w\.pth#teacher$"
    ):
        start_from(f"{tmp_path / 'w.pth'}#teacher#mean:0,0,0#std:1,1,1", (None, None))  # type: ignore[arg-type]
