"""One update: a scaled loss changes nothing, and a gradient that is not finite skips the step."""

from __future__ import annotations

import math

import pytest
import torch

from histogen.diffusion.optim import apply_gradients, build_optimizer, build_scaler
from histogen.diffusion.settings import OptimSettings

CPU = torch.device("cpu")


def trained(scaler: torch.amp.GradScaler, *, broken_step: int | None = None) -> tuple[list[float], torch.Tensor]:
    torch.manual_seed(0)
    model, inputs = torch.nn.Linear(6, 3), torch.randn(4, 5, 6)
    optimizer, norms = build_optimizer(model, OptimSettings()), []
    for step, rows in enumerate(inputs):
        loss = model(rows).square().sum() * (math.nan if step == broken_step else 1.0)
        scaler.scale(loss).backward()
        norms.append(apply_gradients(optimizer, model, float(loss.detach()), scaler=scaler, lr=0.01, clip=1.0))
    return norms, model.weight.detach()


def test_a_scaled_loss_changes_no_step_and_clipping_sees_gradients_unscaled() -> None:
    plain = trained(build_scaler(CPU, "float32"))
    scaled = trained(torch.amp.GradScaler("cpu", init_scale=2.0**10))
    assert scaled[0] == pytest.approx(plain[0], rel=1e-5)
    torch.testing.assert_close(scaled[1], plain[1])


def test_a_step_that_is_not_finite_is_skipped_and_lowers_the_scale() -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    _, plain = trained(build_scaler(CPU, "bfloat16"), broken_step=2)
    _, scaled = trained(scaler, broken_step=2)
    assert plain.isfinite().all()
    torch.testing.assert_close(scaled, plain)
    assert scaler.get_scale() == 2.0**9
