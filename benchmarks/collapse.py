"""Is an induced collapse named within 200 steps, and does a healthy run stay unnamed?

    python benchmarks/collapse.py [--healthy 20] [--broken 10] [--steps 200]

Broken: no centring and the learning rate times 50. Healthy: the same run with both as they should be. Tiles are stripes
of three directions in colours that vary, the network is a toy; each run has its own seed.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from histogen.pipelines import pretrain
from histogen.store.jpeg import encode_jpeg
from histogen.store.tile_store import TileStore

LR = 2e-3


def make_tiles(path: Path, number: int = 240, px: int = 32) -> None:
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:px, :px]
    payloads = []
    for i in range(number):
        wave = np.sin([x, y, x + y][i % 3] * rng.uniform(0.5, 1.0) + rng.uniform(0, 6.3))[..., None]
        tile = rng.uniform(80, 180, 3) + 40 * wave + rng.normal(0, 12, (px, px, 3))
        payloads.append(encode_jpeg(np.clip(tile, 0, 255).astype(np.uint8)))
    store = TileStore.create(
        path, kind="natural", store_id=path.stem, tile_px=px, mpp=None, num_tiles=number, provenance={}
    )
    store.commit("tiles", 0, store.write_tiles(0, payloads))


def run(folder: Path, seed: int, steps: int, broken: bool) -> tuple[int | None, list[dict]]:
    out = folder / f"{'broken' if broken else 'healthy'}-{seed}"
    config = pretrain.PretrainConfig(
        tiles=[folder / "tiles.zarr"], out=out, seed=seed, log_every=10, checkpoint_every=steps, workers=0,
        model={
            "name": "vit_tiny_patch16_224", "prototypes": 128, "head_hidden": 64, "head_bottleneck": 32,
            "arguments": {"patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2},
        },
        crops={"global_px": 32, "local_px": 16, "num_local": 2},
        augment={"blur": (0.0, 0.0, 0.0), "normalise": "tiles"},
        loss={"centre": not broken, "teacher_momentum": 0.99, "teacher_temp": 0.03, "teacher_temp_start": 0.03},
        optim={"num_steps": steps, "batch": 32, "lr": LR * (50 if broken else 1), "warmup_epochs": 1},
    )  # fmt: skip
    pretrain.run(config)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    named = json.loads((out / "run.json").read_text())["results"].get("collapse_step")
    return named, rows


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--healthy", type=int, default=20)
    parser.add_argument("--broken", type=int, default=10)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--trace", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_tiles(folder / "tiles.zarr")
        found: dict[str, list[int | None]] = {}
        for word, number in (("broken", given.broken), ("healthy", given.healthy)):
            found[word] = []
            for seed in range(number):
                step, rows = run(folder, seed, given.steps, word == "broken")
                found[word].append(step)
                if given.trace:
                    seen = [f"{r['information']:.3f}/{r['marginal_entropy']:.2f}" for r in rows]
                    print(word, seed, step, *seen, flush=True)
    named = sum(step is not None for step in found["broken"])
    false = sum(step is not None for step in found["healthy"])
    steps = [step for step in found["broken"] if step is not None]
    print(
        f"collapse: {named} of {given.broken} broken runs named (steps {min(steps, default=0)} to "
        f"{max(steps, default=0)}), {false} false alarms in {given.healthy} healthy runs"
    )


if __name__ == "__main__":
    main()
