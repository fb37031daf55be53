"""The E-LDM as one diffusers pipeline: U-Net, autoencoder, scheduler, conditioner; embeddings in, tiles out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, SchedulerMixin, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from torch import Tensor

from histogen.config import Precision
from histogen.diffusion.autoencoder import Autoencoder, decode_latents, downsampling
from histogen.diffusion.autoencoder_files import check_names
from histogen.diffusion.conditioning import Conditioner
from histogen.diffusion.micro_batch import map_micro_batches, rows_of_passes
from histogen.diffusion.sampling import build_sampler, sample_latents
from histogen.diffusion.settings import SamplerSettings
from histogen.errors import ConfigError
from histogen.files import read_json
from histogen.training.precision import autocast, resolve_precision
from histogen.training.weights import usable, weights_sha256


class EldmPipeline(DiffusionPipeline):
    """Samples tiles from embeddings. Load it with ``EldmPipeline.from_pretrained(RUN / "pipeline")``.

    A tile depends on the model, the settings, its embedding and its seed alone, never on what else is asked for:
    everything runs in micro-batches of one fixed size, the last one padded (see :meth:`__call__`).
    """

    def __init__(
        self,
        unet: UNet2DConditionModel,
        autoencoder: Autoencoder,
        scheduler: SchedulerMixin,
        conditioner: Conditioner,
        encoder_name: str = "",
        supervision: str = "none",
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, autoencoder=autoencoder, scheduler=scheduler, conditioner=conditioner)
        self.register_to_config(encoder_name=encoder_name, supervision=supervision)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of one latent."""
        size = int(self.unet.config["sample_size"])
        return int(self.unet.config["in_channels"]), size, size

    @property
    def tile_px(self) -> int:
        """Side of the tiles it makes, in pixels."""
        return self.latent_shape[1] * downsampling(self.autoencoder)

    def weights_sha256(self) -> str:
        """Return one digest of the U-Net's, the autoencoder's and the conditioner's weights."""
        parts = {"unet": self.unet, "autoencoder": self.autoencoder, "conditioner": self.conditioner}
        return weights_sha256(
            {f"{part}.{key}": value for part, model in parts.items() for key, value in model.state_dict().items()}
        )

    def __call__(
        self,
        embeddings: Tensor,
        seeds: Sequence[int],
        *,
        sampler: SamplerSettings,
        micro_batch: int | None = None,
        decode_batch: int | None = None,
        precision: Precision = "auto",
        unconditional: bool = False,
    ) -> np.ndarray:
        """Sample one tile per embedding.

        Args:
            embeddings: float32 [B, D], raw or interpolated; L2-normalised inside.
            seeds: B integers in [0, 2**63); each draws its tile's starting noise.
            sampler: solver, steps and guidance.
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
        usual = rows_of_passes(self.device)
        noise = torch.stack([starting_noise(seed, self.latent_shape) for seed in seeds])

        def denoise(embeddings: Tensor, noise: Tensor) -> Tensor:
            null = self.conditioner.null(len(embeddings))
            conditioning = null if unconditional else self.conditioner(embeddings)
            with autocast(self.device, precision):
                return sample_latents(
                    self._denoise, noise, conditioning, null, settings=sampler, trained=self.scheduler
                )

        def decode(latents: Tensor) -> Tensor:
            with autocast(self.device, precision):
                return decode_latents(self.autoencoder, latents)

        latents = map_micro_batches(denoise, embeddings, noise, micro_batch=micro_batch or usual[0], device=self.device)
        return map_micro_batches(decode, latents, micro_batch=decode_batch or usual[1], device=self.device).numpy()

    def _denoise(self, latents: Tensor, time: Tensor, conditioning: Tensor) -> Tensor:
        return self.unet(latents, time, **self.conditioner.inputs(conditioning)).sample


def starting_noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """Return the standard normal noise float32 of ``shape`` that ``seed`` stands for; drawn on the CPU everywhere."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def load_pipeline(run: Path, device: torch.device | str = "cpu") -> EldmPipeline:
    """Open the pipeline of a train-eldm run (or a pipeline folder), frozen and in evaluation mode.

    Raises:
        ConfigError: there is none.
    """
    folder = run / "pipeline" if (run / "pipeline" / "model_index.json").exists() else run
    index = folder / "model_index.json"
    if not index.exists():
        what = "holds no E-LDM (no pipeline/model_index.json)" if run.exists() else "does not exist"
        raise ConfigError(
            f"'{run}' {what}; train one: histogen train-eldm TILES --encoder E --autoencoder RUN --out RUN"
        )
    if read_json(index).get("_class_name") != EldmPipeline.__name__:
        raise ConfigError(f"'{folder}' holds another kind of diffusers pipeline; give a run folder of train-eldm")
    with usable(f"E-LDM '{folder}'", "train it again, or copy it again"):
        pipeline = _load(folder)
    for part in (pipeline.unet, pipeline.autoencoder, pipeline.conditioner):
        part.eval().requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    if torch.device(device).type == "cuda":  # as its convolutions in half precision want their pixels
        for part in (pipeline.unet, pipeline.autoencoder):
            part.to(memory_format=torch.channels_last)
    return pipeline.to(device)


def _load(folder: Path) -> Any:
    shown = diffusers_logging.is_progress_bar_enabled()
    diffusers_logging.disable_progress_bar()
    pipeline: Any = EldmPipeline.from_pretrained(folder, local_files_only=True)
    if shown:
        diffusers_logging.enable_progress_bar()
    for part in ("unet", "autoencoder", "conditioner"):
        check_names(getattr(pipeline, part), folder / part)
    is_flow = "FlowMatch" in type(pipeline.scheduler).__name__
    build_sampler(SamplerSettings(name="flow_euler" if is_flow else "dpmpp_2m"), pipeline.scheduler)
    return pipeline
