"""``train-autoencoder``: the autoencoder of the latent diffusion model, on the same unlabelled tiles."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import VQModel

from histogen.config import Precision
from histogen.diffusion.autoencoder import (
    Autoencoder,
    check_tile_px,
    decode,
    dihedral,
    downsampling,
    draw_latents,
    encode_moments,
    latent_channels,
    record_statistics,
    to_images,
    to_signal,
)
from histogen.diffusion.autoencoder_build import build_autoencoder
from histogen.diffusion.autoencoder_files import autoencoder_name
from histogen.diffusion.cards import autoencoder_card
from histogen.diffusion.codebook import CodeCounter, codebook_figures
from histogen.diffusion.pictures import write_grid
from histogen.diffusion.reconstruction import psnr, reconstruct, reconstruction_loss, ssim
from histogen.errors import ConfigError
from histogen.files import write_atomic
from histogen.lease import for_its_output
from histogen.pipelines.heldout import open_real, split_heldout
from histogen.pipelines.outputs import Outcome, claim_output, finish_output
from histogen.pipelines.precision import run_precision
from histogen.pipelines.train_autoencoder.config import TrainAutoencoderConfig
from histogen.pipelines.trainer import Pace, train
from histogen.seeds import derive_seed
from histogen.store.tile_set import TileSet
from histogen.training import processes

COMMAND = "train-autoencoder"
NUM_STATISTICS = 2048
NUM_SHOWN = 8


class AutoencoderTask:
    """One step of autoencoder training; what is random in it depends on (seed, step) alone."""

    def __init__(
        self,
        config: TrainAutoencoderConfig,
        tiles: TileSet,
        train: np.ndarray,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.config, self.tiles, self.device = config, tiles, device
        torch.manual_seed(derive_seed(config.seed, "autoencoder", "init"))
        self.crop_px = config.crop_px or tiles.tile_px
        if self.crop_px > tiles.tile_px:
            raise ConfigError(f"crop_px {self.crop_px} exceeds the tiles' {tiles.tile_px} px; choose at most that")
        self.model = build_autoencoder(config.model, tile_px=self.crop_px).to(device).train()
        check_tile_px(self.model, tiles.tile_px)
        self.codes = CodeCounter(self.model) if isinstance(self.model, VQModel) else None
        self.pace = Pace(self.model, train, config.optim, config.seed, device=device, precision=precision)

    def step(self, step: int) -> Mapping[str, float]:
        """Do one optimiser step."""
        indices, generator, own = self.pace.begin(step)
        signal, size = self._batch(indices, generator, own), self.crop_px // downsampling(self.model)
        noise = torch.randn(len(indices), latent_channels(self.model), size, size, generator=generator)[own]
        totals: dict[str, float] = {}
        parts = self.config.optim.accumulate
        for images, part_noise in zip(signal.chunk(parts), noise.to(self.device).chunk(parts), strict=True):
            with self.pace.autocast():
                answer, latent_loss = reconstruct(self.model, images, noise=part_noise)
            terms = reconstruction_loss(
                images, answer, latent_loss, self.config.loss, is_vq=self.config.model.kind == "vq"
            )
            share = len(images) / len(signal)
            self.pace.backward(terms["loss"] * share)
            for key, value in terms.items():
                totals[key] = totals.get(key, 0.0) + float(value.detach()) * share
        means = torch.tensor(list(totals.values()), dtype=torch.float64, device=self.device)
        totals = dict(zip(totals, processes.all_mean(means).tolist(), strict=True))
        if self.codes is not None:
            totals |= codebook_figures(processes.all_sum(self.codes.take().to(self.device)))
        totals["gradient_norm"] = self.pace.update(totals["loss"], step)
        return totals

    def _batch(self, indices: np.ndarray, generator: torch.Generator, own: slice) -> torch.Tensor:
        spare = self.tiles.tile_px - self.crop_px + 1
        lefts, tops = torch.randint(spare, (2, len(indices)), generator=generator)[:, own].tolist()
        variants = torch.randint(8, (len(indices),), generator=generator)[own].tolist()
        images = torch.from_numpy(self.tiles.read_tiles(indices[own], threads=4))
        crops = [
            dihedral(image[top : top + self.crop_px, left : left + self.crop_px].permute(2, 0, 1), variant)
            for image, top, left, variant in zip(images, tops, lefts, variants, strict=True)
        ]
        return to_signal(torch.stack(crops).permute(0, 2, 3, 1).to(self.device))

    def state_dict(self) -> dict[str, Any]:
        """Return weights, optimiser and loss scale."""
        return {"model": self.model.state_dict(), **self.pace.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.model.load_state_dict(state["model"])
        self.pace.load_state_dict(state)


@for_its_output
def run(config: TrainAutoencoderConfig) -> Outcome:
    """Train, measure on held-out tiles, record the latent statistics, and export ``out/autoencoder``.

    Started by `torchrun`, the processes share every step; the first one does all else.
    """
    with processes.process_group(config.device) as device:
        return _run(config, device)


def _run(config: TrainAutoencoderConfig, device: torch.device) -> Outcome:
    tiles = open_real(config.tiles, where=config.where)
    processes.share_of(config.optim.batch, passes=config.optim.accumulate)
    trained, heldout = split_heldout(len(tiles), config.heldout, config.seed)
    precision = run_precision(config, config.optim.precision, device)
    # refuses what cannot work: before the output is claimed
    task = AutoencoderTask(config, tiles, trained, device, precision)
    inputs = {"tiles": tiles.content_hash}
    processes.main_decides(lambda: claim_output(config, command=COMMAND, inputs=inputs, precision=precision))
    last = train(config, task, command=COMMAND)
    outcome = Outcome(config.out, f"autoencoder in {config.out}")
    if processes.is_main():
        outcome = _export(config, task, tiles, trained, heldout, last)
    processes.barrier()
    return outcome


def _export(
    config: TrainAutoencoderConfig, task: AutoencoderTask, tiles: TileSet, train: np.ndarray, heldout: np.ndarray,
    last: dict[str, float],
) -> Outcome:  # fmt: skip
    model, device, out = task.model.eval(), task.device, config.out
    if task.codes is not None:
        task.codes.close()
    with task.pace.autocast():
        mean, std = measure_statistics(model, tiles, train[:: max(1, len(train) // NUM_STATISTICS)], device)
    record_statistics(model, mean, std)
    with task.pace.autocast():
        scores = measure_reconstruction(model, tiles, heldout, device, picture=out / "previews" / "reconstructions.png")
    model.save_pretrained(out / "autoencoder")
    name = autoencoder_name(model, out / "autoencoder")
    write_atomic(out / "autoencoder" / "README.md", autoencoder_card(name, config.model, scores, "none"))
    finish_output(out, name=name, supervision="none", heldout=scores, training=last, processes=processes.world_size())
    summary = (
        f"autoencoder {name}: {scores['psnr']:.2f} dB PSNR, {scores['ssim']:.3f} SSIM on {len(heldout)} held-out tiles"
    )
    if "codebook_used" in scores:
        used = round(scores["codebook_used"] * config.model.num_codes)
        perplexity = scores["codebook_perplexity"]
        summary += f", which use {used:,} of {config.model.num_codes:,} codes (perplexity {perplexity:,.1f})"
    return Outcome(out, summary, results=scores)


def measure_statistics(
    model: Autoencoder, tiles: TileSet, indices: np.ndarray, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean and standard deviation [C] of raw latents drawn for the tiles ``indices``."""
    generator = torch.Generator().manual_seed(0)
    channels = latent_channels(model)
    total, squares, count = torch.zeros(channels, dtype=torch.float64), torch.zeros(channels, dtype=torch.float64), 0
    for start in range(0, len(indices), 16):
        signal = to_signal(torch.from_numpy(tiles.read_tiles(indices[start : start + 16])).to(device))
        moments = encode_moments(model, signal).cpu()
        noise = torch.randn(moments[:, :channels].shape, generator=generator)
        latents = draw_latents(channels, moments, noise).double()
        total += latents.sum(dim=(0, 2, 3))
        squares += latents.square().sum(dim=(0, 2, 3))
        count += latents[:, 0].numel()
    mean = total / count
    return mean, (squares / count - mean**2).clamp_min(1e-12).sqrt()


def measure_reconstruction(
    model: Autoencoder, tiles: TileSet, indices: np.ndarray, device: torch.device, *, picture: Path
) -> dict[str, float]:
    """Return PSNR (dB) and SSIM of the held-out tiles, decoded from their posterior means; draws some of them.

    Of a VQ autoencoder also how much of the codebook they use.
    """
    channels, scores, shown = latent_channels(model), [], []
    codes = CodeCounter(model) if isinstance(model, VQModel) else None
    for start in range(0, len(indices), 16):
        real = tiles.read_tiles(indices[start : start + 16])
        with torch.no_grad():
            moments = encode_moments(model, to_signal(torch.from_numpy(real).to(device)))
            again = to_images(decode(model, draw_latents(channels, moments, None)).sample).cpu().numpy()
        scores.append((len(real), psnr(real, again), ssim(real, again)))
        shown.append((real, again))
    if codes is not None:
        codes.close()
    write_grid(picture, [shown[0][0][:NUM_SHOWN], shown[0][1][:NUM_SHOWN]])
    weights = np.array([count for count, _, _ in scores])
    return {
        "psnr": float(np.average([score for _, score, _ in scores], weights=weights)),
        "ssim": float(np.average([score for _, _, score in scores], weights=weights)),
        "num_heldout": int(weights.sum()),
        **({} if codes is None else codebook_figures(codes.take())),
    }
