"""The step of DINO and of Gen-DINO against a plain step, side by side in one process.

    python benchmarks/dino_step.py [--batch 4] [--rounds 5] [--threads 1]

ViT-S/16, 2 x 224 + 8 x 96, K = 65,536. The plain step does what the published code does on a CPU: float32, one pass
per crop size, 18 loss terms in a loop, gradients clipped and the teacher moved tensor by tensor, AdamW without fusing.
Views are given; only the step is timed. The last line is the ratio with disentanglement in figure mode (matching).
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from torch.nn import functional

from histogen.ssl.augment import Normalisation
from histogen.ssl.batches import Batch
from histogen.ssl.networks import DinoNetwork, build_networks
from histogen.ssl.optim import build_adamw
from histogen.ssl.settings import ModelSettings, OptimSettings, SslSettings
from histogen.ssl.task import DinoTask, Schedules, unfuse_attention
from histogen.ssl.views import Views
from histogen.training.precision import resolve_precision


class PlainStep:
    """DINO's step, written plainly from the paper's algorithm."""

    def __init__(self, networks: tuple[DinoNetwork, DinoNetwork], prototypes: int) -> None:
        self.student, self.teacher = networks
        unfuse_attention(*networks)
        groups = build_adamw(self.student).param_groups
        self.optimizer = torch.optim.AdamW(
            [{"params": g["params"], "weight_decay": g["weight_decay"]} for g in groups], lr=1e-4, foreach=False
        )
        self.centre = torch.zeros(1, prototypes)

    def __call__(self, views: Views) -> float:
        assert views.locals is not None
        with torch.no_grad():
            teacher = self.teacher.head(self.teacher.backbone(torch.cat(list(views.globals))))
        features = [self.student.backbone(torch.cat(list(crops))) for crops in (views.globals, views.locals)]
        student = (self.student.head(torch.cat(features)) / 0.1).chunk(10)
        targets = functional.softmax((teacher - self.centre) / 0.04, dim=-1).chunk(2)
        total, terms = torch.zeros(()), 0
        for i, target in enumerate(targets):
            for j, view in enumerate(student):
                if i != j:
                    total = total + torch.sum(-target * functional.log_softmax(view, dim=-1), dim=-1).mean()
                    terms += 1
        loss = total / terms
        self.centre = 0.9 * self.centre + 0.1 * teacher.mean(0, keepdim=True)
        self.optimizer.zero_grad()
        loss.backward()
        for p in self.student.parameters():
            if p.grad is not None:
                norm = p.grad.norm(2)
                if norm > 3.0:
                    p.grad.mul_(3.0 / (norm + 1e-6))
        self.optimizer.step()
        with torch.no_grad():
            for p, q in zip(self.student.parameters(), self.teacher.parameters(), strict=True):
                q.mul_(0.996).add_((1 - 0.996) * p)
        return loss.item()


def our_task(settings: SslSettings, batch: Batch, views: Views) -> DinoTask:
    schedules = Schedules.build(settings, num_steps=1000, steps_per_epoch=100)
    task = DinoTask(
        settings, build_networks(settings, seed=0), lambda step: batch, schedules,
        Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)), seed=0, device=torch.device("cpu"),
        precision=resolve_precision(settings.optim.precision, torch.device("cpu")),
    )  # fmt: skip
    task.make_views = lambda batch, seed: views  # type: ignore[assignment,misc]
    return task


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", default="auto")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    size = given.batch
    settings = SslSettings(
        model=ModelSettings(drop_path=0.1), optim=OptimSettings(batch=size, precision=given.precision)
    )
    torch.manual_seed(0)
    views = Views(torch.randn(2, size, 3, 224, 224), torch.randn(8, size, 3, 96, 96), None)
    both = Views(views.globals, views.locals, None, torch.randn(2, size, 3, 224, 224))
    zeros, rows = np.zeros((size, 1, 1, 3), np.uint8), np.arange(size)
    batch = Batch(rows, rows, zeros)
    mixed = Batch(
        rows, rows, zeros, interpolated=zeros, interpolated_weight=np.ones(size, np.float32),
        alpha=np.full(size, 0.5, np.float32), partner=rows ^ 1,
    )  # fmt: skip
    plain = PlainStep(build_networks(settings, seed=0), settings.model.prototypes)
    ours, dis = our_task(settings, batch, views), our_task(settings, mixed, both)
    contestants = {"plain": lambda: plain(views), "ours": lambda: ours.step(500), "dis": lambda: dis.step(500)}
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(given.rounds + 1):
        for name, act in contestants.items():
            start = time.process_time()
            act()
            if number:
                times[name].append(time.process_time() - start)
    median = {name: statistics.median(values) for name, values in times.items()}
    print(
        f"DINO step, ViT-S/16, batch {size}, {ours.precision}: plain {median['plain']:.2f} CPU-s, "
        f"ours {median['ours']:.2f} CPU-s, ratio {median['plain'] / median['ours']:.2f}; "
        f"with disentanglement {median['dis']:.2f} CPU-s, {median['dis'] / median['ours']:.2f} of ours"
    )


if __name__ == "__main__":
    main()
