"""The faster attention of training on the CPU is the same attention."""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor2_0

from histogen.diffusion.conditioning import Conditioner
from histogen.diffusion.denoiser import attend_fast, build_denoiser
from histogen.diffusion.settings import DenoiserSettings

TINY = {"channels": (16, 32), "layers_per_block": 1, "head_width": 16, "norm_groups": 8, "cross_attention_dim": 8}


@pytest.mark.parametrize("injection", ["k_tokens", "adaln"])
def test_answers_and_gradients_are_those_of_the_fused_attention(injection: str) -> None:
    answers, gradients = [], []
    for fast in (False, True):
        torch.manual_seed(0)
        settings = DenoiserSettings.model_validate({**TINY, "injection": injection})
        unet = build_denoiser(settings, latent_channels=3, latent_px=8, embedding_dim=6)
        if fast:
            attend_fast(unet, torch.device("cpu"))
        assert all(isinstance(p, AttnProcessor2_0) != fast for p in unet.attn_processors.values())
        given = Conditioner(6, injection).inputs(torch.randn(4, 6))
        answer = unet(torch.randn(4, 3, 8, 8), torch.tensor([1, 300, 600, 900]), **given).sample
        answer.square().mean().backward()
        answers.append(answer.detach())
        gradients.append({name: p.grad for name, p in unet.named_parameters() if p.grad is not None})
    torch.testing.assert_close(answers[1], answers[0], rtol=1e-4, atol=1e-5)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-3, atol=1e-6)


def test_many_tokens_keep_the_fused_attention() -> None:
    """46 x 46 latents attend to 529 tokens at their second resolution."""
    settings = DenoiserSettings.model_validate(TINY)
    unet = build_denoiser(settings, latent_channels=3, latent_px=46, embedding_dim=6)
    attend_fast(unet, torch.device("cpu"))
    assert all(isinstance(p, AttnProcessor2_0) for p in unet.attn_processors.values())
