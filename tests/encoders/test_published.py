"""Cards of published encoders: every loader against a literal reading of what their authors publish."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import transformers
import yaml
from PIL import Image
from safetensors.torch import save_file
from timm.layers import SwiGLUPacked
from torchvision import transforms
from torchvision.transforms import InterpolationMode

from histogen.encoders.base import advice_on
from histogen.encoders.carded import build
from histogen.encoders.published import published_card, published_names
from histogen.encoders.registry import absolute_spec, load_encoder
from histogen.encoders.resize import resize
from histogen.errors import ConfigError, EncoderError

SMALL = {"embed_dim": 48, "depth": 2, "num_heads": 2}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HOPTIMUS = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
LINEAR, CUBIC = InterpolationMode.BILINEAR, InterpolationMode.BICUBIC

# What the model pages say, written out anew: architecture and arguments, transform, normalisation, feature.
SWIGLU = {"mlp_layer": SwiGLUPacked, "act_layer": torch.nn.SiLU}
PAGES: dict[str, tuple[str, dict[str, Any], list[Any], tuple[Any, Any], str]] = {
    "uni": ("vit_large_patch16_224", {"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True},
            [transforms.Resize(224, LINEAR), transforms.CenterCrop(224)], IMAGENET, "cls"),
    "uni2": ("vit_giant_patch14_224", {"img_size": 224, "patch_size": 14, "init_values": 1e-5, "mlp_ratio": 2.66667 * 2,
             "no_embed_class": True, "reg_tokens": 8, "dynamic_img_size": True, **SWIGLU},
             [transforms.Resize(224, LINEAR), transforms.CenterCrop(224)], IMAGENET, "cls"),
    "gigapath": ("vit_giant_patch14_dinov2", {"img_size": 224, "patch_size": 16, "mlp_ratio": 5.33334},
                 [transforms.Resize(256, CUBIC), transforms.CenterCrop(224)], IMAGENET, "cls"),
    "virchow": ("vit_huge_patch14_224", {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, "global_pool": "",
                "dynamic_img_size": True, **SWIGLU}, [transforms.Resize(224, CUBIC)], IMAGENET, "cls+mean"),
    "virchow2": ("vit_huge_patch14_224", {"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, "reg_tokens": 4,
                 "global_pool": "", "dynamic_img_size": True, **SWIGLU},
                 [transforms.Resize(224, CUBIC)], IMAGENET, "cls+mean"),
    "h-optimus-0": ("vit_giant_patch14_reg4_dinov2", {"img_size": 224, "init_values": 1e-5},
                    [transforms.Resize(224, CUBIC)], HOPTIMUS, "cls"),
    "kaiko-l14": ("vit_large_patch14_reg4_dinov2", {"img_size": 518, "dynamic_img_size": True},
                  [transforms.Resize(224, LINEAR), transforms.CenterCrop(224)], HALF, "cls"),
    "gpfm": ("vit_large_patch14_dinov2", {"img_size": 224, "init_values": 1e-5, "dynamic_img_size": True},
             [transforms.Resize(224, CUBIC), transforms.CenterCrop(224)], IMAGENET, "cls"),
}  # fmt: skip


def tile(px: int, seed: int = 0) -> Image.Image:
    """A tile with edges and colours, so that ways to resize it differ."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (px // 6, px // 6, 3), dtype=np.uint8))
    return coarse.resize((px, px), Image.Resampling.NEAREST)


def batch(px: int) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(tile(px, seed))).permute(2, 0, 1) for seed in range(2)])


def write_card(folder: Path, **values: Any) -> Path:
    file = folder / "card.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def small(name: str, folder: Path, **changes: Any) -> Path:
    """Write the shipped card with a network of two narrow blocks."""
    card = published_card(name).model_dump(mode="json")
    card["arguments"] |= SMALL
    card |= {"dim": SMALL["embed_dim"] * (2 if card["feature"] == "cls+mean" else 1), **changes}
    return write_card(folder, **card)


@pytest.mark.parametrize("name", PAGES)
def test_features_are_those_of_the_model_page(tmp_path: Path, name: str) -> None:
    """Oracle: the page's own lines: timm's model, torchvision's transform of a Pillow image of 256 px."""
    architecture, arguments, steps, (mean, std), feature = PAGES[name]
    torch.manual_seed(0)
    model = timm.create_model(architecture, num_classes=0, **{**arguments, **SMALL}).eval()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(mean, std)])
    pixels = torch.stack([transform(tile(256, seed)) for seed in range(2)])
    with torch.no_grad():
        tokens = model.forward_features(pixels)
    registers = arguments.get("reg_tokens", 0)
    expected = tokens[:, 0]
    if feature == "cls+mean":
        expected = torch.cat([tokens[:, 0], tokens[:, 1 + registers :].mean(1)], dim=-1)
    encoder = load_encoder(f"{small(name, tmp_path)}@{tmp_path / 'pytorch_model.bin'}")
    torch.testing.assert_close(encoder(batch(256)), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "millions", "shapes"),
    [
        ("uni", 303, {"pos_embed": (1, 197, 1024), "blocks.23.mlp.fc1.weight": (4096, 1024)}),
        ("uni2", 681, {"pos_embed": (1, 256, 1536), "reg_token": (1, 8, 1536), "blocks.23.mlp.fc1.weight": (8192, 1536),
                       "blocks.0.mlp.fc2.weight": (1536, 4096), "patch_embed.proj.weight": (1536, 3, 14, 14)}),
        ("gigapath", 1135, {"pos_embed": (1, 197, 1536), "patch_embed.proj.weight": (1536, 3, 16, 16),
                            "blocks.39.mlp.fc2.weight": (1536, 4096)}),
        ("virchow", 631, {"pos_embed": (1, 257, 1280), "blocks.31.mlp.fc1.weight": (6832, 1280)}),
        ("virchow2", 631, {"pos_embed": (1, 261, 1280), "reg_token": (1, 4, 1280)}),
        ("h-optimus-0", 1135, {"pos_embed": (1, 256, 1536), "reg_token": (1, 4, 1536)}),
        ("kaiko-b8", 86, {"pos_embed": (1, 785, 768)}),
        ("gpfm", 303, {"pos_embed": (1, 257, 1024), "blocks.0.ls1.gamma": (1024,)}),
        ("openmidnight", 1135, {"reg_token": (1, 4, 1536), "pos_embed": (1, 256, 1536)}),
    ],
)  # fmt: skip
def test_the_architecture_has_the_published_size(name: str, millions: int, shapes: dict[str, tuple[int, ...]]) -> None:
    with torch.device("meta"):
        state = build(published_card(name)).state_dict()
    assert round(sum(value.numel() for value in state.values()) / 1e6) == pytest.approx(millions, abs=1)
    assert {key: tuple(state[key].shape) for key in shapes} == shapes


def test_transformers_models_load_from_a_folder(tmp_path: Path) -> None:
    """Oracle: transformers' model and image processor as the page of Phikon-v2 uses them."""
    config = transformers.Dinov2Config(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
    )
    torch.manual_seed(0)
    model = transformers.Dinov2Model(config).eval()
    model.save_pretrained(tmp_path / "model")
    processor = transformers.BitImageProcessor(
        size={"shortest_edge": 64}, crop_size={"height": 56, "width": 56}, resample=3, image_mean=IMAGENET[0],
        image_std=IMAGENET[1],
    )  # fmt: skip
    processor.save_pretrained(tmp_path / "model")
    pixels = torch.stack([torch.as_tensor(np.array(processor(tile(96, s))["pixel_values"][0])) for s in range(2)])
    with torch.no_grad():
        expected = model(pixel_values=pixels).last_hidden_state
    found = load_encoder(f"transformers:{tmp_path / 'model'}")
    torch.testing.assert_close(found(batch(96)), expected[:, 0], atol=2e-3, rtol=1e-3)
    assert (found.card.resize_px, found.card.image_px, found.card.interpolation) == (64, 56, "bicubic")
    changes = {"dim": 96, "image_px": 56, "resize_px": 64, "feature": "cls+mean", "arguments": {}}
    card = write_card(tmp_path, **{**published_card("phikon-v2").model_dump(mode="json"), **changes})
    carded = load_encoder(f"{card}@{tmp_path / 'model'}")
    both = torch.cat([expected[:, 0], expected[:, 1:].mean(1)], 1)
    torch.testing.assert_close(carded(batch(96)), both, atol=2e-3, rtol=1e-3)
    assert carded.card.name != found.card.name


def test_a_folder_says_how_its_images_are_prepared_or_is_refused(tmp_path: Path) -> None:
    config = transformers.ViTConfig(hidden_size=48, num_hidden_layers=1, num_attention_heads=2, image_size=32)
    transformers.ViTModel(config).save_pretrained(tmp_path / "vit")
    with pytest.raises(EncoderError, match="cannot be used|neither in the local cache"):
        load_encoder(f"transformers:{tmp_path / 'vit'}")
    (tmp_path / "vit" / "preprocessor_config.json").write_text('{"size": 32}')
    with pytest.raises(EncoderError, match="does not say how its images are prepared"):
        load_encoder(f"transformers:{tmp_path / 'vit'}")


def test_configs_of_a_timm_folder_say_what_a_card_leaves_open(tmp_path: Path) -> None:
    """Oracle: timm's own evaluation transform, with its crop_pct, for the folder that it saved."""
    torch.manual_seed(0)
    model = timm.create_model("vit_small_patch16_224", num_classes=0, **SMALL).eval()
    model.pretrained_cfg |= {"mean": HOPTIMUS[0], "std": HOPTIMUS[1], "crop_pct": 0.9, "interpolation": "bicubic"}
    timm.models.save_for_hf(model, tmp_path / "lunit", model_args={**SMALL, "num_classes": 0}, safe_serialization=True)
    card = write_card(tmp_path, **{**published_card("lunit-s16").model_dump(mode="json"), "dim": 48})
    encoder = load_encoder(f"{card}@{tmp_path / 'lunit'}")
    assert encoder.card.resize_px == 248
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    with torch.no_grad():
        expected = model(torch.stack([transform(tile(256, seed)) for seed in range(2)]))
    torch.testing.assert_close(encoder(batch(256)), expected, atol=2e-5, rtol=1e-4)


def test_a_stage_of_a_convolutional_network(tmp_path: Path) -> None:
    """Oracle: ResNet-50 cut after its third stage by hand."""
    torch.manual_seed(0)
    model = timm.create_model("resnet50", num_classes=10).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    encoder = load_encoder(f"resnet50@{tmp_path / 'w.safetensors'}")
    images = batch(224)
    pixels = (images / 255 - torch.tensor(IMAGENET[0]).view(3, 1, 1)) / torch.tensor(IMAGENET[1]).view(3, 1, 1)
    with torch.no_grad():
        found = model.maxpool(model.act1(model.bn1(model.conv1(pixels))))
        expected = model.layer3(model.layer2(model.layer1(found))).mean((2, 3))
    torch.testing.assert_close(encoder(images), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("source", "target"), [(256, 224), (224, 256), (50, 32), (257, 33), (96, 224)])
@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
def test_resizing_gives_the_bytes_of_pillow(source: int, target: int, how: Any) -> None:
    images = torch.randint(0, 256, (2, 3, source, source), generator=torch.Generator().manual_seed(source))
    found = resize(images.to(torch.uint8), target, how).permute(0, 2, 3, 1).numpy()
    method = Image.Resampling.BILINEAR if how == "bilinear" else Image.Resampling.BICUBIC
    for one, image in zip(found, images.permute(0, 2, 3, 1).numpy().astype(np.uint8), strict=True):
        np.testing.assert_array_equal(one, np.asarray(Image.fromarray(image).resize((target, target), method)))


def test_two_cards_of_the_same_weights_have_names_of_their_own(tmp_path: Path) -> None:
    model = timm.create_model("vit_large_patch16_224", num_classes=0, init_values=1e-5, **SMALL)
    torch.save(model.state_dict(), tmp_path / "w.bin")
    changes = ({}, {"interpolation": "bicubic"}, {"resize_px": 256}, {"feature": "cls+mean", "dim": 96})
    names = {load_encoder(f"{small('uni', tmp_path, **change)}@{tmp_path / 'w.bin'}").card.name for change in changes}
    assert len(names) == 4


def test_what_cannot_be_had_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    model = timm.create_model("vit_giant_patch14_reg4_dinov2", num_classes=0, img_size=28, **SMALL)
    torch.save(model.state_dict(), tmp_path / "w.bin")
    (tmp_path / "virchow").mkdir()
    cases = {
        "unii": "did you mean uni",
        "uni3@w.bin": "did you mean uni",
        "conch": "'conch' needs the package conch .*import-features",
        "uni2@w.bin": "do not fit",
        "uni2@w.bin#mean:0.5,0.5,0.5#std:0.5,0.5,0.5": "the card of 'uni2' has its normalisation",
        "phikon@w.bin": "'phikon' is loaded from a folder with its config.json, not from 'w.bin'",
        "virchow": "lies here too; write ./virchow",
        "timm:vit_giant_patch14_reg4_dinov2@w.bin": "does not say what its images were normalised by.*h-optimus-0@w",
    }
    for spec, message in cases.items():
        with pytest.raises(EncoderError, match=message) as caught:
            load_encoder(spec)
        assert "\n" not in str(caught.value)
    write_card(tmp_path, name="mine", loader="timm", architecture="vit_tiny_patch16_224", dim=192, licence="mine")
    with pytest.raises(ConfigError, match="needs mean"):
        load_encoder("card.yaml")


def test_gated_weights_say_what_to_do_where_there_is_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    def unreachable(*_: Any, **__: Any) -> str:
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(EncoderError, match="agree to the terms on the page of MahmoodLab/UNI2-h .* uni2@pyt"):
        load_encoder("uni2")
    with pytest.raises(EncoderError, match="fetch bioptimus/H-optimus-0 where there is a network"):
        load_encoder("h-optimus-0")


def test_the_side_of_a_file_is_that_of_its_position_embedding(tmp_path: Path) -> None:
    """DINOv2's names of timm are built at 518 px; weights for 224 are used at 224."""
    model = timm.create_model("vit_small_patch14_dinov2", num_classes=0, img_size=224)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    encoder = load_encoder(f"timm:vit_small_patch14_dinov2.lvd142m@{tmp_path / 'w.safetensors'}")
    assert encoder.card.image_px == 224
    assert torch.equal(encoder.network.state_dict()["pos_embed"], model.state_dict()["pos_embed"])


def test_a_card_may_be_named_from_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w.bin").touch()
    write_card(tmp_path, name="mine", loader="package", needs="it", dim=1, licence="mine")
    monkeypatch.chdir(tmp_path)
    assert absolute_spec("card.yaml@w.bin") == f"{tmp_path / 'card.yaml'}@{tmp_path / 'w.bin'}"
    assert absolute_spec("uni2@w.bin") == f"uni2@{tmp_path / 'w.bin'}"
    assert absolute_spec("uni2") == "uni2"


def test_tiles_that_an_encoder_was_not_made_for_are_said() -> None:
    card = load_encoder("colour").card
    fits = type(card)(**{**card.__dict__, "mpp": 0.5, "tile_px": 256})
    assert advice_on(fits, 224, 0.5) == ""
    assert advice_on(card, 16, 8.0) == ""
    assert "0.25 microns per pixel, not 0.5" in advice_on(fits, 256, 0.25)
    assert "96 px wide, not 256" in advice_on(fits, 96, 0.5)
    assert advice_on(fits, 256, None) == ""


def test_every_card_can_be_read_and_has_a_licence() -> None:
    cards = [published_card(name) for name in published_names()]
    assert len(cards) >= 27
    assert [card.name for card in cards] == list(published_names())
    assert all(card.licence for card in cards)
