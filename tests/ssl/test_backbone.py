"""Backbones that are no plain vision transformers: what they take, and batch normalisation in student and teacher."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional

from histogen.errors import ConfigError, EncoderError
from histogen.ssl.augment import Normalisation
from histogen.ssl.backbone import build_backbone
from histogen.ssl.batches import Batch
from histogen.ssl.networks import DinoNetwork, build_networks
from histogen.ssl.settings import (
    CropSettings,
    LossSettings,
    MaskSettings,
    ModelSettings,
    OptimSettings,
    SslSettings,
)
from histogen.ssl.task import DinoTask, Schedules
from histogen.ssl.views import Views

SIZE, NUM_STEPS = 4, 3
EPS = 1e-3
"""AdamW's: with its default, rounding alone decides where a parameter with hardly any gradient goes."""
RESNET = ModelSettings(
    name="resnet10t", drop_path=0.0, prototypes=16, head_hidden=16, head_bottleneck=8,
    arguments={"channels": [8, 8, 16, 16], "stem_width": 8},
)  # fmt: skip
SETTINGS = SslSettings(
    model=RESNET,
    crops=CropSettings(global_px=32, local_px=16, num_local=2),
    loss=LossSettings(teacher_momentum=0.9),
    optim=OptimSettings(batch=SIZE, lr=0.5, warmup_epochs=0, clip=0.0, freeze_last_layer_epochs=0),
)


def views_of(step: int) -> Views:
    generator = torch.Generator().manual_seed(step)
    return Views(
        torch.randn(2, SIZE, 3, 32, 32, generator=generator), torch.randn(2, SIZE, 3, 16, 16, generator=generator), None
    )


def train(settings: SslSettings, networks: tuple[DinoNetwork, DinoNetwork]) -> DinoTask:
    rows = np.arange(SIZE)
    task = DinoTask(
        settings, networks, lambda step: Batch(rows, rows, np.zeros((SIZE, 1, 1, 3), np.uint8)),
        Schedules.build(settings, num_steps=NUM_STEPS, steps_per_epoch=1),
        Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), seed=0, device=torch.device("cpu"), precision="float32",
    )  # fmt: skip
    for group in task.optimizer.param_groups:
        group["eps"] = EPS
    for step in range(NUM_STEPS):
        task.make_views = lambda batch, seed, step=step: views_of(step)  # type: ignore[assignment, misc]
        task.step(step)
    return task


def literal(networks: tuple[DinoNetwork, DinoNetwork]) -> tuple[DinoNetwork, DinoNetwork]:
    """DINO's loop with both networks in training mode, as its authors run ResNet-50."""
    student, teacher = networks
    student.train()
    teacher.train()
    matrices = [p for n, p in student.named_parameters() if p.requires_grad and p.ndim > 1 and not n.endswith(".bias")]
    vectors = [p for n, p in student.named_parameters() if p.requires_grad and (p.ndim <= 1 or n.endswith(".bias"))]
    optimizer = torch.optim.AdamW([{"params": matrices}, {"params": vectors, "weight_decay": 0.0}], eps=EPS)
    centre = torch.zeros(1, 16)
    schedules = Schedules.build(SETTINGS, num_steps=NUM_STEPS, steps_per_epoch=1)
    for step in range(NUM_STEPS):
        views = views_of(step)
        optimizer.param_groups[0]["weight_decay"] = schedules.weight_decay(step)
        for group in optimizer.param_groups:
            group["lr"] = schedules.lr(step)
        with torch.no_grad():
            seen = teacher.head(teacher.backbone(torch.cat(list(views.globals))))
        features = [student.backbone(torch.cat(list(crops))) for crops in (views.globals, views.locals)]
        answers = student.head(torch.cat(features)).chunk(4)
        targets = functional.softmax((seen - centre) / 0.04, dim=-1).chunk(2)
        terms = [
            -(target * functional.log_softmax(answer / 0.1, dim=-1)).sum(-1).mean()
            for i, target in enumerate(targets) for j, answer in enumerate(answers) if i != j
        ]  # fmt: skip
        optimizer.zero_grad()
        (sum(terms) / len(terms)).backward()
        centre = 0.9 * centre + 0.1 * seen.mean(0, keepdim=True)
        optimizer.step()
        with torch.no_grad():
            for p, q in zip(student.parameters(), teacher.parameters(), strict=True):
                q.lerp_(p, 1 - schedules.momentum(step))
    return networks


def test_a_convnet_is_trained_as_dinos_own_loop_trains_one_and_its_teacher_gathers_statistics() -> None:
    networks = build_networks(SETTINGS, seed=0)
    expected = literal(copy.deepcopy(networks))
    task = train(SETTINGS, networks)
    for ours, theirs in ((task.student, expected[0]), (task.teacher, expected[1])):
        for name, value in theirs.state_dict().items():
            torch.testing.assert_close(ours.state_dict()[name], value, rtol=2e-4, atol=2e-5, msg=name)
    counted = task.teacher.backbone.bn1.num_batches_tracked  # type: ignore[union-attr]
    assert int(counted) == NUM_STEPS  # type: ignore[arg-type]


def test_at_rate_0_weights_stay_and_statistics_are_gathered() -> None:
    settings = SETTINGS.model_copy(update={"optim": SETTINGS.optim.model_copy(update={"lr": 0.0})})
    networks = build_networks(settings, seed=0)
    before = copy.deepcopy(networks[1])
    task = train(settings, networks)
    for name, value in before.named_parameters():
        assert torch.equal(dict(task.teacher.named_parameters())[name], value), name
    assert not torch.equal(task.teacher.backbone.bn1.running_mean, before.backbone.bn1.running_mean)  # type: ignore[union-attr, arg-type]


@pytest.mark.parametrize(
    ("model", "sizes", "error", "message"),
    [
        (ModelSettings(name="resnet10t", arguments={"global_pool": ""}), (32, 16), ConfigError, "not pooled features"),
        (ModelSettings(name="swin_tiny_patch4_window7_224"), (32, 16), ConfigError, "cannot take crops of 32 px"),
        (ModelSettings(name="resnet10t", arguments={"width": 3}), (32, 16), EncoderError, "mend model.arguments"),
        (ModelSettings(name="resnet10"), (32, 16), EncoderError, "timm cannot build 'resnet10'"),
    ],
)
def test_models_that_cannot_be_trained_are_said(
    model: ModelSettings, sizes: tuple[int, int], error: type[Exception], message: str
) -> None:
    crops = CropSettings(global_px=sizes[0], local_px=sizes[1])
    with pytest.raises(error, match=message):
        build_networks(SslSettings(model=model, crops=crops), seed=0)


def test_masked_patches_need_a_plain_transformer() -> None:
    settings = SETTINGS.model_copy(update={"masks": MaskSettings(weight=1.0)})
    with pytest.raises(ConfigError, match=r"masks\.weight needs a plain vision transformer, not ResNet"):
        build_networks(settings, seed=0)


@pytest.mark.parametrize("name", ["convnext_atto", "efficientnet_b0", "regnety_002"])
def test_other_families_give_pooled_features(name: str) -> None:
    model = build_backbone(name, {}, image_px=64, sizes=[64, 32], drop_path=0.1)
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, model.num_features)
