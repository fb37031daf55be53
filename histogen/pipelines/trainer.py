"""What both trainings of the latent diffusion model share: settings, the pace of a step, the way through the loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from histogen.config import Precision
from histogen.diffusion.optim import apply_gradients, build_optimizer, build_scaler
from histogen.diffusion.settings import OptimSettings
from histogen.pipelines.trainer_config import TrainerConfig
from histogen.seeds import derive_seed
from histogen.training import processes
from histogen.training.loop import Task, fit
from histogen.training.precision import autocast
from histogen.training.sampler import TileOrder
from histogen.training.schedules import Cosine


class Pace:
    """Which tiles and which randomness a step has, and its one update; all of (seed, step) alone."""

    def __init__(
        self,
        model: nn.Module,
        train: np.ndarray,
        optim: OptimSettings,
        seed: int,
        *,
        device: torch.device,
        precision: Precision,
    ) -> None:
        """``train``: int64 [N], the tiles that may be trained on; ``precision``: resolved.

        Raises:
            ConfigError: a batch has more tiles than there are, or cannot be shared out.
        """
        self.model, self.train, self.optim, self.seed = model, train, optim, seed
        self.device, self.precision = device, precision
        self.optimizer, self.scaler = build_optimizer(model, optim), build_scaler(device, precision)
        self.order = TileOrder(len(train), optim.batch, derive_seed(seed, "order"))
        self.lr = Cosine(optim.lr, optim.final_lr, optim.steps, min(optim.warmup, optim.steps // 5))

    def begin(self, step: int) -> tuple[np.ndarray, torch.Generator, slice]:
        """Return the tiles of a step, int64 [B], its generator, and this process's share of the tiles.

        Draw for the whole batch, then take the share: any number of processes does the same step.
        """
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "step", step))
        own = processes.share_of(self.optim.batch, passes=self.optim.accumulate)
        return self.train[self.order.batch(step)], generator, own

    def autocast(self) -> torch.autocast:
        """Return the context in which networks are run."""
        return autocast(self.device, self.precision)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradients of one pass."""
        self.scaler.scale(loss).backward()

    def update(self, loss: float, step: int) -> float:
        """Do the update with the gradients that the model has, and return their norm."""
        lr, clip = self.lr(step), self.optim.clip
        return apply_gradients(self.optimizer, self.model, loss, scaler=self.scaler, lr=lr, clip=clip)

    def state_dict(self) -> dict[str, Any]:
        """Return what changes from step to step: the optimiser and the loss scale."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])


def train(config: TrainerConfig, task: Task, *, command: str) -> dict[str, float]:
    """Take ``task`` through its steps in ``config.out`` and return the journal's last row (the first process only)."""
    return fit(
        task,
        run_dir=config.out,
        num_steps=config.optim.steps,
        checkpoint_every=config.checkpoint_every,
        keep=config.keep,
        log_every=config.log_every,
        resume=config.resume,
        description=command,
        items_per_step=config.optim.batch,
        item_name="tiles",
    )
