"""The whole step against DINO's training loop written plainly, and the published sizes and schedules."""

from __future__ import annotations

import copy
import io
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from histogen.ssl.augment import Normalisation
from histogen.ssl.batches import Batch
from histogen.ssl.networks import DinoNetwork, build_networks
from histogen.ssl.settings import CropSettings, DisSettings, LossSettings, ModelSettings, OptimSettings, SslSettings
from histogen.ssl.task import DinoTask, Schedules
from histogen.ssl.views import Views, view_specs

NUM_STEPS, PER_EPOCH, SIZE = 8, 2, 3
SETTINGS = SslSettings(
    model=ModelSettings(
        name="vit_tiny_patch16_224", drop_path=0.0, prototypes=24, head_hidden=32, head_bottleneck=16,
        arguments={"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2},
    ),
    crops=CropSettings(global_px=32, local_px=16, num_local=3),
    loss=LossSettings(teacher_temp_start=0.04, teacher_temp=0.07, teacher_temp_warmup_epochs=3, teacher_momentum=0.9),
    optim=OptimSettings(
        batch=SIZE, lr=0.5, warmup_epochs=2, weight_decay=0.04, weight_decay_end=0.4, clip=0.05,
        freeze_last_layer_epochs=1, precision="float32", min_lr=1e-6,
    ),
)  # fmt: skip


def given_views(seed: int) -> Views:
    generator = torch.Generator().manual_seed(seed)
    return Views(
        torch.randn(2, SIZE, 3, 32, 32, generator=generator), torch.randn(3, SIZE, 3, 16, 16, generator=generator), None
    )


def our_task(settings: SslSettings, networks: tuple[DinoNetwork, DinoNetwork]) -> DinoTask:
    rows = np.arange(SIZE)
    return DinoTask(
        settings, networks, lambda step: Batch(rows, rows, np.zeros((SIZE, 1, 1, 3), np.uint8)),
        Schedules.build(settings, num_steps=NUM_STEPS, steps_per_epoch=PER_EPOCH),
        Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), seed=0, device=torch.device("cpu"),
        precision="float32",
    )  # fmt: skip


def cosine(base: float, final: float, warmup_steps: int) -> np.ndarray:
    """DINO's schedule, as one array over all steps."""
    steps = np.arange(NUM_STEPS - warmup_steps)
    falling = final + 0.5 * (base - final) * (1 + np.cos(np.pi * steps / len(steps)))
    return np.concatenate([np.linspace(0, base, warmup_steps), falling])


def plain_dino(student: nn.Module, teacher: nn.Module) -> list[float]:
    """DINO's loop (Caron et al. 2021) with its published details, moving both networks; returns the losses."""
    named = [(name, p) for name, p in student.named_parameters() if p.requires_grad]
    free = [p for name, p in named if name.endswith(".bias") or p.ndim == 1]
    decayed = [p for name, p in named if not (name.endswith(".bias") or p.ndim == 1)]
    optimizer = torch.optim.AdamW([{"params": decayed}, {"params": free, "weight_decay": 0.0}])
    lr, decay = cosine(0.5 * SIZE / 256, 1e-6, 2 * PER_EPOCH), cosine(0.04, 0.4, 0)
    momentum, temperature = cosine(0.9, 1.0, 0), [*np.linspace(0.04, 0.07, 3), 0.07]
    centre, losses = torch.zeros(1, 24), []
    for step in range(NUM_STEPS):
        for number, group in enumerate(optimizer.param_groups):
            group["lr"] = lr[step]
            if number == 0:
                group["weight_decay"] = decay[step]
        views = given_views(step)
        crops = [*views.globals, *views.locals]
        with torch.no_grad():
            teacher_out = teacher.head(teacher.backbone(torch.cat(crops[:2])))
        student_out = student.head(
            torch.cat([student.backbone(torch.cat(crops[:2])), student.backbone(torch.cat(crops[2:]))])
        )
        targets = functional.softmax((teacher_out - centre) / temperature[step // PER_EPOCH], dim=-1).chunk(2)
        terms = [
            torch.sum(-target * functional.log_softmax(out / 0.1, dim=-1), dim=-1).mean()
            for i, target in enumerate(targets)
            for j, out in enumerate(student_out.chunk(5))
            if i != j
        ]
        loss = sum(terms) / len(terms)
        centre = centre * 0.9 + teacher_out.mean(0, keepdim=True) * 0.1
        optimizer.zero_grad()
        loss.backward()
        for _, p in named:
            if p.grad is not None and (coefficient := 0.05 / (p.grad.norm(2) + 1e-6)) < 1:
                p.grad.mul_(coefficient)
        if step // PER_EPOCH < 1:
            for name, p in named:
                if "last_layer" in name:
                    p.grad = None
        optimizer.step()
        with torch.no_grad():
            for p, q in zip(student.parameters(), teacher.parameters(), strict=True):
                q.mul_(momentum[step]).add_((1 - momentum[step]) * p)
        losses.append(loss.item())
    return losses


def test_a_run_moves_both_networks_as_dinos_own_loop_does() -> None:
    networks = build_networks(SETTINGS, seed=0)
    plain, start = copy.deepcopy(networks), copy.deepcopy(networks[1])
    expected = plain_dino(*plain)
    task = our_task(SETTINGS, networks)
    found = []
    for step in range(NUM_STEPS):
        task.make_views = lambda batch, seed, step=step: given_views(step)  # type: ignore[assignment,misc]
        found.append(task.step(step)["loss_dino"])
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    for ours, theirs, before in zip(networks, plain, (start, start), strict=True):
        for (name, a), b, c in zip(ours.named_parameters(), theirs.parameters(), before.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}")
            assert name.endswith("weight_g") or (a - c).abs().max() > 1e-4, f"{name} did not move"


def test_a_step_whose_loss_is_not_finite_changes_nothing() -> None:
    networks = build_networks(SETTINGS, seed=0)
    task = our_task(SETTINGS, networks)
    task.make_views = lambda batch, seed: given_views(0)  # type: ignore[assignment,misc]
    task.step(0)
    before = copy.deepcopy(task.state_dict())
    broken = given_views(1)
    broken.globals[0, 0, 0, 0, 0] = float("nan")
    task.make_views = lambda batch, seed: broken  # type: ignore[assignment,misc]
    assert math.isnan(task.step(1)["loss"])
    for name in ("student", "teacher", "centre"):
        for key, value in task.state_dict()[name].items():
            assert torch.equal(value, before[name][key]), key


def test_the_defaults_are_vits16_and_its_head() -> None:
    student, teacher = build_networks(SslSettings(), seed=0)
    vit = student.backbone
    assert (vit.embed_dim, len(vit.blocks), vit.blocks[0].attn.num_heads) == (384, 12, 6)
    assert vit.blocks[0].mlp.fc1.out_features == 4 * 384
    assert vit.blocks[0].attn.qkv.bias is not None
    assert isinstance(vit.blocks[0].mlp.act, nn.GELU)
    assert (vit.patch_embed.proj.kernel_size, vit.patch_embed.proj.stride) == ((16, 16), (16, 16))
    assert vit.pos_embed.shape == (1, 14 * 14 + 1, 384)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in vit.blocks]
    np.testing.assert_allclose(rates, np.linspace(0, 0.1, 12), atol=1e-6)
    assert not any(getattr(block.drop_path1, "drop_prob", 0.0) for block in teacher.backbone.blocks)
    linears = [(m.in_features, m.out_features) for m in student.head.mlp if isinstance(m, nn.Linear)]
    assert linears == [(384, 2048), (2048, 2048), (2048, 256)]
    for linear in (m for m in student.head.mlp if isinstance(m, nn.Linear)):
        assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert not linear.bias.any()
    last = student.head.last_layer
    assert last.weight_v.shape == (65536, 256)
    assert last.weight_v.std().item() == pytest.approx(1 / math.sqrt(3 * 256), rel=0.01)  # nn.Linear's own start
    assert torch.equal(last.weight_g, torch.ones(65536, 1))
    assert not last.weight_g.requires_grad
    assert sum(p.numel() for p in vit.parameters()) == 21_665_664  # as DINO's README counts its ViT-S/16: 21 M


def test_local_crops_get_the_position_embedding_resampled_bicubically() -> None:
    vit = build_networks(SslSettings(model=ModelSettings(prototypes=2)), seed=0)[1].backbone
    grid = vit.pos_embed[:, 1:].reshape(1, 14, 14, 384).permute(0, 3, 1, 2)
    small = functional.interpolate(grid, (6, 6), mode="bicubic", antialias=True, align_corners=False)
    embedded = vit.patch_embed(torch.zeros(1, 3, 96, 96))
    found = vit._pos_embed(embedded) - torch.cat([vit.cls_token, embedded.flatten(1, 2)], dim=1)
    torch.testing.assert_close(found[:, 1:], small.flatten(2).transpose(1, 2), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(found[:, 0], vit.pos_embed[:, 0], atol=1e-6, rtol=1e-4)


def test_the_default_schedules_are_the_published_ones() -> None:
    schedules = Schedules.build(SslSettings(), num_steps=1000, steps_per_epoch=10)
    assert schedules.lr(0) == 0.0
    assert schedules.lr(99) == schedules.lr(100) == pytest.approx(5e-4 * 512 / 256)
    assert schedules.lr(1000) == pytest.approx(1e-6)
    assert [schedules.weight_decay(step) for step in (0, 500, 1000)] == pytest.approx([0.04, 0.22, 0.4])
    assert [schedules.momentum(step) for step in (0, 500, 1000)] == pytest.approx([0.996, 0.998, 1.0])
    assert {schedules.teacher_temp(epoch) for epoch in range(100)} == {0.04}
    assert schedules.frozen_steps == 10


def test_the_default_views_are_the_published_ones() -> None:
    globals_, locals_ = view_specs(SslSettings())
    table = [(s.px, s.scale, s.blur, s.solarize) for s in (*globals_, *locals_)]
    assert table == [
        (224, (0.4, 1.0), 1.0, 0.0), (224, (0.4, 1.0), 0.1, 0.2), *[(96, (0.05, 0.4), 0.5, 0.0)] * 8,
    ]  # fmt: skip
    for change in (spec.change for spec in (*globals_, *locals_)):
        assert (change.jitter, change.brightness, change.contrast, change.saturation, change.hue) == (
            0.8,
            0.4,
            0.4,
            0.2,
            0.1,
        )
        assert (change.flip, change.grayscale, change.blur_sigma) == (0.5, 0.2, (0.1, 2.0))
        assert (change.vertical_flip, change.quarter_turn, change.stain) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("pairing", ["matching", "arbitrary"])
@pytest.mark.parametrize("mode", ["alg1", "figure", "figure+local"])
def test_gen_dinos_terms_and_centre_equal_a_plain_reading(mode: str, pairing: str) -> None:
    """Each student view of an interpolated tile against the mixed teacher outputs of the right views of both tiles."""
    settings = SETTINGS.model_copy(
        update={"dis": DisSettings(mode=mode, weight=0.5, teacher_temp=0.06, pairing=pairing)}
    )
    student, teacher = build_networks(settings, seed=0)
    size, rows = 4, np.arange(4)
    generator = torch.Generator().manual_seed(0)
    first = np.array([True, False, False, True])
    partner, alpha = np.array([1, 0, 3, 2]), np.array([0.3, 0.7, 0.5, 0.9], np.float32)
    views = Views(
        torch.randn(2, size, 3, 32, 32, generator=generator), torch.randn(3, size, 3, 16, 16, generator=generator),
        torch.from_numpy(first),
        interpolated=torch.randn(1 if mode == "alg1" else 2, size, 3, 32, 32, generator=generator),
        interpolated_locals=torch.randn(3, size, 3, 16, 16, generator=generator) if mode == "figure+local" else None,
        partners=None if pairing == "matching" else torch.randn(
            1 if mode == "alg1" else 2, size, 3, 32, 32, generator=generator
        ),
    )  # fmt: skip
    pixels = np.zeros((size, 1, 1, 3), np.uint8)
    batch = Batch(
        rows, rows, pixels, generative=pixels, generative_first=first, interpolated=pixels,
        interpolated_weight=np.ones(size, np.float32), alpha=alpha, partner=partner if pairing == "matching" else None,
    )  # fmt: skip

    def out(network: DinoNetwork, view: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return network.head(network.backbone(view)).double().numpy()

    def softmax(x: np.ndarray) -> np.ndarray:
        return np.exp(x - x.max()) / np.exp(x - x.max()).sum()

    seen = [out(teacher, view) for view in views.globals]
    of_real = [seen[int(first[b])][b] for b in rows]  # global view 1 is the real one where the generative is first
    of_generative = [seen[1 - int(first[b])][b] for b in rows]
    changed = [out(student, v) for v in views.interpolated] + [
        out(student, v) for v in (() if views.interpolated_locals is None else views.interpolated_locals)
    ]
    if pairing == "arbitrary":
        theirs = [out(teacher, view) for view in views.partners]  # type: ignore[union-attr]
    else:
        theirs = [np.stack(seen_by)[partner] for seen_by in (of_real, of_generative)]
    terms = []
    for kind, source in enumerate([of_real] if mode == "alg1" else [of_real, of_generative]):
        for b in rows:
            mixed = alpha[b] * source[b] + (1 - alpha[b]) * theirs[kind][b]
            terms += [-(softmax(mixed / 0.06) * np.log(softmax(view[b] / 0.1))).sum() for view in changed]
    task = our_task(settings, (student, teacher))
    task.read = lambda step: batch  # type: ignore[assignment]
    task.make_views = lambda batch, seed: views  # type: ignore[assignment,misc]
    found = task.step(0)
    assert found["loss_dis"] == pytest.approx(np.mean(terms), rel=1e-4)
    assert found["loss"] == pytest.approx(found["loss_dino"] + 0.5 * found["loss_dis"], rel=1e-6)
    np.testing.assert_allclose(task.centre.value, 0.1 * np.mean(seen, axis=(0, 1)), atol=1e-6)  # of global views alone


def test_several_passes_are_the_same_step_and_move_the_centre_once() -> None:
    """Partners stay together in a pass, and centre and clipping see the whole batch."""
    size, px = 8, 40
    rng = np.random.default_rng(0)
    pixels = [rng.integers(0, 256, (size, px, px, 3), dtype=np.uint8) for _ in range(3)]
    rows = np.arange(size)
    batch = Batch(
        rows, rows, pixels[0], generative=pixels[1], generative_first=rng.random(size) < 0.5, interpolated=pixels[2],
        interpolated_weight=np.ones(size, np.float32), alpha=rng.uniform(0.3, 0.7, size).astype(np.float32),
        partner=rows ^ 1,
    )  # fmt: skip
    states, losses = [], []
    for passes in (1, 4):
        settings = SETTINGS.model_copy(
            update={"optim": SETTINGS.optim.model_copy(update={"accumulate": passes, "batch": size})}
        )
        task = our_task(settings, build_networks(settings, seed=0))
        task.read = lambda step: batch  # type: ignore[assignment]
        losses.append([task.step(step)["loss"] for step in range(3)])
        states.append(task.state_dict())
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
    torch.testing.assert_close(states[0]["centre"]["value"], states[1]["centre"]["value"], rtol=1e-4, atol=1e-6)
    for name in ("student", "teacher"):
        for key, value in states[0][name].items():
            torch.testing.assert_close(value, states[1][name][key], rtol=1e-3, atol=2e-5)


def drawn_batch(step: int) -> Batch:
    rows = np.arange(SIZE)
    return Batch(rows, rows, np.random.default_rng(step).integers(0, 256, (SIZE, 40, 40, 3), np.uint8))


def test_views_made_ahead_change_nothing() -> None:
    """What a GPU's steps do, on a CPU: the same losses and weights, and no step is read beyond the last."""
    asked: list[int] = []

    def read(step: int) -> Batch:
        asked.append(step)
        return drawn_batch(step)

    found = []
    for ahead in (False, True):
        task = our_task(SETTINGS, build_networks(SETTINGS, seed=0))
        task.read, task.looks_ahead = read, ahead  # type: ignore[assignment]
        losses = [task.step(step)["loss"] for step in range(NUM_STEPS)]
        found.append((losses, task.student.state_dict(), task.centre.value))
    assert asked == 2 * list(range(NUM_STEPS))
    assert found[0][0] == found[1][0]
    assert len(set(found[0][0])) == NUM_STEPS
    assert torch.equal(found[0][2], found[1][2])
    for key, value in found[0][1].items():
        assert torch.equal(value, found[1][1][key]), key


def test_a_step_that_was_not_the_next_is_made_anew() -> None:
    """A resumed run asks for another step than the one made ahead."""
    tasks = [our_task(SETTINGS, build_networks(SETTINGS, seed=0)) for _ in range(2)]
    for task in tasks:
        task.read = drawn_batch  # type: ignore[assignment]
    tasks[1].looks_ahead = True
    for step in (0, 3, 1):
        assert tasks[0].step(step)["loss"] == tasks[1].step(step)["loss"]


def scaled_task(scale: float) -> DinoTask:
    """A task that scales its loss as float16 does, in float32 so that a CPU can run it."""
    task = our_task(SETTINGS, build_networks(SETTINGS, seed=0))
    task.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=2)
    task.make_views = lambda batch, seed: given_views(seed % 7)  # type: ignore[assignment,misc]
    return task


def test_a_scaled_loss_changes_no_step_and_clipping_sees_gradients_unscaled() -> None:
    plain, scaled = our_task(SETTINGS, build_networks(SETTINGS, seed=0)), scaled_task(2.0**10)
    plain.make_views = scaled.make_views
    for step in range(4):
        assert plain.step(step)["loss"] == pytest.approx(scaled.step(step)["loss"], rel=1e-6)
    for a, b in zip(plain.student.parameters(), scaled.student.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)
    assert scaled.scaler.get_scale() == 2.0**12  # it grew after every second step


def test_the_scale_is_part_of_a_checkpoint() -> None:
    whole, first, second = (scaled_task(2.0**10) for _ in range(3))
    for step in range(5):
        whole.step(step)
    for step in range(3):
        first.step(step)
    buffer = io.BytesIO()
    torch.save(first.state_dict(), buffer)
    second.load_state_dict(torch.load(io.BytesIO(buffer.getvalue()), weights_only=True))
    for step in range(3, 5):
        second.step(step)
    assert second.scaler.state_dict() == whole.scaler.state_dict() != scaled_task(2.0**10).scaler.state_dict()
    for a, b in zip(whole.student.parameters(), second.student.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_scale_that_overflows_is_halved_and_the_student_left_as_it_was() -> None:
    task = scaled_task(2.0**127)
    before = copy.deepcopy(task.student.state_dict())
    assert math.isfinite(task.step(0)["loss"])
    assert math.isfinite(task.step(3)["loss"])
    assert task.scaler.get_scale() == 2.0**125
    for key, value in task.student.state_dict().items():
        assert torch.equal(value, before[key]), key
