"""One step of DINO or Gen-DINO, as a task of the training loop."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from histogen.config import Precision
from histogen.errors import ConfigError, TrainingStoppedError
from histogen.seeds import derive_seed
from histogen.ssl import losses, spread
from histogen.ssl.augment import Normalisation
from histogen.ssl.batches import Batch
from histogen.ssl.monitor import CollapseWatch, information, likely_causes, neighbour_consistency, online_knn, rank_me
from histogen.ssl.networks import DinoNetwork
from histogen.ssl.optim import build_adamw, clip_per_tensor, freeze_last_layer, set_rates
from histogen.ssl.settings import SslSettings
from histogen.ssl.teacher import Centre, sinkhorn_centre, update_teacher
from histogen.ssl.views import ViewMaker, Views
from histogen.training import processes
from histogen.training.precision import autocast
from histogen.training.schedules import Cosine, LinearWarmup
from histogen.training.transfer import on_device


@dataclass(frozen=True)
class Schedules:
    """Everything that changes by the clock, as functions of the step."""

    lr: Cosine
    weight_decay: Cosine
    momentum: Cosine
    teacher_temp: LinearWarmup
    num_steps: int
    steps_per_epoch: int
    frozen_steps: int

    @classmethod
    def build(cls, settings: SslSettings, *, num_steps: int, steps_per_epoch: int) -> Schedules:
        """Return the schedules of a run; warm-ups longer than the run are cut to it."""
        optim, loss = settings.optim, settings.loss

        def steps(epochs: float) -> int:
            return min(num_steps, round(epochs * steps_per_epoch))

        peak = optim.lr * optim.batch / 256.0
        return cls(
            lr=Cosine(peak, min(optim.min_lr, peak), num_steps, steps(optim.warmup_epochs)),
            weight_decay=Cosine(optim.weight_decay, optim.weight_decay_end, num_steps),
            momentum=Cosine(loss.teacher_momentum, 1.0, num_steps),
            teacher_temp=LinearWarmup(
                loss.teacher_temp_start, loss.teacher_temp, math.ceil(loss.teacher_temp_warmup_epochs)
            ),
            num_steps=num_steps,
            steps_per_epoch=steps_per_epoch,
            frozen_steps=steps(optim.freeze_last_layer_epochs),
        )


class DinoTask:
    """Student, teacher, centre and optimizer, and the step that moves them (see :class:`~histogen.training.loop.Task`).

    ``read`` returns this process's share of the batch of a step; ``precision`` is resolved.
    """

    def __init__(
        self,
        settings: SslSettings,
        networks: tuple[DinoNetwork, DinoNetwork],
        read: Callable[[int], Batch],
        schedules: Schedules,
        normalisation: Normalisation,
        *,
        seed: int,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.settings, self.read, self.schedules, self.seed, self.device = settings, read, schedules, seed, device
        if processes.world_size() > 1:
            sync_batch_norm(networks, device)
        self.student, self.teacher = (network.to(device) for network in networks)
        self.teacher.train(self.teacher.has_batch_norm)  # see histogen.ssl.backbone
        self.num_done = 0
        """Steps that this process has done; unlike the state, it begins at 0 again when a run is resumed."""
        self.precision = precision
        self.centre, self.patch_centre = (
            Centre(settings.model.prototypes, settings.loss.centre_momentum).to(device) for _ in range(2)
        )
        self.optimizer = build_adamw(self.student)
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
        self.watch = CollapseWatch(settings.model.prototypes, likely_causes(settings), every=settings.collapse.every)
        self.make_views = ViewMaker(settings, normalisation, device)
        self.looks_ahead = device.type == "cuda"
        """Whether the views of the next step are made while the device is at work on this one."""
        self._ahead: tuple[int, Batch, Views] | None = None
        if device.type == "cpu":
            unfuse_attention(self.student, self.teacher)
            for network in networks:
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._parallel: torch.nn.Module = self.student
        if processes.world_size() > 1:
            self._parallel = DistributedDataParallel(
                self.student, device_ids=None if device.type == "cpu" else [device]
            )

    # the step

    def step(self, step: int) -> dict[str, float]:
        """Do one step, and return its metrics."""
        torch.manual_seed(derive_seed(self.seed, "step", step, processes.rank()))  # dropout, where asked for
        self.student.train()
        parts = self.settings.optim.accumulate
        batch, views = self._begun(step)
        set_rates(self.optimizer, lr=self.schedules.lr(step), weight_decay=self.schedules.weight_decay(step))
        self.optimizer.zero_grad(set_to_none=True)
        metrics: dict[str, torch.Tensor] = {}
        raws: list[torch.Tensor] = []
        patches: list[torch.Tensor] = []
        for number in range(parts):
            part = self._part(batch, number)
            views = self._views(part, step) if number else views
            waiting = number < parts - 1 and isinstance(self._parallel, DistributedDataParallel)
            with self._parallel.no_sync() if waiting else nullcontext():  # type: ignore[operator]
                loss, raw, at_patches, found = self._loss(part, views, step)
                self.scaler.scale(loss / parts).backward()
            raws.append(raw)
            patches += [] if at_patches is None else [at_patches]
            for key, value in {"loss": loss, **found}.items():
                metrics[key] = metrics.get(key, torch.zeros((), device=self.device)) + value.detach().float() / parts
        moves = self.settings.loss.centre is True
        centre = self.centre.after(torch.cat(raws, dim=1)) if moves else self.centre.value
        metrics["centre_norm"] = centre.norm()
        if self.looks_ahead and step + 1 < self.schedules.num_steps:
            self._ahead = (step + 1, *self._begun(step + 1))
        # the only time in a step that the host waits for the device
        values = dict(zip(metrics, processes.all_mean(torch.stack(list(metrics.values()))).tolist(), strict=True))
        if math.isfinite(values["loss"]):
            self._update(step, centre, torch.cat(patches) if patches else None)
            self._look(values, step)
        else:
            values["centre_norm"] = float(self.centre.value.norm())
        self.num_done += 1
        return {**values, "lr": self.schedules.lr(step), "momentum": self.schedules.momentum(step)}

    def _begun(self, step: int) -> tuple[Batch, Views]:
        """Return the batch of ``step`` and the views of its first part: made ahead, or now."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == step:
            return ahead[1:]
        batch = self.read(step)
        return batch, self._views(self._part(batch, 0), step)

    def _part(self, batch: Batch, number: int) -> Batch:
        parts = self.settings.optim.accumulate
        return batch.part(number, parts) if parts > 1 else batch

    def _views(self, batch: Batch, step: int) -> Views:
        return self.make_views(batch, seed=derive_seed(self.seed, "views", step))

    def _look(self, values: dict[str, float], step: int) -> None:
        sentence = self.watch.add(values, step=step)
        if sentence and self.settings.collapse.stop:
            raise TrainingStoppedError(sentence)
        if sentence and processes.is_main():
            sys.stderr.write(f"{sentence}\n")

    def _update(self, step: int, centre: torch.Tensor, patches: torch.Tensor | None) -> None:
        self.centre.value.copy_(centre)
        if self.settings.loss.centre is True and patches is not None:
            self.patch_centre.update(patches)
        self.scaler.unscale_(self.optimizer)
        if self.settings.optim.clip > 0:
            clip_per_tensor(self.student.parameters(), self.settings.optim.clip)
        if step < self.schedules.frozen_steps:
            freeze_last_layer(self.student)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        update_teacher(self.student, self.teacher, self.schedules.momentum(step))

    def teacher_temp(self, step: int) -> float:
        """Return the teacher's temperature at ``step``."""
        return self.schedules.teacher_temp(step // self.schedules.steps_per_epoch)

    def _centre(self, centre: Centre, raw: torch.Tensor, temperature: float) -> torch.Tensor:
        """Return the centre [K] of raw teacher outputs: the moving one, or Sinkhorn's of these very outputs."""
        if self.settings.loss.centre == "sinkhorn":
            centre.value.copy_(sinkhorn_centre(raw, temperature))
        return centre.value

    def _loss(
        self, batch: Batch, views: Views, step: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, dict[str, torch.Tensor]]:
        """Return the loss, the teacher's ordinary raw outputs [2, B, K], those at masked patches, and what to log."""
        with autocast(self.device, self.precision):
            with torch.no_grad():
                extra = [] if views.partners is None else [views.partners]
                outputs, seen_by_teacher, patches = self.teacher([views.globals, *extra], views.masks, hide=False)
            crops = [views.globals, views.interpolated, views.locals, views.interpolated_locals]
            self.student.masks_of = (derive_seed(self.seed, "step", step), batch.positions)
            student, features, hidden = self._parallel([crop for crop in crops if crop is not None], views.masks)
        raw, found = outputs[0], dict(zip((k for k, c in enumerate(crops) if c is not None), student, strict=True))
        own = torch.cat([found[0], found[2]]) if 2 in found else found[0]
        temperature = self.teacher_temp(step)
        targets = losses.teacher_probs(raw, self._centre(self.centre, raw, temperature), temperature)
        loss = losses.dino_loss(own, targets, student_temp=self.settings.loss.student_temp)
        marginal, told_apart = information(targets.flatten(0, 1))
        metrics = {
            "loss_dino": loss, "entropy": marginal - told_apart, "marginal_entropy": marginal,
            "information": told_apart, "feature_std": feature_std(features),
        }  # fmt: skip
        if (step + 1) % self.settings.collapse.every == 0:
            first, second = seen_by_teacher[: 2 * raw.shape[1]].chunk(2)
            metrics["rank_me"] = torch.tensor(rank_me(first), device=self.device)
            metrics["neighbours"] = torch.tensor(neighbour_consistency(first, second), device=self.device)
            if batch.labels is not None:
                labels = on_device(batch.labels, self.device)
                metrics["knn"] = torch.tensor(online_knn(first, second, labels), device=self.device)
        if views.interpolated is not None:
            seen = torch.cat([found[1], found[3]]) if 3 in found else found[1]
            other, target_entropy = self._disentangle(seen, outputs, views, batch, temperature)
            metrics |= {"loss_dis": other, "entropy_dis": target_entropy}
            loss = loss + self.settings.dis.weight * other
        if patches is not None:
            metrics["loss_patches"] = self._patch_loss(hidden, patches, views, temperature)
            loss = loss + self.settings.masks.weight * metrics["loss_patches"]
        for name, weight in (("koleo", self.settings.loss.koleo), ("uniformity", self.settings.loss.uniformity)):
            if weight > 0:
                metrics[f"loss_{name}"] = self._spread(name, features[: raw.shape[0] * raw.shape[1]])
                loss = loss + weight * metrics[f"loss_{name}"]
        return loss, raw, patches, metrics

    def _patch_loss(
        self, student: torch.Tensor, teacher: torch.Tensor, views: Views, temperature: float
    ) -> torch.Tensor:
        """Return the loss of the masked patches."""
        assert views.masks is not None
        centre = self._centre(self.patch_centre, teacher, temperature)
        targets = losses.teacher_probs(teacher, centre, temperature)
        return losses.masked_patch_loss(
            student, targets, views.masks.flatten(0, 1), student_temp=self.settings.loss.student_temp
        )

    def _spread(self, name: str, features: torch.Tensor) -> torch.Tensor:
        """Return the sum over the two global views, as DINOv2's, of a term over the tiles of all processes."""
        term = {"koleo": spread.koleo, "uniformity": spread.uniformity}[name]
        first, second = (term(processes.gather_rows(view)) for view in features.chunk(2))
        return first + second

    def _disentangle(
        self, student: torch.Tensor, outputs: list[torch.Tensor], views: Views, batch: Batch, temperature: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the disentanglement loss and the entropy of its targets."""
        dis = self.settings.dis
        assert batch.alpha is not None
        assert batch.interpolated_weight is not None
        source = real_first(outputs[0], views.generative_first)
        if dis.mode == "alg1":
            source = source[:1]
        if batch.partner is not None:
            partner = source[:, on_device(batch.partner, self.device)]
        else:
            partner = outputs[1][: len(source)].expand(len(source), -1, -1)
        targets = losses.mixed_targets(
            source,
            partner,
            on_device(batch.alpha, self.device),
            self.centre.value,
            temperature=dis.teacher_temp or temperature,
            mix_space=dis.mix_space,
        )
        weight = on_device(batch.interpolated_weight, self.device)
        loss = losses.disentanglement_loss(
            student, targets, student_temp=self.settings.loss.student_temp, weight=weight
        )
        return loss, losses.entropy(targets)

    # the state

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a step changes."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the state that :meth:`state_dict` returned."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, Any]:
        names = ["student", "teacher", "centre", "optimizer", "scaler", "watch"]
        return {name: getattr(self, name) for name in names + ["patch_centre"] * (self.settings.masks.weight > 0)}


def unfuse_attention(*networks: torch.nn.Module) -> None:
    """Let attention be three plain products: on a CPU the backward pass of the fused one takes twice the whole step."""
    for network in networks:
        for module in network.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = False  # type: ignore[assignment]


def sync_batch_norm(networks: tuple[DinoNetwork, DinoNetwork], device: torch.device) -> None:
    """Let batch normalisation see the batches of all processes, as in DINO's code.

    Raises:
        ConfigError: there is some, and the processes have no GPUs: PyTorch can do it on GPUs only.
    """
    if not networks[0].has_batch_norm:
        return
    if device.type == "cpu":
        raise ConfigError(
            "the model normalises over the batch, which several processes can share on GPUs only; train it in one "
            "process, or take a model without batch normalisation"
        )
    for network in networks:
        network.backbone = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network.backbone)


def real_first(raw: torch.Tensor, generative_first: torch.Tensor | None) -> torch.Tensor:
    """Return teacher outputs [2, B, K] with those of the real views in row 0, of the generative views in row 1."""
    if generative_first is None:
        return raw
    return torch.where(generative_first[None, :, None], raw.flip(0), raw)


def feature_std(features: torch.Tensor) -> torch.Tensor:
    """Return the mean over axes of the standard deviation of unit features, times sqrt(D): 1 is spread, 0 collapsed."""
    unit = functional.normalize(features.detach().float(), dim=-1)
    return unit.std(0).mean() * math.sqrt(features.shape[-1])
