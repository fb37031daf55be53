"""slerp against mpmath, the null, the injections."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch

from histogen.diffusion.conditioning import INJECTIONS, Conditioner, slerp
from histogen.diffusion.denoiser import build_denoiser
from histogen.diffusion.settings import DenoiserSettings
from histogen.errors import EncoderError


def exact_slerp(first: np.ndarray, second: np.ndarray, alpha: float) -> np.ndarray:
    """Shoemake's formula in 60 digits; alpha weighs the first."""
    with mpmath.workdps(60):
        a = [mpmath.mpf(float(v)) for v in first]
        b = [mpmath.mpf(float(v)) for v in second]
        norm_a, norm_b = (mpmath.sqrt(mpmath.fsum(x * x for x in v)) for v in (a, b))
        a, b = [x / norm_a for x in a], [x / norm_b for x in b]
        theta = mpmath.acos(mpmath.fsum(x * y for x, y in zip(a, b, strict=True)))
        alpha = mpmath.mpf(alpha)
        weights = mpmath.sin(alpha * theta) / mpmath.sin(theta), mpmath.sin((1 - alpha) * theta) / mpmath.sin(theta)
        return np.array([float(weights[0] * x + weights[1] * y) for x, y in zip(a, b, strict=True)])


def pair(angle: float, dim: int = 12, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two vectors (not unit) at ``angle``."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, 2)))
    first, second = basis[:, 0], np.cos(angle) * basis[:, 0] + np.sin(angle) * basis[:, 1]
    return torch.from_numpy(3.0 * first), torch.from_numpy(0.2 * second)


@pytest.mark.parametrize("angle", [1e-9, 1e-6, 1e-3, 0.02, 0.5, np.pi / 2, 2.5, np.pi - 1e-3, np.pi - 1e-6])
@pytest.mark.parametrize("alpha", [0.0, 0.1, 0.5, 0.7, 1.0])
def test_slerp_equals_the_formula_in_sixty_digits(angle: float, alpha: float) -> None:
    first, second = pair(angle)
    np.testing.assert_allclose(slerp(first, second, alpha).numpy(), exact_slerp(first, second, alpha), atol=3e-9)


def test_alpha_one_gives_the_source_and_zero_the_partner() -> None:
    first, second = pair(1.1)
    torch.testing.assert_close(slerp(first, second, 1.0), first / first.norm(), rtol=0, atol=0)
    torch.testing.assert_close(slerp(first, second, 0.0), second / second.norm(), rtol=0, atol=1e-15)


def test_swapping_source_and_partner_swaps_alpha() -> None:
    first, second = pair(2.0)
    torch.testing.assert_close(slerp(first, second, 0.3), slerp(second, first, 0.7), rtol=0, atol=1e-15)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
def test_equal_and_exactly_opposite_vectors_stay_on_the_sphere(alpha: float) -> None:
    first, _ = pair(0.4)
    unit = first / first.norm()
    torch.testing.assert_close(slerp(first, first, alpha), unit, rtol=0, atol=1e-15)
    opposite = slerp(first, -first, alpha)
    assert abs(float(opposite.norm()) - 1) < 1e-12
    # the angle walked from the source is (1 - alpha) * pi whatever great circle was taken
    assert float(opposite @ unit) == pytest.approx(np.cos((1 - alpha) * np.pi), abs=1e-12)


def test_batched_equals_looped_and_is_unit() -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = torch.randn(2, 50, 24, generator=generator).unbind()
    alpha = torch.rand(50, generator=generator)
    batched = slerp(first, second, alpha)
    looped = torch.stack([slerp(a, b, float(w)) for a, b, w in zip(first, second, alpha, strict=True)])
    torch.testing.assert_close(batched, looped, rtol=0, atol=1e-7)
    torch.testing.assert_close(batched.norm(dim=1), torch.ones(50), rtol=0, atol=1e-6)
    assert batched.dtype == torch.float32


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan")])
def test_alpha_outside_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(EncoderError, match="alpha"):
        slerp(*pair(1.0), alpha)


def test_a_zero_embedding_is_refused() -> None:
    with pytest.raises(EncoderError, match="norm 0"):
        slerp(torch.zeros(3), torch.ones(3), 0.5)


def test_the_null_of_training_is_the_null_of_sampling() -> None:
    conditioner = Conditioner(6, "k_tokens")
    embeddings = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) + 2
    conditioner.fit(embeddings)
    conditioning = conditioner(embeddings[:4])
    dropped = conditioner.drop(conditioning, torch.tensor([True, False, True, False]))
    torch.testing.assert_close(dropped[[0, 2]], conditioner.null(2), rtol=0, atol=0)
    torch.testing.assert_close(dropped[[1, 3]], conditioning[[1, 3]], rtol=0, atol=0)
    assert conditioner.null(3).abs().max() == 0


def test_standardisation_against_numpy_and_the_published_token() -> None:
    embeddings = np.random.default_rng(0).normal(1.0, 0.5, size=(200, 5)).astype(np.float32)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    conditioner = Conditioner(5, "adaln")
    conditioner.fit(torch.from_numpy(embeddings))
    expected = (unit - unit.mean(0)) / np.sqrt(((unit - unit.mean(0)) ** 2).mean())
    np.testing.assert_allclose(conditioner(torch.from_numpy(embeddings)).numpy(), expected, atol=2e-5)
    published = Conditioner(5, "token")
    published.fit(torch.from_numpy(embeddings))
    np.testing.assert_allclose(published(torch.from_numpy(embeddings)).numpy(), unit, atol=1e-6)


@pytest.mark.parametrize("injection", INJECTIONS)
def test_every_injection_reaches_the_output(injection: str) -> None:
    torch.manual_seed(0)
    settings = DenoiserSettings(
        channels=(16, 32), layers_per_block=1, head_width=16, norm_groups=8, cross_attention_dim=8, injection=injection
    )
    unet = build_denoiser(settings, latent_channels=3, latent_px=8, embedding_dim=6).eval()
    conditioner = Conditioner(6, injection)
    conditioning = torch.randn(2, 6, requires_grad=True)
    unet(torch.randn(2, 3, 8, 8), torch.tensor([5, 500]), **conditioner.inputs(conditioning)).sample.sum().backward()
    assert conditioning.grad is not None
    assert bool((conditioning.grad.abs().sum(dim=1) > 0).all())


def test_one_token_leaves_queries_and_keys_without_gradient_and_many_do_not() -> None:
    for injection, learns in (("token", False), ("k_tokens", True)):
        torch.manual_seed(0)
        settings = DenoiserSettings(
            channels=(16, 32), layers_per_block=1, head_width=16, norm_groups=8, cross_attention_dim=8,
            injection=injection,
        )  # fmt: skip
        unet = build_denoiser(settings, latent_channels=3, latent_px=8, embedding_dim=6)
        inputs = Conditioner(6, injection).inputs(torch.randn(2, 6))
        unet(torch.randn(2, 3, 8, 8), torch.tensor([5, 500]), **inputs).sample.square().mean().backward()
        query = unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_q.weight.grad
        assert (float(query.abs().max()) > 1e-9) is learns
