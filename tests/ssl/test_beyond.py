"""Sinkhorn centring, KoLeo, uniformity and masked patches, against lightly's and plain NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from lightly.loss import KoLeoLoss
from lightly.loss.ibot_loss import IBOTPatchLoss
from lightly.loss.swav_loss import sinkhorn
from timm.models.eva import Eva

from histogen.errors import ConfigError
from histogen.ssl import losses, spread
from histogen.ssl.heads import DinoHead
from histogen.ssl.masking import draw_masks
from histogen.ssl.networks import DinoNetwork, build_networks
from histogen.ssl.settings import MaskSettings
from histogen.ssl.teacher import Centre, sinkhorn_centre

from .conftest import TINY


def raw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_sinkhorns_centre_gives_swavs_assignment() -> None:
    teacher = raw(0, 2, 12, 7) * 0.3
    found = losses.teacher_probs(teacher, sinkhorn_centre(teacher, 0.05), 0.05).flatten(0, 1)
    expected = sinkhorn(teacher.flatten(0, 1).double(), iterations=3, epsilon=0.05)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)
    long = losses.teacher_probs(teacher, sinkhorn_centre(teacher, 0.05, iterations=300), 0.05)
    np.testing.assert_allclose(long.sum((0, 1)).numpy(), np.full(7, 24 / 7), rtol=1e-3)  # prototypes of equal weight


def test_sinkhorn_is_finite_where_the_plain_sums_are_not() -> None:
    teacher = torch.full((4, 6), -1.0).index_fill(1, torch.tensor([2]), 1.0)
    assert not torch.isfinite(sinkhorn(teacher, iterations=3, epsilon=0.005)).all()
    centre = sinkhorn_centre(teacher, 0.005)
    torch.testing.assert_close(losses.teacher_probs(teacher, centre, 0.005), torch.full((4, 6), 1 / 6))
    assert sinkhorn_centre(torch.zeros(0, 6), 0.04).tolist() == [0.0] * 6


def test_koleo_and_its_gradient_equal_lightlys() -> None:
    ours, theirs = raw(1, 9, 5).requires_grad_(), raw(1, 9, 5).requires_grad_()
    found, expected = spread.koleo(ours), KoLeoLoss()(theirs)
    found.backward()
    expected.backward()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4)


def test_uniformity_is_the_log_of_the_mean_potential() -> None:
    x = raw(2, 8, 4).double().numpy()
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    pairs = [np.exp(-2 * ((unit[i] - unit[j]) ** 2).sum()) for i in range(8) for j in range(i)]
    assert spread.uniformity(torch.from_numpy(x)).item() == pytest.approx(math.log(np.mean(pairs)), rel=1e-5)
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    assert spread.uniformity(opposite).item() == pytest.approx(-8.0, rel=1e-5)


@pytest.mark.parametrize("term", [spread.koleo, spread.uniformity])
def test_terms_are_finite_on_duplicates_on_one_and_on_zeros(term) -> None:  # type: ignore[no-untyped-def]
    for features in (raw(0, 1, 6).repeat(5, 1), raw(0, 1, 6), torch.zeros(3, 6), raw(0, 3, 6)[[0, 1, 1, 2]]):
        features = features.clone().requires_grad_()
        value = term(features)
        value.backward()
        assert math.isfinite(value.item())
        assert torch.isfinite(features.grad).all()
        assert features.grad.abs().max() < 100.0


@pytest.mark.parametrize("term", [spread.koleo, spread.uniformity])
def test_steps_down_a_term_spread_the_features(term) -> None:  # type: ignore[no-untyped-def]
    features = (raw(3, 16, 8) * 0.05 + 1.0).requires_grad_()
    spreads = []
    for _ in range(200):
        unit = torch.nn.functional.normalize(features.detach(), dim=-1)
        spreads.append(torch.pdist(unit).mean().item())
        (gradient,) = torch.autograd.grad(term(features), features)
        features = (features.detach() - gradient).requires_grad_()
    assert spreads[-1] > 5 * spreads[0]


def test_masked_patch_loss_and_its_centre_equal_lightlys_over_two_steps() -> None:
    theirs, centre = IBOTPatchLoss(output_dim=11, teacher_temp=0.05), Centre(11, 0.9)
    for step in range(2):
        masks = torch.rand(4, 3, 3, generator=torch.Generator().manual_seed(step)) < 0.4
        masks[1] = False
        number = int(masks.sum())
        student, teacher = raw(step, number, 11), raw(10 + step, number, 11)
        targets = losses.teacher_probs(teacher, centre.value, 0.05)
        found = losses.masked_patch_loss(student, targets, masks, student_temp=0.1)
        assert found.item() == pytest.approx(theirs(teacher, student, masks).item(), rel=1e-5)
        centre.update(teacher)
        torch.testing.assert_close(centre.value, theirs.center.value.reshape(-1))
    before = centre.value.clone()
    centre.update(torch.zeros(0, 11))
    torch.testing.assert_close(centre.value, before)


LAW = {"share": 0.5, "ratio": (0.1, 0.5)}


def test_masks_follow_ibots_law_and_depend_on_the_position_alone() -> None:
    masks = draw_masks(2, 14, **LAW, seed=3, positions=np.arange(1000))
    hidden = masks.mean((2, 3))
    masked = hidden[hidden > 0]
    assert (hidden > 0).mean() == pytest.approx(0.5, abs=0.035)
    assert masked.mean() == pytest.approx(0.3, abs=0.01)
    assert masked.min() >= 0.095
    assert masked.max() <= 0.505
    np.testing.assert_allclose(np.quantile(masked, [0.25, 0.75]), [0.2, 0.4], atol=0.02)
    part = draw_masks(2, 14, **LAW, seed=3, positions=np.array([977, 4]))
    np.testing.assert_array_equal(part, masks[:, [977, 4]])
    assert not np.array_equal(draw_masks(2, 14, **LAW, seed=4, positions=np.arange(1000)), masks)


def test_masks_are_blocks() -> None:
    """Hidden patches lie beside hidden ones far more often than scattered ones would."""
    masks = draw_masks(1, 14, share=1.0, ratio=(0.3, 0.3), seed=0, positions=np.arange(200))[0]
    assert (masks.sum((1, 2)) == 59).all()
    beside = (masks[:, 1:] & masks[:, :-1]).sum() / masks[:, 1:].sum()
    assert beside > 0.6


MASKED = TINY.model_copy(update={"masks": MaskSettings(weight=1.0)})


def test_the_student_does_not_see_masked_patches_and_the_teacher_does() -> None:
    _, network = build_networks(MASKED, seed=0)
    network.eval()
    network.mask_token.data.normal_()
    crops, other, locals_ = raw(0, 2, 3, 3, 32, 32), raw(1, 1, 3, 3, 32, 32), raw(2, 2, 3, 3, 16, 16)
    masks = torch.from_numpy(draw_masks(2, 4, **LAW, seed=5, positions=np.arange(3)))
    changed = crops + 5.0 * masks.repeat_interleave(8, -1).repeat_interleave(8, -2)[:, :, None]
    for hide in (True, False):
        outputs, _, patches = network([crops, other, locals_], masks, hide=hide)
        again, _, patches_again = network([changed, other, locals_], masks, hide=hide)
        assert patches is not None
        assert patches_again is not None
        assert len(patches) == int(masks.sum()) > 0
        assert torch.equal(outputs[0], again[0]) == hide
        assert torch.equal(patches, patches_again) == hide
        torch.testing.assert_close(outputs[1:], again[1:])  # crops without masks are seen whole
    plain, _, _ = network([crops, other, locals_])
    torch.testing.assert_close(plain, outputs)  # the teacher's, with hide false
    tokens = network.backbone.forward_features(crops.flatten(0, 1))[:, 1:]
    torch.testing.assert_close(patches, network.head(tokens[masks.flatten(0, 1).flatten(1)]))


def test_masks_need_a_plain_vision_transformer() -> None:
    with pytest.raises(ConfigError, match="masks.weight needs a plain vision transformer, not Eva"):
        DinoNetwork(Eva(img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=1), DinoHead(16, 8), masked=True)
