"""Head, teacher, centre, optimizer: DINO's details, one by one."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from histogen.errors import EncoderError
from histogen.ssl.drop_path import SampledDropPath, give_masks
from histogen.ssl.heads import DinoHead
from histogen.ssl.networks import build_networks
from histogen.ssl.optim import build_adamw, clip_per_tensor, freeze_last_layer, set_rates
from histogen.ssl.settings import CropSettings, ModelSettings, SslSettings
from histogen.ssl.teacher import Centre, copy_weights, update_teacher

from .conftest import TINY


def test_head_equals_weight_norm_over_unit_vectors() -> None:
    torch.manual_seed(0)
    head = DinoHead(24, 32, hidden=20, bottleneck=16)
    reference = weight_norm(nn.Linear(16, 32, bias=False))
    reference.parametrizations.weight.original1.data.copy_(head.last_layer.weight_v)
    reference.parametrizations.weight.original0.data.fill_(1.0)
    x = torch.randn(5, 24)
    raw = head(x)
    torch.testing.assert_close(raw, reference(functional.normalize(head.mlp(x), dim=-1)))
    assert raw.abs().max() <= 1.0 + 1e-6
    assert not head.last_layer.weight_g.requires_grad
    assert [type(m).__name__ for m in head.mlp] == ["Linear", "GELU", "Linear", "GELU", "Linear"]


def test_a_free_last_layer_has_its_own_lengths() -> None:
    head = DinoHead(8, 6, hidden=8, bottleneck=4, norm_last_layer=False)
    x = torch.randn(3, 8)
    before = head(x)
    head.last_layer.weight_g.data.mul_(2.0)
    torch.testing.assert_close(head(x), 2 * before)


class LiteralHead(nn.Module):
    """DINO's head as its paper and code tell it: the last layer is weight-normalised, its lengths free or 1."""

    def __init__(self, head: DinoHead) -> None:
        super().__init__()
        self.mlp = copy.deepcopy(head.mlp)
        self.v = nn.Parameter(head.last_layer.weight_v.detach().clone())
        self.g = nn.Parameter(torch.ones(len(self.v), 1), requires_grad=head.last_layer.weight_g.requires_grad)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.mlp(x)
        x = x / x.norm(dim=-1, keepdim=True)
        return x @ (self.g * self.v / self.v.norm(dim=1, keepdim=True)).T


@pytest.mark.parametrize("norm_last_layer", [True, False])
def test_student_and_teacher_heads_follow_dinos_for_twenty_steps(norm_last_layer: bool) -> None:
    torch.manual_seed(0)
    student, teacher = (DinoHead(12, 10, hidden=16, bottleneck=8, norm_last_layer=norm_last_layer) for _ in range(2))
    copy_weights(student, teacher)
    pair = (LiteralHead(student), LiteralHead(student))
    for step in range(20):
        x, y = torch.randn(2, 6, 12, generator=torch.Generator().manual_seed(step))
        for one, other in ((student, teacher), pair):
            targets = functional.softmax(other(y).detach() / 0.04, dim=-1)
            loss = -(targets * functional.log_softmax(one(x) / 0.1, dim=-1)).sum(-1).mean()
            trained = [p for p in one.parameters() if p.requires_grad]
            for parameter, gradient in zip(trained, torch.autograd.grad(loss, trained), strict=True):
                parameter.data -= 0.1 * gradient
        update_teacher(student, teacher, 0.8)
        for mine, its in zip(pair[1].parameters(), pair[0].parameters(), strict=True):
            mine.data = 0.8 * mine.data + 0.2 * its.data
    torch.testing.assert_close(student(x), pair[0](x), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(teacher(x), pair[1](x), atol=1e-5, rtol=1e-4)
    lengths = (teacher.last_layer.weight_g - 1).abs().max()
    assert bool(lengths > 0.01) != norm_last_layer


def test_drop_path_masks_are_the_tiles_not_the_processes() -> None:
    model = TINY.model.model_copy(update={"drop_path": 0.5})
    student, _ = build_networks(TINY.model_copy(update={"model": model}), seed=0)
    student.train()
    crops = [torch.randn(2, 8, 3, 32, 32), torch.randn(2, 8, 3, 16, 16)]

    def features(rows: np.ndarray, seed: int = 1) -> torch.Tensor:
        student.masks_of = (seed, rows)
        outputs, _, _ = student([crop[:, rows] for crop in crops])
        return torch.cat(list(outputs))

    whole = features(np.arange(8))
    halves = [features(np.arange(4)), features(np.arange(4, 8))]
    torch.testing.assert_close(torch.cat(halves, dim=1), whole, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(features(np.arange(8), seed=2), whole)
    kept = student.drop_paths[-1].keep
    assert set(kept.tolist()) == {0.0, 2.0}


def test_drop_path_keeps_the_share_it_should() -> None:
    paths = [SampledDropPath(rate) for rate in (0.1, 0.3)]
    give_masks(paths, [(0, 0), (0, 1)], np.arange(20_000), seed=0, device=torch.device("cpu"))
    for path in paths:
        assert path.keep.shape == (40_000,)
        assert float((path.keep == 0).float().mean()) == pytest.approx(path.drop_prob, abs=0.01)
        assert float(path.keep.mean()) == pytest.approx(1.0, abs=0.01)
    ones = torch.ones(40_000, 3)
    torch.testing.assert_close(paths[0].train()(ones)[:, 0], paths[0].keep)
    assert torch.equal(paths[0].eval()(ones), ones)


def test_student_and_teacher_start_alike_and_only_the_student_drops_paths() -> None:
    student, teacher = build_networks(TINY, seed=3)
    for a, b in zip(student.parameters(), teacher.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not any(p.requires_grad for p in teacher.parameters())
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in student.backbone.blocks]
    assert rates == pytest.approx([0.0, 0.1])
    assert [getattr(block.drop_path1, "drop_prob", 0.0) for block in teacher.backbone.blocks] == [0.0, 0.0]
    again, _ = build_networks(TINY, seed=3)
    assert torch.equal(again.backbone.pos_embed, student.backbone.pos_embed)


def test_the_backbone_starts_as_dinos() -> None:
    student, _ = build_networks(TINY, seed=0)
    vit = student.backbone
    assert vit.norm.eps == 1e-6
    for name, parameter in vit.named_parameters():
        if name.endswith(("qkv.weight", "fc1.weight", "proj.weight")) and "patch_embed" not in name:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.15), name
        if name.endswith("bias") and "patch_embed" not in name:
            assert not parameter.any()
    patch = vit.patch_embed.proj.weight
    assert patch.std().item() == pytest.approx(1 / math.sqrt(3 * 3 * 64), rel=0.1)  # PyTorch's uniform start


def test_one_pass_per_size_gives_what_single_passes_give() -> None:
    _, network = build_networks(TINY, seed=0)
    network.eval()
    a, b, c = torch.randn(2, 3, 3, 32, 32), torch.randn(2, 3, 3, 16, 16), torch.randn(1, 3, 3, 32, 32)
    outputs, features, patches = network([a, b, c])
    for crop, output in zip((a, b, c), outputs, strict=True):
        for view, found in zip(crop, output, strict=True):
            torch.testing.assert_close(found, network.head(network.backbone(view)), atol=1e-5, rtol=1e-4)
    assert len(features) == 15
    assert patches is None


def test_teacher_is_the_moving_average() -> None:
    student, teacher = build_networks(TINY, seed=0)
    before = [p.clone() for p in teacher.parameters()]
    with torch.no_grad():
        for p in student.parameters():
            p.add_(1.0)
    update_teacher(student, teacher, 0.9)
    for old, new, target in zip(before, teacher.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * target.detach())


def test_centre_is_the_moving_mean_of_raw_outputs() -> None:
    centre = Centre(4, momentum=0.9)
    raw = torch.arange(24.0).view(2, 3, 4)
    centre.update(raw)
    centre.update(raw * 2)
    mean = raw.reshape(-1, 4).mean(0)
    torch.testing.assert_close(centre.value, 0.9 * (0.1 * mean) + 0.1 * (2 * mean))


def test_decay_goes_to_matrices_and_to_the_embeddings_but_not_to_biases_and_norms() -> None:
    student, _ = build_networks(TINY, seed=0)
    optimizer = build_adamw(student)
    decayed = {id(p) for p in optimizer.param_groups[0]["params"]}
    names = {name for name, p in student.named_parameters() if id(p) in decayed}
    assert {"backbone.pos_embed", "backbone.cls_token", "head.last_layer.weight_v"} <= names
    assert not any(name.endswith("bias") or "norm" in name for name in names)
    all_names = {name for name, p in student.named_parameters() if p.requires_grad}
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(all_names)
    assert "head.last_layer.weight_g" not in all_names
    set_rates(optimizer, lr=0.5, weight_decay=0.3)
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(0.5, 0.3), (0.5, 0.0)]


def test_clipping_is_per_tensor() -> None:
    a, b = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))
    a.grad, b.grad = torch.full((4,), 5.0), torch.full((4,), 0.5)
    clip_per_tensor([a, b, nn.Parameter(torch.zeros(1))], 3.0)
    assert a.grad.norm().item() == pytest.approx(3.0, rel=1e-5)
    torch.testing.assert_close(b.grad, torch.full((4,), 0.5))


def test_freezing_takes_the_students_last_layer_only() -> None:
    student, _ = build_networks(TINY, seed=0)
    for p in student.parameters():
        p.grad = torch.ones_like(p)
    freeze_last_layer(student)
    frozen = {name for name, p in student.named_parameters() if p.grad is None}
    assert frozen == {"head.last_layer.weight_v", "head.last_layer.weight_g"}


def test_settings_that_cannot_work_are_said() -> None:
    with pytest.raises(ValueError, match="crops.local_px 20 is not a multiple of the patch of 8 px"):
        SslSettings(model=TINY.model, crops=CropSettings(global_px=32, local_px=20))
    bad = SslSettings(model=ModelSettings(name="vit_nothing_patch16_224"))
    with pytest.raises(EncoderError, match="timm cannot build 'vit_nothing_patch16_224'"):
        build_networks(bad, seed=0)
