"""The ways of telling the denoiser its embedding, trained alike: which one uses it best?

    python benchmarks/injections.py TILES --encoder E --autoencoder RUN [--steps 600] [--injections token adaln …]

One ``train-eldm`` run of each injection and each ``--gammas`` (min-SNR; 0 is none): same tiles, seed, U-Net and steps.
Then one tile of each of ``--num`` held-out tiles from the same noise. A row says the mean squared error on held-out
tiles in four ranges of noise (t0 is the least), the mean cosine of made tiles' embeddings to their sources' after the
mean of the held-out tiles is taken off both, and the rank of the true source among all held-out tiles (chance: half).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Clock, machine

from histogen.diffusion.pipeline_files import load_pipeline
from histogen.encoders.base import Encoder
from histogen.encoders.registry import load_encoder
from histogen.evaluation.consistency import embedding_consistency, source_ranks, summarise_ranks
from histogen.pipelines.embed.command import embed_images
from histogen.pipelines.heldout import split_heldout
from histogen.pipelines.train_eldm.command import TrainEldmConfig, run
from histogen.seeds import derive_seed
from histogen.store.tile_set import TileSet

INJECTIONS = ("token", "k_tokens", "time_add", "adaln")
HELDOUT = {"fraction": 0.1, "most": 512}
NEVER = 10**9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tiles", type=Path, nargs="+")
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--autoencoder", required=True)
    parser.add_argument("--injections", nargs="+", default=INJECTIONS)
    parser.add_argument("--gammas", nargs="+", type=float, default=[5.0])
    parser.add_argument("--channels", nargs="+", type=int, default=[32, 64, 128])
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--num", type=int, default=128)
    options = parser.parse_args()
    print(machine("torch", "diffusers"), f"threads {torch.get_num_threads()}", flush=True)
    encoder = load_encoder(options.encoder)
    print("injection, min-SNR | held-out error t0, t1, t2, t3 | cosine | source first, median rank | CPU-s of training")
    for gamma in options.gammas:
        for injection in options.injections:
            with tempfile.TemporaryDirectory() as folder:
                config = configured(options, injection, gamma, Path(folder) / "run")
                with Clock() as clock:
                    errors = run(config).results
                levels = ", ".join(f"{errors[f'heldout_loss_t{k}']:.4f}" for k in range(4))
                told = judged(config, encoder, options.num)
                print(f"{injection:<8s} {gamma:g} | {levels} | {told} | {clock.cpu:.0f}", flush=True)


def configured(options: argparse.Namespace, injection: str, gamma: float, out: Path) -> TrainEldmConfig:
    attention = [level == len(options.channels) - 1 for level in range(len(options.channels))]
    model = {"channels": options.channels, "layers_per_block": 1, "attention": attention, "head_width": 32,
             "norm_groups": 16, "cross_attention_dim": 64, "injection": injection}  # fmt: skip
    values: dict[str, Any] = {
        "tiles": options.tiles, "encoder": options.encoder, "autoencoder": options.autoencoder, "out": out,
        "device": "cpu", "variants": 1, "model": model, "heldout": HELDOUT, "ema_decay": 0.99,
        "objective": {"kind": "v", "min_snr_gamma": gamma or None}, "checkpoint_every": options.steps,
        "optim": {"steps": options.steps, "batch": 32, "lr": 1e-3, "final_lr": 5e-5, "warmup": 50},
        "watch": {"heldout_every": NEVER, "heldout_tiles": 512, "preview_every": None}, "sampler": {"steps": 10},
    }  # fmt: skip
    return TrainEldmConfig.model_validate(values)


def judged(config: TrainEldmConfig, encoder: Encoder, num: int) -> str:
    tiles, pipeline = TileSet.open_(config.tiles), load_pipeline(config.out)
    _, heldout = split_heldout(len(tiles), config.heldout, config.seed)
    real = tiles.read_rows(f"embeddings/{pipeline.config['encoder_name']}", heldout).astype(np.float32)
    num = min(num, len(heldout))
    seeds = [derive_seed(0, "injection benchmark", k) for k in range(num)]
    images = pipeline(torch.from_numpy(real[:num]), seeds, sampler=config.sampler, micro_batch=32)
    made, centred = embed_images(encoder, images) - real.mean(0), real - real.mean(0)
    cosine = float(embedding_consistency(made, centred[:num]).mean())
    ranks = summarise_ranks(source_ranks(made, np.arange(num), centred), len(centred))
    return f"{cosine:.3f} | {ranks.top1:.1%}, {ranks.median:g} of {ranks.num_candidates}"


if __name__ == "__main__":
    main()
