"""A step of train-eldm with cached moments and stored embeddings, beside one that encodes and embeds every image.

    python benchmarks/eldm_step.py [--width 2] [--tile-px 128] [--batch 4] [--steps 4]

The published f4 proportions (VQ-f4 and the 401 M U-Net) with every width divided by ``--width``, so that the shares of
the arithmetic stay those of the full size: there an uncached step costs 970 GFLOP, of which 345 are the autoencoder's.
The encoder is a colour histogram, next to free: the gain shown is the autoencoder's alone. Both kinds of step
alternate; the figure is the ratio of their median CPU seconds.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from common import Clock, machine, write_store

from histogen.compute.client import Compute
from histogen.diffusion.autoencoder import latent_channels
from histogen.diffusion.autoencoder_build import build_autoencoder
from histogen.diffusion.autoencoder_files import load_autoencoder
from histogen.diffusion.conditioning import Conditioner
from histogen.diffusion.settings import (
    AutoencoderSettings,
    DenoiserSettings,
    ObjectiveSettings,
    OptimSettings,
    SamplerSettings,
)
from histogen.encoders.registry import load_encoder
from histogen.pipelines.embed.command import ensure_embeddings
from histogen.pipelines.train_eldm.latents import ensure_latents
from histogen.pipelines.train_eldm.task import CachedInputs, EldmSettings, EldmTask, Inputs, OnlineInputs, WatchSettings
from histogen.store.tile_set import TileSet
from histogen.training.precision import resolve_precision

NUM_TILES = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=2)
    parser.add_argument("--tile-px", type=int, default=128)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--steps", type=int, default=4)
    options = parser.parse_args()
    print(machine("torch", "diffusers"), f"threads {torch.get_num_threads()}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        compare(Path(folder), options.width, options.tile_px, options.batch, options.steps)


def compare(folder: Path, width: int, tile_px: int, batch: int, steps: int) -> None:
    write_store(folder / "tiles.zarr", NUM_TILES, tile_px)
    tiles, spec = TileSet.open_(folder), "colour"
    channels = tuple(c // width for c in (128, 256, 512))
    shape = AutoencoderSettings(
        kind="vq", channels=channels, latent_channels=3, norm_groups=32 // width, num_codes=8192
    )
    build_autoencoder(shape, tile_px=tile_px).save_pretrained(folder / "autoencoder")
    precision = resolve_precision("auto", torch.device("cpu"))
    encoder_name = ensure_embeddings([folder], spec, device="cpu")
    with Clock() as clock:
        rows = ensure_latents(
            tiles, folder / "autoencoder", variants=1, device="cpu", precision=precision, compute=Compute()
        )
    print(f"caching {NUM_TILES} tiles: {clock.cpu:.1f} CPU-s", flush=True)
    autoencoder, device = load_autoencoder(folder / "autoencoder"), torch.device("cpu")
    cached = CachedInputs(tiles, rows, encoder_name, latent_channels(autoencoder))
    online = OnlineInputs(tiles, autoencoder, load_encoder(spec), device, precision)
    tasks = {name: task(inputs, tiles, folder, width, batch, autoencoder)
             for name, inputs in (("cached", cached), ("uncached", online))}  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for step in range(steps + 1):
        for name, each in tasks.items():
            with Clock() as clock:
                each.step(step)
            if step:  # the first warms up
                seconds[name].append(clock.cpu)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    for name, median in medians.items():
        print(f"{name:<10s} {median:.3f} CPU-s a step of {batch} (all: {', '.join(f'{s:.3f}' for s in seconds[name])})")
    print(f"ratio      {medians['uncached'] / medians['cached']:.2f}")


def task(inputs: Inputs, tiles: TileSet, folder: Path, width: int, batch: int, autoencoder: object) -> EldmTask:
    channels = tuple(c // width for c in (192, 384, 576, 960))
    settings = EldmSettings(
        model=DenoiserSettings(
            channels=channels, head_width=None, norm_groups=32 // width, injection="token",
            cross_attention_dim=512 // width,
        ),
        objective=ObjectiveSettings(kind="eps"), optim=OptimSettings(steps=10**6, batch=batch),
        sampler=SamplerSettings(), watch=WatchSettings(heldout_every=10**6, preview_every=None), drop=0.1,
        ema_decay=0.9999, seed=0,
    )  # fmt: skip
    everyone = np.arange(len(tiles))
    conditioner = Conditioner(inputs.embedding_dim, "token")
    return EldmTask(
        settings, inputs, conditioner, autoencoder, everyone, everyone[:1], tiles=tiles, run_dir=folder,
        device=torch.device("cpu"), precision=resolve_precision("auto", torch.device("cpu")),
    )  # fmt: skip


if __name__ == "__main__":
    main()
