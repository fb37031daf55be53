"""Samplers of one trained E-LDM: network evaluations, CPU time a tile, and fidelity to real tiles.

    python benchmarks/samplers.py TILES --eldm RUN [--num 128] [--repeats 4] [--rows 1 2] [--encoder E …]

Every sampler makes ``--repeats`` tiles of each of ``--num`` tiles that the run kept out of training, from the same
seeds, with the same micro-batch. The peer of every row is DDIM with 50 steps and guidance in all of them, in the same
run (of a flow model Euler's steps, which are DDIM's there). Fidelity is the Frechet distance of embeddings by the
conditioning encoder (or ``--encoder``) to all held-out tiles, and the mean cosine between a tile's embedding and that
of its source, after the mean of the held-out tiles is taken off both. Brackets hold 95 % intervals of the difference
from the peer, from 200 draws of sources with replacement, the same draws for both.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import yaml
from common import Clock, machine
from numpy.typing import NDArray

from histogen.diffusion.pipeline import EldmPipeline
from histogen.diffusion.pipeline_files import load_pipeline
from histogen.diffusion.sampling import num_evaluations
from histogen.diffusion.settings import SamplerSettings
from histogen.encoders.base import Encoder
from histogen.encoders.registry import load_encoder
from histogen.evaluation.fidelity import frechet_distance
from histogen.pipelines.embed.command import embed_images
from histogen.pipelines.heldout import HeldoutSettings, split_heldout
from histogen.seeds import derive_seed
from histogen.store.tile_set import TileSet

DRAWS = 200
FULL = (0.0, 1.0)
OTHERS = (
    SamplerSettings(),
    SamplerSettings(steps=10),
    SamplerSettings(guidance=1.0),
    SamplerSettings(interval=FULL),
    SamplerSettings(steps=15, interval=FULL),
    SamplerSettings(guidance=3.0),
    SamplerSettings(name="unipc"),
    SamplerSettings(name="heun", steps=10),
    SamplerSettings(name="ddim", steps=20),
)
Fidelity = tuple[tuple[float, NDArray[np.float64]], tuple[float, NDArray[np.float64]]]
"""The Frechet distance and the mean cosine, each with its values on the draws."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tiles", type=Path, nargs="+")
    parser.add_argument("--eldm", type=Path, required=True)
    parser.add_argument("--encoder", default=None)
    parser.add_argument("--num", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=4)
    parser.add_argument("--rows", type=int, nargs="*", help="which of the samplers, from 1, beside the peer; else all")
    options = parser.parse_args()
    print(machine("torch", "diffusers"), f"threads {torch.get_num_threads()}", flush=True)
    recorded = yaml.safe_load((options.eldm / "config.yaml").read_text())
    tiles, pipeline = TileSet.open_(options.tiles), load_pipeline(options.eldm)
    _, heldout = split_heldout(len(tiles), HeldoutSettings(**recorded["heldout"]), recorded["seed"])
    encoder = load_encoder(options.encoder or recorded["encoder"])
    sources = heldout[: options.num]
    conditions = torch.from_numpy(tiles.read_rows(f"embeddings/{pipeline.config['encoder_name']}", sources))
    real = embed_images(encoder, tiles.read_tiles(heldout)).astype(np.float64)
    print(
        f"{options.repeats} tiles of each of {len(sources)} of {len(heldout)} held-out tiles, seen by "
        f"{encoder.card.name}; lower Frechet is better"
    )
    samplers = usable(pipeline)
    chosen = [samplers[0], *(samplers[row] for row in options.rows or range(1, len(samplers)))]
    compare(pipeline, conditions.float(), encoder, real, chosen, options.repeats)


def usable(pipeline: EldmPipeline) -> list[SamplerSettings]:
    """Return the peer, and the others that can run a model trained as this one was."""
    is_flow = "FlowMatch" in type(pipeline.scheduler).__name__
    peer = SamplerSettings(name="flow_euler" if is_flow else "ddim", steps=50, interval=FULL)
    return [peer, *(each for each in OTHERS if not (is_flow and each.name in ("ddim", "heun")))]


def compare(
    pipeline: EldmPipeline, conditions: torch.Tensor, encoder: Encoder, real: NDArray[np.float64],
    samplers: list[SamplerSettings], repeats: int,
) -> None:  # fmt: skip
    seeds = [derive_seed(0, "sampler benchmark", k) for k in range(repeats * len(conditions))]
    wanted = conditions.repeat(repeats, 1)
    draws = np.random.default_rng(0).integers(0, len(conditions), (DRAWS, len(conditions)))
    first: tuple[float, Fidelity] | None = None
    for sampler in samplers:
        pipeline(conditions[:16], seeds[:16], sampler=sampler)  # warms up
        with Clock() as clock:
            images = pipeline(wanted, seeds, sampler=sampler)
        made = embed_images(encoder, images).astype(np.float64).reshape(repeats, len(conditions), -1)
        found = fidelity(made, real, draws)
        peer, theirs = first = first or (clock.cpu, found)
        name = f"{sampler.name} {sampler.steps}, guidance {sampler.guidance:g} in {sampler.interval}"
        cost = f"{num_evaluations(sampler, pipeline.scheduler)} evaluations, {1000 * clock.cpu / len(seeds):.1f} CPU-ms"
        parts = [f"{name:<44s} {cost} ({peer / clock.cpu:.2f} x)"]
        for label, mine, other in zip(("Frechet", "cosine"), found, theirs, strict=True):
            low, high = np.quantile(mine[1] - other[1], [0.025, 0.975])
            parts.append(f"{label} {mine[0]:.4f} ({mine[0] - other[0]:+.4f} [{low:+.4f}, {high:+.4f}])")
        print(", ".join(parts), flush=True)


def fidelity(made: NDArray[np.float64], real: NDArray[np.float64], draws: NDArray[np.int64]) -> Fidelity:
    """Return the Frechet distance and the cosine of ``made`` [repeats, sources, D], and both on each draw."""
    near = consistency(made, real[: made.shape[1]], real.mean(0))
    distances = [frechet_distance(made[:, draw].reshape(-1, made.shape[2]), real) for draw in draws]
    whole = frechet_distance(made.reshape(-1, made.shape[2]), real)
    return (whole, np.array(distances)), (float(near.mean()), near.mean(0)[draws].mean(1))


def consistency(
    made: NDArray[np.float64], source: NDArray[np.float64], mean: NDArray[np.float64]
) -> NDArray[np.float64]:
    a, b = made - mean, source - mean
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


if __name__ == "__main__":
    main()
