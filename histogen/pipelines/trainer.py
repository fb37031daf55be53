"""What both trainings of the latent diffusion model share: settings, the pace of a step, the way through the loop."""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import nn

from histogen.config import ChosenTiles, StageConfig
from histogen.diffusion.optim import apply_gradients, build_optimizer
from histogen.diffusion.settings import OptimSettings
from histogen.pipelines.heldout import HeldoutSettings
from histogen.seeds import derive_seed
from histogen.training import processes
from histogen.training.loop import Task, fit
from histogen.training.sampler import TileOrder
from histogen.training.schedules import Cosine


class TrainerConfig(StageConfig, ChosenTiles):
    """Settings that both trainings have."""

    optim: OptimSettings = OptimSettings()
    heldout: HeldoutSettings = HeldoutSettings()
    checkpoint_every: int = Field(default=1000, ge=1)
    keep: int = Field(default=2, ge=1)
    """Checkpoints kept."""
    log_every: int = Field(default=20, ge=1)


class Pace:
    """Which tiles and which randomness a step has, and its one update; all of (seed, step) alone."""

    def __init__(self, model: nn.Module, train: np.ndarray, optim: OptimSettings, seed: int) -> None:
        """``train``: int64 [N], the tiles that may be trained on.

        Raises:
            ConfigError: a batch has more tiles than there are, or cannot be shared out.
        """
        self.model, self.train, self.optim, self.seed = model, train, optim, seed
        self.optimizer = build_optimizer(model, optim)
        self.order = TileOrder(len(train), optim.batch, derive_seed(seed, "order"))
        self.lr = Cosine(optim.lr, optim.final_lr, optim.steps, min(optim.warmup, optim.steps // 5))

    def begin(self, step: int) -> tuple[np.ndarray, torch.Generator, slice]:
        """Return the tiles of a step, int64 [B], its generator, and this process's share of the tiles.

        Draw for the whole batch, then take the share: any number of processes does the same step.
        """
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "step", step))
        own = processes.share_of(self.optim.batch, passes=self.optim.accumulate)
        return self.train[self.order.batch(step)], generator, own

    def update(self, loss: float, step: int) -> float:
        """Do the update with the gradients that the model has, and return their norm."""
        return apply_gradients(self.optimizer, self.model, loss, lr=self.lr(step), clip=self.optim.clip)


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
