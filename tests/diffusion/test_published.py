"""Import of the latent-diffusion layout, against modules written down here in that layout and run with random weights.

The modules follow the published architecture (Rombach et al. 2022 and its public key names); they share no code with
diffusers, so equal outputs mean that every tensor found its place.
"""

from __future__ import annotations

import math
import pickle  # noqa: TID251 - to plant what must be refused
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, gelu, interpolate, pad, silu

from histogen.diffusion.autoencoder import encode_moments
from histogen.diffusion.autoencoder_files import load_autoencoder
from histogen.diffusion.published import load_ldm_denoiser
from histogen.errors import ConfigError

WIDTHS, CONTEXT = (32, 64, 96), 24


def norm(channels: int, eps: float = 1e-5) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=eps)


class ResBlock(nn.Module):
    """A residual block of the U-Net."""

    def __init__(self, inner: int, outer: int, time: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(norm(inner), nn.SiLU(), nn.Conv2d(inner, outer, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(time, outer))
        self.out_layers = nn.Sequential(norm(outer), nn.SiLU(), nn.Dropout(0), nn.Conv2d(outer, outer, 3, padding=1))
        self.skip_connection = nn.Identity() if inner == outer else nn.Conv2d(inner, outer, 1)

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(time)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Attention(nn.Module):
    def __init__(self, width: int, context: int) -> None:
        super().__init__()
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k, self.to_v = (nn.Linear(context, width, bias=False) for _ in range(2))
        self.to_out = nn.Sequential(nn.Linear(width, width), nn.Dropout(0))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(context)
        return self.to_out((q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1) @ v)  # one head


class Gate(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, 8 * width)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(Gate(width), nn.Dropout(0), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn1, self.attn2, self.ff = Attention(width, width), Attention(width, CONTEXT), FeedForward(width)
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        y = self.norm1(x)
        x = x + self.attn1(y, y)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.proj_in, self.proj_out = (
            norm(width, 1e-6),
            nn.Conv2d(width, width, 1),
            nn.Conv2d(width, width, 1),
        )
        self.transformer_blocks = nn.ModuleList([TransformerBlock(width)])

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        h = self.proj_in(self.norm(x))
        rows = self.transformer_blocks[0](h.flatten(2).transpose(1, 2), context)
        return x + self.proj_out(rows.transpose(1, 2).reshape(h.shape))


class Downsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(width, width, 3, stride=2, padding=1)

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:
        return self.conv(interpolate(x, scale_factor=2))


class Conv(nn.Conv2d):
    def forward(self, x: Tensor, time: Tensor, context: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)


class UNet(nn.Module):
    """The U-Net, with its published key names."""

    def __init__(self, latent: int = 3, layers: int = 2) -> None:
        super().__init__()
        base, time = WIDTHS[0], 4 * WIDTHS[0]
        self.time_embed = nn.Sequential(nn.Linear(base, time), nn.SiLU(), nn.Linear(time, time))
        self.input_blocks = nn.ModuleList([nn.ModuleList([Conv(latent, base, 3, padding=1)])])
        widths, width = [base], base
        for level, wide in enumerate(WIDTHS):
            for _ in range(layers):
                block = [ResBlock(width, wide, time)] + ([SpatialTransformer(wide)] if level else [])
                self.input_blocks.append(nn.ModuleList(block))
                width = wide
                widths.append(width)
            if level < len(WIDTHS) - 1:
                self.input_blocks.append(nn.ModuleList([Downsample(width)]))
                widths.append(width)
        self.middle_block = nn.ModuleList(
            [ResBlock(width, width, time), SpatialTransformer(width), ResBlock(width, width, time)]
        )
        self.output_blocks = nn.ModuleList()
        for level, wide in reversed(list(enumerate(WIDTHS))):
            for layer in range(layers + 1):
                block = [ResBlock(width + widths.pop(), wide, time)] + ([SpatialTransformer(wide)] if level else [])
                width = wide
                if level and layer == layers:
                    block.append(Upsample(width))
                self.output_blocks.append(nn.ModuleList(block))
        self.out = nn.Sequential(norm(base), nn.SiLU(), nn.Conv2d(base, latent, 3, padding=1))

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor) -> Tensor:
        half = WIDTHS[0] // 2
        angles = timesteps[:, None].float() * torch.exp(-math.log(10000) * torch.arange(half) / half)
        time = self.time_embed(torch.cat([angles.cos(), angles.sin()], dim=-1))
        kept = []
        for block in self.input_blocks:
            for module in block:
                x = module(x, time, context)
            kept.append(x)
        for module in self.middle_block:
            x = module(x, time, context)
        for block in self.output_blocks:
            x = torch.cat([x, kept.pop()], dim=1)
            for module in block:
                x = module(x, time, context)
        return self.out(x)


def shaken(module: nn.Module, seed: int) -> nn.Module:
    """Give every tensor values of its own, so that no two can be exchanged unnoticed."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        scale = 1 / math.sqrt(parameter[0].numel()) if parameter.ndim > 1 else 0.2
        parameter.data = scale * torch.randn(parameter.shape, generator=generator) + (parameter.ndim == 1) * 0.7
    return module.eval()


@pytest.mark.parametrize("averaged", [False, True])
def test_an_ldm_denoiser_answers_as_before(tmp_path: Path, averaged: bool) -> None:
    theirs, linear = shaken(UNet(), 1), shaken(nn.Linear(10, CONTEXT), 2)
    state = {f"model.diffusion_model.{key}": value for key, value in theirs.state_dict().items()}
    state |= {f"cond_stage_model.embedding.{key}": value for key, value in linear.state_dict().items()}
    if averaged:  # LDM keeps the average under names without points, and the raw weights beside it
        raw = {key: value + 1 for key, value in state.items() if key.startswith("model.")}
        names = {key: f"model_ema.{key.removeprefix('model.').replace('.', '')}" for key in raw}
        state = {**state, **raw, **{names[key]: state[key] for key in raw}}
    save_file({key: value.clone() for key, value in state.items()}, tmp_path / "ldm.safetensors")
    ours = load_ldm_denoiser(tmp_path / "ldm.safetensors", embedding_dim=10, latent_px=16).eval()
    latents, embedding, time = torch.randn(2, 3, 16, 16), torch.randn(2, 10), torch.tensor([7, 911])
    with torch.no_grad():
        expected = theirs(latents, time, linear(embedding)[:, None])
        answer = ours(latents, time, encoder_hidden_states=embedding[:, None]).sample
    assert float(expected.std()) > 0.1
    torch.testing.assert_close(answer, expected, rtol=0, atol=1e-4)


def test_the_published_shape_is_recognised_from_its_tensors(tmp_path: Path) -> None:
    save_file({k: v.clone() for k, v in shaken(UNet(), 3).state_dict().items()}, tmp_path / "unet.safetensors")
    config = load_ldm_denoiser(tmp_path / "unet.safetensors", embedding_dim=5, latent_px=16).config
    assert tuple(config["block_out_channels"]) == WIDTHS
    assert config["layers_per_block"] == 2
    assert config["cross_attention_dim"] == CONTEXT
    assert config["attention_head_dim"] == 1
    assert config["down_block_types"][0] == "DownBlock2D"


class PixelResBlock(nn.Module):
    """A residual block of the autoencoder."""

    def __init__(self, inner: int, outer: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(inner, 1e-6), norm(outer, 1e-6)
        self.conv1, self.conv2 = nn.Conv2d(inner, outer, 3, padding=1), nn.Conv2d(outer, outer, 3, padding=1)
        if inner != outer:
            self.nin_shortcut = nn.Conv2d(inner, outer, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(silu(self.norm2(self.conv1(silu(self.norm1(x))))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class PixelAttention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = norm(width, 1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (part(h).flatten(2).transpose(1, 2) for part in (self.q, self.k, self.v))
        rows = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1) @ v
        return x + self.proj_out(rows.transpose(1, 2).reshape(x.shape))


class Middle(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.block_1, self.attn_1, self.block_2 = (
            PixelResBlock(width, width),
            PixelAttention(width),
            PixelResBlock(width, width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.block_2(self.attn_1(self.block_1(x)))


class Half(nn.Module):
    """Encoder (``down``) or decoder (``up``)."""

    def __init__(self, inner: int, outer: int, layers: int, *, down: bool) -> None:
        super().__init__()
        self.is_down, top = down, WIDTHS[-1]
        self.conv_in = nn.Conv2d(inner, WIDTHS[0] if down else top, 3, padding=1)
        levels: list[nn.Module] = [nn.Module() for _ in WIDTHS]
        width = WIDTHS[0] if down else top
        for number in range(len(WIDTHS)) if down else reversed(range(len(WIDTHS))):
            level, wide = levels[number], WIDTHS[number]
            level.block = nn.ModuleList(PixelResBlock(width if k == 0 else wide, wide) for k in range(layers))
            level.attn, width = nn.ModuleList(), wide
            if down and number < len(WIDTHS) - 1:
                level.downsample = nn.Module()
                level.downsample.conv = nn.Conv2d(width, width, 3, stride=2)
            if not down and number:
                level.upsample = nn.Module()
                level.upsample.conv = nn.Conv2d(width, width, 3, padding=1)
        self.add_module("down" if down else "up", nn.ModuleList(levels))
        self.mid = Middle(top)
        self.norm_out = norm(width, 1e-6)
        self.conv_out = nn.Conv2d(width, outer, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        if not self.is_down:
            x = self.mid(x)
        for level in self.down if self.is_down else reversed(self.up):
            for block in level.block:
                x = block(x)
            if hasattr(level, "downsample"):
                x = level.downsample.conv(pad(x, (0, 1, 0, 1)))
            if hasattr(level, "upsample"):
                x = level.upsample.conv(interpolate(x, scale_factor=2))
        if self.is_down:
            x = self.mid(x)
        return self.conv_out(silu(self.norm_out(x)))


class FirstStage(nn.Module):
    """The autoencoder, with its published key names."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        moments = 3 if kind == "vq" else 6
        self.encoder, self.decoder = Half(3, moments, 2, down=True), Half(3, 3, 3, down=False)
        self.quant_conv, self.post_quant_conv = nn.Conv2d(moments, moments, 1), nn.Conv2d(3, 3, 1)
        if kind == "vq":
            self.quantize = nn.Module()
            self.quantize.embedding = nn.Embedding(16, 3)

    def encode(self, image: Tensor) -> Tensor:
        return self.quant_conv(self.encoder(image))

    def decode(self, latent: Tensor) -> Tensor:
        if hasattr(self, "quantize"):
            codes = self.quantize.embedding.weight
            flat = latent.permute(0, 2, 3, 1)
            latent = codes[torch.cdist(flat.reshape(-1, 3), codes).argmin(1)].reshape(flat.shape).permute(0, 3, 1, 2)
        return self.decoder(self.post_quant_conv(latent))


@pytest.mark.parametrize("prefix", ["first_stage_model.", ""])
@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_an_ldm_autoencoder_answers_as_before(tmp_path: Path, kind: str, prefix: str) -> None:
    theirs = shaken(FirstStage(kind), 4)
    state = {f"{prefix}{key}": value.clone() for key, value in theirs.state_dict().items()}
    save_file({**state, f"{prefix}loss.perceptual_loss.lin0.weight": torch.ones(1)}, tmp_path / "stage.safetensors")
    ours = load_autoencoder(tmp_path / "stage.safetensors")
    image = avg_pool2d(torch.randn(2, 3, 64, 64), 2)
    with torch.no_grad():
        expected = theirs.encode(image)
        torch.testing.assert_close(encode_moments(ours, image), expected, rtol=0, atol=1e-4)
        latent = expected[:, :3]
        torch.testing.assert_close(ours.decode(latent).sample, theirs.decode(latent), rtol=0, atol=1e-4)
    assert float(expected.std()) > 0.1
    assert ours.config["scaling_factor"] == (1.0 if kind == "vq" else 0.18215)


def test_what_cannot_be_imported_is_said_in_one_sentence(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match=r"no U-Net.*input_blocks"):
        load_ldm_denoiser(tmp_path / "x.safetensors", embedding_dim=4, latent_px=8)
    with pytest.raises(ConfigError, match=r"no autoencoder"):
        load_autoencoder(tmp_path / "x.safetensors")
    state = shaken(UNet(), 5).state_dict()
    del state["middle_block.1.proj_in.weight"]
    save_file({k: v.clone() for k, v in state.items()}, tmp_path / "torn.safetensors")
    with pytest.raises(ConfigError, match=r"do not fit.*Missing key"):
        load_ldm_denoiser(tmp_path / "torn.safetensors", embedding_dim=4, latent_px=8)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "callbacks": shaken}, tmp_path / "l.ckpt")
    with pytest.raises(ConfigError, match=r"no readable weights \(it would run code: .*shaken\)"):
        load_ldm_denoiser(tmp_path / "l.ckpt", embedding_dim=4, latent_px=8)
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "torn.safetensors").read_bytes()[:-1000])
    with pytest.raises(ConfigError, match=r"no readable weights \(.*\); copy it again"):
        load_ldm_denoiser(tmp_path / "cut.safetensors", embedding_dim=4, latent_px=8)
    with pytest.raises(ConfigError, match="are no file; check the path"):
        load_ldm_denoiser(tmp_path, embedding_dim=4, latent_px=8)


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("name", ["x.ckpt", "x.pt", "x.safetensors"])
def test_weights_never_execute_code(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps({"state_dict": Planted(tmp_path / "mark")}))
    with pytest.raises(ConfigError, match="no readable weights"):
        load_autoencoder(tmp_path / name)
    assert not (tmp_path / "mark").exists()
    pickle.loads((tmp_path / name).read_bytes())  # noqa: S301 - it would have
    assert (tmp_path / "mark").exists()
