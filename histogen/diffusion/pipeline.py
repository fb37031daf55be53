"""The E-LDM as one diffusers pipeline: U-Net, autoencoder, scheduler, conditioner; embeddings in, tiles out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin, UNet2DConditionModel
from torch import Tensor

from histogen.config import Precision
from histogen.diffusion.autoencoder import Autoencoder, decode_latents, downsampling
from histogen.diffusion.micro_batch import map_micro_batches, rows_of_passes
from histogen.diffusion.sampling import Sampler, sample_latents
from histogen.errors import ConfigError
from histogen.training.precision import autocast, resolve_precision


class EldmPipeline(DiffusionPipeline):
    """Samples tiles from embeddings: ``DiffusionPipeline.from_pretrained("RUN/pipeline", trust_remote_code=True)``.

    A tile depends on the model, the settings, its embedding and its seed alone, never on what else is asked for:
    everything runs in micro-batches of one fixed size, the last one padded (see :meth:`__call__`).
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        autoencoder: Autoencoder,
        scheduler: SchedulerMixin,
        conditioner: ModelMixin,
        encoder_name: str = "",
        supervision: str = "none",
        sampler: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, autoencoder=autoencoder, scheduler=scheduler, conditioner=conditioner)
        self.register_to_config(encoder_name=encoder_name, supervision=supervision, sampler=dict(sampler or {}))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one latent."""
        size = int(self.unet.config["sample_size"])
        return int(self.unet.config["in_channels"]), size, size

    @property
    def tile_px(self) -> int:
        """Side of the tiles it makes, in pixels."""
        return self.latent_shape[1] * downsampling(self.autoencoder)

    def __call__(
        self,
        embeddings: Tensor,
        seeds: Sequence[int],
        *,
        sampler: Sampler | Mapping[str, Any] | None = None,
        micro_batch: int | None = None,
        decode_batch: int | None = None,
        precision: Precision = "auto",
        unconditional: bool = False,
    ) -> np.ndarray:
        """Sample one tile per embedding.

        Args:
            embeddings: float32 [B, D], raw or interpolated; L2-normalised inside.
            seeds: B integers in [0, 2**63); each draws its tile's starting noise.
            sampler: ``name`` (of :data:`SAMPLERS`), ``steps``, ``guidance`` and its ``interval``; what a mapping leaves
                out is as the training recommends, all of it by default.
            micro_batch: rows of every pass through the denoiser; part of what a tile depends on. By default what
                suits the device (:func:`~histogen.diffusion.micro_batch.rows_of_passes`).
            decode_batch: rows of every pass through the decoder, which needs far more memory a tile; as above.
            precision: arithmetic of both networks; resolved here if it is auto. Part of what a tile depends on.
            unconditional: condition every tile on the null instead.

        Returns:
            uint8 [B, H, W, 3].
        """
        if not len(embeddings) == len(seeds) > 0:
            raise ConfigError(f"{len(embeddings)} embeddings and {len(seeds)} seeds; give one seed per embedding")
        precision = resolve_precision(precision, self.device)
        settings = self._sampler(sampler)
        if self.device.type == "cuda":  # as its convolutions in half precision want their pixels
            for part in (self.unet, self.autoencoder):
                part.to(memory_format=torch.channels_last)
        usual = rows_of_passes(self.device)
        noise = torch.stack([starting_noise(seed, self.latent_shape) for seed in seeds])

        def denoise(embeddings: Tensor, noise: Tensor) -> Tensor:
            null = self.conditioner.null(len(embeddings))
            conditioning = null if unconditional else self.conditioner(embeddings)
            with autocast(self.device, precision):
                return sample_latents(
                    self._denoise, noise, conditioning, null, settings=settings, trained=self.scheduler
                )

        def decode(latents: Tensor) -> Tensor:
            with autocast(self.device, precision):
                return decode_latents(self.autoencoder, latents)

        latents = map_micro_batches(denoise, embeddings, noise, micro_batch=micro_batch or usual[0], device=self.device)
        return map_micro_batches(decode, latents, micro_batch=decode_batch or usual[1], device=self.device).numpy()

    def _sampler(self, asked: Sampler | Mapping[str, Any] | None) -> Sampler:
        if not isinstance(asked, Mapping | None):
            return asked
        known, asked = dict(self.config["sampler"]), dict(asked or {})
        if not known:
            raise ConfigError("this E-LDM recommends no sampler; give sampler")
        if odd := sorted(set(asked) - set(known)):
            raise ConfigError(f"sampler has no '{odd[0]}'; give {', '.join(known)}")
        return SimpleNamespace(**(known | asked))

    def _denoise(self, latents: Tensor, time: Tensor, conditioning: Tensor) -> Tensor:
        return self.unet(latents, time, **self.conditioner.inputs(conditioning)).sample


def starting_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Return the standard normal noise float32 of ``shape`` that ``seed`` stands for; drawn on the CPU everywhere."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
