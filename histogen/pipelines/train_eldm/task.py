"""One step of E-LDM training, from cached moments and stored embeddings or from pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import Tensor

from histogen.config import Precision
from histogen.diffusion.autoencoder import (
    Autoencoder,
    decode_latents,
    dihedral,
    downsampling,
    draw_latents,
    encode_moments,
    latent_channels,
    latent_statistics,
    to_signal,
)
from histogen.diffusion.conditioning import Conditioner
from histogen.diffusion.denoiser import attend_fast, build_denoiser
from histogen.diffusion.loss import (
    NUM_TIMESTEPS,
    Objective,
    build_scheduler,
    by_noise_level,
    per_sample_error,
    sample_timesteps,
)
from histogen.diffusion.pictures import write_grid
from histogen.diffusion.pipeline import EldmPipeline
from histogen.diffusion.settings import DenoiserSettings, ObjectiveSettings, OptimSettings, SamplerSettings
from histogen.encoders.base import Encoder
from histogen.pipelines.train_eldm.config import WatchSettings
from histogen.pipelines.trainer import Pace
from histogen.seeds import derive_seed
from histogen.store.tile_set import TileSet
from histogen.training import processes
from histogen.training.precision import autocast

PREVIEW_MICRO_BATCH = 8
NUM_BANDS = 4
"""Ranges of noise levels in which the use of the conditioning is told."""


@dataclass(frozen=True)
class EldmSettings:
    """What the task needs of the config."""

    model: DenoiserSettings
    objective: ObjectiveSettings
    optim: OptimSettings
    watch: WatchSettings
    sampler: SamplerSettings
    drop: float
    ema_decay: float
    seed: int


class Inputs(Protocol):
    """Where moments and embeddings come from."""

    latent_channels: int
    latent_px: int
    embedding_dim: int

    def batch(self, indices: np.ndarray, variants: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return (moments [B, 2C or C, h, w], embeddings float32 [B, D]) of tiles in dihedral variants."""


class CachedInputs:
    """Moments and embeddings from the stores; neither the autoencoder nor the encoder is needed."""

    def __init__(self, tiles: TileSet, latents: str, encoder_name: str, channels: int) -> None:
        self.tiles, self.latents = tiles, latents
        shape = tiles.stores[0].rows(latents).layout.row_shape
        self.num_variants, self.latent_px, self.latent_channels = shape[0], shape[-1], channels
        self.embeddings = torch.from_numpy(tiles.embeddings(encoder_name))
        self.embedding_dim = self.embeddings.shape[1]

    def batch(self, indices: np.ndarray, variants: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return what was cached; the embedding is that of the tile as it lies in the store."""
        rows = self.tiles.read_rows(self.latents, indices)
        chosen = rows[np.arange(len(rows)), variants % self.num_variants]
        return torch.from_numpy(chosen).float(), self.embeddings[indices]


class OnlineInputs:
    """Moments and embeddings computed on the very images of the step: exact, at the price of both networks."""

    def __init__(
        self, tiles: TileSet, autoencoder: Autoencoder, encoder: Encoder, device: torch.device, precision: Precision
    ) -> None:
        self.tiles, self.autoencoder, self.encoder = tiles, autoencoder, encoder
        self.device, self.precision = device, precision
        self.latent_channels = latent_channels(autoencoder)
        self.latent_px = tiles.tile_px // downsampling(autoencoder)
        self.embedding_dim = encoder.card.dim

    def batch(self, indices: np.ndarray, variants: np.ndarray) -> tuple[Tensor, Tensor]:
        """Read, turn, encode and embed."""
        images = torch.from_numpy(self.tiles.read_tiles(indices, threads=4)).to(self.device).permute(0, 3, 1, 2)
        turned = torch.stack([dihedral(image, int(v)) for image, v in zip(images, variants, strict=True)])
        with autocast(self.device, self.precision):
            return encode_moments(self.autoencoder, to_signal(turned.permute(0, 2, 3, 1))), self.encoder(turned)


class EldmTask:
    """Trains the denoiser; what is random in a step depends on (seed, step) alone."""

    def __init__(
        self,
        settings: EldmSettings,
        inputs: Inputs,
        conditioner: Conditioner,
        autoencoder: Autoencoder,
        train: np.ndarray,
        heldout: np.ndarray,
        *,
        tiles: TileSet,
        run_dir: Path,
        device: torch.device,
        precision: Precision,
        unet: Any = None,
    ) -> None:
        self.settings, self.inputs, self.device = settings, inputs, device
        self.tiles, self.run_dir, self.autoencoder = tiles, run_dir, autoencoder
        self.train, self.heldout = train, heldout[: settings.watch.heldout_tiles]
        self.conditioner = conditioner.to(device)
        torch.manual_seed(derive_seed(settings.seed, "denoiser", "init"))
        shape = {"latent_channels": inputs.latent_channels, "latent_px": inputs.latent_px}
        self.unet = unet or build_denoiser(settings.model, **shape, embedding_dim=inputs.embedding_dim)
        self.unet = self.unet.to(device).train()
        attend_fast(self.unet, device)
        self.ema = EMAModel(self.unet.parameters(), decay=settings.ema_decay)
        self.pace = Pace(self.unet, train, settings.optim, settings.seed, device=device, precision=precision)
        self.objective = Objective(settings.objective, device)
        self.mean, self.std = latent_statistics(autoencoder, torch.zeros(1, device=device))

    def step(self, step: int) -> Mapping[str, float]:
        """Do one optimiser step; every so often measure the held-out loss and draw a preview."""
        indices, generator, own = self.pace.begin(step)
        variants = torch.randint(8, (len(indices),), generator=generator).numpy()
        shape = (len(indices), self.inputs.latent_channels, self.inputs.latent_px, self.inputs.latent_px)
        draw = torch.randn(shape, generator=generator)
        dropped = torch.rand(len(indices), generator=generator) < self.settings.drop
        noise = torch.randn(shape, generator=generator)
        timesteps = sample_timesteps(len(indices), generator=generator)
        latents, conditioning = self._prepare(indices[own], variants[own], draw[own])
        conditioning = self.conditioner.drop(conditioning, dropped[own].to(self.device))
        metrics = self._train(latents, noise[own].to(self.device), timesteps[own].to(self.device), conditioning, step)
        self.ema.step(self.unet.parameters())
        watch, last = self.settings.watch, step + 1 == self.settings.optim.steps
        if (step + 1) % watch.heldout_every == 0 or last:
            metrics |= self.heldout_loss()
        if processes.is_main() and watch.preview_every and ((step + 1) % watch.preview_every == 0 or last):
            self.draw_preview(step + 1)
        return metrics

    def _prepare(self, indices: np.ndarray, variants: np.ndarray, draw: Tensor | None) -> tuple[Tensor, Tensor]:
        moments, embeddings = self.inputs.batch(indices, variants)
        draw = None if draw is None else draw.to(self.device)
        raw = draw_latents(self.inputs.latent_channels, moments.to(self.device), draw)
        return (raw - self.mean) / self.std, self.conditioner(embeddings.to(self.device))

    def _train(
        self, latents: Tensor, noise: Tensor, timesteps: Tensor, conditioning: Tensor, step: int
    ) -> dict[str, float]:
        optim, weights, errors = self.settings.optim, self.objective.weight(timesteps), []
        for part in torch.arange(len(latents)).chunk(optim.accumulate):
            error = self._errors(latents[part], noise[part], timesteps[part], conditioning[part])
            self.pace.backward((weights[part] * error).sum() / len(latents))
            errors.append(error.detach())
        error, weights, timesteps = (processes.gather_rows(t) for t in (torch.cat(errors), weights, timesteps))
        loss = float((weights * error).mean())
        return {"loss": loss, "gradient_norm": self.pace.update(loss, step), **by_noise_level(error, timesteps)}

    def _errors(self, latents: Tensor, noise: Tensor, timesteps: Tensor, conditioning: Tensor) -> Tensor:
        noised = self.objective.add_noise(latents, noise, timesteps)
        with self.pace.autocast():
            time = self.objective.model_time(timesteps)
            answer = self.unet(noised, time, **self.conditioner.inputs(conditioning)).sample
        return per_sample_error(answer, self.objective.target(latents, noise, timesteps))

    @torch.no_grad()
    def heldout_loss(self) -> dict[str, float]:
        """Return the weighted loss of the averaged weights on held-out tiles: fixed noise, levels evenly spread."""
        generator = torch.Generator().manual_seed(derive_seed(self.settings.seed, "heldout"))
        steps = torch.linspace(0, NUM_TIMESTEPS - 1, len(self.heldout)).long()
        errors = []
        with self._averaged():
            for part in torch.arange(len(self.heldout)).split(self.settings.optim.batch):
                latents, conditioning = self._prepare(self.heldout[part.numpy()], np.zeros(len(part), np.int64), None)
                noise = torch.randn(latents.shape, generator=generator).to(self.device)
                errors.append(self._errors(latents, noise, steps[part].to(self.device), conditioning))
        error, steps = torch.cat(errors), steps.to(self.device)
        levels = {f"heldout_{key}": value for key, value in by_noise_level(error, steps).items()}
        return {"heldout_loss": float((self.objective.weight(steps) * error).mean()), **levels}

    @torch.no_grad()
    def errors_by_conditioning(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the averaged weights' errors [3, NUM_BANDS, N] on the N held-out tiles.

        The denoiser is told the tile's own embedding, that of a training tile drawn at random, and the null, of the
        same noised latents. Beside the errors come their timesteps int64 and loss weights, both [NUM_BANDS, N]: a tile
        is noised once in each range of timesteps, and all tiles are spread evenly over it.
        """
        generator = torch.Generator().manual_seed(derive_seed(self.settings.seed, "conditioning"))
        count, width = len(self.heldout), NUM_TIMESTEPS // NUM_BANDS
        others = self.train[torch.randint(len(self.train), (count,), generator=generator).numpy()]
        places = (torch.arange(count) * width // count).expand(NUM_BANDS, count)
        timesteps = places + width * torch.arange(NUM_BANDS)[:, None]
        parts = []
        with self._averaged():
            for part in torch.arange(count).split(self.settings.optim.batch):
                variants = np.zeros(len(part), np.int64)
                latents, right = self._prepare(self.heldout[part.numpy()], variants, None)
                other = self._prepare(others[part.numpy()], variants, None)[1]
                told = (right, other, self.conditioner.null(len(part)))
                by_band = []
                for band in timesteps[:, part].to(self.device):
                    noise = torch.randn(latents.shape, generator=generator).to(self.device)
                    by_band.append(torch.stack([self._errors(latents, noise, band, given) for given in told]))
                parts.append(torch.stack(by_band, dim=1))
        weights = self.objective.weight(timesteps.flatten().to(self.device)).view(NUM_BANDS, count)
        return torch.cat(parts, dim=-1), timesteps, weights

    def pipeline(self, *, encoder_name: str = "", supervision: str = "none") -> EldmPipeline:
        """Return the pipeline of the weights as they are."""
        scheduler = build_scheduler(self.settings.objective)
        sampler = self.settings.sampler.model_dump(mode="json")
        return EldmPipeline(
            self.unet, self.autoencoder, scheduler, self.conditioner, encoder_name, supervision, sampler
        )

    def draw_preview(self, step: int) -> None:
        """Write ``previews/step-….png``: held-out tiles, their reconstructions, two samples of each on fixed noise."""
        shown = self.heldout[: self.settings.watch.preview_tiles]
        moments, embeddings = self.inputs.batch(shown, np.zeros(len(shown), np.int64))
        raw = draw_latents(self.inputs.latent_channels, moments.to(self.device), None)
        with self.pace.autocast():
            again = decode_latents(self.autoencoder, (raw - self.mean) / self.std)
        rows = [self.tiles.read_tiles(shown), again.cpu().numpy()]
        with self._averaged():
            for copy in range(2):
                seeds = [derive_seed(self.settings.seed, "preview", copy, k) for k in range(len(shown))]
                sampled = self.pipeline()(
                    embeddings, seeds,
                    sampler=self.settings.sampler, micro_batch=PREVIEW_MICRO_BATCH, precision=self.pace.precision,
                )  # fmt: skip
                rows.append(sampled)
        write_grid(self.run_dir / "previews" / f"step-{step:08d}.png", rows)

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Let the denoiser have the averaged weights meanwhile."""
        self.ema.store(self.unet.parameters())
        self.ema.copy_to(self.unet.parameters())
        self.unet.eval()
        yield
        self.ema.restore(self.unet.parameters())
        self.unet.train()

    def use_average(self) -> None:
        """Put the averaged weights into the denoiser, for export."""
        self.ema.copy_to(self.unet.parameters())
        self.unet.eval()

    def state_dict(self) -> dict[str, Any]:
        """Return weights, their average, the optimiser and the loss scale."""
        return {
            "unet": self.unet.state_dict(),
            "ema": self.ema.state_dict(),
            **self.pace.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.unet.load_state_dict(state["unet"])
        self.ema.load_state_dict(state["ema"])
        self.ema.to(self.device)
        self.pace.load_state_dict(state)
