"""How much of a codebook is used, against numpy on the codes themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from histogen.diffusion.autoencoder import to_signal
from histogen.diffusion.autoencoder_build import build_autoencoder
from histogen.diffusion.codebook import CodeCounter, codebook_figures
from histogen.diffusion.settings import AutoencoderSettings


def test_figures_of_known_counts() -> None:
    assert codebook_figures(torch.tensor([5, 5, 5, 5])) == pytest.approx({"codebook_used": 1, "codebook_perplexity": 4})
    assert codebook_figures(torch.tensor([0, 9, 0, 0])) == pytest.approx(
        {"codebook_used": 0.25, "codebook_perplexity": 1}
    )
    halves = codebook_figures(torch.tensor([2, 1, 1, 0]))
    assert halves == pytest.approx({"codebook_used": 0.75, "codebook_perplexity": 2**1.5})


def test_codes_are_those_nearest_to_the_latents(images: np.ndarray) -> None:
    torch.manual_seed(0)
    settings = AutoencoderSettings(
        kind="vq", num_codes=32, channels=(8, 16), layers_per_block=1, latent_channels=3, norm_groups=4,
        attention=False,
    )  # fmt: skip
    model = build_autoencoder(settings, tile_px=16).eval()
    with torch.no_grad():
        model.quantize.embedding.weight.normal_()  # as built they are so small that one or two are nearest to all
    counter = CodeCounter(model)
    signal = to_signal(torch.from_numpy(images))
    with torch.no_grad():
        latents = model.encode(signal).latents
        model.decode(latents[:3])
        model.decode(latents[3:])
    cells = latents.permute(0, 2, 3, 1).reshape(-1, 1, 3).numpy()
    nearest = ((cells - model.quantize.embedding.weight.detach().numpy()) ** 2).sum(-1).argmin(1)
    counts = counter.take()
    np.testing.assert_array_equal(counts.numpy(), np.bincount(nearest, minlength=32))
    assert len(np.unique(nearest)) > 3
    assert counter.take().sum() == 0
    counter.close()
    with torch.no_grad():
        model.decode(latents)
    assert counter.take().sum() == 0
